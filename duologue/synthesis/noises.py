"""Sounds near the user that are not addressed to anybody: what wren must not answer."""

from __future__ import annotations

import numpy as np

from duologue.synthesis import room
from duologue.synthesis.engines.program import Pcm
from duologue.synthesis.samples import RATE, fade

_LEVELS_DB = {"knocks": -26.0, "hiss": -36.0, "rumble": -34.0, "far_speech": -40.0}


def foreground_noise(kind: str, seconds: float, seed: int, babble: Pcm) -> Pcm:
    """Samples [T] of knocks, hiss, rumble or far speech."""
    random = np.random.default_rng(seed)
    length = round(seconds * RATE)
    if kind == "knocks":
        noise = _knocks(length, random)
    elif kind == "far_speech":
        start = int(random.integers(len(babble)))
        noise = np.resize(np.roll(babble, -start), length).astype(np.float32)
        noise = room.convolve(noise, room.impulse_response(0.5, 1.8, random))
        noise = room.band_limit(noise, 150.0, 2500.0)
    else:
        noise = room.coloured_noise("brown" if kind == "rumble" else "pink", length, random)
    loudness = np.sqrt(np.mean(noise**2)) + 1e-9
    level = 10.0 ** ((_LEVELS_DB[kind] + random.uniform(-6.0, 4.0)) / 20.0)
    return fade(noise * np.float32(level / loudness), 0.2, 0.3)


def _knocks(length: int, random: np.random.Generator) -> Pcm:
    """A few dull blows: short bursts with a resonance."""
    noise = np.zeros(length, np.float32)
    size = RATE // 8
    times = np.arange(size) / RATE
    for start in random.integers(0, max(1, length - size), max(1, length // RATE)):
        burst = random.standard_normal(size) * np.exp(-times / random.uniform(0.005, 0.02))
        burst += np.sin(2 * np.pi * random.uniform(80, 400) * times) * np.exp(-times / 0.02)
        end = min(length, start + size)
        noise[start:end] += burst[: end - start].astype(np.float32)
    return noise
