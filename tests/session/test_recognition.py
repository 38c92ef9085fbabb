"""Local speech recognition inside the tick: real recogniser, untrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.conversations import frames_of, model, recogniser, speech
from support.stage import Stage, trace

from duologue.dialogue import EndReason, Reset, Role, TextToken
from duologue.session.eventlog import LogWriter
from duologue.session.replay import replay
from duologue.session.snapshot import SessionSnapshot

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
