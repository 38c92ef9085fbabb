"""The protocols without sockets, and the bookkeeping of a connection's clock."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.stt.remote.gradium import GradiumWire
from duologue.stt.remote.kyutai import MARKER_FRAMES, KyutaiWire
from duologue.stt.remote.timeline import Backlog, Timeline
from duologue.stt.remote.wire import (
    MAX_TEXT,
    Ended,
    Flushed,
    Progress,
    Ready,
    Refused,
    Text,
    TextEnd,
    Wire,
    WireError,
)

MAKERS = {"gradium": GradiumWire, "kyutai": KyutaiWire}
both = pytest.mark.parametrize("protocol", MAKERS)

names = st.sampled_from(
    ["type", "text", "start_s", "start_time", "stop_s", "stop_time", "vad", "prs", "flush_id",
     "id", "message", "total_duration_s", "delay_in_frames", "inactivity_prob"]
)  # fmt: skip
kinds = st.sampled_from(
    ["ready", "text", "end_text", "step", "flushed", "error", "end_of_stream", "Ready", "Word",
     "EndWord", "Step", "Marker", "Error", "new"]
)  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=20),
    kinds,
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)
messages = st.fixed_dictionaries({"type": kinds | scalars}, optional={}).flatmap(
    lambda head: st.dictionaries(names, values, max_size=4).map(lambda rest: {**rest, **head})
)


def check(wire: Wire, message: str | bytes) -> None:
    """Any message is understood within bounds, or is a breach of protocol, and nothing else."""
    try:
        events = wire.receive(message)
    except WireError:
        return
    for event in events:
        match event:
            case Text(text, start_s):
                assert text == text.strip()
                assert 0 < len(text) <= MAX_TEXT
                assert text.isprintable()
                assert math.isfinite(start_s)
                assert start_s >= 0
            case TextEnd(stop_s):
                assert stop_s >= 0
            case Progress(_, inactivity):
                assert inactivity is None or 0 <= inactivity <= 1
            case Refused(detail):
                assert detail.isprintable()
                assert len(detail) <= MAX_TEXT


@settings(max_examples=40, deadline=None)
@given(messages, st.binary(max_size=40), st.text(max_size=40))
def test_anything_may_come(message: dict[str, Any], noise: bytes, words: str) -> None:
    for wire in (GradiumWire(), KyutaiWire()):
        check(wire, json.dumps(message))
        check(wire, msgspec.msgpack.encode(message))
        check(wire, noise)
        check(wire, words)
        check(wire, msgspec.msgpack.encode(message)[:-1])


def test_deep_messages_are_refused() -> None:
    deep = 100_000
    with pytest.raises(WireError):
        GradiumWire().receive('{"type": "step", "vad": ' + "[" * deep + "]" * deep + "}")
    with pytest.raises(WireError):
        KyutaiWire().receive(b"\x82\xa4type\xa4Step\xa3prs" + b"\x91" * deep + b"\x00")


def test_gradium_says_what_is_documented() -> None:
    wire = GradiumWire(delay_frames=16)
    pcm = np.linspace(-1.2, 1.2, 1920).astype(np.float32)
    (audio,) = wire.audio(pcm)
    given_audio = json.loads(audio)
    samples = np.frombuffer(base64.b64decode(given_audio["audio"]), "<i2")
    assert given_audio["type"] == "audio"
    np.testing.assert_allclose(samples / 32767, np.clip(pcm, -1, 1), atol=2e-5)
    assert (samples[0], samples[-1]) == (-32767, 32767)

    def hear(**message: Any) -> Any:
        return list(wire.receive(json.dumps(message)))

    assert hear(type="ready", delay_in_frames=10, model_name="default") == [Ready()]
    assert hear(type="text", text=" Hello\n world ", start_s=0.5) == [Text("Hello world", 0.5)]
    assert hear(type="text", text=" ", start_s=0.5) == []
    assert hear(type="end_text", stop_s=2.5, stream_id=None) == [TextEnd(2.5)]
    vad = [{"horizon_s": h, "inactivity_prob": p} for h, p in ((0.5, 0.1), (1, 0.2), (2, 0.7))]
    assert hear(type="step", vad=vad, total_duration_s=1.6) == [Progress(20 - 10 - 2, 0.7, 20)]
    assert hear(type="step", vad=vad[:1]) == [Progress(None, 0.1)]
    assert hear(type="flushed", flush_id=4) == [Flushed(4)]
    assert hear(type="end_of_stream") == [Ended()]
    assert hear(type="error", message="bad key", code=1008) == [Refused("bad key")]
    assert hear(type="later_invention", text="x") == []


def test_kyutai_says_what_is_documented() -> None:
    wire = KyutaiWire(delay_frames=6)
    pcm = np.linspace(-1, 1, 1920).astype(np.float32)
    (audio,) = wire.audio(pcm)
    assert len(audio) < 5 * 1920 + 40, "single precision"
    decoded = msgspec.msgpack.decode(audio)
    assert decoded["type"] == "Audio"
    np.testing.assert_array_equal(np.array(decoded["pcm"], dtype=np.float32), pcm)
    sent = [message for _ in range(2 * MARKER_FRAMES - 1) for message in wire.audio(pcm)]
    assert len(sent) == 2 * MARKER_FRAMES - 1 + 2, "a marker a second"
    marker = msgspec.msgpack.decode(sent[-1])
    assert marker == {"type": "Marker", "id": 24}

    def hear(**message: Any) -> Any:
        return list(wire.receive(msgspec.msgpack.encode(message)))

    assert hear(type="Ready") == [Ready()]
    assert hear(type="Word", text="Hello", start_time=0.5) == [Text("Hello", 0.5)]
    assert hear(type="EndWord", stop_time=1.0) == [TextEnd(1.0)]
    step = {"type": "Step", "step_idx": 5000, "prs": [0.1, 0.2, 0.7, 0.8], "buffered_pcm": 0}
    assert hear(**step) == [Progress(1 - 6 - 2, 0.7, 1)]
    assert hear(**{**step, "prs": []}) == [Progress(2 - 6 - 2, None, 2)]
    assert hear(**marker) == [Progress(24)]
    (flush, silence), frames = wire.flush(3)
    assert frames == 7
    assert len(msgspec.msgpack.decode(silence)["pcm"]) == 7 * 1920
    assert hear(**msgspec.msgpack.decode(flush)) == [Flushed(3)]
    assert hear(type="Error", message="no free channels") == [Refused("no free channels")]


class Spelled:
    """A connection's clock spelt out: which frame each of its frames is, None for silence."""

    def __init__(self) -> None:
        self.frames: list[int | None] = []
        self.next = 0

    def frame_before(self, count: int) -> int:
        known = [frame for frame in self.frames[:count] if frame is not None]
        return known[-1] if known else next(f for f in self.frames if f is not None) - 1


actions = st.lists(
    st.tuples(st.just("frames"), st.integers(1, 6))
    | st.tuples(st.just("gap"), st.integers(1, 9))
    | st.tuples(st.just("silence"), st.integers(0, 5)),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 50), actions, st.integers(0, 4))
def test_a_timeline_is_its_spelling(first: int, events: list[tuple[str, int]], late: int) -> None:
    """Gaps, and silence at the end or (learnt late) a few frames before it."""
    timeline, spelled, frame = Timeline(), Spelled(), first

    def hear() -> None:
        nonlocal frame
        timeline.heard(frame)
        spelled.frames.append(frame)
        frame += 1

    hear()
    for what, count in events:
        if what == "frames":
            for _ in range(count):
                hear()
        elif what == "gap":
            frame += count
        else:
            at = len(spelled.frames) - late
            # Learnt late means that only frames came since.
            if at < 1 or None in spelled.frames[at:] or (count and spelled.frames[at - 1] is None):
                continue
            timeline.silence(at, count)
            spelled.frames[at:at] = [None] * count
    assert timeline.sent == len(spelled.frames)
    for count in range(len(spelled.frames) + 1):
        assert timeline.frame_before(count) == spelled.frame_before(count), count
    times = [timeline.seconds(k * 0.08 + 1e-6) for k in range(len(spelled.frames) + 3)]
    assert times == sorted(times)
    for k, known in enumerate(spelled.frames):
        if known is not None:
            assert times[k] == pytest.approx(known * 0.08, abs=1e-4)


def test_an_unused_timeline() -> None:
    timeline = Timeline()
    assert timeline.frame_before(5) == -1
    assert timeline.seconds(3.0) == 0.0
    timeline.silence(0, 4)
    assert timeline.sent == 0

    def __init__(self, limit: int) -> None:
        self.limit, self.kept, self.next, self.pushed, self.dropped = limit, [], 0, 0, 0


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.sampled_from("pppssr") | st.integers(-1, 40), max_size=60),
)
def test_a_backlog_keeps_order_and_bound(limit: int, moves: list[str | int]) -> None:
    """Against plain lists: push, send, confirm (a number) and rewind in any order."""
    backlog = Backlog(limit)
    kept: list[int] = []
    following, dropped = 0, 0
    for move in moves:
        if move == "p":
            kept.append(backlog.pushed)
            backlog.push(np.full(1, backlog.pushed, dtype=np.float32))
            if len(kept) > limit and (gone := kept.pop(0)) >= following:
                following, dropped = gone + 1, dropped + 1
        elif move == "s":
            item = backlog.next_unsent()
            waiting = [number for number in kept if number >= following]
            assert (None if item is None else item[0]) == (waiting[0] if waiting else None)
            if item is not None:
                assert item[0] == int(item[1][0])
                following = item[0] + 1
        elif move == "r":
            following = kept[0] if kept else backlog.pushed
            assert backlog.rewind() == following
        else:
            assert isinstance(move, int)
            backlog.confirm(move)
            kept = [number for number in kept if number > move or number >= following]
        assert backlog.unsent == len([number for number in kept if number >= following]) <= limit
        assert backlog.dropped == dropped
