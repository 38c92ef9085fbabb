"""Which format a checkpoint is in, by the names of its tensors, and how to read it.

Containers (safetensors, GGUF) are told apart where files are opened; here it is about who named
and laid out the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from torch import nn

from duologue.checkpoints.duologue_format import DuologueSource, identity_layout
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.kyutai_lm import RowQuantizedSource, lm_layout
from duologue.checkpoints.kyutai_mimi import mimi_layout
from duologue.checkpoints.layout import Layout
from duologue.checkpoints.sources import WidenedSource
from duologue.checkpoints.tensorfile import TensorSource
from duologue.mimi.codec import Mimi
from duologue.moshi.lm import MoshiLM
from duologue.nn.linear import Linear


class LMFormat(Enum):
    """Who laid out a language model's tensors."""

    KYUTAI = "kyutai"
    DUOLOGUE = "duologue"


class CodecFormat(Enum):
    """Who laid out a codec's tensors."""

    KYUTAI = "kyutai"
    DUOLOGUE = "duologue"


_LM_SIGNS = (
    (LMFormat.DUOLOGUE, r"depformer\.layers\.\d+\.self_attn\.in_proj\.\d+\.(weight|codes4?)"),
    (LMFormat.DUOLOGUE, r"transformer\.layers\.\d+\.self_attn\.in_proj\.codes4?"),
    (LMFormat.KYUTAI, r"transformer\.layers\.\d+\.self_attn\.in_proj(_weight|s?\.(\d+\.)?weight)"),
)
_CODEC_SIGNS = (
    (CodecFormat.DUOLOGUE, r"quantizer\.first\.codebooks\.0\.embedding"),
    (CodecFormat.KYUTAI, r"quantizer\.rvq_first\.vq\.layers\.0\..*"),
)


def detect_lm_format(source: TensorSource) -> LMFormat:
    """Format of a language model's tensors; an error where it is none that is known."""
    for kind, pattern in _LM_SIGNS:
        if _any_key(source, pattern):
            return kind
    raise _unknown(source, "language model")


def detect_codec_format(source: TensorSource) -> CodecFormat:
    """Format of a codec's tensors; an error where it is none that is known."""
    for kind, pattern in _CODEC_SIGNS:
        if _any_key(source, pattern):
            return kind
    raise _unknown(source, "codec")


def prepare_lm(source: TensorSource, lm: MoshiLM) -> tuple[TensorSource, Layout]:
    """The view of `source` and the layout with which `lm` (meta tensors do) reads it."""
    kind = detect_lm_format(source)
    if kind is LMFormat.DUOLOGUE:
        source, layout = DuologueSource(source), identity_layout(lm)
    else:
        if RowQuantizedSource.recognises(source):
            source = RowQuantizedSource(source)
        layout = lm_layout(lm)
    return WidenedSource(source, _linear_keys(lm, layout)), layout


def prepare_codec(source: TensorSource, codec: Mimi) -> tuple[TensorSource, Layout]:
    """The view of `source` and the layout with which `codec` (meta tensors do) reads it."""
    kind = detect_codec_format(source)
    if kind is CodecFormat.DUOLOGUE:
        return DuologueSource(source), identity_layout(codec)
    return source, mimi_layout(codec)


def _linear_keys(root: nn.Module, layout: Layout) -> frozenset[str]:
    """Keys of the file that hold matrices of linear maps, which may stay quantised."""
    names = {f"{n}.weight" for n, module in root.named_modules() if isinstance(module, Linear)}
    entries = (entry for name in names for entry in layout.entries.get(name, ()))
    return frozenset(key for entry in entries for key in entry.keys)


def _any_key(keys: Iterable[str], pattern: str) -> bool:
    match = re.compile(pattern).fullmatch
    return any(match(key) for key in keys)


def _unknown(source: TensorSource, what: str) -> CheckpointError:
    names = sorted(source)
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return CheckpointError(
        f"{source.name}: no {what} in a known format; it holds {len(names)} tensors"
        + (f": {shown}" if names else "")
    )
