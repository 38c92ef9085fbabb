"""The frame clock: every time inside a conversation is a frame number.

One frame is 80 ms (1920 samples at 24 kHz), 12.5 frames to the second. Seconds appear only in
settings and in measurements that come from outside; they are turned into frames here.
"""

from __future__ import annotations

import math

FRAME_MS = 80
FRAMES_PER_SECOND = 12.5
MAX_FRAMES = 1_125_000
"""25 hours. No duration is longer: a larger one is cut to this, so that frame sums stay small."""


def frames_within(seconds: float) -> int:
    """Return how many whole frames fit into a duration (the published rounding for waits)."""
    return min(MAX_FRAMES, math.floor(_duration(seconds) * FRAMES_PER_SECOND))


def frames_covering(seconds: float) -> int:
    """Return the fewest frames that are at least as long as a duration (rounding for deadlines)."""
    return min(MAX_FRAMES, math.ceil(_duration(seconds) * FRAMES_PER_SECOND))


def _duration(seconds: float) -> float:
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"a duration is a finite number of seconds, at least 0; got {seconds!r}")
    return min(seconds, MAX_FRAMES / FRAMES_PER_SECOND)
