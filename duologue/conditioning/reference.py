"""Reference encoder of MoshiRAG (ARC layout): a text in, a few vectors out.

A Llama-like text encoder that attends in both directions and pools neighbouring tokens in its last
layer, then a bridge of two linear maps. One vector is added to the language model's input at each
frame, so the number of vectors is also the number of frames that delivery takes. Sources: MoshiRAG
(arXiv 2604.12928) section 4.2; ARC-Encoder (Pilchen et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.errors import DuologueError
from duologue.nn.attention import attend
from duologue.nn.draw import embedding, normal
from duologue.nn.linear import Linear
from duologue.nn.rope import Rotation


class ReferenceConfigError(DuologueError, ValueError):
    """A reference encoder's configuration is wrong; names the field."""


@dataclass(frozen=True)
class ReferenceConfig:
    """Shape of encoder and bridge; the defaults are the published 3-billion encoder."""

    vocab_size: int = 128_256
    dim: int = 3072
    n_layers: int = 26
    n_heads: int = 24
    n_kv_heads: int = 8
    head_dim: int = 128
    hidden_dim: int = 8192
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    pooling: int = 4
    """Neighbouring tokens that become one vector."""
    bridge_hidden: int = 2048
    bridge_out: int = 4096

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> ReferenceConfig:
        """Read a published conditioner block; shape entries it leaves out have their defaults.

        `embedder_params.compress_rates` is `[-4]` for groups of four tokens.
        """
        embedder = dict(options.get("embedder_params", {}))
        rates = embedder.pop("compress_rates", [-4])
        bridge = dict(options.get("bridge_module", {}))
        if len(rates) != 1 or not isinstance(rates[0], int) or rates[0] > -1:
            raise ReferenceConfigError(
                f"embedder_params.compress_rates: {rates!r} is not one negative group size"
            )
        shape = {name: embedder.pop(name) for name in list(embedder) if name in _SHAPE}
        if embedder:
            raise ReferenceConfigError(f"embedder_params.{sorted(embedder)[0]}: unknown entry")
        config = cls(
            **shape,
            pooling=-rates[0],
            bridge_hidden=bridge.get("hidden_dim", cls.bridge_hidden),
            bridge_out=bridge.get("out_dim", cls.bridge_out),
        )
        if bridge.get("in_dim", config.dim) != config.dim:
            raise ReferenceConfigError(
                f"bridge_module.in_dim: {bridge['in_dim']} is not the encoder's {config.dim}"
            )
        return config


_SHAPE = (
    "vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim",
    "norm_eps", "rope_theta",
)  # fmt: skip


class _Norm(nn.Module):
    """RMS norm in float32, cast back before the gain is applied."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return scaled.to(x.dtype) * self.weight


class _Attention(nn.Module):
    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.wq = Linear(config.dim, config.n_heads * config.head_dim)
        self.wk = Linear(config.dim, config.n_kv_heads * config.head_dim)
        self.wv = Linear(config.dim, config.n_kv_heads * config.head_dim)
        self.wo = Linear(config.n_heads * config.head_dim, config.dim)

    def forward(
        self, queries: Tensor, source: Tensor, at: Rotation, source_at: Rotation, mask: Tensor
    ) -> Tensor:
        """[B, G, dim] attends to [B, N, dim]; mask bool [B, 1, 1, N]."""
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project, x in ((self.wq, queries), (self.wk, source), (self.wv, source))
        )
        y = attend(at(q), source_at(k), v, mask)
        return self.wo(y.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.w1 = Linear(config.dim, config.hidden_dim)
        self.w2 = Linear(config.hidden_dim, config.dim)
        self.w3 = Linear(config.dim, config.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class _Layer(nn.Module):
    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.attention_norm = _Norm(config.dim, config.norm_eps)
        self.attention = _Attention(config)
        self.ffn_norm = _Norm(config.dim, config.norm_eps)
        self.feed_forward = _FeedForward(config)

    def forward(
        self, x: Tensor, at: Rotation, mask: Tensor, pooled: tuple[Tensor, Rotation] | None = None
    ) -> Tensor:
        """`pooled` replaces the queries (and what the residual adds to) by fewer vectors."""
        queries, queries_at = (x, at) if pooled is None else pooled
        attended = self.attention(
            self.attention_norm(queries), self.attention_norm(x), queries_at, at, mask
        )
        y = queries + attended
        return y + self.feed_forward(self.ffn_norm(y))


class _Trunk(nn.Module):
    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.tok_embeddings = embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.n_layers))


class _Bridge(nn.Module):
    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.layer1 = Linear(config.dim, config.bridge_hidden)
        self.layer2 = Linear(config.bridge_hidden, config.bridge_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(x))


class ReferenceEncoder(nn.Module):
    """Token ids of several texts -> one list of vectors for each."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.config = config
        self.embedder = _Trunk(config)
        self.bridge_module = _Bridge(config)

    def rows(self, tokens: int) -> int:
        """Vectors (and so frames) that a text of so many tokens becomes; at least 1."""
        return max(1, -(-tokens // self.config.pooling))

    def forward(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Encode a batch. Each text of n tokens gives [ceil(n / pooling), bridge_out].

        Raises:
            ValueError: a text has no tokens (there is nothing to encode: leave it out).
        """
        if not texts:
            return []
        lengths = [len(text) for text in texts]
        if min(lengths) == 0:
            raise ValueError("cannot encode a reference without tokens")
        device = self.embedder.tok_embeddings.weight.device
        ids = torch.zeros(len(texts), max(lengths), dtype=torch.int64, device=device)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = torch.tensor(text, device=device)
        there = (
            torch.arange(ids.shape[1], device=device)
            < torch.tensor(lengths, device=device)[:, None]
        )
        mask = there[:, None, None, :]
        at = self._rotation(ids.shape[1], device)
        x = self.embedder.tok_embeddings(ids)
        *layers, last = self.embedder.layers
        for layer in layers:
            x = layer(x, at, mask)
        pooling = pooling_matrix(lengths, self.config.pooling).to(x)
        pooled = (pooling @ x, self._rotation(pooling.shape[1], device))
        y = self.bridge_module(last(x, at, mask, pooled))
        return [y[i, : self.rows(n)] for i, n in enumerate(lengths)]

    def _rotation(self, length: int, device: torch.device) -> Rotation:
        positions = torch.arange(length, device=device)[None]
        return Rotation.at(positions, self.config.head_dim, self.config.rope_theta, halves=False)


def pooling_matrix(lengths: Sequence[int], size: int) -> Tensor:
    """Averages of neighbours: [B, groups, tokens].

    A text of n tokens has ceil(n / size) groups, as equal as can be, larger ones first.
    """
    widest = max(-(-n // size) for n in lengths)
    matrix = torch.zeros(len(lengths), widest, max(lengths))
    for text, n in zip(matrix, lengths, strict=True):
        groups = -(-n // size)
        small, larger = divmod(n, groups)
        start = 0
        for group in range(groups):
            width = small + (group < larger)
            text[group, start : start + width] = 1.0 / width
            start += width
    return matrix


class ReferenceTokenizer(Protocol):
    """Text to token ids, without special tokens."""

    def encode(self, text: str) -> list[int]: ...


class ReferenceConditioner(nn.Module):
    """The part of a reference condition that the language model's checkpoint holds."""

    def __init__(self, output_dim: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = dict(options)
        self.config = ReferenceConfig.from_options(options)
        self.output_proj = Linear(self.config.bridge_out, output_dim)
        self.learnt_padding = nn.Parameter(normal(1, 1, output_dim, std=0.2))

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoder output [..., bridge_out] -> rows for the model's input [..., dim]."""
        return self.output_proj(encoded.to(self.output_proj.weight.dtype))

    @property
    def absent(self) -> Tensor:
        """[1, dim]: the row that training adds, once, where a reference was dropped."""
        return self.learnt_padding[0]
