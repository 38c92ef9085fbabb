"""What happens to a user's voice on its way to the microphone: distance, room, noise, line, echo.

`Conditions` are drawn once per recording and say everything; `apply` is a pure function of them. A
third of all recordings are left clean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duologue.synthesis.draw import Draw
from duologue.synthesis.engines.program import Pcm
from duologue.synthesis.samples import RATE

Floats = NDArray[np.float64]

_SPEED_OF_SOUND = 343.0
_NOISE_SLOPES = {"white": 0.0, "pink": 1.0, "brown": 2.0, "hum": 1.0, "babble": 0.0}
"""Exponents of the fall of power with frequency."""


@dataclass(frozen=True)
class Conditions:
    """How one recording was made."""

    seed: int
    gain_db: float = 0.0
    reverberation_s: float = 0.0
    """Time for a fall of 60 dB; 0 is no room at all."""
    distance_m: float = 0.5
    noise: str = "none"
    noise_db: float = -90.0
    """Level of the noise in dB of full scale."""
    band_hz: tuple[float, float] = (0.0, RATE / 2)
    echo: float = 0.0
    """Scale of the other side's voice in this microphone."""
    echo_delay_s: float = 0.2


def draw_conditions(draw: Draw, speech_db: float) -> Conditions:
    """Conditions of a user's channel whose speech has the level `speech_db` (of full scale)."""
    seed = draw.seed()
    gain_db = draw.between(-14.0, 9.0) if draw.chance(0.5) else draw.between(-4.0, 4.0)
    if draw.chance(0.33):
        return Conditions(seed, gain_db)
    noise, noise_db = "none", -90.0
    if draw.chance(0.55):
        noise = draw.weighted({"white": 1.0, "pink": 3.0, "brown": 2.0, "hum": 1.0, "babble": 2.0})
        noise_db = speech_db + gain_db - draw.between(10.0, 35.0)
    band = (0.0, RATE / 2)
    if draw.chance(0.3):
        band = draw.choice(
            ((300.0, 3400.0), (80.0, 4000.0), (60.0, 5500.0), (100.0, 7000.0), (200.0, 12000.0))
        )
    return Conditions(
        seed,
        gain_db,
        reverberation_s=draw.between(0.1, 0.55) if draw.chance(0.5) else 0.0,
        distance_m=draw.between(0.2, 1.8),
        noise=noise,
        noise_db=noise_db,
        band_hz=band,
        echo=draw.between(0.02, 0.2) if draw.chance(0.4) else 0.0,
        echo_delay_s=draw.between(0.1, 0.5),
    )


def apply(
    near: Pcm, conditions: Conditions, far: Pcm | None = None, babble: Pcm | None = None
) -> Pcm:
    """The microphone's signal [T] for a near voice [T].

    Args:
        far: the other side's signal [T], for the echo.
        babble: other people's speech, of any length, for that kind of noise.
    """
    random = np.random.default_rng(conditions.seed)
    mixed = near.astype(np.float32)
    if conditions.reverberation_s:
        response = impulse_response(conditions.reverberation_s, conditions.distance_m, random)
        mixed = convolve(mixed, response)
    mixed = mixed * np.float32(10.0 ** (conditions.gain_db / 20.0))
    if conditions.echo and far is not None:
        response = impulse_response(0.25, 1.0, random)
        mixed = mixed + np.float32(conditions.echo) * _delayed(
            convolve(far, response), conditions.echo_delay_s
        )
    if conditions.noise != "none":
        level = 10.0 ** (conditions.noise_db / 20.0)
        mixed = mixed + _noise(conditions.noise, len(mixed), random, babble) * np.float32(level)
    mixed = band_limit(mixed, *conditions.band_hz)
    peak = float(np.abs(mixed).max(initial=0.0))
    return mixed * np.float32(0.98 / peak) if peak > 0.98 else mixed


def impulse_response(reverberation_s: float, distance_m: float, random: np.random.Generator) -> Pcm:
    """A small box-shaped room: the direct sound, its first reflections, a decaying tail of noise.

    The direct sound has a scale of 1 and no delay, so that word times stay true.
    """
    size = random.uniform((2.0, 2.2, 2.2), (6.5, 5.0, 3.2))
    source = random.uniform(0.2, 0.8, 3) * size
    direction = random.normal(size=3)
    microphone = source + direction / np.linalg.norm(direction) * distance_m
    microphone = np.clip(microphone, 0.05 * size, 0.95 * size)
    direct = float(np.linalg.norm(source - microphone)) + 1e-3
    length = int(reverberation_s * RATE) + RATE // 100
    response = np.zeros(length)
    reflected = 0.4 + 0.5 * min(1.0, reverberation_s / 0.6)
    for axis in range(3):
        for wall in (0.0, float(size[axis])):
            image = source.copy()
            image[axis] = 2 * wall - source[axis]
            path = float(np.linalg.norm(image - microphone))
            place = int((path - direct) / _SPEED_OF_SOUND * RATE)
            if 0 < place < length:
                response[place] += reflected * direct / path
    times = np.arange(length) / RATE
    tail = random.normal(size=length) * 10.0 ** (-3.0 * times / reverberation_s)
    tail *= 1.0 - np.exp(-times / 0.008)
    tail_energy = 0.3 * reverberation_s * min(1.5, distance_m) ** 2
    response += tail * np.sqrt(tail_energy / (np.sum(tail**2) + 1e-12))
    response[0] = 1.0
    return response.astype(np.float32)


def convolve(signal: Pcm, response: Pcm) -> Pcm:
    """Causal convolution, as long as the signal."""
    size = _fast_length(len(signal) + len(response) - 1)
    product = np.fft.rfft(signal, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[: len(signal)].astype(np.float32)


def coloured_noise(kind: str, length: int, random: np.random.Generator) -> Pcm:
    """Noise [length] of level 1 whose power falls with frequency; `hum` adds mains harmonics."""
    size = _fast_length(max(length, 2))
    spectrum = np.fft.rfft(random.standard_normal(size).astype(np.float32))
    hertz = np.fft.rfftfreq(size, 1.0 / RATE)
    spectrum *= np.maximum(hertz, 40.0) ** (-_NOISE_SLOPES[kind] / 2.0)
    noise = np.fft.irfft(spectrum, size)[:length]
    noise /= np.sqrt(np.mean(noise**2)) + 1e-12
    if kind == "hum":
        times = np.arange(length) / RATE
        mains = 50.0 if random.random() < 0.5 else 60.0
        tones = sum(
            random.uniform(0.2, 1.0) / order * np.sin(2 * np.pi * mains * order * times)
            for order in range(1, 6)
        )
        noise = 0.5 * noise + tones
        noise /= np.sqrt(np.mean(noise**2)) + 1e-12
    return noise.astype(np.float32)


def band_limit(signal: Pcm, low_hz: float, high_hz: float) -> Pcm:
    """Keep a band, with edges a third of an octave wide."""
    if low_hz <= 0.0 and high_hz >= RATE / 2:
        return signal
    size = _fast_length(len(signal) + RATE // 10)
    hertz = np.fft.rfftfreq(size, 1.0 / RATE)
    octaves = np.log2(np.maximum(hertz, 1.0))
    keep = np.ones_like(hertz)
    if low_hz > 0.0:
        keep *= np.clip((octaves - np.log2(low_hz)) * 3.0 + 0.5, 0.0, 1.0)
    if high_hz < RATE / 2:
        keep *= np.clip((np.log2(high_hz) - octaves) * 3.0 + 0.5, 0.0, 1.0)
    return np.fft.irfft(np.fft.rfft(signal, size) * keep, size)[: len(signal)].astype(np.float32)


def _noise(kind: str, length: int, random: np.random.Generator, babble: Pcm | None) -> Pcm:
    """Noise of level 1 that swells a little, as real noise does."""
    if kind == "babble" and babble is not None and len(babble):
        start = int(random.integers(len(babble)))
        noise = np.resize(np.roll(babble, -start), length).astype(np.float32)
        noise /= np.float32(np.sqrt(np.mean(noise**2)) + 1e-9)
    else:
        noise = coloured_noise("pink" if kind == "babble" else kind, length, random)
    knots = 2 + length // (2 * RATE)
    swell = np.interp(
        np.linspace(0, knots - 1, length), np.arange(knots), random.normal(0, 2.0, knots)
    )
    return noise * (10.0 ** (swell / 20.0)).astype(np.float32)


def _delayed(signal: Pcm, seconds: float) -> Pcm:
    shift = round(seconds * RATE)
    return np.concatenate([np.zeros(shift, np.float32), signal])[: len(signal)]


def _fast_length(size: int) -> int:
    """The next number with small factors, for quick transforms."""
    best = 1 << (size - 1).bit_length()
    for factor in (3, 5, 9, 15):
        power = 1
        while power * factor < size:
            power *= 2
        best = min(best, power * factor)
    return best
