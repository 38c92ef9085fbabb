"""Depth transformer: from one temporal vector to the codes of one frame, one codebook at a time.

Each depth step has weights of its own, or shares them by a schedule; there are no positions other
than that. The sequence is as short as a frame has codes, so its keys and values live for one frame
and are no streaming state. Source: Moshi paper (arXiv 2410.00037) section 3.4.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.moshi.config import LMConfig
from duologue.nn.attention import attend
from duologue.nn.feedforward import build_feedforward
from duologue.nn.linear import Linear, PerStep
from duologue.nn.modules import ModuleSequence
from duologue.nn.norm import build_norm


class DepthAttention(nn.Module):
    """Causal attention over the steps of one frame, projections per step."""

    def __init__(self, dim: int, num_heads: int, schedule: tuple[int, ...]) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.in_proj = PerStep(schedule, lambda: Linear(dim, 3 * dim))
        self.out_proj = PerStep(schedule, lambda: Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """All steps at once: [K, N, dim] -> [K, N, dim]."""
        heads = self.in_proj(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = heads.permute(2, 1, 3, 0, 4)
        y = attend(q, k, v)
        return self.out_proj(y.permute(2, 0, 1, 3).flatten(2))

    def step(self, x: Tensor, k: int, keys: Tensor, values: Tensor) -> Tensor:
        """Step `k` alone: [N, 1, dim] -> [N, 1, dim]; writes column k of keys and values."""
        q, key, value = self._heads(self.in_proj.at(k)(x)).chunk(3, dim=1)
        keys[:, :, k : k + 1] = key
        values[:, :, k : k + 1] = value
        y = F.scaled_dot_product_attention(q, keys[:, :, : k + 1], values[:, :, : k + 1])
        return self.out_proj.at(k)(y.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class DepthLayer(nn.Module):
    """Pre-norm block; the norms are shared by all steps."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        shape, schedule = config.depth, config.depth_schedule
        self.norm1 = build_norm(shape.norm, shape.dim)
        self.self_attn = DepthAttention(shape.dim, shape.num_heads, schedule)
        self.norm2 = build_norm(shape.norm, shape.dim)
        self.gating = PerStep(
            schedule, lambda: build_feedforward(shape.gating, shape.dim, shape.feedforward)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x))
        return x + self.gating(self.norm2(x))

    def step(self, x: Tensor, k: int, keys: Tensor, values: Tensor) -> Tensor:
        x = x + self.self_attn.step(self.norm1(x), k, keys, values)
        return x + self.gating.at(k)(self.norm2(x))


class DepthTransformer(nn.Module):
    """Stack of depth layers over [N, K, dim]."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.shape = config.depth
        self.steps = config.dep_q
        self.layers: ModuleSequence[DepthLayer] = ModuleSequence(
            DepthLayer(config) for _ in range(self.shape.num_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """All steps at once, for training and scoring: [K, N, dim] -> [K, N, dim]."""
        for layer in self.layers:
            x = layer(x)
        return x

    def scratch(self, rows: int, like: Tensor) -> Tensor:
        """Room for one frame's keys and values, [layers, 2, rows, H, K, D]."""
        shape = self.shape
        return torch.empty(
            (shape.num_layers, 2, rows, shape.num_heads, self.steps, shape.head_dim),
            dtype=like.dtype,
            device=like.device,
        )

    def step(self, x: Tensor, k: int, scratch: Tensor) -> Tensor:
        """Step `k` of a frame: [rows, 1, dim] -> [rows, 1, dim]."""
        for layer, (keys, values) in zip(self.layers, scratch.unbind(0), strict=True):
            x = layer.step(x, k, keys, values)
        return x
