"""Floor policies in sessions: carried out in the slot, apart from others, logged and replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.conversations import frames_of, model, recogniser, speech
from support.stage import Stage, trace

from duologue.checkpoints.folder import FolderConfig
from duologue.dialogue import AudioFrame, EndReason, FloorRules, Move
from duologue.dialogue.floor import FloorOrder
from duologue.engine.api import EngineError, SessionOptions
from duologue.moshi.presets import PRESETS
from duologue.offline.settings import Rules, TalkSettings
from duologue.session.core import FrameGiven
from duologue.session.eventlog import LogWriter
from duologue.session.options import floor_rules, options_from_data, options_to_data
from duologue.session.replay import replay
from duologue.session.seat import Seat

VOICE = frames_of(speech(40))
SILENCE = [np.zeros(1920, np.float32)] * 60
PAD = 3
TALK = [*SILENCE[:4], *VOICE[:10], *SILENCE[:40], *VOICE[10:26], *SILENCE[:20]]
"""A question, time to answer it, an interruption of whatever is said, and a pause."""


def play(stage: Stage, seats: dict[Seat, list[np.ndarray]]) -> dict[Seat, list[FloorOrder | None]]:
    """Let some talk at once; returns what their floors ordered."""
    orders: dict[Seat, list[FloorOrder | None]] = {seat: [] for seat in seats}
    for at in range(max(map(len, seats.values()))):
        given = {seat: frames[at] for seat, frames in seats.items() if at < len(frames)}
        for seat, pcm in given.items():
            orders[seat].append(seat.core.order(FrameGiven(pcm)))
        stage.talk(given)
    return orders


def test_what_is_ordered_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(1, recogniser=recogniser())
    stage.conductor.flushes = True
    steered = []
    step = stage.bank.step

    def noted(frames, steers=None):  # type: ignore[no-untyped-def]
        made = step(frames, steers)
        steered.append((steers[0], made[0].sampled_text))
        return made

    monkeypatch.setattr(stage.bank, "step", noted)
    seat = stage.open(0, floor=True, init_speaker="user")
    [orders] = play(stage, {seat: TALK}).values()
    assert {order.move for order in orders if order} >= {Move.HOLD, Move.FREE, Move.YIELD}
    assert any(order.looks_ahead for order in orders if order)
    for order, (steer, text) in zip(orders, steered, strict=True):
        assert order is not None
        assert steer.held is (order.move is Move.HOLD)
        assert steer.muted is (order.move is Move.YIELD)
        assert steer.urge == order.urge
        if steer.held or steer.muted:
            assert text == PAD


def test_one_with_a_floor_and_one_without_are_what_they_are_alone() -> None:
    def conversation(*slots: int) -> dict[int, list[object]]:
        stage = Stage(2, recogniser=recogniser())
        stage.conductor.flushes = True
        seats = {slot: stage.open(slot, seed=slot, floor=slot == 1) for slot in slots}
        shift = {0: TALK[7:], 1: TALK}
        play(stage, {seat: shift[slot] for slot, seat in seats.items()})
        return {slot: trace(stage.said[seat]) for slot, seat in seats.items()}

    together = conversation(0, 1)
    assert together[0] == conversation(0)[0]
    assert together[1] == conversation(1)[1]


@pytest.mark.parametrize("floor", [None, False])
def test_without_one_nothing_is_different(floor: bool | None) -> None:
    stage = Stage(1)
    seat = stage.open(0, floor=floor)
    [orders] = play(stage, {seat: TALK[:20]}).values()
    assert orders == [None] * 20
    assert seat.core.brain.snapshot()["state"]["floor"] is None


def test_a_log_with_a_floor_replays_to_the_same_bits(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.start()
    stage = Stage(2, logs=writer, recogniser=recogniser())
    stage.conductor.flushes = True
    seat = stage.open(1, seed=13, floor=True)
    play(stage, {seat: TALK})
    said = [one.payload for one in stage.said[seat] if isinstance(one, AudioFrame)]
    stage.conductor.end(seat, EndReason.CLIENT_CLOSED)
    writer.close()
    path = tmp_path / f"{seat.id}.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    heard = [record["heard"] for record in records if record["record"] == "frame"]
    assert any("ahead" in one for one in heard if one), "a look ahead is part of what was heard"
    report = replay(path, model())
    assert (report.frames, report.difference, report.complete) == (len(TALK), "", True)
    assert np.array_equal(report.pcm, np.concatenate(said))  # type: ignore[arg-type]


def test_a_snapshot_goes_on_in_another_slot() -> None:
    stage = Stage(2, recogniser=recogniser())
    stage.conductor.flushes = True
    seat = stage.open(0, seed=5, floor=True)
    play(stage, {seat: TALK[:50]})
    saved = stage.seating.snapshot(seat, "token")
    other = Stage(2, recogniser=recogniser())
    other.conductor.flushes = True
    again = other.reopen(saved, 1)
    before = len(stage.said[seat])
    orders = [play(s, {one: TALK[50:]})[one] for s, one in ((stage, seat), (other, again))]
    assert orders[0] == orders[1]
    assert trace(stage.said[seat][before:]) == trace(other.said[again])


# Who has one.


def told(floor: object) -> SimpleNamespace:
    config = FolderConfig.from_dict({**PRESETS["tiny"].to_dict(), "floor": floor})
    return SimpleNamespace(name="one", folder=SimpleNamespace(config=config))


def test_a_folder_says_whether_its_model_has_a_floor() -> None:
    own, silent = told({"turn_frames": 9}), told(None)
    assert floor_rules(own, None) == floor_rules(own, True) == FloorRules(turn_frames=9)  # type: ignore[arg-type]
    assert floor_rules(own, False) is None  # type: ignore[arg-type]
    assert floor_rules(silent, None) is None  # type: ignore[arg-type]
    assert floor_rules(silent, True) == FloorRules()  # type: ignore[arg-type]
    assert floor_rules(told({}), None) == FloorRules()  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"one: config\.json: .*turn_frame"):
        floor_rules(told({"turn_frame": 9}), None)  # type: ignore[arg-type]
    config = own.folder.config
    assert FolderConfig.from_dict(config.to_dict()).floor == {"turn_frames": 9}
    assert "floor" not in silent.folder.config.to_dict()


def test_options_keep_it() -> None:
    for floor in (None, True, False):
        options = SessionOptions(floor=floor)
        assert options_from_data(json.loads(json.dumps(options_to_data(options)))) == options


def test_published_rules_have_none_unless_it_is_asked_for() -> None:
    settings = TalkSettings()
    published = replace(settings, rules=Rules.PUBLISHED)
    assert settings.wants_floor is None
    assert published.wants_floor is False
    assert replace(published, floor=True).wants_floor is True
