"""`duologue quantize`: the same model in fewer bits, and how far that is from the original."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duologue.cli.options import Json

if TYPE_CHECKING:
    from duologue.evaluation.precision import Distance

FRAMES = 250
"""Of each conversation that is compared: 20 s."""


class Bits(StrEnum):
    """What weights are quantised to."""

    int8 = "int8"
    int4 = "int4"


def quantize(
    source: Annotated[str, typer.Argument(help="A bundled model's name, a folder, or a hub id.")],
    target: Annotated[
        Path | None, typer.Argument(help="Folder to write; must be new or empty. None: measure.")
    ] = None,
    to: Annotated[Bits, typer.Option("--to", help="Weights of the language model.")] = Bits.int8,
    measure: Annotated[
        bool, typer.Option("--measure", help="Say how far the result is from the original.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Encoded conversations to measure on; none: the model talks to itself."),
    ] = None,
    conversations: Annotated[int, typer.Option(min=1, help="So many are compared.")] = 8,
    json_output: Json = False,
) -> None:
    """Write a model folder whose language model is quantised; its codec and files are copied.

    int8 has a scale per row, int4 one per 32 columns (4.5 bits a weight in all). Both load
    everywhere a model loads, and run on CPU without being widened in memory.

    Examples:

        duologue quantize path/to/moshiko moshiko-int4 --to int4

        duologue quantize wren --to int4 --measure
    """
    from duologue.checkpoints.folder import resolve
    from duologue.checkpoints.quantize import quantize_folder
    from duologue.errors import DuologueError

    if target is None and not measure and data is None:
        raise DuologueError("give a folder to write, or --measure")
    path = resolve(source)
    report: dict[str, object] = {"model": source, "quantization": to.value}
    if target is not None:
        report["bytes"] = quantize_folder(path, target, to.value)
    if measure or data is not None:
        report["distance"] = asdict(_distance(path, to.value, data, conversations))
    if json_output:
        typer.echo(json.dumps(report, indent=1))
        return
    if target is not None:
        megabytes = report["bytes"] / 1e6  # type: ignore[operator]
        typer.echo(f"{target}: the language model in {to.value}, {megabytes:.1f} MB")
    if "distance" in report:
        _print(report["distance"])  # type: ignore[arg-type]


def _distance(path: Path, to: str, data: Path | None, conversations: int) -> Distance:
    from duologue.checkpoints.folder import ModelFolder
    from duologue.checkpoints.load import load_lm
    from duologue.evaluation.precision import measure_distance, recorded, self_talk

    wide = load_lm(path, device="cpu")
    if data is not None:
        tokenizer = ModelFolder.open(path).tokenizer_path
        sequences = recorded(data, wide, tokenizer, FRAMES, conversations)
    else:
        sequences = list(self_talk(wide, FRAMES, pairs=-(-conversations // 2)))
    return measure_distance(wide, load_lm(path, device="cpu", quantization=to), sequences)


def _print(distance: dict[str, float]) -> None:
    typer.echo(
        f"over {distance['frames']} frames, teacher-forced: the same likeliest text token in "
        f"{100 * distance['text_agreement']:.2f} %, the same code in "
        f"{100 * distance['audio_agreement']:.2f} %; divergence {distance['text_kl']:.5f} (text) "
        f"and {distance['audio_kl']:.5f} (audio) nats"
    )
