"""A session as bytes, and going on from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.conversations import frames_of, model, speech
from support.stage import Stage, trace

from duologue.dialogue import (
    AudioFrame,
    CancelLookup,
    EndReason,
    LookupAnswered,
    RetrievalSucceeded,
    StartLookup,
)
from duologue.engine.api import SnapshotError
from duologue.session.snapshot import SessionSnapshot

AUDIO = frames_of(speech(60))


def again(stage: Stage, seat: Any) -> SessionSnapshot:
    """A snapshot that has been bytes."""
    taken = stage.seating.snapshot(seat, "token")
    return SessionSnapshot.from_bytes(taken.to_bytes())


@pytest.mark.parametrize("at", [1, 7, 24])
def test_a_restored_session_goes_on_to_the_bit_while_the_first_does_too(at: int) -> None:
    stage, other = Stage(2), Stage(2)
    seat = stage.open(0, seed=11, metadata={"who": "test"})
    for frame in AUDIO[:at]:
        stage.talk({seat: frame})
    stage.events(seat)
    saved = again(stage, seat)
    assert saved.options.metadata == {"who": "test"}
    busy = other.open(1, seed=5)
    restored = other.reopen(saved, 0)
    one: list[Any] = []
    two: list[Any] = []
    for frame in AUDIO[at : at + 12]:
        stage.talk({seat: frame})
        other.talk({restored: frame, busy: frame})
        one += trace(stage.events(seat))
        two += trace(other.events(restored))
    assert one == two
    assert sum(isinstance(event, tuple) for event in one) == 12


def test_what_waits_on_either_side_is_kept() -> None:
    stage = Stage(1)
    seat = stage.open()
    stage.talk({seat: speech(3)})
    stage.said[seat].clear()
    stage.conductor.detach(seat)
    stage.talk({seat: np.concatenate([*AUDIO[:2], AUDIO[2][:100]])})
    waiting = [AudioFrame(3, AUDIO[5]), AudioFrame(4, AUDIO[6])]
    seat.output.put(waiting)
    saved = again(stage, seat)
    assert len(saved.waiting) == 2 * 1920 + 100
    stage.conductor.end(seat, EndReason.CLIENT_CLOSED)
    restored = stage.reopen(saved)
    events = stage.events(restored)
    assert trace(events[:2]) == trace(waiting)
    assert len([event for event in events if isinstance(event, AudioFrame)]) == 4
    assert len(restored.input.save()) == 100


def snapshot_with_a_lookup(partly: bool) -> tuple[Stage, SessionSnapshot]:
    stage = Stage(2)
    seat = stage.open()
    for frame in AUDIO:
        stage._answer = lambda: stage._look()  # type: ignore[method-assign]  # nobody answers
        stage.talk({seat: frame})
        lookups = [c for c in seat.pending.values() if isinstance(c, StartLookup)]
        if lookups and lookups[-1].sequence is not None:
            break
    asked = lookups[-1]
    if partly:
        part = LookupAnswered(asked.lookup, "the first half", confidence=0.9, final=False)
        stage.conductor.receive(seat, part)
    return stage, again(stage, seat)


def test_a_pending_lookup_is_asked_again() -> None:
    _, saved = snapshot_with_a_lookup(partly=False)
    asked = next(c for c in saved.commands if isinstance(c, StartLookup) and c.sequence)
    stage = Stage(1)
    restored = stage.reopen(saved)
    for frame in AUDIO[30:36]:
        stage.talk({restored: frame})
    found = [e for e in stage.events(restored) if isinstance(e, RetrievalSucceeded)]
    assert found[0].sequence == asked.sequence
    assert found[0].text.startswith("about")


def test_a_lookup_that_has_answered_in_part_ends_with_that() -> None:
    _, saved = snapshot_with_a_lookup(partly=True)
    assert saved.partly
    asked = [c.lookup for c in saved.commands if isinstance(c, StartLookup)]
    assert not set(asked) & set(saved.partly)
    stage = Stage(1)
    restored = stage.reopen(saved)
    found = [e for e in stage.events(restored) if isinstance(e, RetrievalSucceeded)]
    assert found[0].text == "the first half"


def test_cancelled_lookups_are_not_pending() -> None:
    stage = Stage(1)
    seat = stage.open()
    for frame in AUDIO[:20]:
        stage.talk({seat: frame})
    stage.conductor.end(seat, EndReason.CLIENT_CLOSED)
    assert not any(isinstance(c, (StartLookup, CancelLookup)) for c in seat.pending.values())


def test_bytes_that_are_no_snapshot_are_refused_by_name() -> None:
    stage = Stage(1)
    seat = stage.open()
    stage.talk({seat: AUDIO[0]})
    blob = stage.seating.snapshot(seat, "token").to_bytes()
    for wrong in (b"", b"nonsense", blob[:-50], blob[: len(blob) // 2], blob[8:]):
        with pytest.raises(SnapshotError):
            SessionSnapshot.from_bytes(wrong)
    with pytest.raises(SnapshotError, match="version 9"):
        SessionSnapshot.from_bytes(blob.replace(b'{\\"version\\": 2, ', b'{\\"version\\": 9, ', 1))


def test_a_snapshot_of_another_model_is_refused_and_costs_no_slot() -> None:
    stage, other = Stage(1), Stage(1, on=model(max_delay=2))
    seat = stage.open()
    stage.talk({seat: AUDIO[0]})
    saved = again(stage, seat)
    with pytest.raises(SnapshotError, match="another model"):
        other.reopen(saved)
    disguised = replace(saved, model=other.bank.model.fingerprint())
    with pytest.raises(SnapshotError, match="does not fit"):
        other.reopen(disguised)
    other.open()


@pytest.mark.parametrize(
    "wrong",
    [
        {"core": {}},
        {"core": None},
        {"brain": None},
        {"brain": {"version": "none"}},
        {"text": 5},
        {"texts": [[1]]},
        {"waiting": np.zeros((2, 1920), np.float32)},
        {"partly": None},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_snapshot_that_is_not_whole_costs_no_slot(wrong: dict[str, Any]) -> None:
    stage, other = Stage(1), Stage(1)
    seat = stage.open()
    stage.talk({seat: AUDIO[0]})
    saved = again(stage, seat)
    if not hasattr(saved, next(iter(wrong))):
        wrong = {"core": {**saved.core, **wrong}}
    with pytest.raises(SnapshotError):
        other.seating.seat_again("broken", replace(saved, **wrong), seat.core.setup)
    assert not other.conductor.seats
    other.reopen(saved)


def test_an_ended_session_has_no_snapshot() -> None:
    stage = Stage(1)
    seat = stage.open()
    stage.conductor.end(seat, EndReason.CLIENT_CLOSED)
    with pytest.raises(SnapshotError, match="ended"):
        stage.seating.snapshot(seat, "token")
