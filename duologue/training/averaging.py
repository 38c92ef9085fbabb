"""One model from several that training has passed through: the mean of their weights.

Models of one training, or of trainings that began with the same weights, lie near enough to each
other that their mean is a model too, and often a better one than each (arXiv 2203.05482,
1803.05407): what they overfit is not the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import ModelFolder
from duologue.checkpoints.load import load_codec
from duologue.stt import front_end_file
from duologue.training.encoded import codec_fingerprint

LEAST_MODELS = 2


def average_folders(models: Sequence[Path], out: Path) -> int:
    """Write a model folder with the mean of the weights of several; returns how many tensors.

    Language models are averaged with their reference encoders, recognisers with their front ends.
    Everything else is the first model's; if it has a codec, that must give the codes of all.

    Raises:
        CheckpointError: fewer than two models, one that is no model folder, models that are not of
            one shape or have other codecs, or `out` is not empty.
    """
    if len(models) < LEAST_MODELS:
        raise CheckpointError("give at least two models")
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out}: exists and is not empty")
    first = models[0]
    codec = ModelFolder.open(first).config.mimi_name
    if not (first / front_end_file.NAME).is_file():
        _check_codes(models)
    files = [
        path.relative_to(first)
        for path in sorted(first.rglob("*.safetensors"))
        if path != first / codec
    ]
    means = {file: _mean([model / file for model in models]) for file in files}
    shutil.copytree(first, out, dirs_exist_ok=True)
    for file, mean in means.items():
        save_file(mean, out / file)
    return sum(map(len, means.values()))


def _check_codes(models: Sequence[Path]) -> None:
    codes = [codec_fingerprint(load_codec(str(model), device="cpu")) for model in models]
    for model, own in zip(models, codes, strict=True):
        if own != codes[0]:
            raise CheckpointError(f"{model}: its codes are not those of {models[0]}")


def _mean(files: Sequence[Path]) -> dict[str, Tensor]:
    """Of each tensor that the files have; in the first one's type."""
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
    first, *others = map(load_file, files)
    shapes = {name: tensor.shape for name, tensor in first.items()}
    for file, other in zip(files[1:], others, strict=True):
        if {name: tensor.shape for name, tensor in other.items()} != shapes:
            raise CheckpointError(f"{file}: not of the same tensors as {files[0]}")
    for file, other in zip(files[1:], others, strict=True):
        for name, tensor in first.items():
            whole = not tensor.is_floating_point()
            if (whole or tensor.dtype.itemsize == 1) and not torch.equal(tensor, other[name]):
                raise CheckpointError(
                    f"{file}: {name} has no fractions to average: take models as training wrote "
                    "them, before `train bundle`"
                )
    return {
        name: torch.stack([tensor.double(), *(other[name].double() for other in others)])
        .mean(dim=0)
        .to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }
