"""Plain data: every record round-trips through JSON, and what does not fit is named."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.dialogue import (
    AudioFrame,
    Control,
    Conversation,
    ConversationConfig,
    Event,
    FrameInput,
    IllegalMove,
    Input,
    InputError,
    LookupAnswered,
    LookupFailed,
    ModelFrame,
    Output,
    RecordError,
    ReferenceEncoded,
    Reply,
    Role,
    TextToken,
    UserFrame,
    Warning,
    WarningCode,
    event_from_dict,
    input_from_dict,
    output_from_dict,
)
from duologue.dialogue.records import from_data, tag_of, to_data

fractions = st.one_of(st.none(), st.floats(0, 1))
payloads = st.one_of(st.none(), st.binary(max_size=8))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "payload": payloads,
    "audio": payloads,
    "inactivity": fractions,
    "confidence": fractions,
    "elapsed_s": st.one_of(st.none(), st.floats(0, 1e6)),
    "rows": st.integers(0, 9),
}
"""Fields whose type alone does not say which values are legal, or readable from a log."""


def records_of(union: Any) -> list[type]:
    return list(typing.get_args(union))


def values(kind: type) -> st.SearchStrategy[Any]:
    """Return a strategy for any legal record of a class."""
    fields = {field.name for field in dataclasses.fields(kind)}
    chosen = {name: strategy for name, strategy in FIELDS.items() if name in fields}
    if kind is FrameInput:
        chosen["user"] = values(UserFrame)
        chosen["model"] = st.one_of(st.none(), values(ModelFrame))
        chosen["controls"] = some_of(Control)
        chosen["replies"] = some_of(Reply)
    return st.builds(kind, **chosen)


def some_of(union: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.one_of(*map(values, records_of(union))), max_size=2).map(tuple)


@pytest.mark.parametrize("kind", records_of(Output), ids=lambda kind: kind.__name__)
def test_outputs_round_trip(kind: type) -> None:
    @settings(max_examples=10, deadline=None)
    @given(values(kind))
    def check(output: Any) -> None:
        data = json.loads(json.dumps(output.to_dict()))
        assert output_from_dict(data) == output
        assert kind.from_dict(data) == output  # type: ignore[attr-defined]
        if kind in records_of(Event):
            assert event_from_dict(data) == output

    check()


@pytest.mark.parametrize("kind", records_of(Input), ids=lambda kind: kind.__name__)
def test_inputs_round_trip(kind: type) -> None:
    @settings(max_examples=10, deadline=None)
    @given(values(kind))
    def check(entry: Any) -> None:
        assert input_from_dict(json.loads(json.dumps(entry.to_dict()))) == entry

    check()


def test_type_names_of_logs_are_stable() -> None:
    assert [tag_of(kind) for kind in records_of(Event)] == [
        "audio_frame",
        "turn_started",
        "text_token",
        "retrieval_started",
        "retrieval_succeeded",
        "retrieval_failed",
        "retrieval_cancelled",
        "speculation_started",
        "speculation_ended",
        "reference_injected",
        "warning",
        "conversation_reset",
        "session_ended",
    ]


def test_a_record_is_readable() -> None:
    assert TextToken(3, Role.MODEL, " hi", 2).to_dict() == {
        "type": "text_token",
        "frame": 3,
        "role": "model",
        "text": " hi",
        "said_frame": 2,
    }
    assert AudioFrame(0, b"\x00\xff").to_dict()["payload"] == {"base64": "AP8="}


def test_payloads_without_a_plain_form_are_refused_by_name() -> None:
    event = AudioFrame(0, [1.0, object()])
    with pytest.raises(RecordError, match=r"audio_frame\.payload\[1\]"):
        event.to_dict()
    assert event.without_payload() == AudioFrame(0)
    given_frame = FrameInput(0, model=ModelFrame("a", audio=object()))
    assert given_frame.without_payload() == FrameInput(0, model=ModelFrame("a"))
    assert FrameInput(0).without_payload() == FrameInput(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "text"}, "type is one of"),
        ({"frame": "3"}, r"output\.frame: expected int"),
        ({"frame": True}, r"frame: expected int"),
        ({"role": "nobody"}, r"role: expected one of 'user', 'model'"),
        ({"colour": 1}, r"unknown keys \['colour'\]"),
    ],
)
def test_misfits_are_named(change: dict[str, Any], message: str) -> None:
    data = TextToken(3, Role.MODEL, " hi", 2).to_dict() | change
    with pytest.raises(RecordError, match=message):
        output_from_dict(data)
    with pytest.raises(RecordError, match=r"missing keys \['said_frame'\]"):
        output_from_dict({"type": "text_token", "frame": 1, "role": "user", "text": ""})


def test_settings_round_trip_and_are_checked_when_read() -> None:
    config = ConversationConfig.improved(backends=("a", "b"))
    data = json.loads(json.dumps(to_data(config)))
    assert from_data(ConversationConfig, data) == config
    data["retrieval"]["hedge"]["quantile"] = 2.0
    with pytest.raises(ValueError, match=r"HedgeRules\.quantile"):
        from_data(ConversationConfig, data)


def test_snapshots_of_other_versions_are_refused() -> None:
    data = Conversation().snapshot()
    with pytest.raises(RecordError, match="version 2"):
        Conversation.restore(data | {"version": 1})
    with pytest.raises(RecordError, match="version 2"):
        Conversation.restore({"version": 2})
    broken = json.loads(json.dumps(data))
    broken["state"]["retrieval"]["next_lookup"] = None
    with pytest.raises(RecordError, match=r"state\.retrieval\.next_lookup"):
        Conversation.restore(broken)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UserFrame(inactivity=1.5),
        lambda: UserFrame(inactivity=float("nan")),
        lambda: LookupAnswered(1, "a", confidence=-1.0),
        lambda: LookupAnswered(1, "a", rows=-1),
        lambda: LookupFailed(1, "a", elapsed_s=float("inf")),
        lambda: ReferenceEncoded(1, 0, rows=1, elapsed_s=-1.0),
    ],
)
def test_malformed_inputs_are_refused(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_frames_come_in_order_and_not_after_the_end() -> None:
    conversation = Conversation(ConversationConfig(max_frames=2))
    with pytest.raises(InputError, match="must be 0, got 1"):
        conversation.advance(FrameInput(1))
    conversation.advance(FrameInput(0))
    conversation.advance(FrameInput(1))
    assert conversation.ended
    with pytest.raises(IllegalMove):
        conversation.advance(FrameInput(2))
    assert conversation.receive(LookupFailed(1, "late")) == []


def test_absent_optional_fields_are_null() -> None:
    warning = Warning(1, WarningCode.STT_LOST, "gone")
    assert warning.to_dict()["sequence"] is None
    assert event_from_dict(warning.to_dict()) == warning
