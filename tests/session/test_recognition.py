"""Local speech recognition inside the tick: real recogniser, untrained weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.conversations import (
    TRIGGER,
    frames_of,
    listening_model,
    model,
    recogniser,
    speech,
)
from support.stage import Stage, trace

from duologue.dialogue import EndReason, Reset, Role, TextToken
from duologue.engine import SlotBank
from duologue.engine.api import EngineError, SessionOptions
from duologue.session.core import (
    ConversationCore,
    ConversationFrame,
    FrameGiven,
    advance,
    frame_digest,
)
from duologue.session.eventlog import LogWriter
from duologue.session.options import conversation, slot_setup
from duologue.session.replay import replay
from duologue.session.snapshot import SessionSnapshot
from duologue.stt.ports import Heard

AUDIO = frames_of(speech(40))
BOTH = pytest.mark.parametrize("own_codec", [False, True], ids=["shared codes", "own codec"])


def words(events: list[Any]) -> list[str]:
    tokens = [event for event in events if isinstance(event, TextToken)]
    return [event.text for event in tokens if event.role is Role.USER]


@BOTH
def test_what_the_user_says_is_written_down_slot_by_slot(own_codec: bool) -> None:
    def run(present: list[int]) -> dict[int, list[Any]]:
        stage = Stage(2, recogniser=recogniser(own_codec))
        seats = {slot: stage.open(slot, seed=13 + slot, init_speaker="user") for slot in present}
        for t in range(14):
            said = {seat: AUDIO[t + 20 * slot] for slot, seat in seats.items()}
            stage.talk(said)
            if t == 7 and 0 in seats:
                stage.conductor.receive(seats[0], Reset())
        return {slot: stage.events(seat) for slot, seat in seats.items()}

    together = run([0, 1])
    assert words(together[0])
    assert words(together[1])
    assert trace(together[1]) == trace(run([1])[1])
    assert trace(together[0]) == trace(run([0])[0])


def test_recognition_goes_on_after_a_snapshot_and_is_not_needed_for_a_replay(
    tmp_path: Path,
) -> None:
    writer = LogWriter(tmp_path)
    writer.start()
    stage = Stage(2, recogniser=recogniser(), logs=writer)
    seat = stage.open(seed=13, init_speaker="user")
    for frame in AUDIO[:8]:
        stage.talk({seat: frame})
    stage.events(seat)
    taken = SessionSnapshot.from_bytes(stage.seating.snapshot(seat, "token").to_bytes())
    other = Stage(2, recogniser=recogniser())
    restored = other.reopen(taken, 1)
    for frame in AUDIO[8:16]:
        stage.talk({seat: frame})
        other.talk({restored: frame})
    said = stage.events(seat)
    assert words(said)
    assert trace(said) == trace(other.events(restored))
    stage.conductor.end(seat, EndReason.CLIENT_CLOSED)
    writer.close()
    report = replay(tmp_path / f"{seat.id}.jsonl", model())
    assert (report.frames, report.difference) == (16, "")


@pytest.mark.parametrize("flushes", [False, True])
def test_after_a_reset_recognition_is_as_far_as_before(flushes: bool) -> None:
    """Its own frames begin again, the conversation's go on; in snapshots, too."""

    def talk(core: ConversationCore, frames: list[Any]) -> list[Heard]:
        heard = []
        for frame in frames:
            if core.needs_start:
                list(core.prepare())
            made = advance(core.bank, {core: FrameGiven(frame)})[core]
            assert not isinstance(made, Exception)
            heard.append(made.heard)
        return heard

    def begin() -> ConversationCore:
        bank = SlotBank(model(), 1, recogniser=recogniser())
        options = SessionOptions(seed=13, init_speaker="user")
        brain = conversation(options, ("default",), simulated=True)
        return ConversationCore(bank, 0, brain, slot_setup(bank.model, options), flushes=flushes)

    def due(heard: list[Heard], first: int) -> list[int]:
        """Frames by which the words that have come are behind."""
        return [t - (one.transcribed_frame or 0) for t, one in enumerate(heard, first)]

    fresh, core = begin(), begin()
    behind = due(talk(fresh, AUDIO[:24]), 0)
    talk(core, AUDIO[30:37])
    core.receive(Reset())
    assert due(talk(core, AUDIO[:12]), 7) == behind[:12]
    assert core.brain.frame == 18
    assert min(behind[:12]) < 7, "it is told that words have come"
    data, tensors = core.save()
    again = begin()
    again.load(data, tensors)
    assert due(talk(again, AUDIO[12:24]), 19) == behind[12:]


@pytest.mark.parametrize("flushes", [False, True])
def test_what_a_model_was_told_of_the_user_is_in_the_log(tmp_path: Path, flushes: bool) -> None:
    """A replay needs no recogniser, whatever the one of then did."""
    writers = [LogWriter(tmp_path / name) for name in ("first", "again")]
    for writer in writers:
        writer.start()
    stage = Stage(2, on=listening_model(), recogniser=recogniser(), logs=writers[0])
    seats = [stage.open(slot, seed=13, init_speaker="user") for slot in (0, 1)]
    seats[0].core.flushes = flushes
    for t in range(8):
        stage.talk({seats[0]: AUDIO[t], seats[1]: AUDIO[t + 20]})
    taken = SessionSnapshot.from_bytes(stage.seating.snapshot(seats[0], "token").to_bytes())
    again = Stage(2, on=listening_model(), recogniser=recogniser(), logs=writers[1])
    restored = again.reopen(taken, 1)
    restored.core.flushes = flushes
    for t in range(8, 16):
        stage.talk({seats[0]: AUDIO[t], seats[1]: AUDIO[t + 20]})
        again.talk({restored: AUDIO[t]})
    for one, of in ((seats[0], stage), (seats[1], stage), (restored, again)):
        of.conductor.end(one, EndReason.CLIENT_CLOSED)
    for writer in writers:
        writer.close()
    logs = sorted(tmp_path.glob("*/*.jsonl"))
    assert len(logs) == 3
    for log in logs:
        report = replay(log, listening_model())
        assert report.frames in (8, 16)
        assert report.difference == ""


@pytest.mark.parametrize(
    ("listens", "width", "why"),
    [(False, 32, "does not listen to a recogniser"), (True, 3, r"\[32\] is wanted, got \[3\]")],
)
def test_what_a_model_cannot_be_told_ends_its_conversation_alone(
    listens: bool, width: int, why: str
) -> None:
    def heard(slot_told: int | None) -> list[Any]:
        bank = SlotBank(listening_model() if listens else model(), 2)
        cores = []
        for slot in range(2):
            options = SessionOptions(seed=13 + slot)
            brain = conversation(options, ("default",), simulated=True)
            core = ConversationCore(bank, slot, brain, slot_setup(bank.model, options))
            list(core.prepare())
            cores.append(core)
        told = {slot_told: np.zeros(width, np.float32)}
        given = {core: FrameGiven(AUDIO[0], told=told.get(core.slot)) for core in cores}
        made = advance(bank, given)
        return [made[core] for core in cores]

    refused, other = heard(0)
    assert isinstance(refused, EngineError)
    assert re.search(why, str(refused))
    alone = heard(None)[1]
    assert frame_digest(other.made) == frame_digest(alone.made)


@BOTH
def test_recognition_catches_up_at_a_trigger_and_disturbs_nobody(own_codec: bool) -> None:
    """With flushes, the words of all audio are there in the frame of the trigger itself."""

    def run(slots: dict[int, bool]) -> dict[int, list[ConversationFrame]]:
        bank = SlotBank(model(), 2, recogniser=recogniser(own_codec))
        cores = []
        for slot, flushes in slots.items():
            options = SessionOptions(seed=13 + slot, init_speaker="user")
            brain = conversation(options, ("default",), simulated=True, stt_delay_frames=2)
            setup = slot_setup(bank.model, options)
            core = ConversationCore(bank, slot, brain, setup, flushes=flushes)
            list(core.prepare())
            cores.append(core)
        made: dict[int, list[ConversationFrame]] = {slot: [] for slot in slots}
        for t in range(24):
            given = {core: FrameGiven(AUDIO[t + 5 * core.slot]) for core in cores}
            for core, frame in advance(bank, given).items():
                assert not isinstance(frame, Exception)
                made[core.slot].append(frame)
        return made

    both, plain = run({0: True, 1: False}), run({0: False})[0]
    assert [one.heard for one in both[0]] == [one.heard for one in run({0: True})[0]]
    assert [one.heard for one in both[1]] == [one.heard for one in run({1: False})[1]]
    together = run({0: True, 1: True})
    assert [one.heard for one in together[0]] == [one.heard for one in both[0]]
    assert [one.heard for one in together[1]] == [one.heard for one in run({1: True})[1]]
    drawn = [one.made.sampled_text for one in both[0]]
    assert drawn == [one.made.sampled_text for one in plain], "the model hears nothing of it"
    asked = drawn.index(TRIGGER)
    assert [one.heard for one in both[0][:asked]] == [one.heard for one in plain[:asked]]
    mine, theirs = both[0][asked].heard, plain[asked].heard
    assert mine.words[: len(theirs.words)] == theirs.words
    flushed = recogniser(own_codec).flush_frames
    assert 0 < len(mine.words) - len(theirs.words) <= flushed, "it babbles in silence too"
    assert mine.inactivity == theirs.inactivity, "the user is not silent for that"


def test_who_cannot_catch_up_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    def heard(stage: Stage) -> list[str]:
        seat = stage.open(seed=13, init_speaker="user")
        seat.core.flushes = True
        for frame in AUDIO[:24]:
            stage.talk({seat: frame})
        assert not seat.ended
        return words(stage.events(seat))

    stage = Stage(1, recogniser=recogniser())
    monkeypatch.setattr(stage.conductor.bank, "flush", fail)
    assert heard(stage), "the words come when they come"


@pytest.mark.parametrize(("a_step_s", "quick"), [(0.0, True), (0.05, False)])
def test_live_recognition_catches_up_where_that_is_quick(a_step_s: float, quick: bool) -> None:
    def clock() -> float:
        stage.time.now += a_step_s
        return stage.time.now

    stage = Stage(2, recogniser=recogniser())
    stage.conductor._clock = clock
    stage.conductor.warm_up()
    assert stage.conductor.flushes is quick
    assert stage.open(seed=13, init_speaker="user").core.flushes is quick
