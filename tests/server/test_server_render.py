"""Events as messages, in each dialect."""

from __future__ import annotations

import json

import numpy as np
import pytest

from duologue.dialogue import (
    AudioFrame,
    CancelReason,
    ConversationReset,
    EndReason,
    Event,
    Outcome,
    ReferenceInjected,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
    Role,
    SessionEnded,
    Source,
    SpeculationStarted,
    TextToken,
    TurnStarted,
    Warning,
    WarningCode,
    event_from_dict,
)
from duologue.server.protocols.kyutai.render import (
    EventsRenderer,
    MoshiRagRenderer,
    MoshiRenderer,
)

FOUND = RetrievalSucceeded(
    1, 30, 6, 5, "default", "a\tmodel", "Lima is the\tcapital.", (Source("facts.md", "/f"),), 0.9
)
CONVERSATION: list[Event] = [
    TurnStarted(0, Role.MODEL, 0),
    AudioFrame(1, np.zeros(1920, np.float32)),
    TextToken(1, Role.MODEL, " Hi", 1),
    TurnStarted(20, Role.USER, 1),
    TextToken(20, Role.USER, " where", 18),
    RetrievalStarted(1, 24),
    SpeculationStarted(3, 24, "default"),
    FOUND,
    ReferenceInjected(1, 31, 12),
    TurnStarted(32, Role.MODEL, 2),
    TextToken(32, Role.MODEL, "", 32),
    TextToken(33, Role.MODEL, " Lima", 33),
    RetrievalStarted(2, 40),
    RetrievalFailed(2, 50, 10, None, "", Outcome.TIMED_OUT, "deadline"),
    RetrievalStarted(3, 60),
    RetrievalCancelled(3, 61, 1, 1, "default", CancelReason.BARGE_IN),
    Warning(62, WarningCode.OVERRUN, "late"),
    ConversationReset(70),
    TurnStarted(71, Role.MODEL, 0),
    SessionEnded(80, EndReason.CLIENT_CLOSED),
]


def test_moshi_shows_what_the_model_says_and_nothing_else() -> None:
    renderer = MoshiRenderer()
    messages = [message for event in CONVERSATION for message in renderer.render(event)]
    assert messages == [b"\x02 Hi", b"\x02 Lima"]
    assert renderer.note({"type": "stats"}) == []


def test_moshirag_shows_turns_marks_and_references() -> None:
    renderer = MoshiRagRenderer()
    messages = [message for event in CONVERSATION for message in renderer.render(event)]
    assert messages == [
        b"\x07\x04moshi: ",
        b"\x07\x04 Hi",
        b"\x07\x0a\nuser: ",
        b"\x07\x0a where",
        b"\x07\x04[RET]",
        b"\x09\x04\x00",
        b"\x09\x04a model\tLima is the\tcapital.",
        b"\x07\x04\nmoshi: ",
        b"\x07\x04 Lima",
        b"\x07\x04[RET]",
        b"\x07\x04[RET_FAILED]",
        b"\x07\x04[RET]",
        b"\x07\x04\nmoshi: ",
    ]
    assert renderer.note({"type": "stats"}) == []


def test_events_shows_everything_but_audio_and_reads_back() -> None:
    renderer = EventsRenderer()
    messages = [message for event in CONVERSATION for message in renderer.render(event)]
    assert all(message[0] == 10 for message in messages)
    back = [event_from_dict(json.loads(message[1:])) for message in messages]
    assert back == [event for event in CONVERSATION if not isinstance(event, AudioFrame)]


@pytest.mark.parametrize("renderer", [MoshiRenderer(), MoshiRagRenderer()])
def test_published_dialects_send_published_kinds_only(
    renderer: MoshiRenderer | MoshiRagRenderer,
) -> None:
    kinds = {message[0] for event in CONVERSATION for message in renderer.render(event)}
    assert kinds <= {2, 7, 9}
