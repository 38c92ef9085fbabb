"""What a checkpoint is, and whether it loads, from its headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from duologue.checkpoints.detect import (
    detect_codec_format,
    detect_lm_format,
    find_codec_format,
    find_lm_format,
    prepare_codec,
    prepare_lm,
    select_codec,
    select_lm,
)
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import (
    ModelFolder,
    codec_config_beside,
    read_codec_config,
    read_json,
)
from duologue.checkpoints.gguf import GGUFFile
from duologue.checkpoints.layout import Layout
from duologue.checkpoints.load import build_lm
from duologue.checkpoints.reference import is_reference_encoder
from duologue.checkpoints.sources import HeaderSource
from duologue.checkpoints.tensorfile import TensorSource, open_tensors
from duologue.checkpoints.voices import load_voice
from duologue.mimi.codec import Mimi
from duologue.mimi.config import MimiConfig

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class ModuleSummary:
    """One top-level module of a model."""

    name: str
    tensors: int
    elements: int


@dataclass(frozen=True)
class PartSummary:
    """One model in a checkpoint."""

    file: str
    kind: str
    """language model, codec, adapter, reference encoder, voice or unknown"""
    format: str
    """Layout of its tensors; empty where there is no file."""
    tensors: int = 0
    elements: int = 0
    bytes: int = 0
    """Size of the tensors in the file."""
    dtypes: dict[str, int] = field(default_factory=dict)
    """Tensors by how the file stores them."""
    modules: tuple[ModuleSummary, ...] = ()
    problem: str | None = None
    """Why it does not load; `None` if it does, as far as headers tell."""
    note: str | None = None
    """What could not be checked."""


@dataclass(frozen=True)
class Description:
    """A checkpoint: a file, or a folder with its models."""

    path: str
    kind: str
    """Kind of its (first) model; of a language model, the configuration's `model_type`."""
    config: dict[str, Any] | None
    parts: tuple[PartSummary, ...]
    problem: str | None


def describe(path: Path) -> Description:
    """Look into a checkpoint; what is wrong with it is in `problem`, never an exception."""
    try:
        return _describe_folder(path) if path.is_dir() else _describe_file(path)
    except (CheckpointError, ValueError, OSError) as error:
        return Description(str(path), "unknown", None, (), str(error))


def render(description: Description) -> None:
    """Print a description as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"{description.path}: {description.kind}", "bold")
    for part in description.parts:
        if not part.format:
            say(f"\nno {part.kind}: {part.note}")
            continue
        stored = ", ".join(f"{count} {name}" for name, count in part.dtypes.items())
        say(
            f"\n{part.kind} in {part.file} ({part.format} layout): {part.tensors} tensors, "
            f"{part.elements:,} elements, {part.bytes / 2**20:,.1f} MiB; {stored}"
        )
        table = Table("module", "tensors", "elements", box=None, pad_edge=False)
        for module in part.modules:
            table.add_row(module.name, str(module.tensors), f"{module.elements:,}")
        console.print(table)
        verdict = part.problem or part.note or "loads: every tensor has its place and shape"
        say(verdict, "red" if part.problem else None)
    if description.problem and not any(part.problem for part in description.parts):
        say(description.problem, "red")


def _describe_folder(path: Path) -> Description:
    config_file = path / CONFIG_FILE
    codec = read_codec_config(config_file)
    values = read_json(config_file) if config_file.is_file() else None
    if codec is not None:
        part = _codec_part(path / "model.safetensors", codec)
        return Description(str(path), "codec", values, (part,), part.problem)
    folder = ModelFolder.open(path)
    parts = [_lm_part(folder, folder.moshi_path)]
    try:
        parts.append(_codec_part(folder.mimi_path, folder.mimi_config))
    except CheckpointError as error:
        missing = PartSummary(folder.config.mimi_name, "codec", "", note=str(error))
        parts.append(missing)
    problem = next((part.problem for part in parts if part.problem), None)
    return Description(str(path), folder.config.model_type, values, tuple(parts), problem)


def _describe_file(path: Path) -> Description:
    if path.suffix in (".pt", ".pth"):
        load_voice(path)
        part = PartSummary(path.name, "voice", "torch archive", bytes=path.stat().st_size)
        return Description(str(path), "voice", None, (part,), None)
    source = open_tensors(path)
    beside = path.parent / CONFIG_FILE
    values = None
    if find_lm_format(source) is not None:
        if beside.is_file():
            values = read_json(beside)
            part = _lm_part(ModelFolder.open(path.parent), path)
        else:
            note = f"no {CONFIG_FILE} beside it, so its shapes were not checked"
            part = _summary(source, "language model", detect_lm_format(source).value, note=note)
    elif find_codec_format(source) is not None:
        part = _codec_part(path, codec_config_beside(path))
    elif is_reference_encoder(source):
        part = _summary(source, "reference encoder", "kyutai")
    elif set(source) <= {"codes", "embeddings", "cache"} and len(source):
        load_voice(path)
        part = _summary(source, "voice", "duologue")
    elif any(".lora_A" in key for key in source):
        note = "adapters are checked against the model that they are loaded into"
        part = _summary(source, "adapter", "kyutai", note=note)
    else:
        detect_lm_format(source)  # says that it is none
        raise AssertionError
    return Description(str(path), part.kind, values, (part,), part.problem)


def _lm_part(folder: ModelFolder, path: Path) -> PartSummary:
    source = open_tensors(path)
    kind = detect_lm_format(source).value
    source = select_lm(source)
    lm = build_lm(folder)
    expand = folder.config.model_type == "personaplex"

    def prepare(header: TensorSource) -> tuple[TensorSource, Layout]:
        return prepare_lm(header, lm, expand_depth=expand)

    return _checked(source, "language model", kind, lm, prepare)


def _codec_part(path: Path, config: MimiConfig) -> PartSummary:
    source = open_tensors(path)
    kind = detect_codec_format(source).value
    source = select_codec(source)
    with torch.device("meta"):
        codec = Mimi(config)
    return _checked(source, "codec", kind, codec, lambda header: prepare_codec(header, codec))


def _checked(
    source: TensorSource, kind: str, layout_name: str, module: nn.Module,
    prepare: Callable[[TensorSource], tuple[TensorSource, Layout]],
) -> PartSummary:  # fmt: skip
    """Summary of a model whose shape is known, checked as loading would."""
    try:
        view, layout = prepare(HeaderSource(source))
    except CheckpointError as error:
        return _summary(source, kind, layout_name, problem=str(error))
    try:
        layout.read(view, module.state_dict())
    except CheckpointError as error:
        return _summary(source, kind, layout_name, view=view, problem=str(error))
    return _summary(source, kind, layout_name, view=view)


def _summary(
    source: TensorSource, kind: str, layout_name: str, *, view: TensorSource | None = None,
    problem: str | None = None, note: str | None = None,
) -> PartSummary:  # fmt: skip
    """Count tensors: sizes as the model sees them in `view`, dtypes as the file stores them."""
    view = source if view is None else view
    shapes = {key: torch.Size(view.info(key).shape).numel() for key in view}
    modules: dict[str, list[int]] = {}
    for key, count in shapes.items():
        modules.setdefault(key.partition(".")[0], []).append(count)
    stored = [_stored(source, key) for key in source]
    return PartSummary(
        file=Path(source.name).name,
        kind=kind,
        format=layout_name,
        tensors=len(shapes),
        elements=sum(shapes.values()),
        bytes=sum(size for _, size in stored),
        dtypes=dict(Counter(name for name, _ in stored)),
        modules=tuple(ModuleSummary(name, len(n), sum(n)) for name, n in modules.items()),
        problem=problem,
        note=note,
    )


def _stored(source: TensorSource, key: str) -> tuple[str, int]:
    """Type and bytes of a tensor in the file."""
    if isinstance(source, GGUFFile):
        return source.stored_as(key)
    info = source.info(key)
    count = torch.Size(info.shape).numel()
    return str(info.dtype).removeprefix("torch."), count * info.dtype.itemsize
