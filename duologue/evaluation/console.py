"""What the commands show: a progress bar, a table, one line for a known fault."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from duologue.evaluation.ledger import Progress
    from duologue.evaluation.report import Report

EXIT_MISSED = 1


@contextmanager
def faults() -> Iterator[None]:
    """SIGTERM stops like Ctrl-C; what a speech program has against us is told in one line."""
    from duologue.evaluation.errors import EvaluationError
    from duologue.synthesis.engines.program import SynthesizerError

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except SynthesizerError as error:
        raise EvaluationError(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Progress]:
    """A bar on the error stream."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def finish(report: Report, folder: Path, *, as_json: bool, check: bool) -> None:
    """Write the report, print its table, and end with the status that is due."""
    from duologue.evaluation.report import write_report

    folder.mkdir(parents=True, exist_ok=True)
    written = write_report(report, folder)
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        _print(report)
        typer.echo("wrote " + ", ".join(map(str, written)))
    if check and any(figure.reached is False for figure in report.figures):
        raise typer.Exit(EXIT_MISSED)


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", "95 %", "n", "bar", title=report.system, box=None)
    for figure in report.figures:
        found = figure.estimate
        value = "not measured" if found.value is None else f"{found.value:.3g} {figure.unit}"
        between = ""
        if found.low is not None and found.high is not None:
            between = f"{found.low:.3g} to {found.high:.3g}"
        colour = {None: "default", True: "green", False: "red"}[figure.reached]
        bar = str(figure.bar or "")
        table.add_row(figure.title, f"[{colour}]{value}[/]", between, str(found.n), bar)
    Console().print(table)
