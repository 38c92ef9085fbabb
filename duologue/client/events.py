"""What a conversation yields: the events of `duologue.dialogue`, and what only a client knows.

The same types come from every server. A published server says less: it never resumes, sends no
`Stats`, and names no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from duologue.dialogue import Event as DialogueEvent

Pcm = NDArray[np.float32]
SAMPLE_RATE = 24_000
FRAME_SAMPLES = 1920
"""80 ms, the unit in which servers work."""


@dataclass(frozen=True)
class Opened:
    """The server introduced itself; comes again after each resumption."""

    id: str
    model: str
    resumed: bool
    resume_s: float
    retrieval_backends: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sound:
    """The model's next samples [n]; `start` counts those before it since the conversation began."""

    pcm: Pcm
    start: int


@dataclass(frozen=True)
class Stats:
    """The server's figures, once a second; None for those it did not tell.

    `frame` is the last one sent, `dropped_ms` what it lost of this client's audio.
    """

    frame: int | None = None
    frame_ms_p50: float | None = None
    frame_ms_p99: float | None = None
    lateness_ms_p99: float | None = None
    input_frames_waiting: int | None = None
    sessions: int | None = None
    slots: int | None = None
    dropped_ms: float | None = None


@dataclass(frozen=True)
class Interrupted:
    """The connection broke; the client is coming back by itself."""

    reason: str


@dataclass(frozen=True)
class Resumed:
    """The conversation goes on, after so long."""

    after_s: float


Event: TypeAlias = Opened | Sound | Stats | Interrupted | Resumed | DialogueEvent


def stats_from(values: Mapping[str, Any]) -> Stats:
    """The figures among a server's values; what is no number counts as not told."""
    known: dict[str, Any] = {
        field.name: value
        for field in fields(Stats)
        if isinstance(value := values.get(field.name), int | float) and not isinstance(value, bool)
    }
    return Stats(**known)
