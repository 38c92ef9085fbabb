"""What doors need to know of the engine: settings, options, admission, figures and errors.

No torch, no threads: this file can be imported anywhere. The classes that do the work are
`duologue.session.Engine` and `duologue.session.Session`, and `duologue.session` exports all of
these names too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from duologue.errors import DuologueError

if TYPE_CHECKING:
    from duologue.moshi.sampling import Sampling

FRAME_S = 0.08
"""One frame of the clock that all conversations share."""
FRAME_SAMPLES = 1920
"""Samples of a frame at 24 kHz."""
MAX_REPETITION_CONTEXT = 256
"""Tokens that a repetition penalty can look back at; a longer context is cut to it."""


class EngineError(DuologueError):
    """The engine cannot do what was asked; the message says what to do instead."""


class EngineFull(EngineError):
    """One more conversation would make the others late; ask again after `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(f"{reason}; try again in {math.ceil(retry_after_s)} s")
        self.reason, self.retry_after_s = reason, retry_after_s


class EngineDraining(EngineFull):
    """The engine is stopping: it finishes its conversations and takes no new ones."""


class UnknownSession(EngineError):
    """No session waits under this token: it is wrong, or the time to come back is over."""


class SnapshotError(EngineError, ValueError):
    """Bytes that are no snapshot, or not one of this model."""


class LatePolicy(Enum):
    """What to do with a session whose input comes in faster than its frames are made.

    `CATCH_UP`: extra steps while there is time for them; only a full queue loses audio.
    `DROP`: whatever is older than the newest `late_frames` frames is dropped.
    """

    CATCH_UP = "catch_up"
    DROP = "drop"


@dataclass(frozen=True)
class EngineSettings:
    """How an engine runs. Times are wall-clock seconds."""

    slots: int = 1
    """Conversations at a time, detached ones included."""
    input_queue_frames: int = 25
    """Audio that a session can have waiting (2 s); beyond it the oldest frames are dropped."""
    output_queue_events: int = 512
    """Events that can wait for a slow client; beyond it the oldest audio frames are dropped. A
    client that lets as many other events pile up is taken for dead: the session fails."""
    late: LatePolicy = LatePolicy.CATCH_UP
    late_frames: int = 3
    resume_s: float = 60.0
    """A detached session waits so long for its client; meanwhile it stands still."""
    idle_s: float = 60.0
    """An attached session without audio for so long is ended."""
    max_session_s: float | None = None
    """Longest conversation; `None` for the frame clock's own limit of 25 hours."""
    drain_s: float = 30.0
    """`drain` lets conversations go on for so long before it ends them."""
    seed: int | None = None
    """Seed of sessions that bring none; `None` draws one for each."""
    budget_share: float | None = 0.9
    """Share of the 80 ms that admission fills with expected frame time; `None` lets in whoever has
    a slot (to measure what becomes of it)."""
    gate_db: float | None = -65.0
    """Quieter frames are heard as digital silence (as in training); `None` lets all through."""
    backends: tuple[str, ...] = ("default",)
    """Retrieval back ends by name, the default first, when one retriever stands for all."""
    retrieval_takes_role: bool = True
    """Whether some back end reads `SessionOptions.system_prompt`, as language models do."""
    floor: bool | None = None
    """`SessionOptions.floor` of sessions that do not say."""
    log_dir: Path | None = None
    """Folder of event logs, one per session; they hold what was said. `None` for no logs."""
    log_audio: bool = True
    """Also log the user's audio, without which a log cannot be replayed through the model."""
    log_bytes: int = 2**30
    """Largest log of one session; it ends there, the session goes on."""

    def __post_init__(self) -> None:
        for name in ("slots", "input_queue_frames", "output_queue_events", "late_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"EngineSettings.{name}: must be at least 1")
        for name in ("resume_s", "idle_s", "drain_s", "log_bytes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"EngineSettings.{name}: must not be negative")
        if self.max_session_s is not None and not self.max_session_s > 0:
            raise ValueError("EngineSettings.max_session_s: must be positive")
        if self.budget_share is not None and not 0 < self.budget_share <= 1:
            raise ValueError("EngineSettings.budget_share: must be in (0, 1]")
        if not self.backends:
            raise ValueError("EngineSettings.backends: at least one name is needed")


@dataclass(frozen=True)
class Wording:
    """How text is steered beside its sampling; see `duologue.engine.wording`."""

    pad_mult: float = 0.0
    """Silence is e^pad_mult times as probable: above 0 talks less."""
    repetition_penalty: float = 1.0
    repetition_context: int = 0
    """So many tokens back; 0 for no penalty."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.pad_mult):
            raise ValueError("Wording.pad_mult: must be finite")
        if not 0.0 < self.repetition_penalty < math.inf:
            raise ValueError("Wording.repetition_penalty: must be positive")
        if not 0 <= self.repetition_context <= MAX_REPETITION_CONTEXT:
            raise ValueError(
                f"Wording.repetition_context: must be from 0 to {MAX_REPETITION_CONTEXT}"
            )


UNSTEERED = Wording()


@dataclass(frozen=True)
class Steer:
    """What a slot is made to do in one frame. Slots that are not steered keep every bit."""

    held: bool = False
    """It says nothing and asks for nothing: its text token is padding."""
    muted: bool = False
    """As `held`, and its codes are those of silence."""
    urge: float = 0.0
    """Taken off padding's logit: the more, the sooner it says something."""
    asks: bool = True
    """Whether it may ask for a lookup."""
    favoured: int = 0
    """The piece that is favoured if it says something, where text is drawn in two stages
    (`Sampling.pooled_from`),"""
    favour: float = 0.0
    """and how much: it is chosen as if its logit were so much greater."""


@dataclass(frozen=True)
class SessionOptions:
    """What one conversation brings along. Paths are trusted: they must not come from clients."""

    seed: int | None = None
    text: Sampling | None = None
    """How text is drawn; the model's own way when `None`, likewise for `audio`."""
    audio: Sampling | None = None
    init_speaker: str = "model"
    """`user` or `model`: who has the floor at first."""
    backend: str | None = None
    """Retrieval back end to ask first; the default one when `None`."""
    voice: Path | None = None
    """Recording or saved voice to take on, for models that can."""
    system_prompt: str | None = None
    """Role text: forced through models that take one, else handed to the retrieval model, else
    without effect, of which the conversation is told by a `Warning`."""
    knowledge: Path | None = None
    """Documents or an index to be asked before the engine's own retriever."""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Written to the event log and otherwise not looked at."""
    wording: Wording = UNSTEERED
    floor: bool | None = None
    """Whether a floor policy decides when the model may speak (`duologue.dialogue.floor`); as its
    folder's `config.json` says when `None`."""

    def __post_init__(self) -> None:
        if self.init_speaker not in ("user", "model"):
            raise ValueError(f"SessionOptions.init_speaker: {self.init_speaker!r} is no speaker")


@dataclass(frozen=True)
class Admission:
    """Whether one more conversation would stay on time; `reason` is safe to show."""

    ok: bool
    retry_after_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class FrameTimes:
    """A distribution of durations, in seconds.

    Quantiles are of the recent past; `buckets` pairs upper bounds with cumulative counts since the
    start, the last bound being infinite, as Prometheus has it.
    """

    count: int = 0
    total_s: float = 0.0
    p50_s: float = 0.0
    p95_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class BackendStats:
    """Lookups of one back end since the start."""

    started: int = 0
    answered: int = 0
    empty: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    total_s: float = 0.0
    """Time of all that ended."""


@dataclass(frozen=True)
class EngineStats:
    """The engine in figures; counters run since its start."""

    slots: int
    in_use: int
    detached: int
    preparing: int
    healthy: bool
    draining: bool
    frame_times: FrameTimes
    """Of one step, which makes a frame of every session that takes part."""
    lateness: FrameTimes
    """From when a step was due until its events were out; on time means less than 80 ms."""
    latency: FrameTimes
    """From the arrival of a frame until its events were out."""
    steps: int
    frames: int
    overruns: int
    """Steps that took longer than a frame."""
    caught_up: int
    """Frames that waited already when their session's frame before was made."""
    input_frames_waiting: int
    output_events_waiting: int
    input_frames_dropped: int
    output_frames_dropped: int
    controls_dropped: int
    sessions_started: int
    sessions_ended: Mapping[str, int]
    """By `EndReason` value."""
    retrieval: Mapping[str, BackendStats]
    logs_truncated: int
