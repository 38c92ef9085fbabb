"""Who is asked, when a second back end is asked too, and whose answer is taken.

A `Race` is the record of one retrieval's lookups. `HedgeRules` read it and decide; nothing here
sends or cancels anything. Three modes:

- `NONE`: one back end.
- `PARALLEL` (MoshiRAG reference, profiles and fallback): a back end that is not the default is
  asked together with the default, and its own answer is preferred. Unlike the reference, the
  preferred answer is taken as soon as it is there.
- `DELAYED`: the next back end is asked when the one before has taken longer than it usually does
  (a learned quantile), or at once when it failed or found nothing; the first acceptable answer
  wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from duologue.dialogue.checks import (
    ConfigError,
    IllegalMove,
    check_fraction,
    check_int,
    check_type,
)
from duologue.dialogue.events import Outcome, Source
from duologue.dialogue.latency import LatencyHistogram

MAX_BACKENDS = 8


class HedgeMode(Enum):
    """How many back ends one retrieval may ask, and when."""

    NONE = "none"
    PARALLEL = "parallel"
    DELAYED = "delayed"


class AttemptStatus(Enum):
    """Where one lookup is; it leaves `RUNNING` once."""

    RUNNING = "running"
    ANSWERED = "answered"
    EMPTY = "empty"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class AnswerPart:
    """A piece of an answer in order; `rows` when it came already encoded."""

    text: str
    rows: int | None = None


@dataclass
class Attempt:
    """One lookup: one question to one back end, and what has come of it."""

    lookup: int
    backend: str
    started_frame: int
    status: AttemptStatus = AttemptStatus.RUNNING
    parts: list[AnswerPart] = field(default_factory=list)
    cut: bool = False
    sources: tuple[Source, ...] = ()
    confidence: float | None = None
    label: str = ""
    reason: str = ""

    @property
    def running(self) -> bool:
        """Whether it may still answer."""
        return self.status is AttemptStatus.RUNNING

    def finish(self, status: AttemptStatus, reason: str = "") -> None:
        """Leave `RUNNING` for good."""
        if not self.running or status is AttemptStatus.RUNNING:
            raise IllegalMove(f"a lookup can not go from {self.status.value} to {status.value}")
        self.status, self.reason = status, reason


@dataclass
class Race:
    """The lookups of one retrieval, in the order in which they were asked.

    `waiting` are the back ends still to be asked, `winner` the lookup whose answer is taken and
    `delivered` how many of its parts have been passed on.
    """

    started_frame: int
    deadline_frame: int
    waiting: list[str]
    attempts: list[Attempt] = field(default_factory=list)
    next_hedge_frame: int | None = None
    winner: int | None = None
    delivered: int = 0

    def attempt(self, lookup: int) -> Attempt | None:
        """Return the attempt with that number."""
        return next((attempt for attempt in self.attempts if attempt.lookup == lookup), None)

    @property
    def running(self) -> list[Attempt]:
        """Attempts that may still answer."""
        return [attempt for attempt in self.attempts if attempt.running]

    def failure(self) -> tuple[Outcome, Attempt | None]:
        """Return the outcome when nobody answered, and the attempt that stands for it."""
        for status, outcome in (
            (AttemptStatus.EMPTY, Outcome.EMPTY),
            (AttemptStatus.TIMED_OUT, Outcome.TIMED_OUT),
            (AttemptStatus.FAILED, Outcome.FAILED),
        ):
            for attempt in self.attempts:
                if attempt.status is status:
                    return outcome, attempt
        return Outcome.EMPTY, None


@dataclass(frozen=True)
class HedgeRules:
    """Back ends and how they are combined.

    The first of `backends` is the default. In `DELAYED` mode the delay before the next is asked is
    the `quantile` of the previous one's latency, kept within `min_delay_frames..max_delay_frames`,
    and `first_delay_frames` until `min_samples` lookups have been seen. An answer with a stated
    confidence below `min_confidence` counts as empty.
    """

    mode: HedgeMode = HedgeMode.PARALLEL
    backends: tuple[str, ...] = ("default",)
    quantile: float = 0.9
    min_samples: int = 5
    first_delay_frames: int = 6
    min_delay_frames: int = 1
    max_delay_frames: int = 10
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        check_type(self, "mode", HedgeMode)
        names = self.backends
        if not isinstance(names, tuple) or not 1 <= len(names) <= MAX_BACKENDS:
            raise ConfigError(f"HedgeRules.backends must be 1 to {MAX_BACKENDS} names: {names!r}")
        if not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"HedgeRules.backends must be non-empty strings: {names!r}")
        if len(set(names)) != len(names):
            raise ConfigError(f"HedgeRules.backends must differ from each other: {names!r}")
        check_fraction(self, "quantile")
        check_int(self, "min_samples", 1, 10_000)
        check_int(self, "min_delay_frames", 1, 1_000)
        check_int(self, "max_delay_frames", self.min_delay_frames, 1_000)
        check_int(self, "first_delay_frames", 1, 1_000)
        check_fraction(self, "min_confidence")

    def order(self, selected: str) -> list[str]:
        """Return whom a retrieval may ask, first the client's choice."""
        if self.mode is HedgeMode.NONE:
            return [selected]
        if self.mode is HedgeMode.PARALLEL:
            default = self.backends[0]
            return [selected] if selected == default else [selected, default]
        return [selected, *(name for name in self.backends if name != selected)]

    def delay(self, seen: LatencyHistogram | None) -> int:
        """Return after how many frames the next back end is asked."""
        if seen is None or seen.seen < self.min_samples:
            wanted = self.first_delay_frames
        else:
            wanted = seen.quantile(self.quantile) + 1
        return min(max(wanted, self.min_delay_frames), self.max_delay_frames)

    def asks_next(self, race: Race, frame: int) -> bool:
        """Say whether another back end is to be asked now."""
        if not race.waiting or race.winner is not None or frame >= race.deadline_frame:
            return False
        if self.mode is HedgeMode.PARALLEL or not race.running:
            return True
        return race.next_hedge_frame is not None and frame >= race.next_hedge_frame

    def choose(self, race: Race) -> Attempt | None:
        """Return the attempt whose answer is taken, None while that is open."""
        for attempt in race.attempts:
            if attempt.parts and attempt.status is not AttemptStatus.CANCELLED:
                return attempt
            if attempt.running and self.mode is HedgeMode.PARALLEL:
                return None
        return None
