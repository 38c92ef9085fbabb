"""Conditions: attributes of a conversation, made into vectors that steer the language model.

A conditioner turns one attribute (a choice among words, a tensor, a reference text) into vectors;
the fuser says where they go: `sum` (added to each input), `cross` (attended to), `prepend` (a
position before the first frame), `streaming_sum` (one row added per frame, as they arrive).
An attribute that is absent becomes the conditioner's learnt padding. Sources: the published
configurations; MoshiRAG (arXiv 2604.12928) section 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from duologue.conditioning.reference import ReferenceConditioner
from duologue.errors import DuologueError
from duologue.nn.draw import embedding, normal
from duologue.nn.linear import Linear

Attributes = Mapping[str, "str | Tensor | None"]
"""Attribute values of one conversation by conditioner name."""

MAIN, OTHER = "SPEAKER_MAIN", "SPEAKER_OTHER"
"""The model and the user, in the published corpora and conditions."""
SPEAKERS = {"model": MAIN, "user": OTHER}
"""Published values of the condition that says who speaks first."""

FUSE_METHODS = ("sum", "cross", "prepend", "streaming_sum")


class ConditionError(DuologueError, ValueError):
    """A condition is unknown, misshapen or not among the values that the model was trained on."""


@dataclass(frozen=True)
class FuserConfig:
    """Which conditioner goes where."""

    sum: tuple[str, ...] = ()
    cross: tuple[str, ...] = ()
    prepend: tuple[str, ...] = ()
    streaming_sum: tuple[str, ...] = ()
    cross_attention_pos_emb: bool = False
    cross_attention_pos_emb_scale: float = 1.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> FuserConfig:
        """Read the published `fuser` block; `null` fuses nothing."""
        values = dict(values or {})
        if unknown := values.keys() - {*FUSE_METHODS, *list(cls.__dataclass_fields__)}:
            raise ConditionError(f"fuser.{sorted(unknown)[0]}: unknown entry")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**given)


@dataclass(frozen=True)
class FusedConditions:
    """Conditions of a batch, ready for the model; `None` where the model takes none."""

    sum: Tensor | None = None
    """[B, 1, dim], added to each input."""
    cross: Tensor | None = None
    """[B, S, dim], attended to by each layer."""
    prepend: Tensor | None = None
    """[B, P, dim], positions before the first frame."""


class LutConditioner(nn.Module):
    """One of a set of words, by look-up table; the last row of the table is padding."""

    def __init__(
        self, output_dim: int, n_bins: int, dim: int, possible_values: Sequence[str] | None
    ) -> None:
        super().__init__()
        self.n_bins = n_bins
        self.possible_values = None if possible_values is None else list(possible_values)
        self.embed = embedding(n_bins + 1, dim)
        self.output_proj = Linear(dim, output_dim)
        self.learnt_padding = nn.Parameter(normal(1, 1, output_dim, std=0.2))

    def forward(self, values: Sequence[str | Tensor | None]) -> Tensor:
        """One value per conversation -> [B, 1, output_dim]."""
        bins = [self._bin(value) for value in values]
        index = torch.tensor([[b] for b in bins], device=self.embed.weight.device)
        given = index[..., None] != self.n_bins
        return torch.where(given, self.output_proj(self.embed(index)), self.learnt_padding)

    def _bin(self, value: str | Tensor | None) -> int:
        if value is None:
            return self.n_bins
        if not isinstance(value, str):
            raise ConditionError(f"expected a word, got {type(value).__name__}")
        if self.possible_values is None:
            return int(hashlib.sha256(value.encode()).hexdigest(), 16) % self.n_bins
        if value not in self.possible_values:
            raise ConditionError(f"{value!r} is none of {', '.join(self.possible_values)}")
        return self.possible_values.index(value)


class TensorConditioner(nn.Module):
    """A sequence of vectors from outside, for example speaker embeddings."""

    def __init__(self, output_dim: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.output_proj = Linear(dim, output_dim)
        self.learnt_padding = nn.Parameter(normal(1, 1, output_dim, std=0.2))

    def forward(self, values: Sequence[str | Tensor | None]) -> Tensor:
        """One [S, dim] (or `None`) per conversation -> [B, longest S, output_dim].

        Rows beyond a shorter sequence, and rows that hold a NaN, become the learnt padding.
        """
        longest = max((v.shape[0] for v in values if isinstance(v, Tensor)), default=1)
        weight = self.output_proj.weight
        rows = torch.full(
            (len(values), longest, self.dim), float("nan"), dtype=weight.dtype, device=weight.device
        )
        for row, value in zip(rows, values, strict=True):
            if value is None:
                continue
            if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[1] != self.dim:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ConditionError(f"expected a tensor [S, {self.dim}], got {shape}")
            row[: value.shape[0]] = value
        given = ~rows.isnan().any(dim=-1, keepdim=True)
        return torch.where(given, self.output_proj(rows.nan_to_num(0.0)), self.learnt_padding)


class ConditionProvider(nn.Module):
    """All conditioners of a model and where their output goes."""

    def __init__(
        self, dim: int, conditioners: Mapping[str, Mapping[str, Any]], fuser: FuserConfig
    ) -> None:
        super().__init__()
        self.fuser = fuser
        self.conditioners = nn.ModuleDict(
            {name: _build(name, dim, config) for name, config in conditioners.items()}
        )
        for method in FUSE_METHODS:
            for name in getattr(fuser, method):
                if name not in conditioners:
                    raise ConditionError(f"fuser.{method}: there is no conditioner {name!r}")

    @classmethod
    def none(cls, dim: int) -> ConditionProvider:
        """Provider of a model without conditions."""
        return cls(dim, {}, FuserConfig())

    @property
    def reference(self) -> ReferenceConditioner | None:
        """The conditioner whose rows are added frame by frame, if the model has one."""
        for name in self.fuser.streaming_sum:
            conditioner = self.conditioners[name]
            if isinstance(conditioner, ReferenceConditioner):
                return conditioner
        return None

    def forward(self, attributes: Sequence[Attributes]) -> FusedConditions:
        """Conditions of a batch, one mapping for each conversation."""
        for one in attributes:
            if unknown := one.keys() - self.conditioners.keys():
                known = ", ".join(self.conditioners) or "none"
                raise ConditionError(f"unknown condition {sorted(unknown)[0]!r}; known: {known}")
        fuser = self.fuser
        parts = {
            name: self._condition(name, [one.get(name) for one in attributes])
            for name in (*fuser.sum, *fuser.cross, *fuser.prepend)
        }
        total = [parts[name][:, :1] for name in fuser.sum]
        cross = [parts[name] for name in fuser.cross]
        prepend = [parts[name] for name in fuser.prepend]
        return FusedConditions(
            sum=torch.stack(total).sum(0) if total else None,
            cross=self._with_positions(torch.cat(cross, dim=1)) if cross else None,
            prepend=torch.cat(prepend, dim=1) if prepend else None,
        )

    def _condition(self, name: str, values: list[str | Tensor | None]) -> Tensor:
        try:
            return self.conditioners[name](values)
        except ConditionError as error:
            raise ConditionError(f"condition {name!r}: {error}") from error

    def _with_positions(self, x: Tensor) -> Tensor:
        if not self.fuser.cross_attention_pos_emb:
            return x
        return x + self.fuser.cross_attention_pos_emb_scale * sinusoids(x.shape[1], x)


def sinusoids(length: int, like: Tensor, period: float = 10_000.0) -> Tensor:
    """[1, length, dim]: cosines then sines of position times geometrically falling rates."""
    half = like.shape[-1] // 2
    rates = period ** (-torch.arange(half, device=like.device, dtype=torch.float32) / (half - 1))
    angles = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)[None].to(like.dtype)


def _build(name: str, dim: int, config: Mapping[str, Any]) -> nn.Module:
    kind = config.get("type")
    options = dict(config.get(str(kind), {}))
    if kind == "lut":
        if options.pop("tokenizer", "noop") != "noop":
            raise ConditionError(f"conditioners.{name}.lut.tokenizer: only 'noop' is supported")
        options.setdefault("possible_values", None)
        return _construct(name, LutConditioner, dim, options)
    if kind == "tensor":
        return _construct(name, TensorConditioner, dim, options)
    if kind in ("arc_encoder", "multi_arc_encoder"):
        return ReferenceConditioner(dim, options)
    raise ConditionError(
        f"conditioners.{name}.type: {kind!r} is none of lut, tensor, arc_encoder, multi_arc_encoder"
    )


def _construct(name: str, kind: Any, dim: int, options: dict[str, Any]) -> nn.Module:
    try:
        return kind(dim, **options)
    except TypeError as error:
        raise ConditionError(f"conditioners.{name}: {error}") from error
