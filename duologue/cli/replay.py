"""`duologue replay`: a logged conversation again, and whether it is the same to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from duologue.cli.options import Device, Force, Json


def replay(
    log: Annotated[Path, typer.Argument(help="Event log of a session.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The one that the log names if not given.")
    ] = None,
    device: Device = "auto",
    wav: Annotated[
        Path | None, typer.Option("--wav", help="Write what the model said to this file.")
    ] = None,
    force: Force = False,
    json_output: Json = False,
) -> None:
    """Replay a session's event log and compare every frame with it.

    The bits are the same with the same model, on the same kind of device, with as many threads as
    the log was made with (they are set). Ends with 1 when they differ.

    Examples:

        duologue replay logs/3f2a9c5d7e8b1046.jsonl

        duologue replay logs/3f2a9c5d7e8b1046.jsonl --wav said.wav --json
    """
    import torch

    from duologue.audio import write_wav
    from duologue.cli.options import check_output
    from duologue.engine import load_model
    from duologue.session.replay import read_header
    from duologue.session.replay import replay as run

    if wav is not None:
        check_output(wav, force)
    header = read_header(log)
    torch.set_num_threads(header["threads"])
    loaded = load_model(model or header["model"], device=device)
    report = run(log, loaded)
    if wav is not None:
        write_wav(wav, report.pcm, loaded.codec.sample_rate)
    if json_output:
        summary = {
            "log": str(log),
            "frames": report.frames,
            "same": not report.difference,
            "difference": report.difference,
            "complete": report.complete,
        }
        typer.echo(json.dumps(summary))
    else:
        seconds = report.frames / loaded.codec.frame_rate
        same = report.difference or "the same to the bit"
        end = "" if report.complete or report.difference else "; the log stops before the end"
        typer.echo(f"{log}: {report.frames} frames ({seconds:.1f} s), {same}{end}")
    if report.difference:
        raise typer.Exit(1)
