"""Writing checkpoints in our own layout: our tensor names, published configuration keys.

Files are written beside their target and moved over it, so a killed program leaves the old file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from duologue.checkpoints.duologue_format import FORMAT, pack, weights_of
from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.layout import Weight
from duologue.mimi.codec import Mimi
from duologue.moshi.lm import MoshiLM
from duologue.nn.linear import QuantizedWeight


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one safetensors file atomically."""
    flat = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        safetensors.torch.save_file(flat, temporary, metadata=dict(metadata))
        # The library makes files that only their owner may read.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write one JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def save_codec(
    folder: Path,
    codec: Mimi,
    *,
    dtype: torch.dtype | None = None,
    config_name: str = "config.json",
    weights_name: str = "model.safetensors",
) -> None:
    """Write a codec's shape and weights into `folder`; `dtype` narrows the weights."""
    write_json(folder / config_name, {"format": FORMAT, **codec.config.to_dict()})
    write_tensors(folder / weights_name, _narrowed(codec, dtype), {"format": FORMAT})


def save_lm(
    folder: Path, lm: MoshiLM, config: FolderConfig, *, dtype: torch.dtype | None = None
) -> None:
    """Write a language model and the folder's configuration; conditioners stay in float32."""
    write_json(folder / "config.json", {"format": FORMAT, **config.to_dict()})
    write_tensors(folder / config.moshi_name, _narrowed(lm, dtype), {"format": FORMAT})


def _narrowed(module: torch.nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors of a file; quantised matrices and conditioners are not narrowed."""

    def narrow(name: str, weight: Weight) -> Weight:
        if dtype is None or isinstance(weight, QuantizedWeight):
            return weight
        kept = name.startswith("condition_provider.") or not weight.is_floating_point()
        return weight if kept else weight.to(dtype)

    return pack({name: narrow(name, weight) for name, weight in weights_of(module).items()})


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
