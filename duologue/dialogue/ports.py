"""What goes between a conversation and the runtime around it.

Inputs: one `FrameInput` per 80 ms frame, and in between replies (what back ends and the reference
encoder answered) and controls (what the person or the server wants). Outputs, besides events:
commands, which the runtime carries out and whose results come back as replies.

A lookup is one question to one back end. `StartLookup` opens it; it is closed by the runtime's
final reply or by `CancelLookup`, whichever comes first, and replies to a closed lookup are
ignored. So a runtime needs one table, lookup number to task, and no rules of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeAlias

from duologue.dialogue.checks import InputError
from duologue.dialogue.events import EndReason, Event, Role, Source, WarningCode
from duologue.dialogue.records import Record, from_data


@dataclass(frozen=True)
class UserFrame(Record):
    """What speech recognition said during one frame of the user's audio.

    `words` are text pieces with their own spaces. `inactivity` is the probability that the user
    is *not* speaking, None when there is no estimate this frame. `transcribed_frame` is the last
    frame of audio whose words have all been handed in, for recognisers that know it (for example
    after a flush); None means the configured delay behind this frame. `level_db` is the power of
    the frame's audio in dB of full scale, for conversations with a floor policy. `ahead` are the
    words beyond all `words` that recognition would give if silence followed, where it was asked.
    """

    words: tuple[str, ...] = ()
    inactivity: float | None = None
    transcribed_frame: int | None = None
    level_db: float | None = None
    ahead: str | None = None

    def __post_init__(self) -> None:
        if self.inactivity is not None and not 0 <= self.inactivity <= 1:
            raise InputError(f"UserFrame.inactivity must be in [0, 1], got {self.inactivity!r}")


@dataclass(frozen=True)
class ModelFrame(Record):
    """What the language model gave out for one frame.

    `text` is the piece of its text stream, None for silence. `triggered` says that this frame's
    text token, as given out, is the retrieval token. `audio` is opaque; `level_db` is its power,
    likewise for floor policies.
    """

    text: str | None = None
    triggered: bool = False
    audio: object = None
    level_db: float | None = None


@dataclass(frozen=True)
class LookupAnswered(Record):
    """A back end's text, or one part of it in order when `final` is False.

    Empty final text with nothing before it means that nothing was found. `rows` is set by a
    runtime that has already encoded the text. `elapsed_s` is the measured time since the lookup
    started; it matters only when latency is simulated in model time.
    """

    lookup: int
    text: str
    sources: tuple[Source, ...] = ()
    confidence: float | None = None
    label: str = ""
    final: bool = True
    rows: int | None = None
    elapsed_s: float | None = None

    def __post_init__(self) -> None:
        _check_elapsed(self, self.elapsed_s)
        _check_rows(self, self.rows)
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise InputError(f"LookupAnswered.confidence must be in [0, 1]: {self.confidence!r}")


@dataclass(frozen=True)
class LookupFailed(Record):
    """A back end failed or, with `timed_out`, gave up at a limit of its own."""

    lookup: int
    reason: str
    timed_out: bool = False
    elapsed_s: float | None = None

    def __post_init__(self) -> None:
        _check_elapsed(self, self.elapsed_s)


@dataclass(frozen=True)
class ReferenceEncoded(Record):
    """The rows of one part of a reference are ready; they wait for `InjectReference`."""

    sequence: int
    part: int
    rows: int
    elapsed_s: float | None = None

    def __post_init__(self) -> None:
        _check_elapsed(self, self.elapsed_s)
        _check_rows(self, self.rows)


@dataclass(frozen=True)
class EncodingFailed(Record):
    """The reference encoder could not encode one part."""

    sequence: int
    part: int
    reason: str
    elapsed_s: float | None = None

    def __post_init__(self) -> None:
        _check_elapsed(self, self.elapsed_s)


@dataclass(frozen=True)
class Interrupt(Record):
    """Barge-in as decided outside (a client's cancel): the open retrieval is given up."""


@dataclass(frozen=True)
class Reset(Record):
    """Start the conversation anew within the session."""


@dataclass(frozen=True)
class SelectBackend(Record):
    """The client picked a back end; it holds from the next lookup on."""

    backend: str


@dataclass(frozen=True)
class Report(Record):
    """The runtime puts a warning into the conversation's event stream (speech recognition lost)."""

    code: WarningCode
    detail: str


@dataclass(frozen=True)
class End(Record):
    """End the session."""

    reason: EndReason
    detail: str = ""


Reply: TypeAlias = LookupAnswered | LookupFailed | ReferenceEncoded | EncodingFailed
Control: TypeAlias = Interrupt | Reset | SelectBackend | Report | End


@dataclass(frozen=True)
class FrameInput(Record):
    """Everything that one frame brings.

    `model` is None while the model's delays fill. `sampled_trigger` says that the retrieval token
    was sampled in this frame; the generator gives it out (`ModelFrame.triggered`) when the model's
    delays have passed. `sampled_speech` says the same of a piece of text.
    Controls act before the frame, replies after it; both may come through
    `Conversation.receive` instead, which is up to a frame earlier.
    """

    frame: int
    user: UserFrame = field(default_factory=UserFrame)
    model: ModelFrame | None = None
    sampled_trigger: bool = False
    sampled_speech: bool = False
    controls: tuple[Control, ...] = ()
    replies: tuple[Reply, ...] = ()

    def without_payload(self) -> FrameInput:
        """Return the input as logs keep it when the audio is stored elsewhere."""
        if self.model is None:
            return self
        return replace(self, model=replace(self.model, audio=None))


Input: TypeAlias = FrameInput | Reply | Control


class InjectionKind(Enum):
    """What the rows of an injection are."""

    REFERENCE = "reference"
    ZERO = "zero"
    LEARNT_PADDING = "learnt_padding"


@dataclass(frozen=True)
class ContextTurn(Record):
    """One turn as back ends see it: cleaned text, one line."""

    role: Role
    text: str


@dataclass(frozen=True)
class ContextReference(Record):
    """An earlier reference; `after` counts the turns of the context before it."""

    after: int
    text: str


@dataclass(frozen=True)
class LookupContext(Record):
    """The conversation as a back end gets it.

    `prompt` is the same as published context text, ending in the cue `Reference:`. `last_turn` is
    the number of the last turn in the whole conversation, -1 when there are no turns.
    """

    turns: tuple[ContextTurn, ...]
    references: tuple[ContextReference, ...]
    prompt: str
    last_turn: int

    @property
    def question(self) -> str:
        """The user's latest turn, empty if there is none."""
        return next((turn.text for turn in reversed(self.turns) if turn.role is Role.USER), "")

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """What two contexts must share to be the same question; white space does not count."""
        return tuple((turn.role.value, " ".join(turn.text.split())) for turn in self.turns)


@dataclass(frozen=True)
class StartLookup(Record):
    """Ask one back end. Answers count up to those in the `FrameInput` of `deadline_frame`.

    `sequence` is the retrieval it belongs to, None while it is speculative.
    """

    lookup: int
    sequence: int | None
    frame: int
    backend: str
    context: LookupContext
    deadline_frame: int


@dataclass(frozen=True)
class CancelLookup(Record):
    """Stop a lookup; anything it still answers is ignored."""

    lookup: int
    frame: int


@dataclass(frozen=True)
class EncodeReference(Record):
    """Turn one part of a reference into rows and answer with `ReferenceEncoded`."""

    sequence: int
    part: int
    frame: int
    text: str
    deadline_frame: int


@dataclass(frozen=True)
class InjectReference(Record):
    """Install the first `rows` rows of a part in the model's slot before its next frame.

    With `append` they go behind the rows still pending, otherwise they replace them. Other kinds
    than `REFERENCE` have no text: one row of zeros, or the conditioner's learnt padding vector.
    """

    sequence: int
    part: int
    frame: int
    rows: int
    kind: InjectionKind = InjectionKind.REFERENCE
    append: bool = False


Command: TypeAlias = StartLookup | CancelLookup | EncodeReference | InjectReference
Output: TypeAlias = Event | Command


def input_from_dict(data: Mapping[str, Any]) -> Input:
    """Read any input written by its `to_dict`; raises `RecordError` naming what does not fit."""
    given: Input = from_data(Input, data, "input")
    return given


def output_from_dict(data: Mapping[str, Any]) -> Output:
    """Read any event or command written by its `to_dict`."""
    output: Output = from_data(Output, data, "output")
    return output


def _check_elapsed(owner: object, elapsed_s: float | None) -> None:
    if elapsed_s is not None and not (math.isfinite(elapsed_s) and elapsed_s >= 0):
        raise InputError(f"{type(owner).__name__}.elapsed_s must be finite and >= 0: {elapsed_s!r}")


def _check_rows(owner: object, rows: int | None) -> None:
    if rows is not None and rows < 0:
        raise InputError(f"{type(owner).__name__}.rows must not be negative, got {rows!r}")
