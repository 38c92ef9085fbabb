"""The published command-line client talks to our server, unmodified.

Only its sound card is not real: `sounddevice` needs PortAudio and a device, so a stand-in plays a
recording into the client's own callback and collects what the client would have played.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from peers.peer_models import import_peer
from support.serving import (
    FRAME,
    PATIENCE_S,
    Running,
    run,
    serving,
    speech,
    talkative_model,
)

from duologue.engine.model import LoadedModel

TOKEN = "correct-horse-battery"
BLOCK_S = 0.03
"""Faster than the 80 ms of a real card, which makes the test shorter and nothing else."""
Block = NDArray[np.float32]


class Stream:
    """A sound card's stream: calls back for each block, on a thread of its own."""

    def __init__(
        self, samplerate: int, channels: int, blocksize: int, callback: Callable[..., None]
    ) -> None:
        assert (samplerate, channels, blocksize) == (24_000, 1, FRAME)
        self._callback, self._stopped = callback, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(BLOCK_S):
            self.block(number)
            number += 1

    def block(self, number: int) -> None:
        raise NotImplementedError


class InputStream(Stream):
    recording = speech(50).reshape(-1, FRAME, 1)

    def block(self, number: int) -> None:
        self._callback(self.recording[number % len(self.recording)], FRAME, None, None)


class OutputStream(Stream):
    played: ClassVar[list[Block]] = []

    def block(self, number: int) -> None:
        out = np.full((FRAME, 1), np.nan, np.float32)
        self._callback(out, FRAME, None, None)
        if out.any():
            self.played.append(out[:, 0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return talkative_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`moshi.client`, with the stand-in as its sound card."""
    import_peer("moshi.models")
    import_peer("aiohttp")
    card = types.ModuleType("sounddevice")
    card.InputStream, card.OutputStream = InputStream, OutputStream  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    monkeypatch.setattr(OutputStream, "played", [])
    yield import_peer("moshi.client")
    sys.modules.pop("moshi.client")


async def call(client: Any, server: Running, **arguments: Any) -> tuple[str, str, list[Block]]:
    """Let the client run until there was enough to hear and to read."""
    said, logged = io.StringIO(), io.StringIO()
    printer = client.RawPrinter(said, logged)
    flags = {"host": "127.0.0.1", "port": server.port, "https": False, "url": None, **arguments}
    running = asyncio.create_task(client.run(printer, argparse.Namespace(**flags)))
    async with asyncio.timeout(PATIENCE_S):
        while not running.done() and not (len(OutputStream.played) >= 8 and said.getvalue()):
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return said.getvalue(), logged.getvalue(), OutputStream.played


def test_the_published_client_hears_and_reads(client: Any, model: LoadedModel) -> None:
    with serving(model, seed=3) as server:
        said, logged, played = run(call(client, server))
        server.wait_until_empty()
    assert said.strip(), "the model's text"
    assert len(played) >= 8
    assert np.isfinite(played).all()
    assert np.abs(played).max() > 0.001
    warnings = [line for line in logged.splitlines() if "unknown message kind" in line]
    assert warnings == ["Warning: unknown message kind 0"], "the handshake, as with its own server"
    assert "Error" not in logged


def test_the_published_client_can_show_the_token(client: Any, model: LoadedModel) -> None:
    """In its `--url`, as the password of a name."""
    with serving(model, token=TOKEN, seed=3) as server:
        url = f"http://anybody:{TOKEN}@127.0.0.1:{server.port}"
        said, logged, played = run(call(client, server, url=url))
        assert said.strip()
        assert len(played) >= 8
        assert "Lost connection" not in logged
        with pytest.raises(Exception, match="401"):
            asyncio.run(client.run(client.RawPrinter(), _arguments(server)))


def _arguments(server: Running) -> argparse.Namespace:
    return argparse.Namespace(host="127.0.0.1", port=server.port, https=False, url=None)
