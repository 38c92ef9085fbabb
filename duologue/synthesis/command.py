"""The `synthesize` command."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

  duologue synthesize data/train --hours 20

  duologue synthesize data/test --hours 0.5 --split test

  duologue synthesize data/speech --hours 8 --kind mono --workers 4
"""


def synthesize(
    out: Annotated[Path, typer.Argument(help="Folder to fill; an unfinished one is gone on with.")],
    hours: Annotated[float, typer.Option(min=0.0, help="Hours of audio.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed gives other items.")] = 1,
    split: Annotated[
        str, typer.Option(help="train, valid or test: they share no voice, phrasing or new name.")
    ] = "train",
    kind: Annotated[
        str,
        typer.Option(
            help="dialogue (two channels), mono (sentences of one voice, phone times), users "
            "(the same without wren's voice) or wren (its own sentences, to read out)."
        ),
    ] = "dialogue",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; all cores if not said.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep spoken sentences in this folder for other runs.")
    ] = None,
) -> None:
    """Write and speak training dialogues with open speech synthesizers.

    Needs flite, festival and espeak-ng; to train on users or wren, wordnet-base too. The result
    depends on kind, split and seed alone, not on the number of processes; stopping it (Ctrl-C)
    loses nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from duologue.synthesis.engines.program import PACKAGES, SynthesizerError, find
    from duologue.synthesis.generate import KINDS, Dataset, DatasetError, generate
    from duologue.synthesis.splits import SPLITS

    console = Console(stderr=True)
    if split not in SPLITS:
        raise typer.BadParameter(f"{split!r} is not one of {', '.join(SPLITS)}")
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(KINDS)}")
    dataset = Dataset(
        next(k for k in KINDS if k == kind), next(s for s in SPLITS if s == split), seed
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.2f} of {task.total:.2f} h, {task.fields[items]} items"),
        TimeRemainingColumn(),
    )
    try:
        for program in PACKAGES if hours else ():
            find(program)
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(f"{split} {kind}", total=hours, items=0)
            summary = generate(
                dataset,
                out,
                hours,
                workers=workers or os.cpu_count() or 1,
                cache=cache,
                progress=lambda seconds, items: bar.update(
                    task, completed=min(hours, seconds / 3600.0), items=items
                ),
            )
    except (DatasetError, SynthesizerError) as error:
        console.print(f"[red]error:[/red] {error}")
        raise typer.Exit(1) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    elapsed_s = max(time.monotonic() - started, 1e-3)
    console.print(
        f"{summary.seconds / 3600.0:.2f} h in {summary.items} items at {out}; made now: "
        f"{summary.made} items, {summary.made_seconds / elapsed_s:.1f} times real time"
        + (f"; {summary.failed} could not be spoken" if summary.failed else "")
    )
    if summary.stopped:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130)


synthesize.__doc__ = f"{synthesize.__doc__}\n\n{EXAMPLES}"
app = typer.Typer(add_completion=False, no_args_is_help=True)
app.command("synthesize")(synthesize)

if __name__ == "__main__":
    app()
