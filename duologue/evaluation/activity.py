"""When a voice is heard: runs of speech in a signal.

A run begins with the first 20 ms above `THRESHOLD_DB` and ends with the last one before a gap of
`GAP_S`; wren speaks at about -23 dB of full scale, and what a codec leaves of silence is far below
-45. Runs shorter than `SHORTEST_S` are clicks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]

THRESHOLD_DB = -45.0
GAP_S = 0.2
SHORTEST_S = 0.06
_STEP_S = 0.02


@dataclass(frozen=True, order=True)
class Span:
    """A stretch of time, in seconds."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def overlap_s(self, other: Span) -> float:
        return max(0.0, min(self.end_s, other.end_s) - max(self.start_s, other.start_s))


def speech_runs(pcm: Pcm, sample_rate: int, gap_s: float = GAP_S) -> tuple[Span, ...]:
    """Runs of speech in samples [T]."""
    size = round(_STEP_S * sample_rate)
    count = len(pcm) // size
    power = np.square(pcm[: count * size].reshape(count, size), dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > 10 ** (THRESHOLD_DB / 10))
    runs: list[list[int]] = []
    for step in loud:
        if runs and (step - runs[-1][1]) * _STEP_S <= gap_s:
            runs[-1][1] = int(step) + 1
        else:
            runs.append([int(step), int(step) + 1])
    spans = (Span(start * _STEP_S, end * _STEP_S) for start, end in runs)
    return tuple(span for span in spans if span.seconds >= SHORTEST_S)


def joined(runs: Iterable[Span], gap_s: float) -> tuple[Span, ...]:
    """Runs with the shorter gaps between them closed."""
    found: list[Span] = []
    for run in runs:
        if found and run.start_s - found[-1].end_s <= gap_s:
            found[-1] = Span(found[-1].start_s, run.end_s)
        else:
            found.append(run)
    return tuple(found)


def first_after(runs: Sequence[Span], time_s: float) -> Span | None:
    """The first run that begins at a time or later."""
    return next((run for run in runs if run.start_s >= time_s), None)


def sounding_at(runs: Sequence[Span], time_s: float) -> Span | None:
    """The run that a time lies in."""
    return next((run for run in runs if run.start_s <= time_s < run.end_s), None)
