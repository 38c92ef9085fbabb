"""How far a decoded signal is from the original, and how much each measure of that counts.

Sources: multi-scale mel loss and loss balancer of EnCodec (arXiv 2210.13438), multi-resolution STFT
loss of Parallel WaveGAN (arXiv 1910.11480). All of it runs in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-4
"""Added to magnitudes before a logarithm (80 dB under full scale): below it is silence."""

_ENVELOPE_BANDS = 80
_ENVELOPE_MEAN = -7.5
"""Roughly the mean logarithm of speech's mel magnitudes."""


def mel_filters(bands: int, n_fft: int, sample_rate: int, low_hz: float = 0.0) -> Tensor:
    """Triangular filters [n_fft / 2 + 1, bands], equally spaced in mel, each summing to one."""

    def to_mel(hz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hz / 700)

    edges_mel = torch.linspace(
        float(to_mel(torch.tensor(low_hz))), float(to_mel(torch.tensor(sample_rate / 2))), bands + 2
    )
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    # A band is never narrower than one bin, so that no filter is empty.
    width = sample_rate / n_fft
    up = (bins - torch.minimum(left, centre - width)) / (centre - left).clamp(min=width)
    down = (torch.maximum(right, centre + width) - bins) / (right - centre).clamp(min=width)
    filters = torch.minimum(up, down).clamp(min=0)
    return filters / filters.sum(dim=0).clamp(min=1e-8)


class Spectrum(nn.Module):
    """Magnitudes [B, bins, frames] of a signal [B, T]; a full-scale sine measures about one."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int | None = None) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop or n_fft // 4
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / (window.sum() / 2), persistent=False)

    def forward(self, signal: Tensor) -> Tensor:
        spectrum = torch.stft(
            signal, self.n_fft, self.hop, window=self.window, center=True, pad_mode="constant",
            return_complex=True,
        )  # fmt: skip
        return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


@dataclass(frozen=True)
class SpectralConfig:
    """Resolutions of the spectral losses."""

    mel_windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    mel_bands: tuple[int, ...] = (128, 80, 64, 32, 16)
    stft_windows: tuple[int, ...] = (1536, 768, 384)
    linear: float = 1.0
    """Weight of differences of magnitudes beside those of their logarithms."""

    def __post_init__(self) -> None:
        if len(self.mel_windows) != len(self.mel_bands):
            raise ValueError("mel_bands: there must be as many as mel_windows")


class MelLoss(nn.Module):
    """Distance of mel spectra at several resolutions: log magnitudes, and magnitudes."""

    def __init__(self, config: SpectralConfig, sample_rate: int) -> None:
        super().__init__()
        self.spectra = nn.ModuleList(Spectrum(n_fft) for n_fft in config.mel_windows)
        self.linear = config.linear
        pairs = zip(config.mel_windows, config.mel_bands, strict=True)
        for index, (n_fft, bands) in enumerate(pairs):
            filters = mel_filters(bands, n_fft, sample_rate)
            self.register_buffer(f"filters_{index}", filters, persistent=False)

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        """[B, T] and [B, T] -> scalar."""
        total = decoded.new_zeros(())
        for index, spectrum in enumerate(self.spectra):
            filters = self.get_buffer(f"filters_{index}")
            ours = spectrum(decoded).transpose(1, 2) @ filters
            with torch.no_grad():
                theirs = spectrum(original).transpose(1, 2) @ filters
                level = theirs.mean().clamp(min=FLOOR)
            difference = (ours + FLOOR).log() - (theirs + FLOOR).log()
            total = total + difference.abs().mean()
            total = total + self.linear * (ours - theirs).abs().mean() / level
        return total / len(self.spectra)


class STFTLoss(nn.Module):
    """Spectral convergence plus log-magnitude distance at several resolutions."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.linear = config.linear
        self.spectra = nn.ModuleList(Spectrum(n_fft) for n_fft in config.stft_windows)

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        """[B, T] and [B, T] -> scalar."""
        total = decoded.new_zeros(())
        for spectrum in self.spectra:
            ours = spectrum(decoded)
            with torch.no_grad():
                theirs = spectrum(original)
                energy = theirs.square().sum().sqrt().clamp(min=FLOOR)
            convergence = (ours - theirs).square().sum().sqrt() / energy
            logs = (ours + FLOOR).log() - (theirs + FLOOR).log()
            total = total + self.linear * convergence + logs.abs().mean()
        return total / max(1, len(self.spectra))


class EnvelopeLoss(nn.Module):
    """How well a linear map of latent positions tells the log-mel spectrum of their time.

    A decoder learns slowly what a spectrum is, because its gradient hangs on phases; a latent that
    already tells it gives everything before the decoder a smooth task from the first step on.
    """

    filters: Tensor

    def __init__(self, dim: int, samples_per_position: int, sample_rate: int) -> None:
        super().__init__()
        self.parts = 4
        self.spectrum = Spectrum(1024, samples_per_position // self.parts)
        filters = mel_filters(_ENVELOPE_BANDS, 1024, sample_rate)
        self.register_buffer("filters", filters, persistent=False)
        self.probe = nn.Linear(dim, self.parts * _ENVELOPE_BANDS)

    def forward(self, latent: Tensor, original: Tensor) -> Tensor:
        """Latents [B, positions, dim] and the signal they stand for [B, T] -> scalar."""
        with torch.no_grad():
            mel = (self.spectrum(original).transpose(1, 2) @ self.filters + FLOOR).log()
            # Frames are centred on multiples of the hop; the first is half before the signal.
            target = mel[:, : latent.shape[1] * self.parts] - _ENVELOPE_MEAN
        return F.l1_loss(self.probe(latent).unflatten(-1, (self.parts, -1)).flatten(1, 2), target)


def waveform_loss(decoded: Tensor, original: Tensor) -> Tensor:
    """Mean absolute difference, relative to the signal's mean absolute value."""
    level = original.detach().abs().mean().clamp(min=FLOOR)
    return F.l1_loss(decoded, original) / level


class LossBalancer:
    """Makes weights mean what they say: shares of the gradient that reaches the decoded signal.

    The gradient of each loss is divided by a running average of its own norm and then weighted, so
    that the scale of a loss does not matter, and a weight of 2 counts twice as much as one of 1.
    """

    def __init__(self, weights: Mapping[str, float], decay: float = 0.99) -> None:
        self.weights, self.decay = dict(weights), decay
        self.norms: dict[str, Tensor] = {}

    def gradient(self, losses: Mapping[str, Tensor], decoded: Tensor) -> Tensor:
        """Balanced gradient with respect to `decoded` [B, 1, T]; no parameter gets one yet."""
        total = torch.zeros_like(decoded)
        shares = sum(self.weights[name] for name in losses)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, [decoded], retain_graph=True)
            total += gradient * (self.weights[name] / shares / self._norm(name, gradient))
        return total

    def _norm(self, name: str, gradient: Tensor) -> Tensor:
        norm = gradient.flatten(1).norm(dim=1).mean().detach()
        if name in self.norms:
            norm = self.norms[name].lerp(norm, 1 - self.decay)
        self.norms[name] = norm
        return norm.clamp(min=1e-12)

    def state(self) -> dict[str, Tensor]:
        """Running norms."""
        return dict(self.norms)

    def load(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        self.norms = {name: tensor.to(device) for name, tensor in state.items()}
