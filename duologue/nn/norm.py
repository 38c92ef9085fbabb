"""Normalisation and residual scaling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORMS = ("layer_norm", "rms_norm", "rms_norm_f32")
"""Published names of the norms."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, with a learnt gain `alpha` [1, 1, dim].

    With `in_float32` the whole computation runs in float32 and only the result is cast back, as
    the published `rms_norm_f32` does; a gain stored in bfloat16 is widened first.
    """

    def __init__(self, dim: int, eps: float, in_float32: bool) -> None:
        super().__init__()
        self.eps, self.in_float32 = eps, in_float32
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim], same dtype."""
        gain = self.alpha.view(-1)
        wide = x.float() if self.in_float32 else x
        gain = gain.to(wide.dtype)
        mean_square = wide.square().mean(dim=-1, keepdim=True)
        return (wide * (gain * torch.rsqrt(mean_square + self.eps))).to(x.dtype)


class LayerScale(nn.Module):
    """Learnt gain per channel on the output of a residual branch."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def build_norm(kind: str, dim: int) -> nn.Module:
    """Norm by its published name: `layer_norm`, `rms_norm` or `rms_norm_f32`."""
    if kind == "layer_norm":
        return nn.LayerNorm(dim, eps=1e-5)
    if kind == "rms_norm":
        return RMSNorm(dim, eps=1e-5, in_float32=False)
    if kind == "rms_norm_f32":
        return RMSNorm(dim, eps=1e-8, in_float32=True)
    raise ValueError(f"norm: {kind!r} is none of {', '.join(NORMS)}")
