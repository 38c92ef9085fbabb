"""`duologue doctor`: what this machine can run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duologue.cli.options import Device, Json

if TYPE_CHECKING:
    from rich.table import Table


def doctor(
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Try this number of threads only.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Look at this machine: device, memory, and the frame time to expect of each model.

    A frame of a language model reads every weight once, so its time follows from the measured
    memory bandwidth; 80 ms is the deadline. The codec is run for real, with random weights.

    Examples:

        duologue doctor

        duologue doctor --device cuda --json
    """
    from duologue.cli.examination import examine

    report = examine(device, threads, quiet=json_output)
    if json_output:
        typer.echo(json.dumps(report, indent=1))
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    machine = report["machine"]
    console.print(
        f"duologue {report['duologue']}, torch {report['torch']}, python {report['python']}, "
        f"{machine['system']}"
    )
    console.print(
        f"{machine['device']}: {machine['name']}, {machine['cores']} cores, "
        f"{machine['memory_gb']:.1f} GB of memory, {machine['free_gb']:.1f} GB free"
    )
    console.print(
        f"reads memory at {report['bandwidth_gbps']:.1f} GB/s with {report['threads']} threads"
    )
    if report["thread_sweep"]:
        tried = ", ".join(
            f"{row['frame_ms']:.1f} ms with {row['threads']}" for row in report["thread_sweep"]
        )
        console.print(
            f"a frame of wren takes {tried} threads; best: [bold]--threads "
            f"{report['best_threads']}[/bold]"
        )
    console.print(_codec_table(report))
    console.print(_model_table(report))
    console.print(
        "[green]green[/green]: can be on time; [yellow]yellow[/yellow]: too slow to talk live; "
        "[red]red[/red]: does not fit in memory"
    )
    for name, state in report["extras"].items():
        console.print(f"extra {name}: {state}")


def _codec_table(report: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("codec", "weights", "frame", title="Measured: one 80 ms frame, both ways")
    for row in report["models"]:
        if row["measured"]:
            table.add_row(
                row["model"], f"{row['gigabytes']:.2f} GB", f"{row['frame_ms']:.1f} ms",
                style=_style(row),
            )  # fmt: skip
    return table


def _model_table(report: dict[str, Any]) -> Table:
    """One line per language model, one column per precision."""
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in report["models"] if not row["measured"]]
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    table = Table("language model", *precisions, title="To expect at best: one 80 ms frame")
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = {row["precision"]: row for row in rows if row["model"] == model}
        table.add_row(
            model,
            *(
                Text(f"{cell['frame_ms']:.0f} ms, {cell['gigabytes']:.1f} GB", _style(cell))
                for cell in (cells[precision] for precision in precisions)
            ),
        )
    return table


def _style(row: dict[str, Any]) -> str:
    if not row["fits"]:
        return "red"
    return "green" if row["on_time"] else "yellow"
