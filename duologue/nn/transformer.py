"""Causal transformer over a stream: the temporal stack of the LM, and both stacks of Mimi.

Pre-norm residual blocks; self-attention with rotary positions over a window of `context`
positions; optionally cross-attention to a condition, layer scale, shared key/value heads. Source:
Moshi paper (arXiv 2410.00037) sections 3.2 to 3.4. The depth transformer, whose weights change
with the step, is `duologue.moshi.depth`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.nn.attention import attend
from duologue.nn.cache import CachePlan, KVCache, plan_step
from duologue.nn.feedforward import GATINGS, build_feedforward
from duologue.nn.linear import Linear
from duologue.nn.modules import ModuleSequence
from duologue.nn.norm import NORMS, LayerScale, build_norm
from duologue.nn.rope import Rotation
from duologue.nn.state import KEEP, State, assign_active, tensor_field

POSITIONAL_EMBEDDINGS = ("rope", "rope_concat", "none")


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a stack. `max_chunk` is the number of positions that usually come at once."""

    dim: int
    num_heads: int
    num_layers: int
    feedforward: int
    context: int
    gating: str = "none"
    norm: str = "layer_norm"
    max_period: float = 10_000.0
    positional_embedding: str = "rope"
    layer_scale: float | None = None
    kv_repeat: int = 1
    cross_attention: bool = False
    max_chunk: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "num_heads", "num_layers", "feedforward", "context", "kv_repeat"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: {value!r} is not a positive whole number")
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ValueError(
                f"num_heads: dim {self.dim} does not split into {self.num_heads} even heads"
            )
        if self.num_heads % self.kv_repeat:
            raise ValueError(f"kv_repeat: {self.num_heads} heads do not divide by {self.kv_repeat}")
        for name, known in (
            ("positional_embedding", POSITIONAL_EMBEDDINGS),
            ("gating", GATINGS),
            ("norm", NORMS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_heads // self.kv_repeat


class SelfAttention(nn.Module):
    """Causal windowed multi-head attention; one matrix projects to [q; k; v]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads, self.kv_heads = config.num_heads, config.kv_heads
        self.head_dim, self.context = config.head_dim, config.context
        self.in_proj = Linear(config.dim, (config.num_heads + 2 * config.kv_heads) * self.head_dim)
        self.out_proj = Linear(config.dim, config.dim)

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """[B, T, dim] -> [B, T, dim] from scratch; `mask` [T, T], `None` for plain causal."""
        q, k, v = self._project(x, rotation)
        return self._merge(attend(q, k, v, mask))

    def step(self, x: Tensor, rotation: Rotation | None, cache: KVCache, plan: CachePlan) -> Tensor:
        """[rows, T, dim] -> [rows, T, dim], continuing each slot."""
        return self._merge(plan.attend(*self._project(x, rotation), cache))

    def _project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.in_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = heads.split([self.num_heads, self.kv_heads, self.kv_heads], dim=1)
        return (q, k, v) if rotation is None else (rotation(q), rotation(k), v)

    def _merge(self, y: Tensor) -> Tensor:
        return self.out_proj(y.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of the stream to a condition sequence, without positions or mask."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.query_proj = Linear(config.dim, config.dim)
        self.condition_proj = Linear(config.dim, 2 * config.dim)
        self.out_proj = Linear(config.dim, config.dim)

    def project_condition(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, S, D] of a condition [B, S, dim]."""
        keys, values = self._heads(self.condition_proj(source)).chunk(2, dim=1)
        return keys, values

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, T, dim] -> [B, T, dim]; keys and values as from `project_condition`."""
        q = self._heads(self.query_proj(x))
        y = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype))
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class TransformerLayer(nn.Module):
    """x + attention(norm x), then + cross-attention, then + feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = build_norm(config.norm, config.dim)
        self.self_attn = SelfAttention(config)
        self.norm2 = build_norm(config.norm, config.dim)
        self.gating = build_feedforward(config.gating, config.dim, config.feedforward)
        self.layer_scale_1: nn.Module = nn.Identity()
        self.layer_scale_2: nn.Module = nn.Identity()
        if config.layer_scale is not None:
            self.layer_scale_1 = LayerScale(config.dim, config.layer_scale)
            self.layer_scale_2 = LayerScale(config.dim, config.layer_scale)
        if config.cross_attention:
            self.norm_cross = nn.LayerNorm(config.dim, eps=1e-5)
            self.cross_attention = CrossAttention(config)

    def forward(
        self, x: Tensor, rotation: Rotation | None, mask: Tensor | None, cross: CrossState | None
    ) -> Tensor:
        x = x + self.layer_scale_1(self.self_attn(self.norm1(x), rotation, mask))
        return self._rest(x, cross)

    def step(
        self, x: Tensor, rotation: Rotation | None, state: LayerState, plan: CachePlan
    ) -> Tensor:
        attended = self.self_attn.step(self.norm1(x), rotation, state.cache, plan)
        x = x + self.layer_scale_1(attended)
        return self._rest(x, state.cross)

    def condition(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what this layer is to cross-attend to."""
        return self.cross_attention.project_condition(source)

    def _rest(self, x: Tensor, cross: CrossState | None) -> Tensor:
        if cross is not None:
            keys, values = cross.rows(self.cross_attention.num_heads)
            x = x + self.cross_attention(self.norm_cross(x), keys, values)
        return x + self.layer_scale_2(self.gating(self.norm2(x)))


@dataclass
class CrossState(State):
    """Projected condition of one layer, [B, branches * H, S, D] each; a setting of the slot."""

    keys: Tensor = tensor_field(KEEP)
    values: Tensor = tensor_field(KEEP)

    def rows(self, heads: int) -> tuple[Tensor, Tensor]:
        """Keys and values as [B * branches, H, S, D]."""
        return (
            self.keys.view(-1, heads, *self.keys.shape[2:]),
            self.values.view(-1, heads, *self.values.shape[2:]),
        )


@dataclass
class LayerState(State):
    """What one layer remembers."""

    cache: KVCache
    cross: CrossState | None = None


@dataclass
class TransformerState(State):
    """What a stack remembers of each slot."""

    offset: Tensor = tensor_field(0)
    """[B] int64: positions seen."""
    layers: list[LayerState] = field(default_factory=list)


class Transformer(nn.Module):
    """Stack of layers over [B, T, dim], without embedding or final norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers: ModuleSequence[TransformerLayer] = ModuleSequence(
            TransformerLayer(config) for _ in range(config.num_layers)
        )

    def init_state(
        self,
        batch_size: int,
        *,
        branches: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TransformerState:
        """Fresh state of `batch_size` slots, each with `branches` rows that share positions."""
        config = self.config
        gain = next(self.layers[0].norm1.parameters())
        device, dtype = device or gain.device, dtype or gain.dtype
        capacity = config.context + config.max_chunk - 1
        shape = (batch_size, branches * config.kv_heads, capacity, config.head_dim)

        def cache() -> KVCache:
            new = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)]
            return KVCache(*new)

        offset = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return TransformerState(offset, [LayerState(cache()) for _ in self.layers])

    def set_condition(self, state: TransformerState, source: Tensor) -> None:
        """Make `source` [B * branches, S, dim] what all slots cross-attend to."""
        slots = state.offset.shape[0]
        for layer, memory in zip(self.layers, state.layers, strict=True):
            keys, values = layer.condition(source)
            shape = (slots, -1, *keys.shape[2:])
            memory.cross = CrossState(
                keys.reshape(shape).contiguous(), values.reshape(shape).contiguous()
            )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Whole sequences from position 0. `condition` [B, S, dim] is cross-attended to."""
        length = x.shape[1]
        positions = torch.arange(length, device=x.device)[None]
        mask = None
        if length > self.config.context:
            distance = positions[0, :, None] - positions[0, None, :]
            mask = (distance >= 0) & (distance < self.config.context)
        rotation = self._rotation(positions)
        for layer in self.layers:
            cross = None if condition is None else CrossState(*layer.condition(condition))
            x = layer(x, rotation, mask, cross)
        return x

    def step(
        self,
        x: Tensor,
        state: TransformerState,
        active: Tensor | None = None,
        *,
        slotwise: bool | None = None,
    ) -> Tensor:
        """Next positions [B * branches, T, dim] of each slot; any T, in chunks of `max_chunk`."""
        chunk = self.config.max_chunk
        parts = [self._step_chunk(part, state, active, slotwise) for part in x.split(chunk, dim=1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _step_chunk(
        self, x: Tensor, state: TransformerState, active: Tensor | None, slotwise: bool | None
    ) -> Tensor:
        length = x.shape[1]
        cache = state.layers[0].cache
        plan = plan_step(
            state.offset, length, cache.keys.shape[2], self.config.context, active,
            slotwise=slotwise,
        )  # fmt: skip
        positions = state.offset[:, None] + torch.arange(length, device=x.device)
        branches = x.shape[0] // positions.shape[0]
        rotation = self._rotation(positions.repeat_interleave(branches, 0))
        for layer, memory in zip(self.layers, state.layers, strict=True):
            x = layer.step(x, rotation, memory, plan)
        assign_active(state.offset, state.offset + length, active)
        return x

    def _rotation(self, positions: Tensor) -> Rotation | None:
        config = self.config
        if config.positional_embedding == "none":
            return None
        halves = config.positional_embedding == "rope_concat"
        return Rotation.at(positions, config.head_dim, config.max_period, halves=halves)
