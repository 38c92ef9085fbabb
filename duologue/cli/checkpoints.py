"""`duologue checkpoints` and `duologue convert`: what a checkpoint is, and making it another."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from duologue.cli.options import Force, Json

app = typer.Typer(help="Look into checkpoints, or make untrained ones.", no_args_is_help=True)


class Format(StrEnum):
    """Layouts that can be written."""

    kyutai = "kyutai"
    duologue = "duologue"
    transformers = "transformers"


@app.command("inspect")
def inspect(
    path: Annotated[str, typer.Argument(help="Folder, file, bundled name or hub id.")],
    json_output: Json = False,
) -> None:
    """Say what a checkpoint is, how large, and whether it loads. Reads no weights.

    Examples:

        duologue checkpoints inspect path/to/moshiko-pytorch-bf16

        duologue checkpoints inspect model.q8.gguf --json
    """
    from duologue.checkpoints.folder import resolve
    from duologue.checkpoints.inspect import describe, render

    description = describe(resolve(path))
    if json_output:
        typer.echo(json.dumps(asdict(description), indent=1, default=str))
    else:
        render(description)
    if description.problem:
        raise typer.Exit(1)


@app.command("new")
def new(
    folder: Annotated[Path, typer.Argument(help="Folder to write; must be new or empty.")],
    preset: Annotated[str, typer.Option(help="Whose shape: `tiny`, `moshi-7b`, ...")] = "tiny",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a model with random weights: it speaks noise, at the speed of a trained one.

    Examples:

        duologue checkpoints new try-me

        duologue checkpoints new big --preset moshi-7b
    """
    from duologue.checkpoints.untrained import create_untrained

    create_untrained(folder, preset, seed=seed)
    typer.echo(
        f"{folder}: an untrained {preset}; try `duologue talk speech.wav -m {folder} -o out`"
    )


def convert(
    source: Annotated[str, typer.Argument(help="Folder, file, bundled name or hub id.")],
    target: Annotated[Path, typer.Argument(help="Folder or file to write.")],
    to: Annotated[Format, typer.Option("--to", help="Layout to write.")] = Format.duologue,
    force: Force = False,
) -> None:
    """Write a checkpoint in another layout; weights stay as they are.

    Examples:

        duologue convert path/to/moshiko moshiko-hf --to transformers

        duologue convert kyutai/mimi mimi.safetensors --to kyutai

        duologue convert NATF0.pt NATF0.safetensors
    """
    from duologue.checkpoints.convert import convert as run
    from duologue.checkpoints.folder import resolve

    run(resolve(source), target, to=to.value, force=force)
    typer.echo(f"{target}: written in the {to.value} layout")
