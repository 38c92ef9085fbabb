"""Rotary position embedding (Su et al. 2021) for streams without an end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of one chunk's positions, each [B, 1, T, D / 2] in float32."""

    cos: Tensor
    sin: Tensor
    halves: bool
    """Pairs are (i, i + D/2) (`rope_concat`) rather than (2i, 2i + 1) (`rope`)."""

    @classmethod
    def at(cls, positions: Tensor, head_dim: int, max_period: float, *, halves: bool) -> Rotation:
        """Rotation for int64 `positions` [B, T].

        Angles are formed in float64 (where the device has it) so that a conversation of days
        rotates as exactly as one of seconds.
        """
        wide = torch.float32 if positions.device.type == "mps" else torch.float64
        index = torch.arange(head_dim // 2, device=positions.device, dtype=wide)
        frequencies = max_period ** (-2.0 * index / head_dim)
        angles = positions.to(wide)[:, None, :, None] * frequencies
        return cls(angles.cos().float(), angles.sin().float(), halves)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate [B, H, T, D]; computed in float32, returned in the dtype of `x`."""
        shape = x.shape
        if self.halves:
            real, imag = x.float().chunk(2, dim=-1)
        else:
            real, imag = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = (real * self.cos - imag * self.sin, real * self.sin + imag * self.cos)
        joined = torch.cat(turned, -1) if self.halves else torch.stack(turned, -1).view(shape)
        return joined.to(x.dtype)
