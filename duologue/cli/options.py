"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A bundled model's name, a folder, a file, or a hub id.",
        show_default=True,
    ),
]  # fmt: skip
Device = Annotated[
    str, typer.Option("--device", help="`auto`, `cpu`, `cuda`, `cuda:1`.", show_default=True)
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; torch's choice if not given.")
]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON only.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")]
DEFAULT_MODEL = "wren"


def use_threads(count: int | None) -> None:
    """Set torch's thread count, if one is wanted."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def check_output(path: Path, force: bool) -> None:
    """Refuse to overwrite a file unless told to."""
    from duologue.errors import DuologueError

    if path.exists() and not force:
        raise DuologueError(f"{path} exists; use --force to overwrite it")
