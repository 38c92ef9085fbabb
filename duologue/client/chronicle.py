"""What a conversation amounts to, event by event: the turns, who broke into whose, the lookups.

Pure. A turn that the user begins while the model is still audible is `over` it, and the model's
turn is `cut_off`. Bounded: the oldest turns and lookups are forgotten, and texts stop growing.
Texts come from a server and are kept printable, so that they can be shown in a terminal.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from duologue.client.events import FRAME_SAMPLES, SAMPLE_RATE, Event, Pcm, Resumed, Sound, Stats
from duologue.client.levels import AUDIBLE_DB, level_db
from duologue.dialogue import (
    ConversationReset,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
    Role,
    Source,
    TextToken,
    TurnStarted,
)

MAX_TURNS = 400
MAX_TURN_CHARACTERS = 20_000
MAX_LOOKUPS = 100
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE
AUDIBLE_FOR_FRAMES = 4
"""A speaker that was loud so recently counts as speaking: words have gaps."""
PAUSE_FRAMES = 25
"""A published server marks no turns; there, a pause of 2 s parts two lines."""


@dataclass
class Turn:
    role: Role
    start_s: float
    text: str = ""
    over: bool = False
    cut_off: bool = False
    last_frame: int = 0

    @property
    def shown(self) -> str:
        """The text as a script has it."""
        text = self.text.strip() + ("—" if self.cut_off else "")
        return f"(over) {text}" if self.over else text


class LookupState(Enum):
    OPEN = "open"
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Lookup:
    sequence: int
    start_s: float
    state: LookupState = LookupState.OPEN
    text: str = ""
    label: str = ""
    reason: str = ""
    sources: tuple[Source, ...] = ()
    latency_s: float | None = None


@dataclass
class Chronicle:
    """See the module."""

    turns: deque[Turn] = field(default_factory=lambda: deque(maxlen=MAX_TURNS))
    lookups: dict[int, Lookup] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)
    begun: int = 0
    """Turns so far, forgotten ones included."""
    resumed: int = 0
    model_db: float = -160.0
    _marked: bool = False
    _heard_frame: int = 0
    _loud_frame: int = -(10**9)

    def add(self, event: Event) -> None:
        """Take note of an event; most kinds have their place, the others change nothing."""
        match event:
            case Sound(pcm, start):
                self._hear(pcm, start)
            case TurnStarted(frame=frame, role=role):
                self._marked = True
                self._begin(role, frame)
            case TextToken(role=role, text=text, frame=frame):
                self._say(role, text, frame)
            case RetrievalStarted(sequence, frame):
                self._lookup(sequence, frame)
            case RetrievalSucceeded():
                lookup = self._close(event, LookupState.ANSWERED)
                lookup.text, lookup.label = printable(event.text), printable(event.label)
                lookup.sources = tuple(
                    Source(printable(source.title), printable(source.location))
                    for source in event.sources
                )
            case RetrievalFailed(reason=reason, outcome=outcome):
                lookup = self._close(event, LookupState.FAILED)
                lookup.reason = printable(reason) or outcome.value
            case RetrievalCancelled(reason=cancelled):
                self._close(event, LookupState.CANCELLED).reason = cancelled.value
            case ConversationReset():
                self.turns.clear()
            case Stats():
                self.stats = event
            case Resumed():
                self.resumed += 1

    @property
    def model_audible(self) -> bool:
        return self._heard_frame - self._loud_frame < AUDIBLE_FOR_FRAMES

    def summary(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "transcript": [
                {"role": turn.role.value, "start_s": round(turn.start_s, 2),
                 "text": turn.text.strip(), "over": turn.over, "cut_off": turn.cut_off}
                for turn in self.turns if turn.text.strip()
            ],
            "lookups": [
                {"sequence": lookup.sequence, "start_s": round(lookup.start_s, 2),
                 "state": lookup.state.value, "latency_s": lookup.latency_s,
                 "text": lookup.text, "label": lookup.label, "reason": lookup.reason,
                 "sources": [source.to_dict() for source in lookup.sources]}
                for lookup in self.lookups.values()
            ],
            "resumed": self.resumed,
            "dropped_ms": self.stats.dropped_ms,
        }  # fmt: skip

    def _hear(self, pcm: Pcm, start: int) -> None:
        self._heard_frame = start // FRAME_SAMPLES
        self.model_db = level_db(pcm)
        if self.model_db > AUDIBLE_DB:
            self._loud_frame = self._heard_frame

    def _begin(self, role: Role, frame: int) -> None:
        over = False
        if self.turns and role is Role.USER:
            last = self.turns[-1]
            over = last.role is Role.MODEL and bool(last.text.strip()) and self.model_audible
            last.cut_off |= over
        self.turns.append(Turn(role, frame * FRAME_S, over=over, last_frame=frame))
        self.begun += 1

    def _say(self, role: Role, text: str, frame: int) -> None:
        last = self.turns[-1] if self.turns else None
        paused = last is not None and not self._marked and frame - last.last_frame > PAUSE_FRAMES
        if last is None or last.role is not role or paused:
            self._begin(role, frame)
        turn = self.turns[-1]
        turn.text = (turn.text + printable(text)).lstrip()[:MAX_TURN_CHARACTERS]
        turn.last_frame = frame

    def _lookup(self, sequence: int, frame: int) -> Lookup:
        if sequence not in self.lookups:
            self.lookups[sequence] = Lookup(sequence, frame * FRAME_S)
            if len(self.lookups) > MAX_LOOKUPS:
                del self.lookups[next(iter(self.lookups))]
        return self.lookups[sequence]

    def _close(
        self, event: RetrievalSucceeded | RetrievalFailed | RetrievalCancelled, state: LookupState
    ) -> Lookup:
        lookup = self._lookup(event.sequence, event.frame - event.latency)
        lookup.state, lookup.latency_s = state, round(event.latency * FRAME_S, 2)
        return lookup


def printable(text: str) -> str:
    """Text of a server without what could steer a terminal; line breaks become spaces."""
    return "".join(
        character if character.isprintable() else " " if character.isspace() else ""
        for character in text[:MAX_TURN_CHARACTERS]
    )


def clock(seconds: float) -> str:
    """83.4 s as `1:23`."""
    whole = max(0, int(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


def lookup_lines(lookup: Lookup) -> list[str]:
    """A lookup in words: what came of it, and from where."""
    waited = "" if lookup.latency_s is None else f" after {lookup.latency_s:.1f} s"
    match lookup.state:
        case LookupState.OPEN:
            return ["looking up ..."]
        case LookupState.ANSWERED:
            label = f"{lookup.label}: " if lookup.label else ""
            places = [
                f"from {source.title}" + (f" ({source.location})" if source.location else "")
                for source in lookup.sources
            ]
            return [f"{label}{lookup.text}{waited}", *places]
        case LookupState.FAILED:
            return [f"found nothing{waited} ({lookup.reason})"]
        case LookupState.CANCELLED:
            return [f"given up{waited} ({lookup.reason})"]
