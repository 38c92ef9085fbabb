"""The adversary of the codec: small convolutional nets that look at complex spectrograms.

Sources: multi-scale STFT discriminator and relative feature matching of EnCodec (arXiv 2210.13438),
hinge loss (arXiv 1705.02894). Its shape is free: it is thrown away after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

_COMPRESSION = 0.4
"""Power to which magnitudes are taken."""
_QUIET = 1e-7
_SLOPE = 0.2
"""Of the activation below zero."""

Judgement = list[list[Tensor]]
"""Per resolution: the features of each layer, and last the scores."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Resolutions and width of the adversary."""

    windows: tuple[int, ...] = (1024, 512, 256)
    filters: int = 16
    dilations: tuple[int, ...] = (1, 2, 4)
    first_stride: int = 1
    """Stride in frequency of the first layer; 2 halves the cost of all that follows."""


class STFTDiscriminator(nn.Module):
    """Judges one resolution: strided in frequency, dilated in time."""

    window: Tensor

    def __init__(self, n_fft: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        width = config.filters
        convolutions = [_conv(2, width, (3, 9), stride=(1, config.first_stride))]
        convolutions += [
            _conv(width, width, (3, 9), stride=(1, 2), dilation=(dilation, 1))
            for dilation in config.dilations
        ]
        convolutions.append(_conv(width, width, (3, 3)))
        self.layers = nn.ModuleList(convolutions)
        self.score = _conv(width, 1, (3, 3))

    def forward(self, signal: Tensor) -> list[Tensor]:
        """[B, 1, T] -> features, scores last."""
        with torch.autocast(signal.device.type, enabled=False):
            spectrum = torch.stft(
                signal[:, 0].float(), self.n_fft, self.n_fft // 4, window=self.window,
                normalized=True, center=False, return_complex=True,
            )  # fmt: skip
            x = torch.stack([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
            # Magnitudes are compressed, so that quiet sounds and high frequencies are seen too.
            x = x * (x.square().sum(dim=1, keepdim=True) + _QUIET).pow(_COMPRESSION / 2 - 0.5)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return [*features, self.score(x)]


class MultiScaleDiscriminator(nn.Module):
    """One judge per resolution."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.judges = nn.ModuleList(STFTDiscriminator(n_fft, config) for n_fft in config.windows)

    def forward(self, signal: Tensor) -> Judgement:
        return [judge(signal) for judge in self.judges]


def hinge_loss(real: Judgement, fake: Judgement) -> Tensor:
    """What the adversary minimises: real above 1, decoded below -1."""
    pairs = zip(real, fake, strict=True)
    losses = [F.relu(1 - r[-1].float()).mean() + F.relu(1 + f[-1].float()).mean() for r, f in pairs]
    return torch.stack(losses).mean()


def deception_loss(fake: Judgement) -> Tensor:
    """What the codec minimises: decoded judged as real."""
    return torch.stack([F.relu(1 - judge[-1].float()).mean() for judge in fake]).mean()


def feature_loss(real: Judgement, fake: Judgement) -> Tensor:
    """Distance of the judges' features, relative to their size."""
    losses = []
    for r, f in zip(real, fake, strict=True):
        for ours, theirs in zip(f[:-1], r[:-1], strict=True):
            size = theirs.float().abs().mean().clamp(min=1e-6)
            losses.append((ours.float() - theirs.float()).abs().mean() / size)
    return torch.stack(losses).mean()


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    stride: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
) -> nn.Module:
    padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    layer = nn.Conv2d(
        in_channels, out_channels, kernel, (stride[0], stride[1]), (padding[0], padding[1]),
        (dilation[0], dilation[1]),
    )  # fmt: skip
    nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
    return weight_norm(layer)
