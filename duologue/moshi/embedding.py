"""Token embeddings of the language model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.nn.linear import Linear


class TokenEmbedding(nn.Module):
    """Table [count, dim] in which the token -1 embeds to exactly zero.

    `low_rank` keeps a narrower table and widens its rows by a linear map. With `multiplexed`, one
    token carries two: value = (second + 1) * count + first, where a second of -1 means none (the
    two text streams of delayed-streams TTS, arXiv 2509.08753); each has a map of its own.
    """

    def __init__(
        self, count: int, dim: int, low_rank: int | None = None, multiplexed: bool = False
    ) -> None:
        super().__init__()
        width = low_rank or dim
        self.count = count
        self.weight = nn.Parameter(torch.empty(count, width))
        bound = 3 * width**-0.5
        nn.init.trunc_normal_(self.weight, std=width**-0.5, a=-bound, b=bound)
        self.low_rank = Linear(width, dim) if low_rank else None
        self.out1 = Linear(width, dim) if multiplexed else None
        self.out2 = Linear(width, dim) if multiplexed else None

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] -> [..., dim]."""
        given = (tokens >= 0)[..., None]
        tokens = tokens.clamp(min=0)
        if self.out1 is None or self.out2 is None:
            y = F.embedding(tokens, self.weight)
            y = y if self.low_rank is None else self.low_rank(y)
        else:
            y = self._multiplexed(tokens, self.out1, self.out2)
        return torch.where(given, y, torch.zeros((), dtype=y.dtype, device=y.device))

    def _multiplexed(self, tokens: Tensor, out1: Linear, out2: Linear) -> Tensor:
        first = tokens % self.count
        second = torch.div(tokens, self.count, rounding_mode="floor") - 1
        left = out1(F.embedding(first, self.weight))
        right = out2(F.embedding(second.clamp(min=0), self.weight))
        return left + torch.where((second >= 0)[..., None], right, torch.zeros_like(right))
