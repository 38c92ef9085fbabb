"""Kyutai's file layout of Mimi (also what the Rust and MLX programs load)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from duologue.checkpoints.layout import Entry, Layout, Tensors, renamed, unsqueezed
from duologue.mimi.codec import Mimi
from duologue.nn.conv import CausalConvTranspose1d

_BUFFER_SPELLINGS = (
    ("_codebook.embedding_sum", "_codebook.cluster_usage"),
    ("_codebook.embed_sum", "_codebook.cluster_usage"),
    ("_codebook.embed_avg", "_codebook.cluster_size"),
    ("codebook.embedding_sum", "codebook.cluster_usage"),
)
_INITIALIZED = ("_codebook._initialized", "_codebook.inited", "codebook.initialized")


def mimi_layout(codec: Mimi) -> Layout:
    """Layout of `codec`; it may be on the meta device."""
    layout = Layout()
    transposed = {
        name for name, module in codec.named_modules() if isinstance(module, CausalConvTranspose1d)
    }
    ignored: set[str] = set()
    for ours in codec.state_dict():
        module, _, leaf = ours.rpartition(".")
        if ours.endswith(".embedding"):
            layout.add(
                ours,
                *codebook_entries(_quantizer_path(module), _BUFFER_SPELLINGS, _INITIALIZED[0]),
            )
            ignored |= {_quantizer_path(module) + name for name in _INITIALIZED}
        elif module.startswith("quantizer."):
            layout.add(ours, unsqueezed(f"{_quantizer_path(module)}.{leaf}"))
        elif "_transformer." in ours:
            layout.add(ours, *_transformer_entries(ours))
        else:
            kind = "convtr" if module in transposed else "conv"
            layout.add(ours, *renamed(f"{_conv_path(module, kind)}.{leaf}"))
    layout.ignored = frozenset(ignored)
    return layout


def _conv_path(module: str, kind: str) -> str:
    """`encoder.3` -> `encoder.model.3.conv.conv`; resamplers have one level more."""
    if module in ("downsample", "upsample"):
        return f"{module}.{kind}.{kind}.{kind}"
    room, _, rest = module.partition(".")
    return f"{room}.model.{rest}.{kind}.{kind}"


def _quantizer_path(module: str) -> str:
    """`quantizer.rest.codebooks.4` -> `quantizer.rvq_rest.vq.layers.4.`"""
    path = module.replace("quantizer.", "quantizer.rvq_", 1)
    return re.sub(r"\.codebooks\.(\d+)$", r".vq.layers.\1.", path)


def _transformer_entries(ours: str) -> tuple[Entry, ...]:
    key = ours.replace("_transformer.layers", "_transformer.transformer.layers")
    key = key.replace("gating.linear_in", "linear1").replace("gating.linear_out", "linear2")
    if key.endswith("in_proj.weight"):
        stem = key.removesuffix("in_proj.weight")
        return renamed(f"{stem}in_proj_weight", f"{stem}in_projs.0.weight", key)
    if key.endswith("out_proj.weight"):
        return renamed(key, key.replace("out_proj.", "out_projs.0."))
    return renamed(key)


def codebook_entries(
    path: str, spellings: Sequence[tuple[str, str]], initialized: str
) -> tuple[Entry, ...]:
    """Entries for centroids that a file keeps as sums and counts of what was assigned to them."""

    def centroids(tensors: Tensors) -> torch.Tensor:
        total, usage = (tensor.float() for tensor in tensors[:2])
        return total / usage.clamp(min=1e-5)[:, None]

    def statistics(embedding: torch.Tensor) -> list[torch.Tensor]:
        return [embedding, torch.ones_like(embedding[:, 0]), torch.ones_like(embedding[0, :1])]

    first, *others = (tuple(path + name for name in pair) for pair in spellings)
    return (
        Entry((*first, path + initialized), centroids, statistics),
        *(Entry(keys, centroids) for keys in (first, *others)),
    )
