"""Each codec layout, written by hand from golden weights, gives the golden codes and audio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.checkpoint_writers import (
    golden_config,
    golden_tensors,
    save,
    transformers_mimi,
    transformers_mimi_config,
)
from support.golden import assert_near, integers, vectors

from duologue.checkpoints import CheckpointError
from duologue.checkpoints.detect import CodecFormat, detect_codec_format
from duologue.checkpoints.load import load_codec
from duologue.checkpoints.tensorfile import TensorDict, open_tensors
from duologue.mimi import Mimi


def assert_golden(codec: Mimi) -> None:
    pcm = integers("mimi", "pcm_i16")[None, None].float() / 32768
    codes = integers("mimi", "codes")[None]
    assert torch.equal(codec.encode(pcm, num_codebooks=6), codes)
    assert_near(codec.decode(codes)[0, 0], vectors("mimi")["pcm_decoded"])


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_transformers(nested: bool, tmp_path: Path) -> None:
    config = golden_config("mimi")
    save(
        tmp_path / "model.safetensors",
        transformers_mimi(golden_tensors("mimi"), config, "", nested),
    )
    (tmp_path / "config.json").write_text(json.dumps(transformers_mimi_config(config)))
    source = open_tensors(tmp_path / "model.safetensors")
    assert detect_codec_format(source) is CodecFormat.TRANSFORMERS
    codec = load_codec(tmp_path, device="cpu")
    assert codec.config.to_dict() == load_codec(tmp_path / "model.safetensors").config.to_dict()
    assert_golden(codec)


@pytest.mark.parametrize(
    ("total", "usage", "flag"),
    [
        ("_codebook.embed_sum", "_codebook.cluster_usage", "_codebook.inited"),
        ("_codebook.embed_avg", "_codebook.cluster_size", "_codebook.inited"),
        ("codebook.embedding_sum", "codebook.cluster_usage", "codebook.initialized"),
    ],
)
def test_older_spellings(total: str, usage: str, flag: str, tmp_path: Path) -> None:
    renamed = {}
    for key, value in golden_tensors("mimi").items():
        key = key.replace("_codebook.embedding_sum", total).replace("_codebook._initialized", flag)
        renamed[key.replace("_codebook.cluster_usage", usage)] = value
    save(tmp_path / "model.safetensors", renamed)
    (tmp_path / "config.json").write_text(json.dumps(golden_config("mimi")))
    assert_golden(load_codec(tmp_path, device="cpu"))


def test_codec_beside_a_language_model(tmp_path: Path) -> None:
    """A codec's file alone takes its shape from the folder whose configuration names it."""
    save(tmp_path / "mimi.safetensors", golden_tensors("mimi"))
    (tmp_path / "codec.json").write_text(json.dumps(golden_config("mimi")))
    names = {"mimi_name": "mimi.safetensors", "mimi_config_name": "codec.json"}
    (tmp_path / "config.json").write_text(json.dumps(golden_config("lm_duplex") | names))
    assert_golden(load_codec(tmp_path / "mimi.safetensors", device="cpu"))


def test_unknown_format() -> None:
    with pytest.raises(CheckpointError, match=r"no codec in a known format; it holds 1 tensors: b"):
        detect_codec_format(TensorDict("x", {"b": torch.zeros(1)}))
