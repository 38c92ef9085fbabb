"""Configurations of Hugging Face `transformers` (`config.json`) to ours and back.

Three model types: `mimi`, `moshi` (which has the codec's configuration and the depth decoder's
inside) and `kyutai_speech_to_text`. An entry that would change the arithmetic in a way that ours
cannot follow is an error that names it; entries that only concern transformers are passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import TOKENIZER_DEFAULT, FolderConfig, read_json
from duologue.checkpoints.transformers_layout import require_moshi, require_stt
from duologue.mimi.config import MimiConfig, MimiTransformerConfig, QuantizerConfig, SEANetConfig
from duologue.moshi.config import LMConfig
from duologue.nn.feedforward import gated_width

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER_FILES = ("tokenizer.model", TOKENIZER_DEFAULT, "tokenizer.json")
PREPROCESSOR_FILE = "preprocessor_config.json"

_STT_ENTRIES = ("audio_delay_seconds", "audio_silence_prefix_seconds")


def is_transformers_config(values: Mapping[str, Any]) -> bool:
    """Whether these are a transformers model's entries (Kyutai's say "moshi" too)."""
    kind = values.get("model_type")
    return kind in ("mimi", "kyutai_speech_to_text") or (kind == "moshi" and "dim" not in values)


def mimi_config_from_transformers(values: Mapping[str, Any]) -> MimiConfig:
    """A codec's shape from its `config.json`."""
    hidden = _count(values, "hidden_size", 512)
    heads = _count(values, "num_attention_heads", 8)
    width = _count(values, "vector_quantization_hidden_dimension", 256)
    _require(values, "mimi", {
        "audio_channels": 1,
        "use_causal_conv": True,
        "pad_mode": "constant",
        "trim_right_ratio": 1.0,
        "use_conv_shortcut": False,
        "num_semantic_quantizers": 1,
        "hidden_act": "gelu",
        "attention_bias": False,
        "norm_eps": 1e-5,
        "normalize": False,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "codebook_dim": width,
        "upsample_groups": hidden,
    })  # fmt: skip
    if width == hidden:
        raise CheckpointError(
            "transformers config: vector_quantization_hidden_dimension equals hidden_size, where "
            "transformers leaves out the quantiser's projections; not supported"
        )
    for half in ("encoder_config", "decoder_config"):
        if half in values:
            raise CheckpointError(f"transformers config: {half}: a codec of one half is no codec")
    ratios = values.get("upsampling_ratios") or [8, 6, 5, 4]
    if not isinstance(ratios, list) or not all(isinstance(n, int) and n > 0 for n in ratios):
        raise CheckpointError(f"transformers config: upsampling_ratios: {ratios!r} are no strides")
    rate = _count(values, "sampling_rate", 24_000)
    frame_rate = values.get("frame_rate") or values.get("_frame_rate")
    return MimiConfig(
        sample_rate=rate,
        frame_rate=frame_rate or rate / (2 * math.prod(ratios)),
        seanet=SEANetConfig(
            dimension=hidden,
            n_filters=_count(values, "num_filters", 64),
            n_residual_layers=_count(values, "num_residual_layers", 1),
            ratios=tuple(ratios),
            kernel_size=_count(values, "kernel_size", 7),
            residual_kernel_size=_count(values, "residual_kernel_size", 3),
            last_kernel_size=_count(values, "last_kernel_size", 3),
            dilation_base=_count(values, "dilation_growth_rate", 2),
            compress=_count(values, "compress", 2),
        ),
        quantizer=QuantizerConfig(
            dimension=width,
            n_q=_count(values, "num_quantizers", 32),
            bins=_count(values, "codebook_size", 2048),
            input_dimension=hidden,
            output_dimension=hidden,
        ),
        transformer=MimiTransformerConfig(
            d_model=hidden,
            num_heads=heads,
            num_layers=_count(values, "num_hidden_layers", 8),
            dim_feedforward=_count(values, "intermediate_size", 2048),
            context=_count(values, "sliding_window", 250),
            max_period=_rope_period(values),
            layer_scale=values.get("layer_scale_initial_scale", 0.01),
            input_dimension=hidden,
            output_dimensions=(hidden,),
        ),
    )


def mimi_config_to_transformers(config: MimiConfig, dtype: str = "float32") -> dict[str, Any]:
    """The codec's `config.json`; an error where the format cannot express it."""
    seanet, quantizer, transformer = config.seanet, config.quantizer, config.transformer
    if config.positions_per_frame < 2 or quantizer.n_q < 2:
        raise CheckpointError(
            "the transformers format cannot hold this codec: it needs a resampling of at least 2 "
            "and at least 2 codebooks"
        )
    if quantizer.dimension == config.dimension:
        raise CheckpointError(
            "the transformers format cannot hold this codec: quantizer.dimension equals "
            "seanet.dimension, where transformers has no projections"
        )
    return {
        "architectures": ["MimiModel"],
        "model_type": "mimi",
        "dtype": dtype,
        "sampling_rate": config.sample_rate,
        "audio_channels": 1,
        "frame_rate": config.frame_rate,
        "hidden_size": config.dimension,
        "num_filters": seanet.n_filters,
        "num_residual_layers": seanet.n_residual_layers,
        "upsampling_ratios": list(seanet.ratios),
        "kernel_size": seanet.kernel_size,
        "last_kernel_size": seanet.last_kernel_size,
        "residual_kernel_size": seanet.residual_kernel_size,
        "dilation_growth_rate": seanet.dilation_base,
        "compress": seanet.compress,
        "use_causal_conv": True,
        "use_conv_shortcut": False,
        "pad_mode": "constant",
        "trim_right_ratio": 1.0,
        "codebook_size": quantizer.bins,
        "codebook_dim": quantizer.dimension,
        "vector_quantization_hidden_dimension": quantizer.dimension,
        "num_quantizers": quantizer.n_q,
        "num_semantic_quantizers": 1,
        "upsample_groups": config.dimension,
        "num_hidden_layers": transformer.num_layers,
        "intermediate_size": transformer.dim_feedforward,
        "num_attention_heads": transformer.num_heads,
        "num_key_value_heads": transformer.num_heads,
        "head_dim": config.dimension // transformer.num_heads,
        "hidden_act": "gelu",
        "attention_bias": False,
        "norm_eps": 1e-5,
        "sliding_window": transformer.context,
        "layer_scale_initial_scale": transformer.layer_scale,
        **_rope_entries(transformer.max_period),
    }


def lm_config_from_transformers(values: Mapping[str, Any]) -> LMConfig:
    """A language model's shape from the `config.json` of Moshi or of speech-to-text."""
    if values.get("model_type") == "kyutai_speech_to_text":
        return _stt_from(values)
    return _moshi_from(values)


def lm_config_to_transformers(
    config: LMConfig, codec: MimiConfig, dtype: str = "float32"
) -> dict[str, Any]:
    """The `config.json` of Moshi or, without a depth transformer, of speech-to-text."""
    return _moshi_to(config, codec, dtype) if config.dep_q else _stt_to(config, codec, dtype)


def folder_config_from_transformers(values: Mapping[str, Any], path: Path) -> FolderConfig:
    """What a transformers model folder says, its codec's shape included."""
    kind = values["model_type"]
    if kind == "mimi":
        raise CheckpointError(f"{path}: holds a codec alone, no language model")
    inner = _block(values, "audio_encoder_config" if kind == "moshi" else "codec_config")
    weights = _present(path, WEIGHT_FILES)
    preprocessor: Mapping[str, Any] = {}
    if kind != "moshi" and (path / PREPROCESSOR_FILE).is_file():
        preprocessor = read_json(path / PREPROCESSOR_FILE)
    sentencepiece = sorted(file.name for file in path.glob("*.model"))
    return FolderConfig(
        lm_config_from_transformers(values),
        model_type="moshi" if kind == "moshi" else "stt",
        moshi_name=weights,
        mimi_name=weights,
        tokenizer_name=_present(path, (*TOKENIZER_FILES[:2], *sentencepiece, TOKENIZER_FILES[2])),
        stt_config={key: preprocessor[key] for key in _STT_ENTRIES if key in preprocessor},
        codec=mimi_config_from_transformers(inner),
    )


def _moshi_from(values: Mapping[str, Any]) -> LMConfig:
    depth = _block(values, "depth_decoder_config")
    steps = _count(values, "num_codebooks", 8)
    hidden, text_card = _count(values, "hidden_size", 4096), _count(values, "vocab_size", 32_000)
    codec = _block(values, "audio_encoder_config")
    card = _count(values, "audio_vocab_size", _count(codec, "codebook_size", 2048))
    shared = _decoder_entries(values, heads=32, layers=32, hidden=4096, width=22_528, window=3000)
    depth_dim, depth_heads = (
        _count(depth, "hidden_size", 1024),
        _count(depth, "num_attention_heads", 16),
    )
    _require(depth, "moshi_depth", {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-8,
        "num_key_value_heads": depth_heads,
        "head_dim": depth_dim // depth_heads,
        "num_codebooks": steps,
        "audio_vocab_size": card,
        "vocab_size": text_card,
        "input_size": hidden,
    })  # fmt: skip
    return LMConfig(
        n_q=2 * steps,
        dep_q=steps,
        delays=(0, *([0] + [1] * (steps - 1)) * 2),
        card=card,
        text_card=text_card,
        depformer_dim=depth_dim,
        depformer_num_heads=depth_heads,
        depformer_num_layers=_count(depth, "num_hidden_layers", 6),
        depformer_dim_feedforward=_feedforward(depth_dim, _count(depth, "ffn_dim", 5632)),
        **shared,
    )


def _moshi_to(config: LMConfig, codec: MimiConfig, dtype: str) -> dict[str, Any]:
    require_moshi(config)
    depth = {
        "model_type": "moshi_depth",
        "vocab_size": config.text_card,
        "hidden_size": config.depformer_dim,
        "input_size": config.dim,
        "num_hidden_layers": config.depformer_num_layers,
        "num_attention_heads": config.depformer_num_heads,
        "num_key_value_heads": config.depformer_num_heads,
        "head_dim": config.depth.head_dim,
        "audio_vocab_size": config.card,
        "max_position_embeddings": config.dep_q + 1,
        "sliding_window": config.dep_q,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-8,
        "ffn_dim": 2 * gated_width(config.depformer_dim, config.depth.feedforward),
        "num_codebooks": config.dep_q,
    }
    return {
        "architectures": ["MoshiForConditionalGeneration"],
        "model_type": "moshi",
        "dtype": dtype,
        "vocab_size": config.text_card,
        "audio_vocab_size": config.card,
        "num_codebooks": config.dep_q,
        **_decoder_to(config),
        "audio_encoder_config": mimi_config_to_transformers(codec),
        "depth_decoder_config": depth,
    }


def _stt_from(values: Mapping[str, Any]) -> LMConfig:
    streams = _count(values, "num_codebooks", 32)
    text, audio = _count(values, "vocab_size", 4001), _count(values, "codebook_vocab_size", 2049)
    _require(values, "kyutai_speech_to_text", {"audio_bos_token_id": audio - 1})
    pad = values.get("pad_token_id")
    return LMConfig(
        n_q=streams,
        dep_q=0,
        delays=(0,) * (1 + streams),
        card=audio - 1,
        text_card=text - 1,
        existing_text_padding_id=3 if pad is None else pad,
        **_decoder_entries(values, heads=32, layers=48, hidden=2048, width=11_264, window=375),
    )


def _stt_to(config: LMConfig, codec: MimiConfig, dtype: str) -> dict[str, Any]:
    require_stt(config)
    text, audio = config.text_card + 1, config.card + 1
    return {
        "architectures": ["KyutaiSpeechToTextForConditionalGeneration"],
        "model_type": "kyutai_speech_to_text",
        "dtype": dtype,
        "vocab_size": text,
        "codebook_vocab_size": audio,
        "num_codebooks": config.n_q,
        "audio_bos_token_id": config.audio_initial,
        "audio_pad_token_id": text + config.n_q * audio,
        "pad_token_id": config.existing_text_padding_id,
        "bos_token_id": config.text_initial,
        **_decoder_to(config),
        "codec_config": mimi_config_to_transformers(codec),
    }


def _decoder_entries(
    values: Mapping[str, Any], *, heads: int, layers: int, hidden: int, width: int, window: int
) -> dict[str, Any]:
    """What Moshi's decoder and speech-to-text's have in common; arguments are the defaults."""
    heads = _count(values, "num_attention_heads", heads)
    hidden = _count(values, "hidden_size", hidden)
    shared_heads = _count(values, "num_key_value_heads", heads)
    _require(values, values["model_type"], {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-8,
        "head_dim": hidden // heads,
    })  # fmt: skip
    if heads % shared_heads:
        raise CheckpointError(
            f"transformers config: num_key_value_heads: {shared_heads} does not divide {heads}"
        )
    feedforward = _feedforward(hidden, _count(values, "ffn_dim", width))
    return {
        "dim": hidden,
        "num_heads": heads,
        "num_layers": _count(values, "num_hidden_layers", layers),
        "kv_repeat": heads // shared_heads,
        "hidden_scale": _scale(feedforward, hidden),
        "context": _count(values, "sliding_window", window),
        "max_period": _rope_period(values),
    }


def _decoder_to(config: LMConfig) -> dict[str, Any]:
    temporal = config.temporal
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": temporal.kv_heads,
        "head_dim": temporal.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-8,
        "ffn_dim": 2 * gated_width(config.dim, temporal.feedforward),
        "max_position_embeddings": config.context,
        "sliding_window": config.context,
        "tie_word_embeddings": False,
        **_rope_entries(config.max_period),
    }


def _feedforward(dim: int, ffn_dim: int) -> int:
    """Our feed-forward width whose gated block has `ffn_dim` rows (both halves)."""
    hidden = ffn_dim // 2
    for width in (-(-3 * hidden // 2), -(-3 * hidden // 2) + 1, 4 * dim):
        if gated_width(dim, width) == hidden and ffn_dim % 2 == 0:
            return width
    raise CheckpointError(f"transformers config: ffn_dim: {ffn_dim} is no width of a gated block")


def _scale(feedforward: int, dim: int) -> float:
    """`hidden_scale` that gives exactly this width."""
    scale = feedforward / dim
    return scale if int(scale * dim) == feedforward else math.nextafter(scale, math.inf)


def _rope_period(values: Mapping[str, Any]) -> float:
    rope = _block(values, "rope_parameters") or _block(values, "rope_scaling")
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise CheckpointError(f"transformers config: rope_type: {kind!r} is not supported")
    period = rope.get("rope_theta", values.get("rope_theta", 10_000.0))
    if not isinstance(period, int | float) or period <= 0:
        raise CheckpointError(f"transformers config: rope_theta: {period!r} is no period")
    return float(period)


def _rope_entries(period: float) -> dict[str, Any]:
    """The period as current versions read it and as those before 5.0 did."""
    return {
        "rope_parameters": {"rope_theta": float(period), "rope_type": "default"},
        "rope_theta": float(period),
    }


def _count(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"transformers config: {name}: {value!r} is no positive integer")
    return value


def _block(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = values.get(name) or {}
    if not isinstance(block, Mapping):
        raise CheckpointError(f"transformers config: {name}: {block!r} is no object")
    return block


def _require(values: Mapping[str, Any], kind: str, wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if values.get(name) not in (None, value):
            raise CheckpointError(
                f"transformers config ({kind}): {name}: {values[name]!r} is not supported, only "
                f"{value!r}"
            )


def _present(path: Path, names: Iterable[str]) -> str:
    """The first name that the folder has, or the first that it could have."""
    names = list(names)
    return next((name for name in names if (path / name).is_file()), names[0])


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as `config.json` spells it."""
    return str(dtype).removeprefix("torch.")
