"""Recordings over connections that break: what is lost is counted, what was said is kept."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.serving import PATIENCE_S, run, speech
from websockets.asyncio.server import ServerConnection, serve

from duologue.audio import read_channels, write_wav
from duologue.client import Event, Interrupted, Resumed, Sound, connect
from duologue.client import recording as module
from duologue.client.recording import CutShort, play

from .test_client_terminal import duologue

FRAME = 1920
SAMPLE_BYTES = 4
Handler = Callable[[ServerConnection], Awaitable[None]]


class Echo:
    """Says what it hears; swallows all after `answers` frames, and at `breaks` of them is gone."""

    def __init__(self, answers: int, breaks: int, *, resumable: bool = True) -> None:
        self._answers, self._breaks = answers, breaks
        self._resumable = resumable
        self.visits = 0

    async def __call__(self, socket: ServerConnection) -> None:
        self.visits += 1
        first, heard = self.visits == 1, 0
        session = {"type": "session", "id": "x", "resumed": not first}
        if self._resumable:
            session |= {"resume_token": "t", "resume_s": 60}
        await socket.send(bytes(9))
        await socket.send(b"\x0a" + json.dumps(session).encode())
        async for message in socket:
            assert isinstance(message, bytes)
            room = max(0, self._answers * FRAME - heard) if first else len(message)
            heard += (len(message) - 1) // SAMPLE_BYTES
            if answer := message[1 : 1 + room * SAMPLE_BYTES]:
                await socket.send(b"\x01" + answer)
            if first and heard >= self._breaks * FRAME:
                # What was said first gets there.
                await socket.send(b"\x0a" + json.dumps({"type": "pong"}).encode())
                await asyncio.sleep(0.05)
                socket.transport.abort()
                return


@pytest.mark.parametrize("fast", [True, False])
def test_what_a_broken_connection_takes_is_counted(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirteen frames are as many as are sent ahead of the reply."""
    monkeypatch.setattr(module, "SETTLE_S", 0.2)
    monkeypatch.setattr(module, "STALL_S", 5.0)
    frames, answers, breaks = (40, 4, 17) if fast else (12, 2, 5)

    async def talk() -> None:
        echo = Echo(answers, breaks)
        async with serve(echo, "127.0.0.1", 0) as there:
            url = f"http://127.0.0.1:{there.sockets[0].getsockname()[1]}"
            async with connect(url, audio="pcmf32") as conversation:
                recorded = await play(conversation, speech(frames), fast=fast)
        assert echo.visits == 2
        assert recorded.complete
        lost = round(recorded.lost_s / 0.08)
        assert lost == breaks - answers if fast else lost >= breaks - answers
        gap = slice(answers * FRAME, (answers + lost) * FRAME)
        assert not recorded.reply[gap].any()
        expected = recorded.heard.copy()
        expected[gap] = 0
        assert np.array_equal(recorded.reply, expected), "each frame answers its own"

    run(talk())


class Scripted:
    """A conversation of given events, with some time between."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    async def send(self, pcm: Any) -> None: ...

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._events:
            yield event
            if isinstance(event, Interrupted):
                await asyncio.sleep(0.05)


def test_coming_back_may_take_as_long_as_the_server_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_S", 0.02)
    events = [Interrupted("broke"), Resumed(0.05), *(Sound(speech(1), n * FRAME) for n in range(3))]
    conversation: Any = Scripted(events)
    recorded = asyncio.run(play(conversation, speech(3), fast=True))
    assert recorded.complete


def test_a_conversation_that_breaks_gives_what_there_is() -> None:
    async def talk() -> None:
        async with serve(Echo(4, 6, resumable=False), "127.0.0.1", 0) as there:
            url = f"http://127.0.0.1:{there.sockets[0].getsockname()[1]}"
            async with connect(url, audio="pcmf32") as conversation:
                with pytest.raises(CutShort, match="cannot resume") as cut:
                    await play(conversation, speech(20), fast=True)
        recorded = cut.value.recorded
        assert not recorded.complete
        assert np.array_equal(recorded.reply[: 4 * FRAME], speech(20)[: 4 * FRAME])
        assert len(recorded.reply) == 20 * FRAME
        assert not recorded.reply[4 * FRAME :].any()

    run(talk())


@contextmanager
def standing(handler: Handler) -> Iterator[str]:
    """The address of a server on a thread of its own, for a command that brings its own loop."""
    ready, ports = threading.Event(), list[int]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0) as there:
            ports.append(there.sockets[0].getsockname()[1])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    yield f"http://127.0.0.1:{ports[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(PATIENCE_S)
    loop.close()


@pytest.mark.parametrize("as_json", [True, False])
def test_the_files_of_a_broken_conversation_are_written(as_json: bool, tmp_path: Path) -> None:
    question, out = tmp_path / "question.wav", tmp_path / "out.wav"
    write_wav(question, speech(20))
    flags = ("--stereo", "--fast", "--tail", 0, "--audio", "pcmf32")
    with standing(Echo(4, 6, resumable=False)) as url:
        code, said, err = duologue(
            "chat", "--server", url, "--wav", question, "--out", out, *flags,
            *(["--json"] if as_json else []),
        )  # fmt: skip
    assert code == 2
    assert err.startswith("error: the connection broke")
    model, user = read_channels(out)
    assert len(model) == len(user) == 20 * FRAME
    assert model[: 4 * FRAME].any()
    assert not model[4 * FRAME :].any()
    if as_json:
        assert json.loads(said)["complete"] is False
    else:
        assert said == f"{out}: 1.60 s, cut short\n"
