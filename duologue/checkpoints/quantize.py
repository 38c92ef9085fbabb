"""Quantising a model's linear maps, in memory and as a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from duologue.checkpoints.duologue_format import stored_rows
from duologue.checkpoints.errors import CheckpointError
from duologue.moshi.lm import MoshiLM
from duologue.nn.linear import (
    GROUP,
    Linear,
    QuantizedLinear,
    quantize_groups,
    quantize_rows,
    replace_linears,
)

QUANTIZATIONS = ("int8", "int4")
"""`int8`: a scale per row. `int4`: a scale per 32 columns; maps of other widths get 8 bits."""
STORED = "stored"
"""Of `load_lm`: as the file has it, bytes included."""
_EXACT = ("condition_provider.",)


def quantize(lm: MoshiLM, quantization: str) -> None:
    """Replace the linear maps of `lm`, but for its conditioners, by quantised ones."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization: {quantization!r} is none of {', '.join(QUANTIZATIONS)}")

    def quantized(name: str, linear: Linear) -> QuantizedLinear | None:
        if name.startswith(_EXACT):
            return None
        narrow = quantization == "int4" and not linear.in_features % GROUP
        return QuantizedLinear((quantize_groups if narrow else quantize_rows)(linear.weight))

    replace_linears(lm, quantized)


def keep_stored(lm: MoshiLM, tensors: Mapping[str, Tensor]) -> None:
    """Hold the linear maps that a small file of ours stores in bytes as those bytes: same values,
    a quarter of the memory to read."""

    def stored(name: str, linear: Linear) -> QuantizedLinear | None:
        weight = stored_rows(tensors, f"{name}.weight")
        return None if weight is None or name.startswith(_EXACT) else QuantizedLinear(weight)

    replace_linears(lm, stored)


def quantize_folder(source: Path, target: Path, quantization: str) -> int:
    """Write a model folder with its language model quantised; everything else is copied.

    Returns:
        Bytes of the language model written.

    Raises:
        CheckpointError: `source` is no model folder, or `target` is not empty.
    """
    from duologue.checkpoints.duologue_format import FORMAT, pack, weights_of
    from duologue.checkpoints.folder import ModelFolder, read_json
    from duologue.checkpoints.load import load_lm
    from duologue.checkpoints.save import write_json, write_tensors

    folder = ModelFolder.open(source)
    if target.exists() and any(target.iterdir()):
        raise CheckpointError(f"{target}: exists and is not empty")
    if folder.config.lora is not None:
        raise CheckpointError(f"{source}: fuse its adapter first (`duologue convert`)")
    if folder.config.moshi_name == folder.config.mimi_name or folder.moshi_path.suffix == ".json":
        raise CheckpointError(
            f"{source}: its language model is no file of its own; run `duologue convert` first"
        )
    described = source / "config.json"
    values = read_json(described) if described.is_file() else folder.config.to_dict()
    lm = load_lm(source, device="cpu", quantization=quantization, runtime="eager")
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        if path == folder.moshi_path:
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / inside)
    name = Path(folder.config.moshi_name).with_suffix(".safetensors").name
    tensors = {key: tensor.contiguous() for key, tensor in pack(weights_of(lm)).items()}
    write_tensors(target / name, tensors, {"format": FORMAT})
    write_json(target / "config.json", {**values, "format": FORMAT, "moshi_name": name})
    return (target / name).stat().st_size
