"""Kyutai's PyTorch file layout of the language models, old and new spellings."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.layout import Entry, Layout, Tensors, renamed, stacked
from duologue.checkpoints.tensorfile import TensorInfo, TensorSource
from duologue.moshi.lm import MoshiLM
from duologue.nn.linear import QuantizedWeight

_DEPTH_PROJECTION = re.compile(r"(depformer\.layers\.\d+\.self_attn\.)(in|out)_proj\.(\d+)\.weight")
_PROJECTION = re.compile(r"(.*(?:self_attn|cross_attention)\.)(in|out)_proj\.weight")
_CROSS = re.compile(r"(.*cross_attention\.)(query|condition)_proj\.weight")


def lm_layout(lm: MoshiLM) -> Layout:
    """Layout of `lm`; it may be on the meta device."""
    layout = Layout()
    sets = max(lm.config.depth_schedule, default=0) + 1
    for ours in lm.state_dict():
        layout.add(ours, *_entries(ours, sets))
    return layout


def _entries(ours: str, sets: int) -> tuple[Entry, ...]:
    if match := _DEPTH_PROJECTION.fullmatch(ours):
        stem, side, index = match[1], match[2], int(match[3])
        return (
            *(stacked(key, index, sets) for key in _fused_keys(stem, side)),
            *renamed(f"{stem}{side}_projs.{index}.weight"),
        )
    if match := _CROSS.fullmatch(ours):
        keys = (*_fused_keys(match[1], "in"), f"{match[1]}in_projs.0.weight")
        return tuple(_third(key, match[2] == "query") for key in keys)
    if match := _PROJECTION.fullmatch(ours):
        keys = _fused_keys(match[1], match[2])
        return renamed(*keys, f"{match[1]}{match[2]}_projs.0.weight")
    return renamed(ours)


def _fused_keys(stem: str, side: str) -> tuple[str, ...]:
    """Spellings of one attention projection, the one found in published files first."""
    plain = f"{stem}{side}_proj.weight"
    return (f"{stem}in_proj_weight", plain) if side == "in" else (plain,)


def _third(key: str, query: bool) -> Entry:
    """Query (first third) or key and value (the rest) of a fused projection [3 dim, dim]."""

    def read(tensors: Tensors) -> torch.Tensor:
        dim = tensors[0].shape[0] // 3
        return tensors[0][:dim] if query else tensors[0][dim:]

    return Entry((key,), read, order=0 if query else 1)


class RowQuantizedSource(TensorSource):
    """A `q8` file: int8 `weight` beside float32 `weight_scb` (largest magnitude of each row)."""

    def __init__(self, inner: TensorSource) -> None:
        super().__init__(inner.name)
        self._inner = inner

    @staticmethod
    def recognises(source: TensorSource) -> bool:
        return any(key.endswith("_scb") for key in source)

    def __getitem__(self, key: str) -> torch.Tensor:
        quantized = self.quantized(key)
        return self._inner[key] if quantized is None else quantized.dequantize()

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._inner if not self._is_scale(key))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def info(self, key: str) -> TensorInfo:
        info = self._inner.info(key)
        return TensorInfo(info.shape, torch.float32) if f"{key}_scb" in self._inner else info

    def quantized(self, key: str) -> QuantizedWeight | None:
        if f"{key}_scb" not in self._inner:
            return None
        codes, largest = self._inner[key], self._inner[f"{key}_scb"]
        if codes.dtype != torch.int8 or largest.shape != codes.shape[:1]:
            raise CheckpointError(
                f"{self.name}: {key} is {codes.dtype} {tuple(codes.shape)} with scales "
                f"{tuple(largest.shape)}, expected int8 [out, in] with [out]"
            )
        return QuantizedWeight(codes, (largest.float() / 127.0)[:, None])

    def _is_scale(self, key: str) -> bool:
        return key.endswith("_scb") and key.removesuffix("_scb") in self._inner
