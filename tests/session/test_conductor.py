"""The tick thread's business, turn by turn, in made-up time."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.conversations import DIM, frames_of, model, speech
from support.stage import Stage, trace

from duologue.dialogue import (
    AudioFrame,
    Conversation,
    ConversationReset,
    EndReason,
    Event,
    ReferenceEncoded,
    ReferenceInjected,
    Reset,
    RetrievalSucceeded,
    SessionEnded,
    TextToken,
    Warning,
    WarningCode,
)
from duologue.engine.api import FRAME_S, EngineError, EngineFull, LatePolicy
from duologue.session import seating
from duologue.session.thread import TickThread

AUDIO = frames_of(speech(60))


def kinds(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def ended(events: list[Event]) -> SessionEnded:
    last = events[-1]
    assert isinstance(last, SessionEnded)
    return last


def test_each_frame_is_answered_by_a_frame() -> None:
    stage = Stage(2)
    seat = stage.open()
    for frame in AUDIO[:5]:
        stage.talk({seat: frame})
    audio = kinds(stage.events(seat), AudioFrame)
    assert [event.frame for event in audio] == list(range(5))
    assert all(event.payload.shape == (1920,) for event in audio)
    assert stage.conductor.figures.frames == 5


def test_a_reference_reaches_the_very_frames_that_the_brain_counts() -> None:
    """What the brain says was added is what the slot has taken, frame by frame."""
    stage = Stage(1)
    seat = stage.open()
    reference = stage.bank.duplex.generator.state.reference
    assert reference is not None
    rows_seen = 0
    for frame in AUDIO:
        stage.talk({seat: frame})
        left = int(reference.length[0] - reference.position[0])
        assert left == seat.core.brain.rows_left
        rows_seen += seat.core.brain.row_added is not None
    events = stage.events(seat)
    assert rows_seen > 0
    assert kinds(events, RetrievalSucceeded)
    assert kinds(events, ReferenceInjected)
    assert kinds(events, TextToken)


def test_a_reset_starts_the_slot_again() -> None:
    stage = Stage(2)
    seat, fresh = stage.open(0, seed=3), stage.open(1, seed=3)
    for frame in AUDIO[:4]:
        stage.talk({seat: frame})
    stage.conductor.receive(seat, Reset())
    stage.settle()
    assert kinds(stage.events(seat), ConversationReset)
    said = {seat: [], fresh: []}
    for frame in AUDIO[10:14]:
        stage.talk({seat: frame, fresh: frame})
        for one in said:
            audio = kinds(stage.events(one), AudioFrame)
            said[one] += [event.payload for event in audio]
    assert all(map(np.array_equal, said[seat], said[fresh]))


def test_what_a_full_queue_drops_is_counted_and_told() -> None:
    stage = Stage(2, input_queue_frames=3)
    seat = stage.open()
    stage.talk({seat: speech(5)})
    events = stage.events(seat)
    assert len(kinds(events, AudioFrame)) == 3
    (warning,) = kinds(events, Warning)
    assert warning.code is WarningCode.OVERRUN
    assert warning.detail.startswith("2 frames")
    stage.talk({seat: AUDIO[0]})
    assert not kinds(stage.events(seat), Warning), "it is told once"


def test_the_dropping_policy_keeps_the_newest() -> None:
    stage = Stage(1, late=LatePolicy.DROP, late_frames=1)
    seat = stage.open()
    stage.talk({seat: speech(4)})
    events = stage.events(seat)
    assert len(kinds(events, AudioFrame)) == 1
    assert kinds(events, Warning)[0].detail.startswith("3 frames")


def test_frames_that_waited_for_a_step_are_counted_as_caught_up() -> None:
    stage = Stage(1)
    seat = stage.open()
    stage.talk({seat: AUDIO[0]})
    stage.time.now += 1.0
    stage.talk({seat: speech(3)})
    assert stage.conductor.figures.caught_up == 2
    assert stage.conductor.figures.steps == 4


def test_steps_longer_than_a_frame_are_overruns(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(1)
    seat = stage.open()
    plain = stage.bank.step

    def slow(*given: Any) -> Any:
        stage.time.now += 0.1
        return plain(*given)

    monkeypatch.setattr(stage.bank, "step", slow)
    for frame in AUDIO[:3]:
        stage.talk({seat: frame})
    figures = stage.conductor.figures
    assert figures.overruns == 3
    assert figures.lateness.report().p50_s == pytest.approx(0.1)
    assert figures.frame_times.report().p50_s == pytest.approx(0.1)
    assert not stage.conductor.capacity.admit(1).ok


def test_a_detached_session_stands_still_and_goes_on() -> None:
    def run(interrupted: bool) -> list[Any]:
        stage = Stage(1, resume_s=60.0)
        seat = stage.open()
        for t, frame in enumerate(AUDIO[:6]):
            if t == 3 and interrupted:
                stage.conductor.detach(seat)
                stage.talk({seat: frame})
                assert len(seat.input) == 1, "what had come already waits"
                stage.time.now += 59.0
                stage.settle()
                stage.conductor.attach(seat)
                stage.settle()
            else:
                stage.talk({seat: frame})
        return trace(stage.events(seat))

    assert run(True) == run(False)


def test_a_client_that_does_not_come_back_loses_its_session() -> None:
    stage = Stage(1, resume_s=60.0)
    seat = stage.open()
    stage.conductor.detach(seat)
    assert stage.conductor.turn() == pytest.approx(60.0)
    stage.time.now += 60.0
    stage.settle()
    end = ended(stage.events(seat))
    assert end.reason is EndReason.CLIENT_CLOSED
    assert "within 60 s" in end.detail
    stage.open()


def test_silence_on_the_line_ends_a_session() -> None:
    stage = Stage(1, idle_s=5.0)
    seat = stage.open()
    stage.time.now += 4.0
    stage.talk({seat: AUDIO[0]})
    stage.time.now += 4.0
    stage.settle()
    assert not seat.ended
    stage.time.now += 1.0
    stage.settle()
    assert "no audio for 5 s" in ended(stage.events(seat)).detail


def test_a_clock_that_jumps_ends_only_what_has_waited_too_long() -> None:
    """Forth by days and back by more: who talks hears nothing of it."""

    def run(jumps: bool) -> list[Any]:
        stage = Stage(2, resume_s=60.0, idle_s=1e9)
        seat, gone = stage.open(seed=1), stage.open(seed=2)
        stage.conductor.detach(gone)
        for t, frame in enumerate(AUDIO[:12]):
            if jumps and t in (3, 8):
                stage.time.now += 1e6 if t == 3 else -2e6
            stage.talk({seat: frame})
        assert gone.ended is jumps
        assert not seat.ended
        return trace(stage.events(seat))

    assert run(True) == run(False)


def test_a_client_that_reads_nothing_is_given_up() -> None:
    stage = Stage(2, output_queue_events=4)
    seat = stage.open()
    for frame in AUDIO[:40]:
        if not seat.ended:
            seat.input.push(frame, stage.time.now)
            while stage.conductor.turn() == 0.0:
                pass
    end = ended(stage.events(seat))
    assert end.reason is EndReason.FAILED
    assert "unread" in end.detail


def test_a_tokenizer_that_raises_ends_one_session(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(2)
    seat, other = stage.open(seed=1), stage.open(seed=2)

    def explode(token: int) -> str:
        raise RuntimeError(f"what was said: {token + 1_000_000}")

    seat.core._text.push = explode  # type: ignore[method-assign]
    stage.talk({seat: AUDIO[0], other: AUDIO[0]})
    end = ended(stage.events(seat))
    assert end.reason is EndReason.FAILED
    assert end.detail == "internal error (RuntimeError)"
    assert "100000" not in caplog.text
    assert "in explode" in caplog.text
    stage.talk({other: AUDIO[1]})
    assert len(kinds(stage.events(other), AudioFrame)) == 2


def test_what_a_failing_turn_says_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    stage, said = Stage(1), "what was said"
    failed = threading.Event()

    def turn() -> float | None:
        failed.set()
        raise LookupError(said)

    stage.conductor.turn = turn  # type: ignore[method-assign]
    ticking = TickThread(stage.conductor, lambda: None, time.monotonic)
    ticking.start()
    assert failed.wait(5.0)
    ticking.stop()
    assert "failed with LookupError" in caplog.text
    assert said not in caplog.text


def test_a_step_that_fails_ends_who_was_in_it_and_the_engine_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever was not in it has, to the bit, the conversation that they would have had."""

    def run(breaks: bool) -> list[Any]:
        stage = Stage(3)
        one, other, waiting = (stage.open(seed=seed) for seed in (1, 2, 3))
        stage.talk({one: AUDIO[0], other: AUDIO[0], waiting: AUDIO[0]})
        plain, broken = stage.bank.step, breaks

        def step(*given: Any) -> Any:
            if broken:
                raise RuntimeError("device lost")
            return plain(*given)

        monkeypatch.setattr(stage.bank, "step", step)
        stage.talk({one: AUDIO[1], other: AUDIO[1]})
        assert [seat.ended for seat in (one, other, waiting)] == [breaks, breaks, False]
        assert stage.conductor.healthy is not breaks
        stage.time.now += 1.0
        stage.settle()
        assert stage.conductor.healthy is not breaks
        broken = False
        stage.time.now += 1.0
        for frame in AUDIO[1:8]:
            stage.talk({waiting: frame})
        assert stage.conductor.healthy
        events = stage.events(waiting)
        assert len(kinds(events, AudioFrame)) == 8
        return trace(events)

    assert run(True) == run(False)


def test_a_start_that_fails_is_told_to_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(1)

    def start(slot: int, setup: Any) -> Any:
        raise EngineError("no such voice")
        yield

    monkeypatch.setattr(stage.bank, "start", start)
    seat = stage.open()
    with pytest.raises(EngineError, match="no such voice"):
        seat.ready.result(0)
    assert seat.ended
    monkeypatch.undo()
    assert stage.open().ready.result(0) is None


def test_a_long_start_leaves_the_others_their_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(2, on=model(prompted=True))
    stage.conductor.capacity.calibrate(0.05, 0.05)
    plain_step, plain_start = stage.bank.step, stage.bank.start

    def step(*given: Any) -> Any:
        stage.time.now += 0.05
        return plain_step(*given)

    def start(slot: int, setup: Any) -> Any:
        for _ in plain_start(slot, setup):
            stage.time.now += 0.05
            yield

    talking = stage.open(seed=1)
    stage.talk({talking: AUDIO[0]})
    monkeypatch.setattr(stage.bank, "step", step)
    monkeypatch.setattr(stage.bank, "start", start)
    newcomer = _open_without_waiting(stage, "be kind and brief")
    ticks = 0
    while newcomer.starting is not None:
        ticks += 1
        stage.time.now = max(stage.time.now, 200.0 + ticks * FRAME_S)
        talking.input.push(AUDIO[ticks], stage.time.now)
        while stage.conductor.turn() == 0.0:
            pass
        assert stage.conductor.figures.frames == 1 + ticks, "every frame is made in its tick"
    assert newcomer.ready.done()
    assert ticks == 18 + 1, "a step of the start a frame, and a look that it is over"


def _open_without_waiting(stage: Stage, role: str) -> Any:
    settle, stage.settle = stage.settle, lambda: None  # type: ignore[method-assign]
    try:
        return stage.open(system_prompt=role)
    finally:
        stage.settle = settle  # type: ignore[method-assign]


def test_sessions_end_at_their_longest_time() -> None:
    stage = Stage(1)
    seat = stage.open()
    seat.core.brain = Conversation(replace(seat.core.brain.config, max_frames=3))
    stage.talk({seat: speech(5)})
    events = stage.events(seat)
    assert ended(events).reason is EndReason.FRAME_LIMIT
    assert len(kinds(events, AudioFrame)) == 3


def test_rows_that_do_not_fit_fail_one_session() -> None:
    stage = Stage(2)
    seat, other = stage.open(seed=1), stage.open(seed=2)
    stage.conductor.receive(seat, ReferenceEncoded(1, 0, 2), torch.zeros(3, DIM))
    assert ended(stage.events(seat)).reason is EndReason.FAILED
    assert not other.ended


def test_no_session_takes_anothers_id_and_no_slot_is_lost_by_that() -> None:
    stage = Stage(2)
    stage.open()
    stage.opened = 0
    with pytest.raises(EngineError, match="session-1"):
        stage.open()
    stage.opened = 1
    stage.open()
    with pytest.raises(EngineFull) as full:
        stage.open()
    assert full.value.retry_after_s > 0


def test_a_seat_that_cannot_be_made_costs_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of order")

    stage = Stage(1)
    with monkeypatch.context() as patch:
        patch.setattr(seating, "ConversationCore", fail)
        with pytest.raises(RuntimeError):
            stage.open()
    stage.open()
