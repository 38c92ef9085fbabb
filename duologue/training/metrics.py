"""Objective measures of decoded speech, in numpy, for whole signals [T].

STOI is written after Taal et al., "An Algorithm for Intelligibility Prediction of Time-Frequency
Weighted Noisy Speech" (IEEE TASLP 2011).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.training.codec_losses import FLOOR, Spectrum, mel_filters

Signal = NDArray[np.floating]

_STOI_RATE = 10_000
_FRAME, _HOP, _FFT = 256, 128, 512
_BANDS, _LOWEST_HZ = 15, 150.0
_SEGMENT = 30
_DYNAMIC_RANGE_DB = 40.0
_CLIP_DB = -15.0


def stoi(original: Signal, decoded: Signal, sample_rate: int) -> float:
    """Short-time objective intelligibility, about 0 to 1; NaN if there is too little speech."""
    length = min(len(original), len(decoded))
    clean = _to_rate(np.asarray(original[:length], dtype=np.float64), sample_rate)
    degraded = _to_rate(np.asarray(decoded[:length], dtype=np.float64), sample_rate)
    clean, degraded = _drop_silence(clean, degraded)
    x, y = _bands(clean), _bands(degraded)
    if x.shape[1] < _SEGMENT:
        return float("nan")
    x_seg = np.lib.stride_tricks.sliding_window_view(x, _SEGMENT, axis=1)
    y_seg = np.lib.stride_tricks.sliding_window_view(y, _SEGMENT, axis=1)
    energy = np.linalg.norm(x_seg, axis=2, keepdims=True)
    scaled = y_seg * (energy / (np.linalg.norm(y_seg, axis=2, keepdims=True) + 1e-15))
    clipped = np.minimum(scaled, x_seg * (1 + 10 ** (-_CLIP_DB / 20)))
    return float(np.mean(_correlation(x_seg, clipped)))


def si_sdr(original: Signal, decoded: Signal) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    length = min(len(original), len(decoded))
    x = np.asarray(original[:length], dtype=np.float64)
    y = np.asarray(decoded[:length], dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()
    target = x * (x @ y) / max(float(x @ x), 1e-12)
    noise = y - target
    return float(10 * np.log10(max(target @ target, 1e-12) / max(noise @ noise, 1e-12)))


def mel_distance(original: Signal, decoded: Signal, sample_rate: int, bands: int = 80) -> float:
    """Mean absolute difference of log-mel spectra, in dB."""
    length = min(len(original), len(decoded))
    spectrum = Spectrum(1024)
    filters = mel_filters(bands, 1024, sample_rate)
    pair = torch.from_numpy(np.stack([original[:length], decoded[:length]]).astype(np.float32))
    mel = (spectrum(pair).transpose(1, 2) @ filters).clamp(min=FLOOR)
    return float((20 * mel.log10()).diff(dim=0).abs().mean())


def perplexity(codes: Tensor, bins: int) -> list[float]:
    """Per codebook, how many entries codes [B, K, T] use as if all alike: 2 to the entropy."""
    found = []
    for level in codes.transpose(0, 1).flatten(1):
        shares = torch.bincount(level, minlength=bins).double() / level.numel()
        present = shares[shares > 0]
        found.append(float((-(present * present.log()).sum()).exp()))
    return found


def _to_rate(signal: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """Resample a whole signal by cutting or padding its spectrum."""
    if sample_rate == _STOI_RATE:
        return signal
    target = round(len(signal) * _STOI_RATE / sample_rate)
    spectrum = np.fft.rfft(signal)[: target // 2 + 1]
    return np.fft.irfft(spectrum, target) * (target / len(signal))


def _frames(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Windowed frames [frames, _FRAME], half overlapping."""
    window = np.hanning(_FRAME + 2)[1:-1]
    if len(signal) < _FRAME:
        return np.zeros((0, _FRAME))
    # The published code leaves out a last frame that ends exactly at the end of the signal.
    starts = range(0, len(signal) - _FRAME, _HOP)
    return np.stack([signal[s : s + _FRAME] for s in starts] or [np.zeros(_FRAME)]) * window


def _drop_silence(
    clean: NDArray[np.float64], degraded: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Remove frames of both where the clean signal is 40 dB below its loudest frame."""
    x, y = _frames(clean), _frames(degraded)
    if not len(x):
        return clean, degraded
    level = 20 * np.log10(np.linalg.norm(x, axis=1) + 1e-15)
    loud = level > level.max() - _DYNAMIC_RANGE_DB
    return _overlap_add(x[loud]), _overlap_add(y[loud])


def _overlap_add(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    signal = np.zeros(_FRAME + _HOP * (len(frames) - 1))
    for index, frame in enumerate(frames):
        signal[index * _HOP : index * _HOP + _FRAME] += frame
    return signal


def _bands(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Third-octave band magnitudes [bands, frames]."""
    power = np.abs(np.fft.rfft(_frames(signal), _FFT, axis=1)) ** 2
    return np.sqrt(_third_octaves() @ power.T)


def _third_octaves() -> NDArray[np.float64]:
    frequencies = np.linspace(0, _STOI_RATE, _FFT + 1)[: _FFT // 2 + 1]
    centres = _LOWEST_HZ * 2.0 ** (np.arange(_BANDS) / 3)
    matrix = np.zeros((_BANDS, len(frequencies)))
    for band, centre in enumerate(centres):
        low = int(np.argmin(np.abs(frequencies - centre * 2 ** (-1 / 6))))
        high = int(np.argmin(np.abs(frequencies - centre * 2 ** (1 / 6))))
        matrix[band, low:high] = 1
    return matrix


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x - x.mean(axis=2, keepdims=True)
    y = y - y.mean(axis=2, keepdims=True)
    product = (x * y).sum(axis=2)
    return product / (np.linalg.norm(x, axis=2) * np.linalg.norm(y, axis=2) + 1e-15)
