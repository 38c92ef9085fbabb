"""A training state on disk: `step_00012000/` with `tensors.safetensors` and `state.json`.

A checkpoint is written beside its place and renamed into it, so a folder with that name is whole.
Nothing is pickled: optimiser and random states are tensors like any other.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_TENSORS, _VALUES = "tensors.safetensors", "state.json"


class TrainingStateError(ValueError):
    """A saved training state does not fit what is to be trained; names the tensor."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had not stopped."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save_checkpoint(root: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint under `root` and delete all but the newest `keep`."""
    folder = root / f"step_{checkpoint.step:08d}"
    scratch = root / f".{folder.name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    tensors = {name: t.detach().contiguous().cpu() for name, t in checkpoint.tensors.items()}
    safetensors.torch.save_file(_without_shared_memory(tensors), scratch / _TENSORS)
    text = json.dumps({"step": checkpoint.step, **checkpoint.values}, indent=1)
    (scratch / _VALUES).write_text(text + "\n", encoding="utf-8")
    for file in (scratch / _TENSORS, scratch / _VALUES):
        _flush(file)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def list_checkpoints(root: Path) -> list[Path]:
    """Folders of whole checkpoints, oldest first."""
    return sorted(path for path in root.glob("step_*") if (path / _VALUES).is_file())


def load_newest(root: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read, or `None` where there is none."""
    for folder in reversed(list_checkpoints(root)):
        try:
            return load_checkpoint(folder)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            logger.warning("%s cannot be read (%s); trying an older one", folder, error)
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder."""
    values = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
    tensors = safetensors.torch.load_file(folder / _TENSORS)
    return Checkpoint(values.pop("step"), tensors, values)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put names below a prefix."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `under`: only names below the prefix, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def copy_into(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], what: str) -> None:
    """Overwrite tensors in place; names and shapes must agree."""
    if wrong := sorted(targets.keys() ^ saved.keys()):
        state = "lacks" if wrong[0] in targets else "has an unknown"
        raise TrainingStateError(f"the saved {what} {state} {wrong[0]}; was the shape changed?")
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != saved[name].shape:
                raise TrainingStateError(
                    f"the saved {what} has {name} as {tuple(saved[name].shape)}, "
                    f"expected {tuple(target.shape)}"
                )
            target.copy_(saved[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory as `parameter/slot` -> tensor."""
    names = _parameter_names(optimizer)
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{slot}": torch.as_tensor(value)
        for index, slots in state.items()
        for slot, value in slots.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Give an optimiser the memory that `optimizer_tensors` took out."""
    places = {name: index for index, name in enumerate(_parameter_names(optimizer))}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        name, _, slot = key.rpartition("/")
        if name not in places:
            raise TrainingStateError(f"the saved optimizer has an unknown {name}")
        state.setdefault(places[name], {})[slot] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _parameter_names(optimizer: torch.optim.Optimizer) -> list[str]:
    """Names that `build_optimizer` gave, in the optimiser's own order."""
    return [name for group in optimizer.param_groups for name in group["names"]]


def plain(value: Any) -> Any:
    """A value as JSON would give it back."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _without_shared_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory; those are copied."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return separate


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
