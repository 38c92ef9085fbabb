"""Programme loudness (ITU-R BS.1770-4), and bringing a recording to a wanted one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from duologue.audio.errors import AudioError

Pcm = NDArray[np.float32]
BLOCK_SECONDS = 0.4
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0


def loudness_lufs(pcm: Pcm, sample_rate: int) -> float:
    """Integrated loudness of mono samples [T]; minus infinity where all is below the gate."""
    weighted = _k_weighted(pcm.astype(np.float64), sample_rate)
    block, hop = int(BLOCK_SECONDS * sample_rate), int(BLOCK_SECONDS * sample_rate / 4)
    if len(weighted) < block:
        weighted = np.pad(weighted, (0, block - len(weighted)))
    energy = np.concatenate([[0.0], np.cumsum(weighted**2)])
    starts = np.arange(0, len(weighted) - block + 1, hop)
    power = (energy[starts + block] - energy[starts]) / block
    power = power[_lufs(power) > ABSOLUTE_GATE_LUFS]
    if not len(power):
        return -math.inf
    power = power[_lufs(power) > _lufs(power.mean()) + RELATIVE_GATE_LU]
    return float(_lufs(power.mean()))


def normalise_loudness(pcm: Pcm, sample_rate: int, target_lufs: float) -> Pcm:
    """Scale a recording to a loudness.

    Raises:
        AudioError: it is silent, so that no gain would do.
    """
    loudness = loudness_lufs(pcm, sample_rate)
    if not math.isfinite(loudness):
        raise AudioError("the recording is silent: its loudness cannot be normalised")
    gain = 10.0 ** ((target_lufs - loudness) / 20.0)
    return (pcm * gain).astype(np.float32)


def _lufs(power: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return -0.691 + 10.0 * np.log10(np.maximum(power, 1e-12))


def _k_weighted(pcm: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """The K weighting, applied as its frequency response (only power is read off the result)."""
    size = 2 * len(pcm)
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones_like(z)
    for b, a in (_shelf(sample_rate), _highpass(sample_rate)):
        response *= (b[0] + b[1] * z + b[2] * z**2) / (1.0 + a[0] * z + a[1] * z**2)
    return np.fft.irfft(np.fft.rfft(pcm, size) * response, size)[: len(pcm)]


Biquad = tuple[tuple[float, float, float], tuple[float, float]]


def _shelf(sample_rate: int) -> Biquad:
    """The head's effect: about +4 dB above 1.7 kHz."""
    k, q = math.tan(math.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    high = 10.0 ** (3.999843853973347 / 20.0)
    band = high**0.4996667741545416
    norm = 1.0 + k / q + k * k
    b = (high + band * k / q + k * k, 2.0 * (k * k - high), high - band * k / q + k * k)
    return (b[0] / norm, b[1] / norm, b[2] / norm), _poles(k, q)


def _highpass(sample_rate: int) -> Biquad:
    k, q = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    return (1.0, -2.0, 1.0), _poles(k, q)


def _poles(k: float, q: float) -> tuple[float, float]:
    norm = 1.0 + k / q + k * k
    return 2.0 * (k * k - 1.0) / norm, (1.0 - k / q + k * k) / norm
