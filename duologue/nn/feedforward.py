"""Feed-forward blocks of the transformers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from duologue.nn.linear import Linear

GATINGS = ("none", "silu")
"""Published names of the blocks."""


def gated_width(dim: int, feedforward: int) -> int:
    """Hidden width of a gated block that costs as much as a plain one of width `feedforward`."""
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3


class GatedFeedForward(nn.Module):
    """SwiGLU: out(silu(a) * b), where [a; b] = in(x) (Shazeer 2020)."""

    def __init__(self, dim: int, feedforward: int) -> None:
        super().__init__()
        hidden = gated_width(dim, feedforward)
        self.linear_in = Linear(dim, 2 * hidden)
        self.linear_out = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.linear_in(x).chunk(2, dim=-1)
        return self.linear_out(F.silu(gate) * value)


class FeedForward(nn.Module):
    """out(gelu(in(x))) with the exact GELU."""

    def __init__(self, dim: int, feedforward: int) -> None:
        super().__init__()
        self.linear_in = Linear(dim, feedforward)
        self.linear_out = Linear(feedforward, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_out(F.gelu(self.linear_in(x)))


def build_feedforward(gating: str, dim: int, feedforward: int) -> nn.Module:
    """Block by its published `gating` name: `none` or `silu`."""
    if gating == "none":
        return FeedForward(dim, feedforward)
    if gating == "silu":
        return GatedFeedForward(dim, feedforward)
    raise ValueError(f"gating: {gating!r} is neither 'none' nor 'silu'")
