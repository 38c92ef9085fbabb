"""Entry point of `duologue`: the commands, and what an error looks like."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from duologue import __version__
from duologue.cli import (
    bench,
    chat,
    checkpoints,
    codec,
    doctor,
    encoder,
    knowledge,
    quantize,
    replay,
    serve,
    talk,
    transcribe,
)
from duologue.errors import DuologueError
from duologue.evaluation import command as evaluation
from duologue.synthesis.command import synthesize
from duologue.training import command as training

app = typer.Typer(
    name="duologue",
    help="Real-time, full-duplex spoken dialogue with asynchronous knowledge retrieval.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(codec.app, name="codec")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(encoder.app, name="encoder")
app.add_typer(knowledge.app, name="knowledge")
app.add_typer(training.app, name="train")
app.add_typer(evaluation.app, name="evaluate")
app.add_typer(bench.app, name="bench")
app.command("serve")(serve.serve)
app.command("talk")(talk.talk)
app.command("chat")(chat.chat)
app.command("transcribe")(transcribe.transcribe)
app.command("replay")(replay.replay)
app.command("doctor")(doctor.doctor)
app.command("convert")(checkpoints.convert)
app.command("quantize")(quantize.quantize)
app.command("synthesize")(synthesize)

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        typer.echo(f"duologue {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. A known fault prints one line; DUOLOGUE_DEBUG=1 shows its trace."""
    try:
        app()
    except DuologueError as error:
        if os.environ.get("DUOLOGUE_DEBUG"):
            raise
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(EXIT_ERROR)
    except OSError as error:
        if os.environ.get("DUOLOGUE_DEBUG") or error.filename is None:
            raise
        typer.secho(f"error: {error.filename}: {error.strerror}", err=True, fg="red")
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        typer.secho("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
