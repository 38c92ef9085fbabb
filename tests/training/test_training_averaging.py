"""The mean of models: of every weight, of nothing else, and only of models that are alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.folders import write_model
from typer.testing import CliRunner

import duologue
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import ModelFolder
from duologue.checkpoints.load import load_lm
from duologue.cli.main import app
from duologue.training.averaging import average_folders

WREN = Path(duologue.__file__).parent / "models" / "wren"


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A model, and two that have gone on from it."""
    first = write_model(tmp_path / "first")
    others = [Path(shutil.copytree(first, tmp_path / name)) for name in ("second", "third")]
    for step, model in enumerate(others, 1):
        path = model / "model.safetensors"
        weights = load_file(path)
        moved = {name: w + 3 * step if w.is_floating_point() else w for name, w in weights.items()}
        save_file(moved, path)
    return [first, *others]


def test_every_weight_is_the_mean(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "mean"
    result = CliRunner().invoke(app, ["train", "average", *map(str, models), "--out", str(out)])
    assert result.exit_code == 0, result.output
    one, mean = (load_file(model / "model.safetensors") for model in (models[0], out))
    assert one.keys() == mean.keys()
    for name, weight in one.items():
        assert weight.dtype == mean[name].dtype
        torch.testing.assert_close(
            mean[name], weight + 3.0 if weight.is_floating_point() else weight
        )
    load_lm(out, device="cpu")
    rest = {path.relative_to(models[0]) for path in models[0].rglob("*") if path.is_file()}
    assert rest == {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="not empty"):
        average_folders(models, out)


def test_of_equal_models_it_is_the_same(models: list[Path], tmp_path: Path) -> None:
    average_folders([models[1], models[1]], tmp_path / "same")
    one, mean = (load_file(m / "model.safetensors") for m in (models[1], tmp_path / "same"))
    assert all(torch.equal(one[name], mean[name]) for name in one)


def test_models_that_are_not_alike_have_none(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "mean"
    with pytest.raises(CheckpointError, match="at least two"):
        average_folders(models[:1], out)
    weights = load_file(models[1] / "model.safetensors")
    save_file({**weights, "more": torch.zeros(2)}, models[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="not of the same tensors"):
        average_folders(models, out)
    codec = ModelFolder.open(models[2]).config.mimi_name
    heard = load_file(models[2] / codec)
    moved = {name: w + 0.5 if w.is_floating_point() else w for name, w in heard.items()}
    save_file(moved, models[2] / codec)
    with pytest.raises(CheckpointError, match="codes"):
        average_folders([models[0], models[2]], out)
    assert not out.exists()


def test_recognisers_are_averaged_with_their_front_ends(tmp_path: Path) -> None:
    """They have no codec to compare."""
    models = [Path(shutil.copytree(WREN / "stt", tmp_path / name)) for name in ("one", "two")]
    for number, model in enumerate(models):
        for name in ("model", "front_end"):
            save_file({"w": torch.full((3,), 2.0 * number)}, model / f"{name}.safetensors")
    assert average_folders(models, tmp_path / "mean") == 2
    for name in ("model", "front_end"):
        assert load_file(tmp_path / "mean" / f"{name}.safetensors")["w"].tolist() == [1.0] * 3


def test_bundled_models_are_refused(tmp_path: Path) -> None:
    """Their weights are whole numbers, whose scales differ."""
    models = [Path(shutil.copytree(WREN / "stt", tmp_path / name)) for name in ("one", "two")]
    weights = load_file(models[1] / "model.safetensors")
    name = next(name for name, weight in weights.items() if weight.dtype == torch.int8)
    save_file({**weights, name: weights[name] + 1}, models[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} has no fractions to average"):
        average_folders(models, tmp_path / "mean")
