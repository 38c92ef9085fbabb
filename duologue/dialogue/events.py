"""The typed events of a conversation: what every door renders and every log holds.

Events are immutable and say what happened at which frame. They never carry wire formats: the
marks a published client expects (`[RET]`, role prefixes, colours) are made by its door.

A retrieval is opened by a trigger (`RetrievalStarted`) and closed by exactly one of
`RetrievalSucceeded`, `RetrievalFailed` and `RetrievalCancelled`; each of them has an `outcome`.
Speculative lookups, made before any trigger, have events of their own that doors may ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, TypeAlias

from duologue.dialogue.records import Record, from_data


class Role(Enum):
    """Who speaks."""

    USER = "user"
    MODEL = "model"

    @property
    def other(self) -> Role:
        """The other side of the conversation."""
        return Role.MODEL if self is Role.USER else Role.USER


class Outcome(Enum):
    """How a retrieval ended."""

    ANSWERED = "answered"
    EMPTY = "empty"
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CancelReason(Enum):
    """Why a retrieval was cancelled."""

    SUPERSEDED = "superseded"
    BARGE_IN = "barge_in"
    RESET = "reset"
    SESSION_ENDED = "session_ended"


class SpeculationOutcome(Enum):
    """How a speculative lookup ended."""

    ADOPTED = "adopted"
    TEXT_CHANGED = "text_changed"
    EXPIRED = "expired"
    EMPTY = "empty"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EndReason(Enum):
    """Why a session ended."""

    CLIENT_CLOSED = "client_closed"
    FRAME_LIMIT = "frame_limit"
    SERVER_STOPPING = "server_stopping"
    FAILED = "failed"


class WarningCode(Enum):
    """What a `Warning` is about."""

    CONTEXT_TRIMMED = "context_trimmed"
    TEXT_DROPPED = "text_dropped"
    UNKNOWN_BACKEND = "unknown_backend"
    REFERENCE_DROPPED = "reference_dropped"
    REFERENCE_TRUNCATED = "reference_truncated"
    ENCODING_FAILED = "encoding_failed"
    ENCODING_TIMED_OUT = "encoding_timed_out"
    REPLIES_DROPPED = "replies_dropped"
    STT_LOST = "stt_lost"
    STT_RESTORED = "stt_restored"
    OVERRUN = "overrun"
    OTHER = "other"


@dataclass(frozen=True)
class Source(Record):
    """Where a reference comes from: a title to show and, when known, a place to go to."""

    title: str
    location: str = ""


@dataclass(frozen=True)
class AudioFrame(Record):
    """80 ms of the model's speech; the payload is opaque here (logs can hold bytes or nothing)."""

    frame: int
    payload: object = None

    def without_payload(self) -> AudioFrame:
        """Return the event as logs keep it when the audio is stored elsewhere."""
        return replace(self, payload=None)


@dataclass(frozen=True)
class TurnStarted(Record):
    """A speaker took the floor; `index` counts turns from 0 since the start or the last reset."""

    frame: int
    role: Role
    index: int


@dataclass(frozen=True)
class TextToken(Record):
    """A piece of the current turn's text, spaces included; `said_frame` is when it was produced.

    Text of the side that does not have the floor is kept back, so `said_frame <= frame`.
    """

    frame: int
    role: Role
    text: str
    said_frame: int


@dataclass(frozen=True)
class RetrievalStarted(Record):
    """The model asked for knowledge: retrieval number `sequence` is open."""

    sequence: int
    frame: int


@dataclass(frozen=True)
class RetrievalSucceeded(Record):
    """A reference was found.

    `latency` counts frames from the trigger to the last word of the answer, `lookup_latency` from
    the first question to a back end (before the trigger when `speculative`). `label` is the name
    to show for whoever answered. `complete` is False when the answer was cut off by its back end,
    its deadline or a bound, after usable text had come.
    """

    sequence: int
    frame: int
    latency: int
    lookup_latency: int
    backend: str
    label: str
    text: str
    sources: tuple[Source, ...] = ()
    confidence: float | None = None
    complete: bool = True
    speculative: bool = False

    outcome: ClassVar[Outcome] = Outcome.ANSWERED


@dataclass(frozen=True)
class RetrievalFailed(Record):
    """No reference: the outcome is `EMPTY`, `TIMED_OUT` or `FAILED`, and `reason` says more.

    `lookup_latency` is None and `backend` empty when no back end was asked.
    """

    sequence: int
    frame: int
    latency: int
    lookup_latency: int | None
    backend: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class RetrievalCancelled(Record):
    """A retrieval was given up before its outcome; nothing of it is injected after this."""

    sequence: int
    frame: int
    latency: int
    lookup_latency: int | None
    backend: str
    reason: CancelReason

    outcome: ClassVar[Outcome] = Outcome.CANCELLED


@dataclass(frozen=True)
class SpeculationStarted(Record):
    """A lookup was begun on a partial transcript, before any trigger."""

    lookup: int
    frame: int
    backend: str


@dataclass(frozen=True)
class SpeculationEnded(Record):
    """A speculative lookup became retrieval `sequence` (`ADOPTED`) or was thrown away."""

    lookup: int
    frame: int
    outcome: SpeculationOutcome
    sequence: int | None = None


@dataclass(frozen=True)
class ReferenceInjected(Record):
    """`rows` rows of part `part` of a reference will be added to the model's next frames."""

    sequence: int
    frame: int
    rows: int
    part: int = 0


@dataclass(frozen=True)
class Warning(Record):
    """Something was lost or degraded, and the conversation goes on."""

    frame: int
    code: WarningCode
    detail: str
    sequence: int | None = None


@dataclass(frozen=True)
class ConversationReset(Record):
    """The conversation starts anew: no turns, no context, no reference; frames count on."""

    frame: int


@dataclass(frozen=True)
class SessionEnded(Record):
    """The last event of a session."""

    frame: int
    reason: EndReason
    detail: str = ""


Event: TypeAlias = (
    AudioFrame
    | TurnStarted
    | TextToken
    | RetrievalStarted
    | RetrievalSucceeded
    | RetrievalFailed
    | RetrievalCancelled
    | SpeculationStarted
    | SpeculationEnded
    | ReferenceInjected
    | Warning
    | ConversationReset
    | SessionEnded
)

RetrievalEnded: TypeAlias = RetrievalSucceeded | RetrievalFailed | RetrievalCancelled


def event_from_dict(data: Mapping[str, Any]) -> Event:
    """Read any event written by its `to_dict`; raises `RecordError` naming what does not fit."""
    event: Event = from_data(Event, data, "event")
    return event
