"""A small copy of a model folder, for shipping: one byte an element where that changes little.

Matrices and kernels are stored in rows of bytes and made whole when they are read, so whoever
loads the folder sees an ordinary model. What decides which code a sound becomes (the codebooks and
their projections) stays exact: codes that a language model was trained on keep their meaning.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from duologue.checkpoints.duologue_format import FORMAT, stored_compactly
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.save import write_tensors
from duologue.checkpoints.tensorfile import open_tensors

_EXACT = ("quantizer.",)
_COPIED = frozenset({".json", ".model", ".md", ".txt"})


def compact_folder(source: Path, target: Path) -> int:
    """Write a small copy of a model folder of ours, subfolders included.

    Returns:
        Bytes in all files written.

    Raises:
        CheckpointError: a file is not in our own layout, or there is nothing to copy.
    """
    if not (source / "config.json").is_file():
        raise CheckpointError(f"{source}: no config.json, so this is no model folder")
    total = 0
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        copy = target / inside
        if path.suffix == ".safetensors":
            _compact_file(path, copy)
        elif path.suffix in _COPIED:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        else:
            continue
        total += copy.stat().st_size
    return total


def _compact_file(path: Path, copy: Path) -> None:
    source = open_tensors(path)
    tensors: dict[str, Tensor] = {name: source[name] for name in source}
    small = stored_compactly(tensors, exact=lambda name: name.startswith(_EXACT))
    metadata = {"format": FORMAT}
    write_tensors(copy, {name: _narrow(name, t) for name, t in small.items()}, metadata)


def _narrow(name: str, tensor: Tensor) -> Tensor:
    """float32 to float16 where it is not to stay exact; scales and short vectors stay."""
    wide = tensor.dtype == torch.float32 and tensor.dim() > 1
    return tensor.half() if wide and not name.startswith(_EXACT) else tensor
