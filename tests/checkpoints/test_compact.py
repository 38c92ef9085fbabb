"""Small copies of model folders give nearly the same model, and exactly the same codebooks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import duologue
from duologue.checkpoints.compact import compact_folder
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.tensorfile import open_tensors
from duologue.checkpoints.untrained import create_untrained


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("compact")
    create_untrained(root / "large", "tiny", dtype=torch.float32)
    compact_folder(root / "large", root / "small")
    return root / "large", root / "small"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_copy_is_small_and_nearly_the_same_model(folders: tuple[Path, Path]) -> None:
    large, small = folders
    assert size(small) < 0.6 * size(large)
    before, after = duologue.load_lm(large), duologue.load_lm(small)
    assert before.config == after.config
    names = dict(before.named_parameters())
    for name, weight in after.named_parameters():
        scale = names[name].float().abs().max()
        assert (weight.float() - names[name].float()).abs().max() <= 0.005 * scale, name
        assert weight.dtype == names[name].dtype


def test_codebooks_stay_exact(folders: tuple[Path, Path]) -> None:
    codecs = [duologue.load_codec(folder) for folder in folders]
    first, second = (codec.quantizer.state_dict() for codec in codecs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        compact_folder(tmp_path, tmp_path / "out")


def test_damaged_rows_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    import safetensors.torch

    _, small = folders
    path = next(small.glob("*.safetensors"))
    source = open_tensors(path)
    tensors = {name: source[name] for name in source}
    broken = next(name for name in tensors if name.endswith(".rows8_scales"))
    tensors[broken] = tensors[broken][:-1].clone()
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    from duologue.checkpoints.duologue_format import DuologueSource

    with pytest.raises(CheckpointError, match="no fitting scales"):
        DuologueSource(open_tensors(tmp_path / "x.safetensors"))[
            broken.removesuffix(".rows8_scales")
        ]
