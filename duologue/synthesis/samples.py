"""Small operations on mono samples: rate, level, trimming, fades, joining."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from duologue.audio.resample import Resampler
from duologue.synthesis.engines.program import Pcm

RATE = 24000
"""Sample rate of everything that leaves this room, in Hz."""
_RATE_STEP = 80
"""Source rates are rounded to this, so that every ratio is short; usual rates stay exact."""
_FADE_S = 0.008


@lru_cache(maxsize=64)
def _resampler(source: int, target: int) -> Resampler:
    return Resampler(source, target, delay_ms=8.0, stopband_db=70.0)


def resample(samples: Pcm, source_rate: float, target_rate: int = RATE) -> Pcm:
    """Convert [T]; the source rate is taken to the nearest 80 Hz (under half a per cent)."""
    source = round(source_rate / _RATE_STEP) * _RATE_STEP
    if source == target_rate:
        return samples.astype(np.float32)
    with torch.inference_mode():
        converted: Pcm = _resampler(source, target_rate)(torch.from_numpy(samples)).numpy()
    return converted


def exact_rate(source_rate: float) -> int:
    """The source rate that `resample` really uses."""
    return round(source_rate / _RATE_STEP) * _RATE_STEP


def active_level(samples: Pcm) -> float:
    """Root mean square of the louder parts: 20 ms windows within 30 dB of the loudest."""
    size = RATE // 50
    count = max(1, len(samples) // size)
    windows = np.resize(samples, count * size) if len(samples) < size else samples[: count * size]
    power = np.square(windows.reshape(count, size), dtype=np.float64).mean(axis=1)
    return float(np.sqrt(power[power >= power.max() * 1e-3].mean()))


def fade(samples: Pcm, start_s: float = _FADE_S, end_s: float = _FADE_S) -> Pcm:
    """A copy whose ends rise from and fall to zero."""
    faded = samples.copy()
    for seconds, part in ((start_s, slice(None)), (end_s, slice(None, None, -1))):
        size = min(int(seconds * RATE), len(faded))
        faded[part][:size] *= np.linspace(0.0, 1.0, size, endpoint=False, dtype=np.float32)
    return faded


def silence(seconds: float) -> Pcm:
    return np.zeros(max(0, round(seconds * RATE)), np.float32)
