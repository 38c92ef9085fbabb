"""Clients that misbehave, each while another conversation goes on and hears nothing of it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import httpx
import numpy as np
import pytest
from support.serving import FRAME, Caller, Running, run, serving, speech
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from duologue.audio import OggOpusEncoder
from duologue.engine.model import LoadedModel
from duologue.server import connection
from duologue.server.protocols.kyutai.query import AudioFormat

LEAST_FRAMES = 5
BYSTANDER = {"seed": 11, "text_temperature": 10, "text_topk": 0}
Fault = Callable[[Running], Awaitable[None]]


@pytest.fixture(scope="module")
def _shared(model: LoadedModel) -> Iterator[Running]:
    limits = {"sessions": 6, "sessions_per_client": 6, "messages_per_s": 2000}
    with serving(model, send_buffer=4096, message_bytes=131_072, **limits) as running:
        yield running


def beside(server: Running, fault: Fault) -> None:
    """Let the fault happen during a conversation, which must be to the bit as if it were alone."""

    async def talk() -> None:
        async with server.call(**BYSTANDER) as disturbed:
            happening = asyncio.create_task(fault(server))
            await steadily(disturbed, lambda n: n >= LEAST_FRAMES and happening.done())
            await happening
        async with server.call(**BYSTANDER) as alone:
            frames = len(disturbed.heard)
            await steadily(alone, lambda n: n == frames)
        await disturbed.closed()
        await alone.closed()
        count = min(len(disturbed.messages), len(alone.messages))
        assert count >= frames
        assert disturbed.messages[:count] == alone.messages[:count]

    run(talk())
    server.wait_until_empty()
    assert httpx.get(f"{server.http}/health").status_code == 200


async def steadily(caller: Caller, enough: Callable[[int], bool]) -> None:
    """Talk frame by frame, with the answer to each, until it is enough."""
    sound, frames = speech(1000), 0
    while not enough(frames):
        await caller.say(pcm=sound[frames * FRAME : (frames + 1) * FRAME])
        frames += 1
        while len(caller.heard) < frames:
            await caller.receive()
        await asyncio.sleep(0.02)


async def longest_delay() -> float:
    """How late this machine lets us be, in seconds, until it is cancelled."""
    longest, clock = 0.0, asyncio.get_running_loop().time
    with suppress(asyncio.CancelledError):
        while True:
            begin = clock()
            await asyncio.sleep(0.02)
            longest = max(longest, clock() - begin - 0.02)
    return longest


async def opened(
    server: Running,
    audio: str = "opus",
    receive_buffer: int | None = None,
    limits: dict[str, float] | None = None,
    **query: object,
) -> Caller:
    """A client that is let in, and closed by nobody here. `limits` are for it alone."""
    raw = socket.socket()
    if receive_buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.connect(("127.0.0.1", server.port))
    raw.setblocking(False)
    url = server.chat(audio=audio, **query)
    usual = server.lobby.limits
    server.lobby.limits = replace(usual, **limits or {})
    connection = await connect(url, sock=raw, max_size=None, open_timeout=60, ping_interval=None)
    server.lobby.limits = usual
    caller = Caller(connection, AudioFormat(audio))
    assert (await caller.receive())[0] == 0
    return caller


def test_client_vanishes(server: Running) -> None:
    async def fault(server: Running) -> None:
        for _ in range(2):
            caller = await opened(server)
            await caller.say(3)
            linger = np.array([1, 0], "i").tobytes()
            raw = caller.socket.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            caller.socket.transport.abort()

    beside(server, fault)


def test_client_says_nothing_or_half_of_it(server: Running) -> None:
    """Nothing at all, half an Ogg page, half a request: none of them is waited for."""

    async def fault(server: Running) -> None:
        stream = OggOpusEncoder().encode(speech(2))
        silent = await opened(server, limits={"idle_s": 0.3})
        half = await opened(server, limits={"idle_s": 0.3})
        await half.socket.send(b"\x01" + stream[: len(stream) // 2])
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
            raw.sendall(b"GET /api/chat HTTP/1.1\r\nHost: local")
            assert [await silent.closed(), await half.closed()] == [1008, 1008]

    beside(server, fault)


def test_who_asks_for_nothing_is_hung_up_on(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, half way through a request, and after an answer; others are heard out."""
    monkeypatch.setattr(connection, "REQUEST_S", 0.5)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def left(first: bytes, then: bytes = b"") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(first)
        if then:
            await asyncio.sleep(0.3)
            writer.write(then)
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return said

    async def fault(server: Running) -> None:
        silent, half, after, slow = await asyncio.gather(
            left(b""), left(whole[:20]), left(whole, whole[:20]), left(whole[:20], whole[20:])
        )
        assert silent == half == b""
        assert [said.count(b"200 OK") for said in (after, slow)] == [1, 1]

    beside(server, fault)


def test_client_floods(server: Running) -> None:
    async def fault(server: Running) -> None:
        caller = await opened(server, audio="pcmf32")
        junk = [os.urandom(1) + os.urandom(100) for _ in range(400)]
        junk = [message for message in junk if message[0] != 1]
        for _ in range(5):
            for message in junk:
                await caller.socket.send(message)
        await caller.socket.close()

    beside(server, fault)


def test_client_sends_faster_than_it_is_heard(server: Running) -> None:
    """A whole recording at once is held back by its connection, and none of it is lost."""

    async def fault(server: Running) -> None:
        before = server.lobby.engine.stats().input_frames_dropped
        busy = asyncio.create_task(longest_delay())
        caller = await opened(server, audio="pcmf32", max_steps=30)
        payload = speech(80).astype("<f4").tobytes()
        for at in range(0, len(payload), 60_000):
            await caller.socket.send(b"\x01" + payload[at : at + 60_000])
        assert await caller.closed() == 1000
        assert sum(message[0] == 1 for message in caller.messages) == 30
        busy.cancel()
        stats = server.lobby.engine.stats()
        if max(stats.lateness.max_s, await busy) < 0.2:  # a machine too busy for it drops by rule
            assert stats.input_frames_dropped == before

    beside(server, fault)


def test_client_sends_garbage(server: Running) -> None:
    page = bytearray(OggOpusEncoder().encode(speech(2)))
    page[-1] ^= 1
    garbage = [
        ("opus", bytes(200), 1007),
        ("opus", b"\xff" + os.urandom(60_000), 1007),
        ("opus", bytes(page), 1007),
        ("opus", bytes(10_000_000), 1009),
        ("pcmf32", bytes(10_000_000), 1009),
    ]

    async def fault(server: Running) -> None:
        for audio, payload, code in garbage:
            caller = await opened(server, audio=audio)
            with suppress(ConnectionClosed):  # while it is still sending
                await caller.socket.send(b"\x01" + payload)
            assert await caller.closed() == code
            if code == 1007:
                assert caller.messages[-1][0] == 5, "it is told what was wrong"

    beside(server, fault)


def test_odd_messages_are_passed_over(server: Running) -> None:
    odd: list[bytes | str] = [
        "text",
        "x" * 60_000,
        b"",
        b"\x01",
        b"\x01\x00",
        b"\x02hello",
        b"\x04{",
        b"\x04" + b"[" * 9000,
        b"\x0a" + os.urandom(50),
        b"\xff" + os.urandom(50),
        b"\x01" + np.array([np.nan, np.inf, -np.inf, 1e30] * 480, "<f4").tobytes()[:-1],
    ]

    async def fault(server: Running) -> None:
        async with server.call() as caller:
            for message in odd:
                await caller.socket.send(message)
            await caller.converse(3)

    beside(server, fault)


def test_client_does_not_read(server: Running) -> None:
    """Once the buffers between are full it is given up: nothing is kept without bound."""

    async def fault(server: Running) -> None:
        [bystander] = server.lobby.visits
        caller = await opened(server, audio="pcmf32", receive_buffer=4096, limits={"send_s": 0.3})
        caller.socket.transport.pause_reading()
        [lazy] = server.lobby.visits.keys() - {bystander}
        async with asyncio.timeout(60):
            while lazy in server.lobby.visits:
                if caller.socket.transport.get_write_buffer_size() < 65_536:
                    await caller.say(2)
                await asyncio.sleep(0.01)
        caller.socket.transport.abort()

    beside(server, fault)
    assert server.lobby.metrics.closes.labels("1008")._value.get() >= 1
