"""A language model's weights as the tables that compiled code reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from duologue.moshi.embedding import TokenEmbedding
from duologue.moshi.lm import MoshiLM
from duologue.nn.feedforward import FeedForward, GatedFeedForward
from duologue.nn.linear import PerStep
from duologue.nn.norm import LayerScale, RMSNorm
from duologue.nn.transformer import TransformerConfig
from duologue.runtime.errors import Unsupported
from duologue.runtime.linear import MatrixTable
from duologue.runtime.linear_tiles import Kind
from duologue.runtime.lm_arithmetic import LAYER_NORM, RMS_NORM
from duologue.runtime.lm_frame import NORM_NONE, Model
from duologue.runtime.lm_layers import HALVES, NO_ROTATION, PAIRS, Stack

ROTATIONS = {"none": NO_ROTATION, "rope": PAIRS, "rope_concat": HALVES}
KINDS = {
    torch.float32: int(Kind.FLOAT32),
    torch.float16: int(Kind.FLOAT16),
    torch.bfloat16: int(Kind.BFLOAT16),
}


@dataclass
class Tables:
    """A `Model` and what keeps its addresses valid."""

    model: Model
    matrices: MatrixTable
    read_bytes: int
    """Weights read in one frame: every map once for each time it is used, and embedding rows."""
    tensors: list[Tensor] = field(default_factory=list)


def build_tables(lm: MoshiLM, generated: int) -> Tables:
    """Describe a model that generates so many codebooks.

    Raises:
        Unsupported: some part of it is none that the kernels know.
    """
    config, table = lm.config, MatrixTable()
    if lm.device.type != "cpu":
        raise Unsupported(f"a model on {lm.device}")
    if config.cross_attention:
        raise Unsupported("cross-attention")
    if lm.dtype not in KINDS:
        raise Unsupported(f"embeddings in {lm.dtype}")
    temporal = _stack(config.temporal, [lm.transformer.layers], table, lm.transformer.layers)
    gain, bias = _norm(lm.out_norm, config.dim)
    text_head = table.add(lm.text_linear)
    extra = [table.add(head) for head in lm.extra_heads]
    embeddings = [_embedding(one, lm.dtype) for one in (lm.text_emb, *lm.emb)]
    depth, inputs, heads, depth_embeddings = _no_depth(), [], [], []
    sets: Sequence[int] = ()
    norm, eps, gains, biases = NORM_NONE, 0.0, np.zeros((1, 1)), np.zeros((1, 1))
    if generated:
        shape, sets = config.depth, config.depth_schedule[:generated]
        layers = [_depth_layers(lm, one) for one in range(max(config.depth_schedule) + 1)]
        depth = _stack(shape, layers, table, lm.depformer.layers)
        numbers = {i: table.add(lm.depformer_in[i]) for i in set(config.depth_input_schedule)}
        inputs = [numbers[i] for i in config.depth_input_schedule[:generated]]
        heads = [table.add(head) for head in lm.linears[:generated]]
        before = (lm.depformer_text_emb, *lm.depformer_emb)[:generated]
        depth_embeddings = [_embedding(one, lm.dtype) for one in before]
        norms = lm.depformer_norms[:generated]
        if not isinstance(norms[0], nn.Identity):
            norm, eps = _norm_kind(norms[0])
            pairs = [_norm(one, shape.dim) for one in norms]
            gains, biases = (np.stack(part) for part in zip(*pairs, strict=True))
    read = _read_bytes(table, temporal, depth, sets, [text_head, *extra, *inputs, *heads])
    width = embeddings[0][1] * len(embeddings) + sum(row[1] for row in depth_embeddings)
    model = Model(
        matrices=table.array(), temporal=temporal, depth=depth,
        delays=np.array(config.delays, dtype=np.int64),
        initial=np.array([config.text_initial] + [config.audio_initial] * config.n_q),
        max_delay=config.max_delay, generated=generated,
        padding=config.existing_text_padding_id,
        asks=-1 if config.rag_token_id is None else config.rag_token_id,
        embeddings=_integers(embeddings, 2), depth_embeddings=_integers(depth_embeddings, 2),
        kind=KINDS[lm.dtype], out_gain=gain, out_bias=bias, text_head=text_head,
        text_classes=config.text_classes, extra_heads=np.array(extra, dtype=np.int64),
        extra_dim=config.extra_heads_dim, depth_inputs=np.array(inputs, dtype=np.int64),
        depth_sets=np.array(sets, dtype=np.int64), heads=np.array(heads, dtype=np.int64),
        card=config.card, head_norm=norm, head_eps=np.float32(eps),
        head_gains=gains.astype(np.float32), head_biases=biases.astype(np.float32),
    )  # fmt: skip
    # Views: a module that is moved or cast lets go of its own memory.
    held = [one.weight.detach() for one in lm.modules() if isinstance(one, TokenEmbedding)]
    return Tables(model, table, read + width, held)


def _stack(
    config: TransformerConfig,
    weight_sets: Sequence[Iterable[Any]],
    table: MatrixTable,
    shared: Iterable[Any],
) -> Stack:
    """A stack whose layers have a set of matrices for each of `weight_sets`."""
    maps = [
        [
            [
                table.add(layer.self_attn.in_proj), table.add(layer.self_attn.out_proj),
                table.add(layer.gating.linear_in), table.add(layer.gating.linear_out),
            ]
            for layer in layers
        ]
        for layers in weight_sets
    ]  # fmt: skip
    first = next(iter(weight_sets[0])).gating
    if not isinstance(first, FeedForward | GatedFeedForward):
        raise Unsupported(f"a feed-forward block of type {type(first).__name__}")
    norms = [[_norm(norm, config.dim) for norm in (one.norm1, one.norm2)] for one in shared]
    kind, eps = _norm_kind(next(iter(shared)).norm1)
    index = np.arange(config.head_dim // 2, dtype=np.float64)
    return Stack(
        layers=config.num_layers, dim=config.dim, kv_heads=config.kv_heads,
        group=config.kv_repeat, head_dim=config.head_dim, hidden=first.linear_out.in_features,
        gated=int(isinstance(first, GatedFeedForward)),
        rotation=ROTATIONS[config.positional_embedding], norm=kind, eps=np.float32(eps),
        maps=np.array(maps, dtype=np.int64),
        gains=np.array([[gain for gain, _ in pair] for pair in norms], dtype=np.float32),
        biases=np.array([[bias for _, bias in pair] for pair in norms], dtype=np.float32),
        scales=np.array([_layer_scales(one, config.dim) for one in shared], dtype=np.float32),
        frequencies=config.max_period ** (-2.0 * index / config.head_dim),
    )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Attention or layer of one depth weight set, under the temporal layers' names."""

    in_proj: Any = None
    out_proj: Any = None
    self_attn: Any = None
    gating: Any = None


def _depth_layers(lm: MoshiLM, weight_set: int) -> list[_Part]:
    def pick(steps: PerStep) -> nn.Module:
        return steps[weight_set]

    return [
        _Part(
            self_attn=_Part(pick(layer.self_attn.in_proj), pick(layer.self_attn.out_proj)),
            gating=pick(layer.gating),
        )
        for layer in lm.depformer.layers
    ]


def _no_depth() -> Stack:
    empty = np.zeros((1, 1, 1), dtype=np.float32)
    return Stack(
        layers=0, dim=1, kv_heads=1, group=1, head_dim=2, hidden=1, gated=0,
        rotation=NO_ROTATION, norm=RMS_NORM, eps=np.float32(0.0),
        maps=np.zeros((1, 1, 4), dtype=np.int64), gains=empty, biases=empty.copy(),
        scales=empty.copy(), frequencies=np.zeros(1),
    )  # fmt: skip


def _norm_kind(module: nn.Module) -> tuple[int, float]:
    if isinstance(module, RMSNorm):
        return RMS_NORM, module.eps
    if isinstance(module, nn.LayerNorm):
        return LAYER_NORM, module.eps
    raise Unsupported(f"a norm of type {type(module).__name__}")


def _norm(module: nn.Module, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain and bias [dim]."""
    zeros = np.zeros(dim, dtype=np.float32)
    if isinstance(module, RMSNorm):
        return _floats(module.alpha), zeros
    if isinstance(module, nn.LayerNorm):
        return _floats(module.weight), _floats(module.bias)
    raise Unsupported(f"a norm of type {type(module).__name__}")


def _layer_scales(layer: Any, dim: int) -> list[np.ndarray]:
    scales = (getattr(layer, name, None) for name in ("layer_scale_1", "layer_scale_2"))
    ones = np.ones(dim, dtype=np.float32)
    return [_floats(one.scale) if isinstance(one, LayerScale) else ones for one in scales]


def _floats(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().flatten().numpy().copy()


def _embedding(module: TokenEmbedding, dtype: torch.dtype) -> tuple[int, int]:
    """Address and bytes of a row."""
    if module.low_rank is not None or module.out1 is not None:
        raise Unsupported("embeddings of two parts (low-rank or multiplexed)")
    weight = module.weight
    if weight.dtype != dtype or not weight.is_contiguous():
        raise Unsupported("embeddings of different types")
    return weight.data_ptr(), weight.shape[1] * weight.element_size()


def _integers(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _read_bytes(
    table: MatrixTable, temporal: Stack, depth: Stack, sets: Sequence[int], others: list[int]
) -> int:
    def size(numbers: Iterable[int]) -> int:
        return sum(table.size(int(number)) for number in numbers)

    total = size(temporal.maps.flatten()) + size(others)
    return total + sum(size(depth.maps[one].flatten()) for one in sets)
