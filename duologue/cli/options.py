"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import nn

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A bundled model's name, a folder, or a hub id.", show_default=True
    ),
]
CodecModel = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A bundled model's name, a folder, a file of a codec, or a hub id.",
        show_default=True,
    ),
]  # fmt: skip
Device = Annotated[
    str, typer.Option("--device", help="`auto`, `cpu`, `cuda`, `cuda:1`.", show_default=True)
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads; if not given, one for small models, all cores for large ones.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON only.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")]
DEFAULT_MODEL = "wren"


SMALL_MODEL = 50_000_000
"""Parameters up to which one thread is used: threads that wait for each other cost more there than
they save, above all beside other work."""


def use_threads(count: int | None, *models: nn.Module) -> None:
    """Set torch's thread count: as wanted, or as suits the models."""
    import torch

    if count is not None:
        torch.set_num_threads(count)
    elif sum(p.numel() for model in models for p in model.parameters()) <= SMALL_MODEL:
        torch.set_num_threads(1)


def check_output(path: Path, force: bool) -> None:
    """Refuse to overwrite a file unless told to, and to begin what could not be written."""
    from duologue.errors import DuologueError

    if not path.parent.is_dir():
        raise DuologueError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not force:
        raise DuologueError(f"{path} exists; use --force to overwrite it")
