"""Entry point of `duologue`: the commands, and what an error looks like.

Commands are named here and loaded when they are run, so that help is instant and a command does not
wait for the others' imports.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from duologue import __version__
from duologue.errors import DuologueError

MARKUP: Final = "markdown"


class Place(NamedTuple):
    """Where a command is, and its line of `duologue --help` (the first of its own help)."""

    module: str
    name: str
    help: str


COMMANDS = {
    "serve": Place(
        "duologue.cli.serve", "serve",
        "Serve conversations: a web page, the chat protocol of Moshi, and an HTTP interface.",
    ),
    "talk": Place(
        "duologue.cli.talk", "talk",
        "Play recordings to the model and write down what it says meanwhile.",
    ),
    "chat": Place(
        "duologue.cli.chat", "chat",
        "Talk: with a microphone and this terminal, or with a recording for scripts.",
    ),
    "transcribe": Place(
        "duologue.cli.transcribe", "transcribe",
        "Write down what is said in recordings, word by word.",
    ),
    "replay": Place(
        "duologue.cli.replay", "replay",
        "Replay a session's event log and compare every frame with it.",
    ),
    "doctor": Place(
        "duologue.cli.doctor", "doctor",
        "Look at this machine: device, memory, and the frame time to expect of each model.",
    ),
    "convert": Place(
        "duologue.cli.checkpoints", "convert",
        "Write a checkpoint in another layout; weights stay as they are.",
    ),
    "quantize": Place(
        "duologue.cli.quantize", "quantize",
        "Write a model folder whose language model is quantised; its codec and files are copied.",
    ),
    "synthesize": Place(
        "duologue.synthesis.command", "synthesize",
        "Write and speak training dialogues with open speech synthesizers.",
    ),
    "codec": Place(
        "duologue.cli.codec", "app", "Compress speech into codes, and bring it back."
    ),
    "checkpoints": Place(
        "duologue.cli.checkpoints", "app", "Look into checkpoints, or make untrained ones."
    ),
    "encoder": Place(
        "duologue.cli.encoder", "app", "Serve the reference encoder to other processes."
    ),
    "knowledge": Place(
        "duologue.cli.knowledge", "app", "Look things up in documents, without a model."
    ),
    "train": Place("duologue.training.command", "app", "Train a model of your own."),
    "evaluate": Place(
        "duologue.evaluation.command", "app",
        "Judge models: codec, speech recognition, whole conversations.",
    ),
    "bench": Place("duologue.cli.bench", "app", "Measure this machine with a model."),
}  # fmt: skip


def load_command(name: str) -> Any:
    """The command of that name, or group of commands."""
    place = COMMANDS[name]
    found = getattr(importlib.import_module(place.module), place.name)
    holder = typer.Typer(rich_markup_mode=MARKUP, add_completion=False)
    holder.callback()(lambda: None)  # with one, a single command stays a group's member
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    group: Any = typer.main.get_command(holder)
    return group.commands[name]


class _Named(TyperGroup):
    """Commands by name, each loaded when it is run."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands.update((n, TyperCommand(n, help=p.help)) for n, p in COMMANDS.items())

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


app = typer.Typer(
    name="duologue",
    cls=_Named,
    help="Real-time, full-duplex spoken dialogue with asynchronous knowledge retrieval.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
)

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
        if os.environ.get("DUOLOGUE_DEBUG") or error.strerror is None:
            raise
        # A full disk, for one, is told without the file.
        place = "" if error.filename is None else f"{error.filename}: "
        typer.secho(f"error: {place}{error.strerror}", err=True, fg="red")
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        typer.secho("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
