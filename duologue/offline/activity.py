"""Who is heard when, by loudness: runs of speech on the frame clock, and who talked into whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from duologue.audio.levels import power_db
from duologue.offline.log import Samples

AUDIBLE_DB = -45.0
"""Frames below are silence."""
GAP_FRAMES = 4
"""Gaps up to this (0.32 s) belong to the run around them."""
SHORTEST_FRAMES = 2
"""Shorter runs are clicks."""
LEAD_FRAMES = 3
"""Whoever talked for at least so long already is talked into; less is a start at the same time."""


@dataclass(frozen=True)
class Run:
    """Frames `start` to `end`, the last one not included."""

    start: int
    end: int


@dataclass(frozen=True)
class BargeIn:
    """The user began to talk while the model was talking.

    `stopped` is the frame from which the model was silent, None if it talked on to the end.
    """

    frame: int
    stopped: int | None
    overlap_frames: int


def speech_runs(pcm: Samples) -> list[Run]:
    """Runs of speech in a whole number of frames."""
    loud = (power_db(torch.from_numpy(pcm)) > AUDIBLE_DB).nonzero().flatten().tolist()
    runs: list[Run] = []
    for frame in loud:
        if runs and frame - runs[-1].end <= GAP_FRAMES:
            runs[-1] = Run(runs[-1].start, frame + 1)
        else:
            runs.append(Run(frame, frame + 1))
    return [run for run in runs if run.end - run.start >= SHORTEST_FRAMES]


def barge_ins(user: Sequence[Run], model: Sequence[Run], frames: int) -> list[BargeIn]:
    """Where the user talked into the model's speech."""
    found = []
    for run in user:
        for spoken in model:
            if spoken.start + LEAD_FRAMES <= run.start < spoken.end:
                overlap = min(run.end, spoken.end) - run.start
                stopped = spoken.end if spoken.end < frames else None
                found.append(BargeIn(run.start, stopped, overlap))
    return found
