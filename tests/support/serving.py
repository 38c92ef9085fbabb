"""Servers on real sockets, clients that call them, and a recogniser that hears a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.checkpoints.untrained import TINY_CODEC
from duologue.engine.model import LoadedModel
from duologue.mimi import Mimi
from duologue.moshi import LMConfig, MoshiLM
from duologue.server.app import create_app
from duologue.server.assembly import Loaded, open_lobby
from duologue.server.lobby import Lobby
from duologue.server.protocols.kyutai.audio import audio_coder
from duologue.server.protocols.kyutai.query import AudioFormat
from duologue.server.serve import DrainingServer, bind, server_config
from duologue.server.settings import ServerSettings
from duologue.stt import Heard

FRAME = 1920
PATIENCE_S = 60.0
"""How long tests wait for what should come at once; they may share a busy machine."""
SOME_FRAMES = 12
"""Frames sent without waiting for their answers; far fewer than a session can have waiting."""
Pcm = NDArray[np.float32]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end, but never hang the suite."""
    return asyncio.run(asyncio.wait_for(coroutine, 2 * PATIENCE_S))


def talkative_model(folder: Path) -> LoadedModel:
    """Few text tokens, one of which asks for a lookup: random weights draw each of them often."""
    path = folder / "tokenizer.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a tale of two towns and one toad"] * 20), model_writer=file,
            model_type="char", vocab_size=24, hard_vocab_limit=False, unk_id=0, bos_id=1, eos_id=2,
            pad_id=3, user_defined_symbols=["<ret>"], num_threads=1, minloglevel=2,
        )  # fmt: skip
    torch.manual_seed(0)
    codec = Mimi(TINY_CODEC, num_codebooks=4).eval().requires_grad_(False)
    config = LMConfig(
        dim=32, num_heads=2, num_layers=1, n_q=8, dep_q=4, delays=(0, *(0, 1, 1, 1) * 2),
        text_card=16, hidden_scale=3, context=20, depformer_dim=16, depformer_num_heads=2,
        depformer_num_layers=1, rag_token_id=4,
    )  # fmt: skip
    lm = MoshiLM(config).eval().requires_grad_(False)
    return LoadedModel(codec, lm, TextTokenizer(path), name="tiny")


class ScriptedStream:
    """Hears the same words in every conversation, whatever is said; see `stt.ports`."""

    def __init__(self, script: dict[int, str]) -> None:
        self._script, self._frame = script, -1

    def push(self, frame: Pcm) -> None:
        self._frame += 1

    def take(self) -> Heard:
        words = tuple(f" {word}" for word in self._script.get(self._frame, "").split())
        speaking = any(said - 6 < self._frame <= said for said in self._script)
        return Heard(words, 0.05 if speaking else 0.95, transcribed_frame=self._frame)

    def flush(self) -> None: ...

    async def finish(self, timeout_s: float = 5.0) -> Heard:
        return Heard()

    async def aclose(self) -> None: ...


@dataclass
class ScriptedRecogniser:
    """A recognition service that is always there."""

    script: dict[int, str] = field(default_factory=dict)

    async def open(self) -> Any:
        return ScriptedStream(self.script)


@dataclass
class Running:
    """A server on loopback, in a thread of its own."""

    lobby: Lobby
    port: int
    loop: asyncio.AbstractEventLoop
    server: DrainingServer

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def chat(self, **query: object) -> str:
        return chat_url(self.port, **query)

    def wait_until_empty(self) -> None:
        """Wait for those who have left to be gone, and for those who left while they came."""
        until = time.monotonic() + PATIENCE_S
        running = self.server.server_state.tasks
        while running or self.lobby.engine.stats().in_use or self.lobby.visits:
            assert time.monotonic() < until, "somebody is still there"
            time.sleep(0.005)

    def call(
        self, audio: str = "pcmf32", headers: dict[str, str] | None = None, **query: object
    ) -> AbstractAsyncContextManager[Caller]:
        """A client; it has had the handshake of the socket."""
        return calling(self.port, audio, headers, **query)


def chat_url(port: int, **query: object) -> str:
    pairs = "&".join(f"{name}={value}" for name, value in query.items())
    return f"ws://127.0.0.1:{port}/api/chat?{pairs}"


@asynccontextmanager
async def calling(
    port: int, audio: str = "pcmf32", headers: dict[str, str] | None = None, **query: object
) -> AsyncIterator[Caller]:
    """A client of whatever listens at a port of this machine."""
    url = chat_url(port, audio=audio, **query)
    async with connect(
        url, additional_headers=headers, max_size=None, open_timeout=PATIENCE_S, proxy=None
    ) as socket:
        yield Caller(socket, AudioFormat(audio))


class Process:
    """`duologue serve` as a process of its own, and what it says."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "duologue.cli.main", "serve", "--port", "0", *flags]
        self.popen = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.said = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read until the process has said something."""
        assert self.popen.stdout is not None
        until = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            while not (found := re.search(pattern, self.said)):
                assert selector.select(until - time.monotonic()), self.said
                chunk = self.popen.stdout.read(4096)
                assert chunk, f"the process ended: {self.said}"
                self.said += chunk.decode()
        return found

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        rest, _ = self.popen.communicate(timeout=PATIENCE_S)
        self.said += rest.decode()
        return self.popen.returncode


@contextmanager
def process_of(*flags: str) -> Iterator[Process]:
    """Such a process, killed if it has not ended by itself."""
    started = Process(*flags)
    try:
        yield started
    finally:
        if started.popen.poll() is None:
            started.popen.kill()
            started.end()


class Caller:
    """One client of the chat socket."""

    def __init__(self, socket: ClientConnection, audio: AudioFormat) -> None:
        self.socket, self._coder = socket, audio_coder(audio)
        self.messages: list[bytes] = []
        self.heard: list[Pcm] = []

    async def receive(self) -> bytes:
        """The next message, noted."""
        async with asyncio.timeout(PATIENCE_S):
            message = await self.socket.recv()
        assert isinstance(message, bytes)
        self.messages.append(message)
        if message[0] == 1:
            self.heard.append(self._coder.decode(message[1:]))
        return message

    async def until(self, kind: int, **expected: object) -> Any:
        """The next message of a kind; of events, the next with these values."""
        while True:
            message = await self.receive()
            if message[0] != kind:
                continue
            if kind != 10:
                return message
            values = json.loads(message[1:])
            if all(values.get(name) == value for name, value in expected.items()):
                return values

    async def say(self, frames: int = 1, pcm: Pcm | None = None) -> None:
        """Send so much audio at once."""
        sound = speech(frames) if pcm is None else pcm
        await self.socket.send(b"\x01" + self._coder.encode(sound))

    async def converse(self, frames: int) -> None:
        """Send frames, and hear as many."""
        while frames:
            have, some = len(self.heard), min(frames, SOME_FRAMES)
            await self.say(some)
            while len(self.heard) < have + some:
                await self.receive()
            frames -= some

    async def command(self, **values: object) -> None:
        await self.socket.send(b"\x0a" + json.dumps(values).encode())

    async def closed(self) -> int:
        """Wait for the end; returns the close code."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.receive()
        assert self.socket.close_code is not None
        return self.socket.close_code


def speech(frames: int) -> Pcm:
    """Something to be heard: well above the gate."""
    return (0.2 * np.random.default_rng(0).standard_normal(frames * FRAME)).astype(np.float32)


@contextmanager
def serving(
    model: LoadedModel,
    stt: Any = None,
    *,
    token: str | None = None,
    environment: dict[str, str] | None = None,
    send_buffer: int | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A server for this model; it ends with everything that runs in it."""
    given = {"port": 0, "sessions": 3, "knowledge": (), "idle_s": 60.0, **settings}
    chosen = ServerSettings.model_validate(given)
    ready: list[Running | BaseException] = []
    started = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with open_lobby(chosen, Loaded(model, stt), environment or {}) as lobby:
            # Admission depends on how busy this machine is; tests of it set it themselves.
            lobby.engine._conductor.capacity.budget_s = float("inf")
            sockets = bind(chosen.host, 0)
            if send_buffer is not None:
                sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)

            async def announce() -> None:
                port = sockets[0].getsockname()[1]
                ready.append(Running(lobby, port, loop, server))
                started.set()

            config = server_config(create_app(lobby, token), chosen, None)
            server = DrainingServer(config, announce, lobby.drain)
            await server.serve(sockets)

    def thread_main() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            ready.append(error)
            started.set()

    thread = threading.Thread(target=thread_main, daemon=True)
    thread.start()
    assert started.wait(PATIENCE_S)
    running = ready[0]
    if isinstance(running, BaseException):
        raise running
    try:
        yield running
    finally:
        with contextlib.suppress(RuntimeError):  # it may have stopped by itself
            running.loop.call_soon_threadsafe(setattr, running.server, "should_exit", True)
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server did not stop"
        assert len(ready) == 1, f"the server failed: {ready[-1]}"
