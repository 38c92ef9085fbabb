"""Conversion: every layout to every other, there and back without losing a bit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.checkpoint_writers import (
    Tensors,
    golden_config,
    golden_tensors,
    mlx_quantized,
    save,
    sliced,
    transformers_mimi,
    transformers_mimi_config,
    transformers_moshi,
    transformers_stt,
    write_folder,
)
from support.golden import GOLDEN, integers

import duologue
from duologue.checkpoints import CheckpointError
from duologue.checkpoints.convert import LAYOUTS, convert
from duologue.checkpoints.inspect import describe
from duologue.checkpoints.load import load_codec, load_lm
from duologue.checkpoints.untrained import create_untrained
from duologue.checkpoints.voices import load_voice
from duologue.engine import Duplex, converse
from duologue.nn.linear import QuantizedLinear


def quietly(source: Path, target: Path, to: str, **options: Any) -> Path:
    convert(source, target, to, progress=lambda _: None, **options)
    return target


def tensors_of(path: Path) -> Tensors:
    return safetensors.torch.load_file(path)


def assert_same(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype, key
        assert torch.equal(tensor, theirs[key]), key


def statistics_normalised(tensors: Tensors) -> Tensors:
    """Codebooks as this project writes them: centroids, each used once."""
    out = dict(tensors)
    for key, total in tensors.items():
        if key.endswith("embedding_sum"):
            stem = key.removesuffix("embedding_sum")
            usage = tensors[f"{stem}cluster_usage"].float()
            out[key] = total.float() / usage.clamp(min=1e-5)[:, None]
            out[f"{stem}cluster_usage"] = torch.ones_like(usage)
            out[f"{stem}_initialized"] = torch.ones(1)
    return out


def golden_codec_folder(folder: Path) -> Path:
    folder /= "codec"
    folder.mkdir()
    save(folder / "model.safetensors", golden_tensors("mimi"))
    (folder / "config.json").write_text(json.dumps(golden_config("mimi")))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model in Kyutai's layout: language model in bfloat16, codec in float32, tokenizer."""
    return whole_model(tmp_path / "kyutai", "lm_duplex")


def whole_model(folder: Path, name: str, **config: Any) -> Path:
    names = {"mimi_name": "mimi.safetensors", "mimi_config_name": "codec.json",
             "tokenizer_name": "t.model"}  # fmt: skip
    tensors = safetensors.torch.load_file(GOLDEN / name / "model.safetensors")
    write_folder(folder, golden_config(name) | names | config, tensors)
    save(folder / "mimi.safetensors", golden_tensors("mimi"))
    (folder / "codec.json").write_text(json.dumps(golden_config("mimi")))
    (folder / "t.model").write_bytes(b"pieces")
    return folder


@pytest.mark.parametrize("middle", ["duologue", "transformers"])
def test_codec_there_and_back(middle: str, tmp_path: Path) -> None:
    source = golden_codec_folder(tmp_path)
    there = quietly(source, tmp_path / "there", middle)
    back = quietly(there, tmp_path / "back", "kyutai")
    expected = statistics_normalised(tensors_of(source / "model.safetensors"))
    assert_same(tensors_of(back / "model.safetensors"), expected)
    assert load_codec(back).config == load_codec(source).config
    pcm = integers("mimi", "pcm_i16")[None, None].float() / 32768
    for folder in (there, back):
        assert torch.equal(load_codec(folder).encode(pcm)[0], integers("mimi", "codes"))
        assert describe(folder).problem is None


def test_codec_layout_is_that_of_the_program(tmp_path: Path) -> None:
    source = golden_codec_folder(tmp_path)
    there = quietly(source, tmp_path / "there", "transformers")
    normalised = statistics_normalised(golden_tensors("mimi"))
    expected = transformers_mimi(normalised, golden_config("mimi"))
    assert_same(tensors_of(there / "model.safetensors"), expected)
    with safetensors.safe_open(there / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    values = json.loads((there / "config.json").read_text())
    wanted = transformers_mimi_config(golden_config("mimi"))
    assert {key: values[key] for key in wanted} == wanted


def test_codec_as_one_file(tmp_path: Path) -> None:
    source = golden_codec_folder(tmp_path) / "model.safetensors"
    target = quietly(source, tmp_path / "mimi.safetensors", "duologue")
    (tmp_path / "config.json").write_text(json.dumps(golden_config("mimi")))
    with safetensors.safe_open(target, "pt") as file:
        assert file.metadata() == {"format": "duologue"}
        assert "quantizer.rest.codebooks.4.embedding" in file.keys()  # noqa: SIM118
    assert load_codec(target).config == load_codec(source).config


@pytest.mark.parametrize("middle", ["duologue", "transformers"])
def test_model_there_and_back(middle: str, model: Path, tmp_path: Path) -> None:
    there = quietly(model, tmp_path / "there", middle)
    back = quietly(there, tmp_path / "back", "kyutai")
    name = "model.safetensors"
    assert_same(tensors_of(back / name), tensors_of(model / name))
    codec = statistics_normalised(tensors_of(model / "mimi.safetensors"))
    assert_same(tensors_of(back / "mimi.safetensors"), codec)
    for folder in (there, back):
        assert describe(folder).problem is None
        assert (folder / "t.model").read_bytes() == b"pieces"
        assert load_codec(folder).num_codebooks == 4
        ours, theirs = load_lm(folder), load_lm(model)
        assert ours.config.to_dict() == theirs.config.to_dict()
        assert_same(ours.state_dict(), theirs.state_dict())


def test_model_layout_is_that_of_the_program(model: Path, tmp_path: Path) -> None:
    there = quietly(model, tmp_path / "there", "transformers")
    written = tensors_of(there / "model.safetensors")
    config = golden_config("lm_duplex")
    expected = transformers_moshi(golden_tensors("lm_duplex"), config)
    expected = {key: value.bfloat16() for key, value in expected.items()}
    normalised = statistics_normalised(golden_tensors("mimi"))
    expected |= transformers_mimi(normalised, golden_config("mimi"), "audio_encoder.")
    assert_same(written, expected)
    values = json.loads((there / "config.json").read_text())
    assert values["dtype"] == "bfloat16"
    assert values["audio_encoder_config"]["dtype"] == "float32"


def test_speech_to_text(tmp_path: Path) -> None:
    tensors = {k: v for k, v in golden_tensors("lm_stt").items() if not k.startswith("extra_heads")}
    delays = {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.0}
    source = whole_model(
        tmp_path / "k", "lm_stt", extra_heads_num_heads=0, model_type="stt",
        stt_config={**delays, "beam": {"width": 2}},
    )  # fmt: skip
    save(source / "model.safetensors", tensors)
    there = quietly(source, tmp_path / "there", "transformers")
    written = tensors_of(there / "model.safetensors")
    expected = transformers_stt(tensors, golden_config("lm_stt"))
    expected["lm_head.weight"][-1] = 0
    assert_same({k: v for k, v in written.items() if not k.startswith("codec_model.")}, expected)
    back = quietly(there, tmp_path / "back", "kyutai")
    assert_same(tensors_of(back / "model.safetensors"), tensors)
    assert json.loads((back / "config.json").read_text())["stt_config"] == delays
    assert json.loads((back / "config.json").read_text())["model_type"] == "stt"


@pytest.mark.parametrize("name", ["lm_schedule", "lm_conditioned", "lm_cross"])
def test_other_models_through_our_layout(name: str, tmp_path: Path) -> None:
    there = quietly(GOLDEN / name, tmp_path / "there", "duologue")
    back = quietly(there, tmp_path / "back", "kyutai")
    expected = load_lm(GOLDEN / name).state_dict()
    for folder in (there, back):
        assert_same(load_lm(folder).state_dict(), expected)
    assert json.loads((there / "config.json").read_text())["format"] == "duologue"
    assert "format" not in json.loads((back / "config.json").read_text())


def test_row_quantised_there_and_back(tmp_path: Path) -> None:
    """Integer weights stay, and read the same; `quantize` is said where it is true."""
    there = quietly(GOLDEN / "lm_q8", tmp_path / "there", "duologue")
    back = quietly(there, tmp_path / "back", "kyutai")
    assert_same(
        tensors_of(back / "model.safetensors"), tensors_of(GOLDEN / "lm_q8/model.safetensors")
    )
    assert json.loads((back / "config.json").read_text())["quantize"] is True
    assert "quantize" not in json.loads((there / "config.json").read_text())
    for folder in (there, back):
        assert isinstance(load_lm(folder).text_linear, QuantizedLinear)
        assert describe(folder).problem is None


@pytest.mark.parametrize("bits", [8, 4])
def test_group_quantised(bits: int, tmp_path: Path) -> None:
    """MLX's codes stay in our layout; Kyutai's has none, so they are widened."""
    config = golden_config("lm_duplex")
    stored, wide = mlx_quantized(sliced(golden_tensors("lm_duplex"), config, "mlx"), bits, 32)
    source = write_folder(tmp_path / "mlx", config, stored)
    there = quietly(source, tmp_path / "there", "duologue")
    module = load_lm(there).text_linear
    assert isinstance(module, QuantizedLinear)
    assert torch.equal(module.quantized_weight.dequantize(), wide["text_linear.weight"])
    flat = tensors_of(quietly(source, tmp_path / "k", "kyutai") / "model.safetensors")
    assert torch.equal(flat["text_linear.weight"], wide["text_linear.weight"].bfloat16())


def test_adapters(model: Path, tmp_path: Path) -> None:
    """Copied where the layout has adapters, fused where it has none."""
    adapter = {"text_linear.lora_A.weight": torch.randn(2, 64),
               "text_linear.lora_B.weight": torch.randn(96, 2)}  # fmt: skip
    save(model / "lora.safetensors", adapter)
    values = json.loads((model / "config.json").read_text()) | {"lora": True, "lora_scaling": 0.5}
    (model / "config.json").write_text(json.dumps(values))
    # In the file's own precision, in which the adapter is fused where it is.
    expected = load_lm(model, dtype=torch.bfloat16).text_linear.weight
    for to in LAYOUTS:
        folder = quietly(model, tmp_path / f"to-{to}", to)
        assert torch.equal(load_lm(folder, dtype=torch.bfloat16).text_linear.weight, expected)
        assert (folder / "lora.safetensors").exists() == (to != "transformers")


def test_expanded_depth_is_written_out(tmp_path: Path) -> None:
    changes = {"dep_q": 8, "model_type": "personaplex", "generated_q": 4}
    source = whole_model(tmp_path / "half", "lm_duplex", **changes)
    written = tensors_of(quietly(source, tmp_path / "k", "kyutai") / "model.safetensors")
    assert torch.equal(written["linears.7.weight"], written["linears.3.weight"])


def test_voice(tmp_path: Path) -> None:
    values = {"embeddings": torch.randn(3, 1, 1, 8), "cache": torch.ones(1, 17, 4).long()}
    torch.save(values, tmp_path / "v.pt")
    target = quietly(tmp_path / "v.pt", tmp_path / "v.safetensors", "duologue")
    voice = load_voice(target)
    assert voice.embeddings is not None
    assert torch.equal(voice.embeddings, values["embeddings"][:, 0, 0])
    with pytest.raises(CheckpointError, match=r"written to a \.safetensors file"):
        quietly(target, tmp_path / "v.bin", "duologue")


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("lm_schedule", {}, "n_q"),
        ("lm_cross", {}, "cross_attention"),
        ("lm_conditioned", {}, "delays"),
        ("lm_stt", {}, "extra_heads_num_heads"),
        ("lm_duplex", {"delays": [0, 0, 2, 2, 2, 0, 2, 2, 2]}, "delays"),
    ],
)
def test_models_that_transformers_cannot_hold(
    name: str, changes: dict[str, Any], field: str, tmp_path: Path
) -> None:
    source = whole_model(tmp_path / "k", name, **changes)
    with pytest.raises(CheckpointError, match=f"cannot hold this model: {field} is"):
        quietly(source, tmp_path / "t", "transformers")
    assert not (tmp_path / "t").exists()


def test_transformers_needs_the_codec(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no codec"):
        quietly(GOLDEN / "lm_duplex", tmp_path / "t", "transformers")


def test_nothing_is_overwritten_unasked(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists"):
        quietly(model, target, "duologue")
    quietly(model, target, "duologue", force=True)
    assert (target / "notes.txt").read_text() == "mine"
    assert describe(target).problem is None
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"old")
    with pytest.raises(CheckpointError, match="exists"):
        quietly(model / "mimi.safetensors", file, "duologue")
    assert file.read_bytes() == b"old"
    quietly(model / "mimi.safetensors", file, "duologue", force=True)
    assert describe(file).parts


@pytest.mark.parametrize("inside", [False, True])
def test_source_is_not_its_own_target(inside: bool, model: Path) -> None:
    with pytest.raises(CheckpointError, match="the source itself"):
        quietly(model, model / "new" if inside else model, "duologue", force=True)


def test_failed_write_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    target = tmp_path / "there"
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        quietly(model, target, "duologue")
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "target", "to", "message"),
    [
        ("gone", "t", "kyutai", "no such file"),
        ("kyutai", "t", "onnx", "is no layout"),
        ("kyutai/model.safetensors", "t", "kyutai", "converted as a folder"),
        ("kyutai", "t.safetensors", "kyutai", "target is a folder"),
        ("kyutai/codec.json", "t", "kyutai", "not a safetensors file"),
    ],
)
@pytest.mark.usefixtures("model")
def test_refusals(source: str, target: str, to: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        quietly(tmp_path / source, tmp_path / target, to)
    assert not (tmp_path / target).exists()


def test_progress_on_the_terminal(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "there")
    assert duologue.load_lm(tmp_path / "there").config.dep_q == 4


def test_a_conversation_sounds_the_same_from_every_layout(tmp_path: Path) -> None:
    """To the bit: also where a file's header moves its tensors to other addresses."""
    create_untrained(tmp_path / "original", "tiny", seed=1)
    pcm = torch.rand(6 * 1920, generator=torch.Generator().manual_seed(0)) - 0.5

    def talk(folder: Path) -> torch.Tensor:
        duplex = Duplex(load_codec(folder, device="cpu"), load_lm(folder, device="cpu"), seed=3)
        return converse(duplex, pcm).pcm

    expected = talk(tmp_path / "original")
    for to in ("kyutai", "duologue"):
        assert torch.equal(talk(quietly(tmp_path / "original", tmp_path / to, to)), expected)


def test_our_own_layout_keeps_all_that_belongs_to_a_model(tmp_path: Path) -> None:
    wren = Path(duologue.__file__).parent / "models" / "wren"
    there = quietly(wren, tmp_path / "there", "duologue")
    for part in ("reference", "stt"):
        files = [path for path in (wren / part).iterdir() if path.is_file()]
        assert files
        assert all((there / part / path.name).read_bytes() == path.read_bytes() for path in files)
    convert(wren, there, "duologue", force=True)


def test_what_only_we_know_stays_here(tmp_path: Path) -> None:
    """wren listens to its recogniser, which hears spectra; the published programs know neither."""
    wren = Path(duologue.__file__).parent / "models" / "wren"
    there = quietly(wren, tmp_path / "there", "kyutai")
    config = json.loads((there / "config.json").read_text())
    assert "heard_dim" not in config
    assert {"pooled_from_text", "quoting"}.isdisjoint(config["lm_gen_config"])
    assert not any("hearing" in name for name in tensors_of(there / "model.safetensors"))
    assert load_lm(there).config == replace(load_lm(wren).config, heard_dim=None)
    with pytest.raises(CheckpointError, match="front end of its own"):
        quietly(wren / "stt", tmp_path / "ears", "kyutai")
