"""First weights from a normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """A tensor of normal variables; on the meta device only its shape, for what is loaded later.

    Drawing these on the meta device loads torch's compiler, which takes longer than all of a small
    model's weights.
    """
    tensor = torch.empty(shape)
    return tensor if tensor.is_meta else tensor.normal_(0.0, std)


def embedding(rows: int, dim: int) -> nn.Embedding:
    """A learnt table [rows, dim]."""
    return nn.Embedding.from_pretrained(normal(rows, dim), freeze=False)
