"""`duologue quantize` and the distance it reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import duologue
from duologue.checkpoints.quantize import quantize, quantize_folder
from duologue.checkpoints.untrained import create_untrained
from duologue.cli.main import app
from duologue.errors import DuologueError
from duologue.evaluation.precision import measure_distance, self_talk
from duologue.nn.linear import QuantizedLinear


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    create_untrained(folder, "tiny")
    return folder


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_quantised_folder_is_the_model_quantised_when_it_is_loaded(
    model: Path, tmp_path: Path, bits: str
) -> None:
    target = tmp_path / bits
    arguments = ["quantize", str(model), str(target), "--to", bits, "--json"]
    report = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    stored = duologue.load_lm(target, device="cpu")
    loaded = duologue.load_lm(model, device="cpu", quantization=bits)
    assert stored.state_dict().keys() == loaded.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(stored.state_dict()[name], tensor), name
    maps = [m for m in stored.modules() if isinstance(m, QuantizedLinear)]
    assert {m.bits for m in maps} == {8 if bits == "int8" else 4, *([8] if bits == "int4" else [])}
    assert report["bytes"] == sum(p.stat().st_size for p in target.glob("model.safetensors"))
    assert duologue.load_codec(target, device="cpu").num_codebooks == 8


def test_a_model_that_shares_its_file_is_to_be_converted_first(model: Path, tmp_path: Path) -> None:
    shared, target = tmp_path / "shared", tmp_path / "int8"
    shared.mkdir()
    for path in model.iterdir():
        (shared / path.name).write_bytes(path.read_bytes())
    values = json.loads((shared / "config.json").read_text())
    together = {**values, "mimi_name": values["moshi_name"]}
    (shared / "config.json").write_text(json.dumps(together))
    with pytest.raises(DuologueError, match="run `duologue convert` first"):
        quantize_folder(shared, target, "int8")
    assert not target.exists(), "nothing is left behind"


def test_fewer_bits_are_farther_and_none_are_nowhere(model: Path) -> None:
    wide = duologue.load_lm(model, device="cpu")
    talk = list(self_talk(wide, 12, pairs=1))
    assert talk[0].shape == (2, 1 + wide.config.n_q, 12)
    # Each hears what the other said a frame before.
    spoken, heard = talk[0][:, 1:9], talk[0][:, 9:]
    assert torch.equal(heard[0, :, 1:], spoken[1, :, :-1])
    distances = []
    for bits in (None, "int8", "int4"):
        narrow = duologue.load_lm(model, device="cpu")
        if bits:
            quantize(narrow, bits)
        distances.append(measure_distance(wide, narrow, talk))
    same, eight, four = distances
    assert (same.text_agreement, same.audio_agreement) == (1.0, 1.0)
    assert same.text_kl == pytest.approx(0, abs=1e-7)
    assert 0 < eight.text_kl < four.text_kl / 10
    assert 0 < eight.audio_kl < four.audio_kl / 10


def test_it_needs_a_target_or_a_question(model: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["quantize", str(model)])
    assert isinstance(result.exception, DuologueError)
    (tmp_path / "full").write_text("x")
    result = runner.invoke(app, ["quantize", str(model), str(tmp_path)])
    assert "not empty" in str(result.exception)
