"""Candle's layout of the language models, in safetensors and GGUF files alike.

Kyutai's names, but for the depth transformer, which is one whole transformer for each step. Models
without one (speech recognition) have just Kyutai's names.
"""

from __future__ import annotations

from duologue.checkpoints.layout import Layout
from duologue.checkpoints.sliced import SliceSpelling, sliced_layout
from duologue.moshi.lm import MoshiLM

_SPELLING = SliceSpelling(
    step="depformer.{k}.",
    audio_embedding="emb.{k}",
    in_proj="in_proj_weight",
    gain="alpha",
    flat_gain=False,
)


def candle_lm_layout(lm: MoshiLM) -> Layout:
    """Layout of `lm`; it may be on the meta device."""
    return sliced_layout(lm, _SPELLING)
