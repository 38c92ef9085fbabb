"""`duologue chat`: the terminal's loop on a real terminal, recordings, and a server of its own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import termios
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.serving import PATIENCE_S, Running, run, speech

from duologue.audio import read_audio, read_channels, write_wav
from duologue.checkpoints.untrained import create_untrained
from duologue.cli.main import main
from duologue.client import ConnectionFailed, connect
from duologue.client.host import own_server
from duologue.client.playout import Capture, Playout
from duologue.client.terminal import Terminal
from duologue.engine.model import LoadedModel
from duologue.server.assembly import Loaded
from duologue.server.serve import DrainingServer
from duologue.server.settings import ServerSettings


def duologue(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["duologue", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "question.wav"
    write_wav(path, speech(6))
    return path


def test_a_recording_over_a_socket(server: Running, question: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    arguments = ("chat", "--server", server.http, "--wav", question, "--out", out, "--tail", 0.4)
    code, text, err = duologue(*arguments, "--fast", "--stereo", "--json", "--seed", 4)
    assert code == 0, err
    summary = json.loads(text)
    assert summary["complete"] is True
    assert summary["seconds"] == pytest.approx(11 * 0.08)
    assert summary["transcript"][0]["role"] == "model"
    model, user = read_channels(out)
    assert np.abs(user[: 6 * 1920] - speech(6)).max() < 1e-4
    assert np.abs(model).max() > 0
    code, _, err = duologue(*arguments)
    assert (code, "--force" in err) == (2, True)


def test_faults_are_one_line(question: Path, tmp_path: Path) -> None:
    files = ("--wav", question, "--out", tmp_path / "out.wav")
    code, _, err = duologue("chat", "--server", "localhost:9", *files)
    assert code == 2
    assert err.startswith("error: http://localhost:9 cannot be reached")
    assert duologue("chat", "--wav", question)[0] == 2
    code, _, err = duologue("chat", "--server", "localhost:9")
    assert (code, err.startswith("error: ")) == (2, True)
    assert "--wav" in err, "without a sound card or a terminal there still is a way"
    for idle in (("--model", "wren"), ("--device", "auto"), ("--knowledge", "none")):
        code, _, err = duologue("chat", "--server", "localhost:9", *idle, *files)
        assert (code, err.startswith(f"error: {idle[0]} is for a server started here")) == (2, True)
    for idle in (("--audio", "opus"), ("--ca", question), ("--fingerprint", "00")):
        code, _, err = duologue("chat", *idle, *files)
        assert (code, err.startswith(f"error: {idle[0]} is for another server")) == (2, True)


def test_a_recording_without_a_server(question: Path, tmp_path: Path) -> None:
    create_untrained(tmp_path / "tiny", "tiny")
    out = tmp_path / "out.wav"
    code, text, err = duologue(
        "chat", "-m", tmp_path / "tiny", "--knowledge", "none", "--wav", question, "--out", out,
        "--tail", 0, "--fast",
    )  # fmt: skip
    assert code == 0, err
    assert len(read_audio(out)) == 6 * 1920
    assert text.splitlines()[-1] == f"{out}: 0.48 s"


class Card:
    """A sound card whose microphone hears what a test pushes."""

    def __init__(self) -> None:
        self.capture, self.playout = Capture(), Playout()
        self.on_frame = lambda: None

    def hear(self, frames: int) -> None:
        self.capture.push(speech(frames))
        self.on_frame()


class Screen:
    """A pseudo-terminal: what is typed into it, and how it is set."""

    def __init__(self) -> None:
        self.near, self.far = os.openpty()
        self.text = io.StringIO()
        self.console = Console(file=self.text, force_terminal=True, width=100, height=20)

    def type(self, keys: str) -> None:
        os.write(self.near, keys.encode())

    def settings(self) -> list[object]:
        return termios.tcgetattr(self.far)


async def until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + PATIENCE_S / 3
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("ending", ["q", "cancel", "lost"])
def test_the_terminal_talks_and_is_left_as_it_was(server: Running, ending: str) -> None:
    screen, card = Screen(), Card()
    before = screen.settings()

    async def talk() -> None:
        async with connect(server.http, audio="pcmf32") as conversation:
            terminal = Terminal(conversation, card, screen.console, key_descriptor=screen.far)
            talking = asyncio.create_task(terminal.run())
            await until(lambda: screen.settings() != before)
            card.hear(6)
            await until(lambda: card.playout.waiting_s > 0.2)
            assert terminal.view.user_db > -20
            screen.type("m")
            await until(lambda: terminal.view.muted)
            screen.type("\x1b[Ai")
            await until(lambda: terminal.view.holding)
            assert card.playout.waiting_s == 0
            assert not talking.done()
            if ending == "q":
                screen.type("Q")
                await talking
            elif ending == "cancel":
                talking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await talking
            else:
                await conversation.close()
                await talking
            shown = screen.text.getvalue()
            assert shown.count("\x1b[?1049h") == shown.count("\x1b[?1049l") == 1
            assert shown.rstrip().endswith("\x1b[?25h\x1b[?1049l"), "cursor and screen are back"
            assert "script" in shown

    run(talk())
    assert screen.settings() == before


def test_faults_of_speaking_and_of_commands_are_seen(server: Running) -> None:
    screen, card = Screen(), Card()

    async def talk() -> None:
        async with connect(server.http, audio="pcmf32") as conversation:
            terminal = Terminal(conversation, card, screen.console, key_descriptor=screen.far)

            async def cannot(*_: object) -> None:
                raise ConnectionFailed("too many commands wait")

            async def broken(*_: object) -> None:
                raise RuntimeError("no more samples")

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(conversation, "interrupt", cannot)
                patch.setattr(conversation, "send", broken)
                talking = asyncio.create_task(terminal.run())
                await asyncio.sleep(0)
                terminal.press("i")
                await until(lambda: terminal.view.notice == "too many commands wait")
                card.hear(1)
                with pytest.raises(RuntimeError, match="no more samples"):
                    await asyncio.wait_for(talking, PATIENCE_S / 3)

    run(talk())


@pytest.mark.parametrize("noticed", [True, False])
def test_why_ones_own_server_died_is_told(
    noticed: bool, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the client knows only that nobody answers any more."""

    async def die(self: DrainingServer, sockets: object) -> None:
        await self._announce()
        raise MemoryError("no more of it")

    monkeypatch.setattr(DrainingServer, "serve", die)
    settings = ServerSettings.model_validate({"sessions": 1, "knowledge": ()})

    def converse() -> None:
        with own_server(settings, Loaded(model, None), {}):
            if noticed:
                raise ConnectionFailed("nobody answers")

    with pytest.raises(MemoryError, match="no more of it"):
        converse()
