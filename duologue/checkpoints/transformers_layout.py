"""Tensor layouts of Hugging Face `transformers`: Mimi, Moshi and Kyutai speech-to-text.

What differs from ours, as proven against transformers 5.23 with random weights:

- q, k and v are separate, and rotary pairs are (i, i + D/2) rather than (2i, 2i + 1): rows of q and
  k are permuted inside each head. The depth decoder has no positions, so nothing is permuted there.
- Moshi's depth weights are stacked on a leading axis, one set for each codebook.
- Speech-to-text has one embedding table: text, then each codebook, then a row of zeros. Its head
  has a class more than the model (the initial token), whose row is zero and never trained.
- Mimi's files are flat (`encoder.layers`, `downsample`); modules in memory since 5.x nest them
  (`encoder.encoder_seanet.layers`, `encoder.downsample`). Both are read, the flat one is written.

The arithmetic is that of the published models but for these traits of transformers:

- Moshi's and speech-to-text's masks have no window, only their caches have: a pass over more than
  `sliding_window` positions at once attends to all of them, one position at a time it is ours.
- Their `attn_implementation="eager"` makes the depth decoder attend to later codebooks; "sdpa", the
  default, is causal.
- Mimi pads a last incomplete frame inside each convolution, where the published codec pads the wave
  with zeros: that frame's codes differ.
- The token -1, which adds nothing, cannot be embedded; `generate` gives Moshi a silent user and the
  delays 0 (text, semantic) and 1 (acoustic), where ours come from the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.kyutai_mimi import codebook_entries
from duologue.checkpoints.layout import Entry, Layout, Tensors, renamed, unsqueezed
from duologue.mimi.codec import Mimi
from duologue.moshi.config import LMConfig
from duologue.moshi.lm import MoshiLM

CODEC_PREFIXES = ("audio_encoder.", "codec_model.", "")
"""Where a file keeps the codec: Moshi's, speech-to-text's, Mimi's own."""

_LAYER_NAMES = (
    ("self_attn.out_proj", "self_attn.o_proj"),
    ("gating.linear_in", "mlp.fc1"),
    ("gating.linear_out", "mlp.fc2"),
    ("norm1", "input_layernorm"),
    ("norm2", "post_attention_layernorm"),
    ("layer_scale_1", "self_attn_layer_scale"),
    ("layer_scale_2", "mlp_layer_scale"),
)
_DEPTH = re.compile(r"depformer\.layers\.(\d+)\.(.+)")


def mimi_layout(codec: Mimi, prefix: str = "") -> Layout:
    """Layout of `codec` (meta tensors do) under `prefix`."""
    layout = Layout()
    head_dim = codec.config.transformer_config.head_dim
    for ours in codec.state_dict():
        if ours.startswith("quantizer."):
            layout.add(ours, *_quantizer_entries(prefix, ours))
            continue
        flat = _mimi_key(ours)
        keys = (prefix + flat, prefix + _nested(flat))
        if ours.endswith("self_attn.in_proj.weight"):
            layout.add(ours, *(_attention(key, "{}_proj.weight", head_dim) for key in keys))
        else:
            layout.add(ours, *renamed(*keys))
    return layout


def moshi_layout(lm: MoshiLM) -> Layout:
    """Layout of `lm` (meta tensors do); an error where the format cannot hold such a model."""
    require_moshi(lm.config)
    _require_no_conditions(lm)
    layout = Layout()
    for ours in lm.state_dict():
        room, _, rest = ours.partition(".")
        index = rest.partition(".")[0]
        if room == "transformer":
            layout.add(ours, _layer_entry(ours, f"decoder.model.{rest}", lm.config))
        elif match := _DEPTH.fullmatch(ours):
            layout.add(ours, _depth_entry(*match.groups()))
        elif room in ("depformer_in", "linears"):
            name = "input_projections" if room == "depformer_in" else "lm_heads"
            layout.add(ours, _stacked((f"depth_decoder.{name}.weight",), int(index)))
        elif room == "out_norm":
            layout.add(ours, _gain("decoder.model.norm.weight"))
        else:
            keys = {
                "text_emb": "decoder.model.embed_tokens.weight",
                "emb": f"embed_tokens.{rest}",
                "text_linear": "decoder.lm_head.weight",
                "depformer_text_emb": "depth_decoder.text_embed_tokens.weight",
                "depformer_emb": f"depth_decoder.embed_tokens.{rest}",
            }
            layout.add(ours, *renamed(keys[room]))
    return layout


def stt_layout(lm: MoshiLM) -> Layout:
    """Layout of a speech-to-text model; an error where the format cannot hold such a model."""
    require_stt(lm.config)
    _require_no_conditions(lm)
    config, layout = lm.config, Layout()
    table = "model.embed_tokens.embed_tokens.weight"
    for ours in lm.state_dict():
        room, _, rest = ours.partition(".")
        if room == "transformer":
            layout.add(ours, _layer_entry(ours, f"model.{rest}", config))
        elif room == "out_norm":
            layout.add(ours, _gain("model.norm.weight"))
        elif room == "text_emb":
            layout.add(ours, _rows(table, 0, config.text_card + 1, order=0))
        elif room == "emb":
            k = int(rest.partition(".")[0])
            start = config.text_card + 1 + k * (config.card + 1)
            last = k == config.n_q - 1
            layout.add(ours, _rows(table, start, config.card + 1, order=k + 1, zero_row=last))
        else:
            layout.add(
                ours, _rows("lm_head.weight", 0, config.text_classes, order=0, zero_row=True)
            )
    return layout


def require_moshi(config: LMConfig) -> None:
    """Refuse a configuration that `MoshiForConditionalGeneration` cannot express."""
    steps = config.dep_q
    delays = (0, *([0] + [1] * (steps - 1)) * 2) if steps else ()
    _require(config, {
        "dep_q": (steps > 1, "at least 2"),
        "n_q": (config.n_q == 2 * steps, "twice dep_q"),
        "delays": (config.delays == delays, "0 for text and semantic, 1 for acoustic codes"),
        "depformer_weights_per_step_schedule": (
            config.depth_schedule == config.depth_input_schedule == tuple(range(steps)),
            "a weight set for each step",
        ),
        "depformer_low_rank_embeddings": (config.depformer_low_rank_embeddings is None, "null"),
        "depformer_norm": (config.depformer_norm is None, "null"),
        "depformer_gating": (config.depformer_gating in (None, "silu"), "silu"),
        "extra_heads_num_heads": (config.extra_heads_num_heads == 0, "0"),
    })  # fmt: skip


def require_stt(config: LMConfig) -> None:
    """Refuse a configuration that `KyutaiSpeechToText` cannot express."""
    _require(config, {
        "dep_q": (config.dep_q == 0, "0"),
        "delays": (not any(config.delays), "all 0"),
        "extra_heads_num_heads": (config.extra_heads_num_heads == 0, "0"),
    })  # fmt: skip


def _require(config: LMConfig, conditions: dict[str, tuple[bool, str]]) -> None:
    shared = {
        "norm": (config.norm == "rms_norm_f32", "rms_norm_f32"),
        "gating": (config.gating == "silu", "silu"),
        "positional_embedding": (config.positional_embedding != "none", "rope"),
        "layer_scale": (config.layer_scale is None, "null"),
        "cross_attention": (not config.cross_attention, "false"),
        "demux_second_stream": (not config.demux_second_stream, "false"),
        "text_card_out": (config.text_classes == config.text_card, "text_card"),
    }
    for name, (fits, wanted) in (shared | conditions).items():
        if not fits:
            raise CheckpointError(
                f"the transformers format cannot hold this model: {name} is "
                f"{getattr(config, name)!r}, it must be {wanted}"
            )


def _require_no_conditions(lm: MoshiLM) -> None:
    if names := ", ".join(lm.condition_provider.conditioners):
        raise CheckpointError(
            f"the transformers format cannot hold this model: it has conditioners ({names})"
        )


def _layer_entry(ours: str, key: str, config: LMConfig) -> Entry:
    if ours.endswith("self_attn.in_proj.weight"):
        temporal = config.temporal
        # `rope_concat` has the same pairs as transformers.
        turned = temporal.head_dim if config.positional_embedding == "rope" else None
        shares = (temporal.num_heads, temporal.kv_heads, temporal.kv_heads)
        return _attention(key, "{}_proj.linear.weight", turned, shares)
    key = _renamed_layer(key).replace("o_proj.weight", "o_proj.linear.weight")
    return _gain(key.replace(".alpha", ".weight")) if ours.endswith(".alpha") else Entry((key,))


def _depth_entry(layer: str, rest: str) -> Entry:
    stem = f"depth_decoder.layers.{layer}."
    if rest.endswith(".alpha"):
        return _gain(stem + _renamed_layer(rest).replace(".alpha", ".weight"))
    match = re.fullmatch(r"(self_attn|gating)\.(?:(\w+)\.)?(\d+)\.(?:(\w+)\.)?weight", rest)
    assert match is not None, rest
    part, before, step, after = match.groups()
    if before == "in_proj":
        names = tuple(f"{stem}self_attn.{which}_proj.linear.weight" for which in "qkv")
        return _stacked(names, int(step))
    key = _renamed_layer(f"{part}.{before or after}.weight")
    return _stacked((stem + key.replace("o_proj.weight", "o_proj.linear.weight"),), int(step))


def _attention(
    key: str, spelling: str, head_dim: int | None, shares: tuple[int, int, int] = (1, 1, 1)
) -> Entry:
    """Fused projection [q; k; v] from three matrices; `head_dim` where rotary pairs differ."""
    stem = key.removesuffix("in_proj.weight")
    keys = tuple(stem + spelling.format(which) for which in "qkv")

    def turn(parts: Tensors, how: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
        q, k, v = parts
        return [q, k, v] if head_dim is None else [how(q, head_dim), how(k, head_dim), v]

    def write(ours: Tensor) -> list[Tensor]:
        unit = ours.shape[0] // sum(shares)
        return turn(ours.split([unit * share for share in shares]), _to_halves)

    return Entry(keys, lambda tensors: torch.cat(turn(tensors, _to_pairs)), write)


def _to_halves(weight: Tensor, head_dim: int) -> Tensor:
    """Rows (2i, 2i + 1) of each head to (i, i + D/2)."""
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def _to_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Rows (i, i + D/2) of each head to (2i, 2i + 1)."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def _stacked(keys: tuple[str, ...], step: int) -> Entry:
    """Ours is the matrices of one step, below one another, from stacks [steps, out, in]."""

    def read(tensors: Tensors) -> Tensor:
        return torch.cat([stack[step] for stack in tensors])

    def write(ours: Tensor) -> list[Tensor]:
        return [part[None] for part in ours.chunk(len(keys))]

    return Entry(keys, read, write, order=step)


def _rows(key: str, start: int, count: int, *, order: int, zero_row: bool = False) -> Entry:
    """Consecutive rows of a table; `zero_row` writes one more, of zeros, below them."""

    def read(tensors: Tensors) -> Tensor:
        return tensors[0].narrow(0, start, count)

    def write(ours: Tensor) -> list[Tensor]:
        return [torch.cat([ours, torch.zeros_like(ours[:1])]) if zero_row else ours]

    return Entry((key,), read, write, order=order)


def _gain(key: str) -> Entry:
    return Entry((key,), lambda tensors: tensors[0][None, None], lambda ours: [ours[0, 0]])


def _renamed_layer(key: str) -> str:
    for ours, theirs in _LAYER_NAMES:
        key = key.replace(f"{ours}.", f"{theirs}.")
    return key


def _mimi_key(ours: str) -> str:
    module, _, leaf = ours.rpartition(".")
    if "_transformer." in ours:
        return _renamed_layer(ours)
    if module in ("downsample", "upsample"):
        return f"{module}.conv.{leaf}"
    room, _, rest = module.partition(".")
    return f"{room}.layers.{rest}.conv.{leaf}"


def _nested(key: str) -> str:
    room, _, rest = key.partition(".")
    half = "encoder" if room in ("encoder", "encoder_transformer", "downsample") else "decoder"
    return f"{half}.{half}_seanet.{rest}" if room == half else f"{half}.{key}"


def _quantizer_entries(prefix: str, ours: str) -> tuple[Entry, ...]:
    _, branch, rest = ours.split(".", 2)
    kind = {"first": "semantic", "rest": "acoustic"}[branch]
    stem = f"{prefix}quantizer.{kind}_residual_vector_quantizer."
    if not rest.startswith("codebooks."):
        return (unsqueezed(stem + rest),)
    level = rest.split(".")[1]
    return codebook_entries(
        f"{stem}layers.{level}.codebook.", (("embed_sum", "cluster_usage"),), "initialized"
    )
