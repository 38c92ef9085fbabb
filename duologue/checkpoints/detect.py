"""Which format a checkpoint is in, by the names of its tensors, and how to read it.

Containers (safetensors, GGUF) are told apart where files are opened; here it is about who named
and laid out the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

from torch import nn

from duologue.checkpoints import transformers_layout
from duologue.checkpoints.candle import candle_lm_layout
from duologue.checkpoints.duologue_format import DuologueSource, identity_layout
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.kyutai_lm import RowQuantizedSource, lm_layout
from duologue.checkpoints.kyutai_mimi import mimi_layout
from duologue.checkpoints.layout import Layout
from duologue.checkpoints.mlx import MLXSource, mlx_lm_layout
from duologue.checkpoints.personaplex import expand_depformer, lacks_second_half
from duologue.checkpoints.sources import SelectedSource, WidenedSource
from duologue.checkpoints.tensorfile import TensorSource
from duologue.mimi.codec import Mimi
from duologue.moshi.lm import MoshiLM
from duologue.nn.linear import Linear


class LMFormat(Enum):
    """Who laid out a language model's tensors."""

    DUOLOGUE = "duologue"
    KYUTAI = "kyutai"
    MLX = "mlx"
    CANDLE = "candle"
    TRANSFORMERS_MOSHI = "transformers-moshi"
    TRANSFORMERS_STT = "transformers-stt"


class CodecFormat(Enum):
    """Who laid out a codec's tensors."""

    DUOLOGUE = "duologue"
    KYUTAI = "kyutai"
    TRANSFORMERS = "transformers"


_ATTENTION = r"transformer\.layers\.\d+\.self_attn\."
_LM_SIGNS = (
    (LMFormat.TRANSFORMERS_MOSHI, r"decoder\.model\.embed_tokens\.weight"),
    (LMFormat.TRANSFORMERS_STT, r"model\.embed_tokens\.embed_tokens\.weight"),
    (LMFormat.MLX, r"depformer\.slices\.0\..*|audio_embs\.0\.weight"),
    (LMFormat.CANDLE, r"depformer\.0\..*"),
    (LMFormat.DUOLOGUE, r"depformer\.layers\.\d+\.self_attn\.in_proj\.\d+\.(weight|codes4?).*"),
    (LMFormat.DUOLOGUE, _ATTENTION + r"in_proj\.(codes4?|weight\.rows8)"),
    # Without a depth transformer, Candle's names and ours are spellings of Kyutai's.
    (LMFormat.KYUTAI, _ATTENTION + r"in_proj(_weight|s?\.(\d+\.)?weight)"),
)
_CODEC_SIGNS = (
    (CodecFormat.DUOLOGUE, r"quantizer\.first\.codebooks\.0\.embedding"),
    (CodecFormat.KYUTAI, r"quantizer\.rvq_first\..*"),
    (CodecFormat.TRANSFORMERS, r"(.*\.)?quantizer\.semantic_residual_vector_quantizer\..*"),
)
_LM_LAYOUTS: dict[LMFormat, Callable[[MoshiLM], Layout]] = {
    LMFormat.DUOLOGUE: identity_layout,
    LMFormat.KYUTAI: lm_layout,
    LMFormat.MLX: mlx_lm_layout,
    LMFormat.CANDLE: candle_lm_layout,
    LMFormat.TRANSFORMERS_MOSHI: transformers_layout.moshi_layout,
    LMFormat.TRANSFORMERS_STT: transformers_layout.stt_layout,
}


def find_lm_format(source: TensorSource) -> LMFormat | None:
    """Format of a language model's tensors, if there is one."""
    return next((kind for kind, sign in _LM_SIGNS if _has(source, sign)), None)


def find_codec_format(source: TensorSource) -> CodecFormat | None:
    """Format of a codec's tensors, if there is one."""
    return next((kind for kind, sign in _CODEC_SIGNS if _has(source, sign)), None)


def detect_lm_format(source: TensorSource) -> LMFormat:
    """Format of a language model's tensors; an error where it is none that is known."""
    if (kind := find_lm_format(source)) is None:
        raise _unknown(source, "language model")
    return kind


def detect_codec_format(source: TensorSource) -> CodecFormat:
    """Format of a codec's tensors; an error where it is none that is known."""
    if (kind := find_codec_format(source)) is None:
        raise _unknown(source, "codec")
    return kind


def prepare_lm(
    source: TensorSource, lm: MoshiLM, *, expand_depth: bool = False
) -> tuple[TensorSource, Layout]:
    """The view of `source` and the layout with which `lm` (meta tensors do) reads it.

    Args:
        expand_depth: let a file without the second half of the depth weights start them as a copy
            of the first (PersonaPlex); otherwise they are missing, which is an error.
    """
    kind = detect_lm_format(source)
    layout = _LM_LAYOUTS[kind](lm)
    source = select_lm(source)
    if kind is LMFormat.DUOLOGUE:
        source = DuologueSource(source)
    elif kind is LMFormat.MLX:
        source = MLXSource(source, _columns(lm, layout))
    elif RowQuantizedSource.recognises(source):
        source = RowQuantizedSource(source)
    if expand_depth and kind is LMFormat.KYUTAI and lacks_second_half(source, lm.config):
        source = expand_depformer(source, lm.config)
    return WidenedSource(source, _linear_keys(lm, layout)), layout


def prepare_codec(source: TensorSource, codec: Mimi) -> tuple[TensorSource, Layout]:
    """The view of `source` and the layout with which `codec` (meta tensors do) reads it."""
    kind = detect_codec_format(source)
    if kind is CodecFormat.DUOLOGUE:
        return DuologueSource(source), identity_layout(codec)
    if kind is CodecFormat.KYUTAI:
        return source, mimi_layout(codec)
    layout = transformers_layout.mimi_layout(codec, _codec_prefix(source))
    return select_codec(source), layout


def select_lm(source: TensorSource) -> TensorSource:
    """The language model's part of a file, which in transformers' layout has the codec too."""
    if find_lm_format(source) not in (LMFormat.TRANSFORMERS_MOSHI, LMFormat.TRANSFORMERS_STT):
        return source
    codec = tuple(filter(None, transformers_layout.CODEC_PREFIXES))
    return SelectedSource(source, lambda key: not key.startswith(codec))


def select_codec(source: TensorSource) -> TensorSource:
    """The codec's part of a file."""
    prefix = _codec_prefix(source)
    return SelectedSource(source, lambda key: key.startswith(prefix)) if prefix else source


def _codec_prefix(source: TensorSource) -> str:
    sign = r"quantizer\.semantic_residual_vector_quantizer\..*"
    prefixes = transformers_layout.CODEC_PREFIXES
    return next((prefix for prefix in prefixes if _has(source, re.escape(prefix) + sign)), "")


def _linear_keys(root: nn.Module, layout: Layout) -> frozenset[str]:
    """Keys of the file that hold matrices of linear maps, which may stay quantised."""
    names = {f"{n}.weight" for n, module in root.named_modules() if isinstance(module, Linear)}
    entries = (entry for name in names for entry in layout.entries.get(name, ()))
    return frozenset(key for entry in entries for key in entry.keys)


def _columns(root: nn.Module, layout: Layout) -> dict[str, int]:
    """Width of each matrix by the file's key."""
    return {
        key: tensor.shape[1]
        for name, tensor in root.state_dict().items()
        for entry in layout.entries.get(name, ())
        for key in entry.keys
        if tensor.dim() == 2
    }


def _has(source: TensorSource, pattern: str) -> bool:
    match = re.compile(pattern).fullmatch
    return any(match(key) for key in source)


def _unknown(source: TensorSource, what: str) -> CheckpointError:
    names = sorted(source)
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return CheckpointError(
        f"{source.name}: no {what} in a known format; it holds {len(names)} tensors"
        + (f": {shown}" if names else "")
    )
