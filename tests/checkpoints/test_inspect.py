"""`describe` tells what a checkpoint is from its headers, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from support.checkpoint_writers import (
    golden_config,
    golden_tensors,
    mlx_quantized,
    save,
    sliced,
    transformers_lm_config,
    transformers_mimi,
    transformers_mimi_config,
    transformers_moshi,
    write_folder,
    write_gguf,
)
from support.golden import GOLDEN

from duologue.checkpoints.inspect import Description, describe, render
from duologue.checkpoints.voices import Voice, save_voice


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of a safetensors file is ever read, unless a test says so."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("duologue.checkpoints.tensorfile.SafetensorsFile.__getitem__", refuse)


def loads(description: Description) -> bool:
    json.dumps(asdict(description))
    return description.problem is None and not any(part.problem for part in description.parts)


@pytest.mark.parametrize(
    "name", ["lm_duplex", "lm_schedule", "lm_stt", "lm_conditioned", "lm_cross"]
)
def test_published_folders(name: str) -> None:
    description = describe(GOLDEN / name)
    assert loads(description)
    model, codec = description.parts
    assert (model.kind, model.format) == ("language model", "kyutai")
    assert model.elements == sum(tensor.numel() for tensor in golden_tensors(name).values())
    assert model.tensors == len(golden_tensors(name))
    assert sum(module.elements for module in model.modules) == model.elements
    assert description.config == golden_config(name)
    assert codec.note is not None
    assert "no such file" in codec.note


def test_quantised_folder() -> None:
    description = describe(GOLDEN / "lm_q8")
    assert loads(description)
    part = description.parts[0]
    raw = golden_tensors("lm_q8")
    assert part.tensors == sum(not key.endswith("_scb") for key in raw)
    assert part.dtypes["int8"] == sum(key.endswith("_scb") for key in raw)


def test_codec_folder() -> None:
    description = describe(GOLDEN / "mimi")
    assert loads(description)
    assert description.kind == "codec"
    assert description.parts[0].bytes < (GOLDEN / "mimi" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("bits", [8, 4])
def test_mlx(bits: int, tmp_path: Path) -> None:
    config = golden_config("lm_duplex")
    tensors = sliced(golden_tensors("lm_duplex"), config, "mlx")
    stored, _ = mlx_quantized(tensors, bits, 32)
    part = describe(write_folder(tmp_path, config, stored)).parts[0]
    assert part.problem is None
    assert part.format == "mlx"
    assert part.elements == sum(tensor.numel() for tensor in tensors.values())
    assert part.dtypes["uint32"] * 2 == part.dtypes["bfloat16"]


def test_gguf(tmp_path: Path) -> None:
    config = golden_config("lm_duplex")
    tensors = sliced(golden_tensors("lm_duplex"), config, "candle")
    write_folder(tmp_path, config, {}, "m.gguf")
    write_gguf(tmp_path / "m.gguf", tensors, {"text_linear.weight": "q8_0"})
    part = describe(tmp_path).parts[0]
    assert part.problem is None
    assert part.dtypes == {"float32": len(tensors) - 1, "q8_0": 1}
    elements = tensors["text_linear.weight"].numel()
    rest = sum(tensor.numel() for tensor in tensors.values()) - elements
    assert part.bytes == 4 * rest + elements // 32 * 34


def test_transformers_folder(tmp_path: Path) -> None:
    """One file, two models."""
    config, codec = golden_config("lm_duplex"), golden_config("mimi")
    lm = transformers_moshi(golden_tensors("lm_duplex"), config)
    mimi = transformers_mimi(golden_tensors("mimi"), codec, "audio_encoder.")
    values = transformers_lm_config(config, transformers_mimi_config(codec))
    description = describe(write_folder(tmp_path, values, lm | mimi))
    assert loads(description)
    assert [part.tensors for part in description.parts] == [len(lm), len(mimi)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "emb.2.weight"},
            "lacks tensor emb.2.weight",
        ),
        (lambda t: t | {"odd": torch.zeros(1)}, "unexpected tensor odd"),
        (lambda t: t | {"emb.2.weight": torch.zeros(3, 3)}, "emb.2.weight has shape"),
        (lambda t: t | {"emb.2.weight": torch.zeros(49, 64).int()}, "expected floating point"),
        (lambda t: {"odd": torch.zeros(1)}, "no language model in a known format"),
    ],
)
def test_problems(change: Any, problem: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, golden_config("lm_duplex"), change(golden_tensors("lm_duplex")))
    description = describe(folder)
    assert description.problem is not None
    assert problem in description.problem
    render(description)


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("m.safetensors", b"junk", "too short"),
        ("m.gguf", b"junk" * 20, "not a GGUF file"),
        ("m.bin", b"junk", "pickled"),
        ("m.pt", b"junk", "not a readable archive"),
        ("config.json", b"[]", "too short"),
    ],
)
def test_files_that_are_none(name: str, data: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    description = describe(tmp_path / name)
    assert description.kind == "unknown"
    assert problem in (description.problem or "")
    assert describe(tmp_path).problem
    assert describe(tmp_path / "gone").problem


def test_lone_files(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", golden_tensors("lm_duplex"))
    part = describe(path).parts[0]
    assert part.note is not None
    assert "no config.json beside it" in part.note
    path = save(tmp_path / "l.safetensors", {"text_linear.lora_A.weight": torch.zeros(2, 2)})
    assert describe(path).kind == "adapter"
    path = save(tmp_path / "r.safetensors", {"embedder.tok_embeddings.weight": torch.zeros(2, 2)})
    assert describe(path).kind == "reference encoder"
    render(describe(path))


def test_voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    save_voice(tmp_path / "v.safetensors", Voice(codes=torch.zeros(8, 3).long()))
    assert describe(tmp_path / "v.safetensors").kind == "voice"
    values = {"embeddings": torch.zeros(2, 1, 1, 4), "cache": torch.zeros(1, 17, 3).long()}
    torch.save(values, tmp_path / "v.pt")
    assert describe(tmp_path / "v.pt").kind == "voice"


def test_render(capsys: pytest.CaptureFixture[str]) -> None:
    render(describe(GOLDEN / "lm_cross"))
    shown = capsys.readouterr().out
    assert "kyutai layout" in shown
    assert "condition_provider" in shown
    assert "loads: every tensor has its place" in shown
    codec = next(line for line in shown.splitlines() if "codec" in line)
    assert codec.startswith("no codec: ")
    assert "no such file (mimi_name names it)" in codec
    assert "none layout" not in shown
    assert shown.count("layout") == 1


def test_safetensors_library_is_not_the_judge(tmp_path: Path) -> None:
    """What we call readable, the library reads."""
    path = save(tmp_path / "m.safetensors", golden_tensors("mimi"))
    with safetensors.safe_open(path, "pt") as file:
        assert len(file.keys()) == describe(path).parts[0].tensors
