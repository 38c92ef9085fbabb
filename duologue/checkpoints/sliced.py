"""Layouts that give each depth step a whole transformer of its own (MLX, Candle).

Weights that our depth transformer shares, the norms always and all of a step's matrices under a
schedule, are repeated there, once for each step. Reading checks that the copies are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from duologue.checkpoints.layout import Entry, Layout, Tensors
from duologue.moshi.config import LMConfig
from duologue.moshi.lm import MoshiLM

_DEPTH_MATRIX = re.compile(r"depformer\.layers\.(\d+)\.(self_attn|gating)\.(?:(\w+)\.)?(\d+)\.(.+)")
_CROSS = re.compile(r"cross_attention\.(query|condition)_proj\.weight")
_DEPTH_NORM = re.compile(r"depformer\.layers\.(\d+)\.(norm\d\.\w+)")


@dataclass(frozen=True)
class SliceSpelling:
    """How a format spells what ours and Kyutai's spell otherwise."""

    step: str
    """Prefix of depth step `{k}`."""
    audio_embedding: str
    """Table of audio stream `{k}`."""
    in_proj: str
    """Leaf of a fused attention projection."""
    gain: str
    """Leaf of an RMS norm's gain."""
    flat_gain: bool
    """The gain is stored as [dim] rather than [1, 1, dim]."""


def sliced_layout(lm: MoshiLM, spelling: SliceSpelling) -> Layout:
    """Layout of `lm` (meta tensors do) in such a format."""
    layout = Layout()
    for ours in lm.state_dict():
        keys = [_spelled(key, spelling) for key in _keys(ours, lm.config, spelling)]
        if match := _CROSS.search(ours):
            layout.add(ours, _third(keys[0], query=match[1] == "query"))
        elif ours.endswith(".alpha"):
            layout.add(ours, _gain(keys, flat=spelling.flat_gain))
        else:
            layout.add(ours, Entry(tuple(keys), copies=len(keys) > 1))
    return layout


def _keys(ours: str, config: LMConfig, spelling: SliceSpelling) -> list[str]:
    """Keys that hold one of our tensors, the shared one of several depth steps under each."""

    def steps(which: Iterable[int], rest: str) -> list[str]:
        return [spelling.step.format(k=k) + rest for k in which]

    def users(schedule: tuple[int, ...], index: int) -> list[int]:
        return [k for k, used in enumerate(schedule) if used == index]

    room, _, rest = ours.partition(".")
    index, _, leaf = rest.partition(".")
    if match := _DEPTH_MATRIX.fullmatch(ours):
        layer, part, name, weight_set, leaf = match.groups()
        path = ".".join(filter(None, (f"transformer.layers.{layer}", part, name, leaf)))
        return steps(users(config.depth_schedule, int(weight_set)), path)
    if match := _DEPTH_NORM.fullmatch(ours):
        return steps(range(config.dep_q), f"transformer.layers.{match[1]}.{match[2]}")
    if room == "depformer_in":
        return steps(users(config.depth_input_schedule, int(index)), f"linear_in.{leaf}")
    if room == "depformer_text_emb":
        return steps([0], f"emb.{rest}")
    if room == "depformer_emb":
        return steps([int(index) + 1], f"emb.{leaf}")
    if room == "linears":
        return steps([int(index)], f"linear_out.{leaf}")
    if room == "emb":
        return [f"{spelling.audio_embedding.format(k=index)}.{leaf}"]
    return [_CROSS.sub("cross_attention.in_proj.weight", ours)]


def _spelled(key: str, spelling: SliceSpelling) -> str:
    key = re.sub(r"(self_attn|cross_attention)\.in_proj\.weight$", rf"\1.{spelling.in_proj}", key)
    return re.sub(r"\.alpha$", f".{spelling.gain}", key)


def _gain(keys: list[str], *, flat: bool) -> Entry:
    def read(tensors: Tensors) -> Tensor:
        return tensors[0].reshape(1, 1, -1)

    write: Callable[[Tensor], Tensors] | None = (lambda gain: [gain.flatten()]) if flat else None
    return Entry(tuple(keys), read, write, copies=len(keys) > 1)


def _third(key: str, *, query: bool) -> Entry:
    """Query (first third) or key and value (the rest) of a fused projection [3 dim, dim]."""

    def read(tensors: Tensors) -> Tensor:
        dim = tensors[0].shape[0] // 3
        return tensors[0][:dim] if query else tensors[0][dim:]

    return Entry((key,), read, order=0 if query else 1)
