"""The engine without its thread, clock and outside world: each is moved by hand.

Time stands still unless a test moves it. Lookups and encodings are answered by rule, a fixed number
of the session's own frames after they were asked for, so a session sees the same world whoever else
is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from duologue.dialogue import (
    AudioFrame,
    CancelLookup,
    Command,
    EncodeReference,
    Event,
    LookupAnswered,
    ReferenceEncoded,
    StartLookup,
)
from duologue.engine import LoadedModel, SlotBank
from duologue.engine.api import EngineSettings, SessionOptions
from duologue.session.conductor import Conductor
from duologue.session.eventlog import LogWriter
from duologue.session.options import conversation, floor_rules, slot_setup
from duologue.session.seat import Seat
from duologue.session.seating import Seating
from duologue.session.snapshot import SessionSnapshot
from duologue.stt.recogniser import Recogniser
from support.conversations import DIM, MadeUpTime, babble, model

LOOKUP_FRAMES = 2


def rows_of(text: str) -> torch.Tensor:
    """One row a word."""
    return torch.stack([torch.full((DIM,), 0.1 * len(word)) for word in text.split()])


class Stage:
    """An engine's inside. `talk` gives sessions frames, everything due is done at once."""

    def __init__(
        self,
        slots: int = 3,
        *,
        on: LoadedModel | None = None,
        logs: LogWriter | None = None,
        recogniser: Recogniser | None = None,
        **settings: Any,
    ) -> None:
        self.time = MadeUpTime()
        self.settings = EngineSettings(slots=slots, **settings)
        gate_db = self.settings.gate_db
        self.bank = SlotBank(on or model(), slots, gate_db=gate_db, recogniser=recogniser)
        self.conductor = Conductor(self.bank, self.settings, self.time)
        self.seating = Seating(self.conductor, self.settings, self.time, lambda: None, logs)
        self.due: dict[Seat, list[tuple[int, Command]]] = {}
        self.heard: dict[Seat, int] = {}
        self.said: dict[Seat, list[Event]] = {}
        self.opened = 0

    def open(self, slot: int | None = None, **options: Any) -> Seat:
        """A new session, ready for its first frame; in a slot of one's choice."""
        self.prefer(slot)
        chosen = SessionOptions(**{"seed": 1, **options})
        floor = floor_rules(self.bank.model, chosen.floor)
        brain = conversation(chosen, ("default", "other"), floor=floor, stt_delay_frames=0)
        setup = slot_setup(self.bank.model, chosen)
        self.opened += 1
        seat = self.seating.seat(f"session-{self.opened}", chosen, brain, setup)
        return self._enter(seat)

    def reopen(self, snapshot: SessionSnapshot, slot: int | None = None) -> Seat:
        """A session from a snapshot, attached."""
        self.prefer(slot)
        setup = slot_setup(self.bank.model, snapshot.options, snapshot.seed)
        self.opened += 1
        seat = self.seating.seat_again(f"session-{self.opened}", snapshot, setup)
        self.conductor.attach(seat)
        frame = seat.core.brain.frame
        self.due[seat] = [(frame + LOOKUP_FRAMES, command) for command in snapshot.commands]
        return self._enter(seat)

    def prefer(self, slot: int | None) -> None:
        """Make a slot the next to be taken."""
        if slot is not None:
            self.conductor._free.remove(slot)
            self.conductor._free.appendleft(slot)

    def talk(self, frames: dict[Seat, NDArray[np.float32]]) -> None:
        """Let sessions say something, and do all that is due."""
        for seat, pcm in frames.items():
            seat.input.push(pcm, self.time.now)
        self.settle()

    def settle(self) -> None:
        """Do all that is due now."""
        while True:
            self._answer()
            if self.conductor.turn() != 0.0:
                break
        self._look()

    def events(self, seat: Seat) -> list[Event]:
        """What a session has put out since the last call."""
        self._look()
        events, self.said[seat] = self.said[seat], []
        return events

    def _enter(self, seat: Seat) -> Seat:
        self.said[seat] = []
        self.due.setdefault(seat, [])
        self.heard[seat] = seat.core.brain.frame + 1

        def listen(frame: NDArray[np.float32]) -> Any:
            self.heard[seat] += 1
            return babble(self.heard[seat] - 1)

        if self.bank.recogniser is None:
            seat.input.listen(listen)
        self.settle()
        return seat

    def _look(self) -> None:
        _, commands = self.conductor.collect()
        for seat, command in commands:
            due = self.due[seat]
            match command:
                case CancelLookup(lookup):
                    due[:] = [one for one in due if getattr(one[1], "lookup", None) != lookup]
                case _:
                    due.append((command.frame + LOOKUP_FRAMES, command))
        for seat, said in self.said.items():
            while (event := seat.output.take()) is not None:
                said.append(event)

    def _answer(self) -> None:
        self._look()
        for seat, due in list(self.due.items()):
            for entry in [one for one in due if one[0] <= seat.core.brain.frame]:
                due.remove(entry)
                self._reply(seat, entry[1])

    def _reply(self, seat: Seat, command: Command) -> None:
        match command:
            case StartLookup():
                text = f"about {command.context.question or 'nothing'}"
                reply = LookupAnswered(command.lookup, text, confidence=0.9, label="rule")
                self.conductor.receive(seat, reply)
            case EncodeReference():
                rows = rows_of(command.text)
                done = ReferenceEncoded(command.sequence, command.part, len(rows))
                self.conductor.receive(seat, done, rows)


def trace(events: list[Event]) -> list[Any]:
    """Events in a form that compares to the bit."""
    return list(_plain(events))


def _plain(events: list[Event]) -> Iterator[Any]:
    for event in events:
        if isinstance(event, AudioFrame):
            yield event.frame, np.asarray(event.payload).tobytes()
        else:
            yield event
