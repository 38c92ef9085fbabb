"""Conversations that share a batch are, to the bit, what they are alone."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.conversations import DIM, frames_of, speech
from support.stage import Stage, trace

from duologue.dialogue import EndReason, Interrupt, Reset, SessionEnded
from duologue.session.seat import Seat

SLOTS = 3
ACTIONS = ["speak", "speak", "speak", "speak", "wait", "twice", "join", "leave", "reset", "fault"]
AUDIO = {seed: frames_of(speech(40, seed)) for seed in range(12)}


class Player:
    """One slot's part of a schedule: sessions come and go in it."""

    def __init__(self, stage: Stage, slot: int) -> None:
        self.stage, self.slot = stage, slot
        self.sessions = 0
        self.seat: Seat | None = None
        self.next = 0
        self.past: list[Any] = []

    def act(self, action: str) -> dict[Seat, Any]:
        """Do something; returns the audio to be said."""
        seat, conductor = self.seat, self.stage.conductor
        if seat is None or seat.ended:
            if action == "join":
                self.collect()
                self.sessions += 1
                self.next = 0
                seed = self.slot * 4 + self.sessions
                self.seat = self.stage.open(self.slot, seed=seed)
            return {}
        match action:
            case "speak" | "twice":
                count = 2 if action == "twice" else 1
                audio = AUDIO[self.slot]
                said = [audio[(self.next + i) % len(audio)] for i in range(count)]
                self.next += count
                return {seat: torch.cat([torch.from_numpy(one) for one in said]).numpy()}
            case "leave":
                conductor.end(seat, EndReason.CLIENT_CLOSED)
            case "reset":
                conductor.receive(seat, Reset())
            case "fault":
                self.stage.bank.set_reference(self.slot, torch.full((1, DIM), torch.nan))
            case "join":
                conductor.receive(seat, Interrupt())
        return {}

    def collect(self) -> list[Any]:
        if self.seat is not None:
            self.past += trace(self.stage.events(self.seat))
        return self.past


def play(schedule: list[list[str]], present: list[int]) -> dict[int, list[Any]]:
    stage = Stage(SLOTS)
    players = {slot: Player(stage, slot) for slot in present}
    for actions in schedule:
        said: dict[Seat, Any] = {}
        for slot, player in players.items():
            said |= player.act(actions[slot])
        stage.talk(said)
    return {slot: player.collect() for slot, player in players.items()}


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    st.lists(
        st.lists(st.sampled_from(ACTIONS), min_size=SLOTS, max_size=SLOTS), min_size=6, max_size=10
    )
)
def test_sessions_together_are_what_they_are_alone(schedule: list[list[str]]) -> None:
    schedule = [["join"] * SLOTS, ["speak", "wait", "twice"], *schedule]
    together = play(schedule, list(range(SLOTS)))
    for slot in range(SLOTS):
        assert play(schedule, [slot])[slot] == together[slot]


def test_a_fault_ends_one_session_and_its_slot_is_as_new() -> None:
    def run(fault: bool) -> tuple[list[Any], list[Any]]:
        stage = Stage(2)
        one, other = stage.open(0, seed=5), stage.open(1, seed=6)
        for t in range(6):
            if t == 3 and fault:
                stage.bank.set_reference(0, torch.full((1, DIM), torch.nan))
            stage.talk({seat: AUDIO[0][t] for seat in (one, other) if not seat.ended})
        if fault:
            last = stage.events(one)[-1]
            assert isinstance(last, SessionEnded)
            assert last.reason is EndReason.FAILED
        else:
            stage.conductor.end(one, EndReason.CLIENT_CLOSED)
        again = stage.open(0, seed=5)
        for t in range(6):
            stage.talk({again: AUDIO[1][t], other: AUDIO[1][t]})
        return trace(stage.events(other)), trace(stage.events(again))

    assert run(fault=True) == run(fault=False)
