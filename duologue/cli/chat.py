"""`duologue chat`: a conversation in the terminal, or over a recording, with any server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duologue.cli.options import DEFAULT_MODEL, Device, Force, Json, Model

if TYPE_CHECKING:
    from duologue.client import Conversation, Event
    from duologue.client.chronicle import Chronicle
    from duologue.client.recording import CutShort, Recorded

TOKEN_VARIABLE = "DUOLOGUE_TOKEN"
_WHERE, _FILES, _SESSION, _SOUND = "With whom", "Recordings", "Conversation", "Sound card"
_OF_THE_SERVER_HERE = ("model", "device", "knowledge")
_OF_ANOTHER_SERVER = ("ca", "fingerprint", "audio")


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


def chat(
    context: typer.Context,
    server: Annotated[
        str | None, _option(_WHERE, "A server's address; without it, one is started here.")
    ] = None,
    ca: Annotated[Path | None, _option(_WHERE, "Certificates to trust (PEM).")] = None,
    fingerprint: Annotated[
        str | None, _option(_WHERE, "SHA-256 of the server's certificate, as `serve` prints it.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    knowledge: Annotated[
        list[str] | None, _option(_WHERE, "Document or folder for a server started here.")
    ] = None,
    wav: Annotated[
        Path | None, _option(_FILES, "Recording to play instead of a microphone.")
    ] = None,
    out: Annotated[Path | None, _option(_FILES, "Where the reply goes, WAV.")] = None,
    stereo: Annotated[
        bool, _option(_FILES, "Write both voices, the model's on the left.", "--stereo")
    ] = False,
    tail: Annotated[
        float, _option(_FILES, "Seconds to go on after the recording. [4]", min=0.0, max=600.0)
    ] = 4.0,
    fast: Annotated[
        bool, _option(_FILES, "Not in real time, but as the server takes it.", "--fast")
    ] = False,
    force: Force = False,
    json_output: Json = False,
    audio: Annotated[
        str,
        _option(_SESSION, "With --server: `opus`; `pcm16` or `pcmf32` with our servers. [opus]"),
    ] = "opus",
    voice: Annotated[str | None, _option(_SESSION, "A voice of the server.")] = None,
    role: Annotated[str | None, _option(_SESSION, "Role text to begin with.")] = None,
    backend: Annotated[str | None, _option(_SESSION, "Whom to ask for facts first.")] = None,
    seed: Annotated[int | None, _option(_SESSION, "Seed of what is drawn. [random]")] = None,
    input_device: Annotated[str | None, _option(_SOUND, "Microphone, by number or name.")] = None,
    output_device: Annotated[str | None, _option(_SOUND, "Loudspeaker, likewise.")] = None,
    show_devices: Annotated[
        bool, _option(_SOUND, "List microphones and loudspeakers, and end.", "--list-devices")
    ] = False,
) -> None:
    """Talk: with a microphone and this terminal, or with a recording for scripts.

    Works with servers of Duologue, Moshi and MoshiRAG. The microphone needs the extra `chat`. A
    server's token is read from `DUOLOGUE_TOKEN`, for a flag would show it to everybody here; in an
    address, as `serve` prints it, it works too. Keys: m mutes, i interrupts, r begins anew, q ends.

    Examples:

        duologue chat

        duologue chat --server https://talk.example:8998

        duologue chat --wav question.wav --out reply.wav --stereo --json
    """
    from duologue.client.devices import list_devices
    from duologue.errors import DuologueError

    if show_devices:
        typer.echo(list_devices())
        return
    _check_flags(context, server)
    if (wav is None) != (out is None):
        raise DuologueError("--wav and --out belong together: what to play, where to write")
    asked = {
        "voice": voice, "system_prompt": role, "backend": backend, "seed": seed
    }  # fmt: skip
    place = _Place(
        server, ca, fingerprint, audio, {k: v for k, v in asked.items() if v is not None}
    )
    here = _Here(model, device, knowledge)
    if wav is not None and out is not None:
        _play_recording(place, here, wav, out, tail, stereo, fast, force, json_output)
    else:
        _talk(place, here, input_device, output_device, json_output)


def _check_flags(context: typer.Context, server: str | None) -> None:
    """Refuse what would have no effect."""
    from duologue.errors import DuologueError

    idle = _OF_ANOTHER_SERVER if server is None else _OF_THE_SERVER_HERE
    for name in idle:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        if server is None:
            raise DuologueError(f"--{name} is for another server; name it with --server")
        raise DuologueError(f"--{name} is for a server started here; it does not go with --server")


@dataclass(frozen=True)
class _Place:
    """The server and what to ask of it."""

    server: str | None
    ca: Path | None
    fingerprint: str | None
    audio: str
    parameters: dict[str, object]

    @contextmanager
    def conversation(self, here: _Here) -> Iterator[Conversation]:
        """A conversation that is not open yet, with this server or one that is started for it."""
        from duologue.client import connect

        if self.server is not None:
            yield connect(
                self.server, token=os.environ.get(TOKEN_VARIABLE), audio=self.audio,
                parameters=self.parameters, ca=self.ca, fingerprint=self.fingerprint,
            )  # fmt: skip
            return
        with here.serve() as (url, token):
            # On this machine nothing is gained by compressing.
            yield connect(url, token=token, audio="pcmf32", parameters=self.parameters)


@dataclass(frozen=True)
class _Here:
    """What to serve if there is no server."""

    model: str
    device: str
    knowledge: list[str] | None

    @contextmanager
    def serve(self) -> Iterator[tuple[str, str]]:
        import logging

        from duologue.cli.options import use_threads
        from duologue.client.host import own_server
        from duologue.server.assembly import load
        from duologue.server.settings import ServerSettings

        flags = {"model": self.model, "device": self.device, "knowledge": self.knowledge}
        settings = ServerSettings.load({**flags, "sessions": 1}, os.environ)
        logging.getLogger().addHandler(logging.NullHandler())  # the screen is taken
        loaded = load(settings, os.environ)
        use_threads(settings.threads, loaded.model.codec, loaded.model.lm)
        with own_server(settings, loaded, os.environ) as place:
            yield place


def _play_recording(
    place: _Place,
    here: _Here,
    wav: Path,
    out: Path,
    tail: float,
    stereo: bool,
    fast: bool,
    force: bool,
    json_output: bool,
) -> None:
    import asyncio

    from duologue.audio import read_audio
    from duologue.cli.options import check_output
    from duologue.client.events import SAMPLE_RATE
    from duologue.client.recording import MAX_RECORDING_S, CutShort, play

    check_output(out, force)
    pcm = read_audio(wav, SAMPLE_RATE, max_seconds=MAX_RECORDING_S)
    script = _Script(quiet=json_output)

    async def converse(conversation: Conversation) -> Recorded:
        async with conversation:
            return await play(conversation, pcm, tail_s=tail, fast=fast, on_event=script.show)

    recorded: Recorded | None = None
    fault: CutShort | None = None
    try:
        with place.conversation(here) as conversation:
            try:
                recorded = asyncio.run(converse(conversation))
            except CutShort as error:
                recorded, fault = error.recorded, error
    finally:
        # Also when a server of one's own fails: what was said until then is worth keeping.
        if recorded is not None:
            script.finish(recorded.chronicle)
            _write(recorded, wav, out, stereo, json_output)
    if fault is not None:
        raise fault


def _write(recorded: Recorded, wav: Path, out: Path, stereo: bool, json_output: bool) -> None:
    """The reply's file, and a line about it."""
    from duologue.audio import write_wav
    from duologue.client.events import SAMPLE_RATE

    write_wav(out, recorded.stereo() if stereo else recorded.reply, SAMPLE_RATE)
    seconds = len(recorded.reply) / SAMPLE_RATE
    if json_output:
        summary = {"input": str(wav), "output": str(out), "seconds": seconds,
                   "complete": recorded.complete, **recorded.chronicle.summary()}  # fmt: skip
        typer.echo(json.dumps(summary, ensure_ascii=False))
    else:
        typer.echo(f"{out}: {seconds:.2f} s" + ("" if recorded.complete else ", cut short"))
    if lost_s := recorded.lost_s:
        typer.secho(f"warning: a broken connection took {1000 * lost_s:.0f} ms", err=True)
    if dropped := recorded.chronicle.stats.dropped_ms:
        typer.secho(f"warning: the server lost {dropped:.0f} ms of the recording", err=True)


class _Script:
    """Prints turns as they are complete, and lookups as they are answered."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._printed = quiet, 0
        self._lookups: set[int] = set()

    def show(self, _: Event, chronicle: Chronicle) -> None:
        self._turns(chronicle, chronicle.begun - 1)
        from duologue.client.chronicle import LookupState, clock, lookup_lines

        for lookup in chronicle.lookups.values():
            if lookup.state is not LookupState.OPEN and lookup.sequence not in self._lookups:
                self._lookups.add(lookup.sequence)
                first, *places = lookup_lines(lookup)
                self._say(f"{clock(lookup.start_s):>5}  [lookup] {first}")
                for place in places:
                    self._say(f"{'':7}{place}")

    def finish(self, chronicle: Chronicle) -> None:
        self._turns(chronicle, chronicle.begun)

    def _turns(self, chronicle: Chronicle, until: int) -> None:
        from duologue.client.chronicle import clock

        while self._printed < until:
            index = self._printed - chronicle.begun
            self._printed += 1
            if -index <= len(chronicle.turns) and chronicle.turns[index].text.strip():
                turn = chronicle.turns[index]
                self._say(f"{clock(turn.start_s):>5}  {turn.role.value}: {turn.shown}")

    def _say(self, line: str) -> None:
        if not self._quiet:
            typer.echo(line)


def _talk(
    place: _Place,
    here: _Here,
    input_device: str | None,
    output_device: str | None,
    json_output: bool,
) -> None:
    import asyncio

    from rich.console import Console

    from duologue.client.devices import open_sound_card
    from duologue.client.terminal import Terminal
    from duologue.errors import DuologueError

    console = Console(stderr=json_output)
    if not console.is_terminal:
        raise DuologueError("this is no terminal; use --wav and --out in scripts")

    # The sound card first: what is missing there is told before a model is loaded.
    with open_sound_card(input_device, output_device) as card:
        console.print("connecting ..." if place.server else "loading ...")

        async def talk(conversation: Conversation) -> Chronicle:
            async with conversation:
                terminal = Terminal(conversation, card, console)
                await terminal.run()
                return terminal.view.chronicle

        with place.conversation(here) as conversation:
            chronicle: Chronicle = asyncio.run(talk(conversation))
    if json_output:
        typer.echo(json.dumps(chronicle.summary(), ensure_ascii=False))
    else:
        script = _Script(quiet=False)
        script.finish(chronicle)
