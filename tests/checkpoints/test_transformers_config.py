"""Configurations of transformers, to ours and back; what ours cannot follow is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.checkpoints import CheckpointError, ModelFolder
from duologue.checkpoints.load import load_codec, load_lm
from duologue.checkpoints.transformers_format import (
    folder_config_from_transformers,
    is_transformers_config,
    lm_config_from_transformers,
    lm_config_to_transformers,
    mimi_config_from_transformers,
    mimi_config_to_transformers,
)
from duologue.mimi import MimiConfig
from duologue.moshi import LMConfig
from duologue.moshi.presets import MOSHI_7B, PRESETS
from duologue.nn.feedforward import gated_width

DATA = Path(__file__).parent.parent / "data" / "state_dicts"


def defaults(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"hf_transformers_{name}_config_defaults.json").read_text())


@pytest.mark.parametrize("preset", ["moshi-7b", "stt-1b", "stt-2.6b"])
def test_presets_there_and_back(preset: str) -> None:
    config = PRESETS[preset]
    values = lm_config_to_transformers(config, MimiConfig(), "bfloat16")
    assert lm_config_from_transformers(values) == config
    assert is_transformers_config(values)


def test_moshi_is_the_default() -> None:
    """An empty configuration is the published model's."""
    assert lm_config_from_transformers({"model_type": "moshi"}) == MOSHI_7B


def test_what_is_written_is_what_transformers_writes() -> None:
    """Entry by entry, where its defaults have the same entry."""
    ours = lm_config_to_transformers(MOSHI_7B, MimiConfig(), "float32")
    for mine, theirs in (
        (ours, defaults("moshi")),
        (ours["depth_decoder_config"], defaults("moshi")["depth_decoder_config"]),
        (ours["audio_encoder_config"], defaults("mimi")),
    ):
        for key in mine.keys() & theirs.keys() - {
            "architectures", "dtype", "audio_encoder_config", "depth_decoder_config",
        }:  # fmt: skip
            assert mine[key] == theirs[key], key


@given(heads=st.integers(1, 6), half=st.integers(1, 40), hidden=st.integers(1, 4000))
def test_every_width_of_a_gated_block(heads: int, half: int, hidden: int) -> None:
    """`ffn_dim` says both halves; ours a width before the two thirds are taken."""
    dim = 2 * half * heads
    values = {
        "model_type": "kyutai_speech_to_text", "hidden_size": dim, "num_attention_heads": heads,
        "ffn_dim": 2 * hidden,
    }  # fmt: skip
    try:
        config = lm_config_from_transformers(values)
    except CheckpointError:
        # The one width that the rule for `4 dim` skips.
        assert math.ceil(1.5 * hidden) == 4 * dim
        return
    assert gated_width(dim, config.temporal.feedforward) == hidden
    assert lm_config_to_transformers(config, MimiConfig())["ffn_dim"] == 2 * hidden


def test_older_spellings() -> None:
    """Versions before 5.0: `rope_theta` alone, and an explicit frame rate."""
    values = {"model_type": "mimi", "rope_theta": 500.0, "frame_rate": 12.5, "normalize": False}
    config = mimi_config_from_transformers(values)
    expected = MimiConfig()
    assert config == replace(expected, transformer=replace(expected.transformer, max_period=500.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio_channels", 2), ("use_causal_conv", False), ("pad_mode", "reflect"),
        ("trim_right_ratio", 0.5), ("use_conv_shortcut", True), ("num_semantic_quantizers", 2),
        ("hidden_act", "relu"), ("attention_bias", True), ("norm_eps", 1e-6),
        ("num_key_value_heads", 4), ("head_dim", 32), ("codebook_dim", 128),
        ("upsample_groups", 1), ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("encoder_config", None), ("vector_quantization_hidden_dimension", 512),
    ],
)  # fmt: skip
def test_codecs_that_ours_is_not(name: str, value: Any, tmp_path: Path) -> None:
    entry = "rope_type" if name == "rope_parameters" else name
    values = defaults("mimi") | {name: value}
    if name == "vector_quantization_hidden_dimension":
        values["codebook_dim"] = value
    with pytest.raises(CheckpointError, match=entry):
        mimi_config_from_transformers(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=entry):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    ("kind", "change", "entry"),
    [
        ("moshi", {"hidden_act": "gelu"}, "hidden_act"),
        ("moshi", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("moshi", {"head_dim": 64}, "head_dim"),
        ("moshi", {"num_key_value_heads": 5}, "num_key_value_heads"),
        ("moshi", {"ffn_dim": 17}, "ffn_dim"),
        ("moshi", {"rope_parameters": {"rope_type": "linear"}}, "rope_type"),
        ("moshi", {"depth_decoder_config": {"num_codebooks": 4}}, "num_codebooks"),
        ("moshi", {"depth_decoder_config": {"input_size": 64}}, "input_size"),
        ("moshi", {"depth_decoder_config": {"num_key_value_heads": 2}}, "num_key_value_heads"),
        ("moshi", {"num_codebooks": 0}, "num_codebooks|dep_q|delays"),
        ("kyutai_stt", {"audio_bos_token_id": 7}, "audio_bos_token_id"),
    ],
)
def test_language_models_that_ours_is_not(
    kind: str, change: dict[str, Any], entry: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(defaults(kind) | change))
    with pytest.raises(CheckpointError, match=entry):
        load_lm(tmp_path)


@pytest.mark.parametrize(
    "value", ["x", [], {"a": 1}, -1, 0, 1.5], ids=["text", "list", "object", "-1", "0", "1.5"]
)
@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "vocab_size"])
def test_nonsense_is_an_error_of_the_file(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(defaults("moshi") | {name: value}))
    with pytest.raises(CheckpointError):
        ModelFolder.open(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(defaults("mimi") | {name: value}))
    if name != "vocab_size":
        with pytest.raises(CheckpointError):
            load_codec(tmp_path)


def test_codec_alone_is_no_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(defaults("mimi")))
    with pytest.raises(CheckpointError, match="holds a codec alone"):
        load_lm(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        replace(MimiConfig(), frame_rate=25.0),
        replace(MimiConfig(), quantizer=replace(MimiConfig().quantizer, n_q=1)),
        replace(MimiConfig(), quantizer=replace(MimiConfig().quantizer, dimension=512)),
    ],
    ids=["no resampling", "one codebook", "no projection"],
)
def test_codecs_that_transformers_cannot_hold(config: MimiConfig) -> None:
    with pytest.raises(CheckpointError, match="cannot hold this codec"):
        mimi_config_to_transformers(config)


def test_files_of_a_folder(tmp_path: Path) -> None:
    values = defaults("kyutai_stt")
    assert folder_config_from_transformers(values, tmp_path).moshi_name == "model.safetensors"
    (tmp_path / "model.safetensors.index.json").touch()
    (tmp_path / "tokenizer_en.model").touch()
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"audio_delay_seconds": 2.5, "sampling_rate": 24000})
    )
    config = folder_config_from_transformers(values, tmp_path)
    assert config.moshi_name == config.mimi_name == "model.safetensors.index.json"
    assert config.tokenizer_name == "tokenizer_en.model"
    assert config.stt_config == {"audio_delay_seconds": 2.5}
    assert isinstance(config.lm, LMConfig)
