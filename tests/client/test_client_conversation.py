"""The client against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.serving import Running, run, serving, speech
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request

from duologue.client import (
    ConnectionFailed,
    ConnectionLost,
    ConversationOver,
    Interrupted,
    Opened,
    Resumed,
    ServerFull,
    Sound,
    TlsFailed,
    Unauthorised,
    Unsupported,
    connect,
)
from duologue.client.link import Address, open_link
from duologue.client.recording import play
from duologue.dialogue import Role, SessionEnded, TextToken
from duologue.engine.model import LoadedModel
from duologue.server.protocols.kyutai.audio import OpusCoder
from duologue.server.tls import make_certificate

FRAME = 1920


async def hear(events: Any, kind: type, count: int = 1) -> list[Any]:
    """The next events of a kind."""
    found: list[Any] = []
    while len(found) < count:
        event = await anext(events)
        if isinstance(event, kind):
            found.append(event)
    return found


@pytest.mark.parametrize("audio", ["opus", "pcm16", "pcmf32"])
def test_a_recording_gets_a_reply_of_its_length(server: Running, audio: str) -> None:
    async def talk() -> None:
        async with connect(server.http, audio=audio, parameters={"seed": 3}) as conversation:
            recorded = await play(conversation, speech(9)[:-100], tail_s=0.16, fast=True)
            assert conversation.opened is not None
            assert conversation.opened.model == "wren", "the name that was asked for"
        assert recorded.complete
        assert len(recorded.reply) == len(recorded.heard) == 11 * FRAME
        assert np.array_equal(recorded.heard[: 9 * FRAME - 100], speech(9)[:-100])
        assert np.abs(recorded.reply).max() > 0
        assert recorded.stereo().shape == (2, 11 * FRAME)
        text = "".join(turn.text for turn in recorded.chronicle.turns)
        assert text.strip(), "the tiny model draws characters all the time"

    run(talk())


def test_any_chunking_is_the_same_conversation(server: Running) -> None:
    async def talk(sizes: list[int]) -> Any:
        pcm, heard = speech(10), []
        async with connect(server.http, audio="pcmf32", parameters={"seed": 5}) as conversation:
            at = 0
            while at < len(pcm):
                size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
                await conversation.send(pcm[at : at + size])
                at += size
            events = aiter(conversation)
            heard = [sound.pcm for sound in await hear(events, Sound, 9)]
        return np.concatenate(heard)

    async def both() -> None:
        whole = await talk([10 * FRAME])
        cut = await talk([1, 7, 0, 2000, 959, 961, 30, 5000, 777])
        assert np.array_equal(whole, cut)

    run(both())


def test_a_cut_connection_is_resumed(server: Running) -> None:
    async def talk() -> None:
        async with connect(server.http, audio="pcmf32") as conversation:
            events = aiter(conversation)
            first = (await hear(events, Opened))[0]
            await conversation.send(speech(5))
            last = (await hear(events, Sound, 4))[-1]
            assert conversation._socket is not None
            conversation._socket.transport.abort()
            assert "broke" in (await hear(events, Interrupted))[0].reason
            assert (await hear(events, Resumed))[0].after_s < 30
            again = (await hear(events, Opened))[0]
            assert (again.id, again.resumed, first.resumed) == (first.id, True, False)
            await conversation.send(speech(5))
            sounds = await hear(events, Sound, 5)
            assert sounds[0].start == last.start + FRAME, "samples count on"
            await conversation.reset()
            await conversation.interrupt()
        await asyncio.to_thread(server.wait_until_empty)

    run(talk())


def test_a_session_that_is_gone_is_lost(model: LoadedModel) -> None:
    async def talk(server: Running) -> None:
        async with connect(server.http, audio="pcmf32") as conversation:
            events = aiter(conversation)
            await hear(events, Opened)
            conversation._reader.resume_token = "no-such-token"
            assert conversation._socket is not None
            conversation._socket.transport.abort()
            with pytest.raises(ConnectionLost, match="could not be resumed"):
                await hear(events, SessionEnded)
            with pytest.raises(ConversationOver):
                await conversation.send(speech(1))

    with serving(model, resume_s=0.1) as server:
        run(talk(server))


def test_full_and_unauthorised_say_what_to_do(model: LoadedModel) -> None:
    async def talk(server: Running, token: str) -> None:
        for wrong in (None, "wrong"):
            with pytest.raises(Unauthorised, match="DUOLOGUE_TOKEN"):
                await connect(server.http, token=wrong).__aenter__()
        async with connect(f"{server.http}/?token={token}") as conversation:
            assert token not in repr(conversation.address)
            await conversation.send(speech(3))
            with pytest.raises(ServerFull, match="try again in") as full:
                await connect(server.http, token=token).__aenter__()
            assert full.value.retry_after_s is not None
            assert full.value.retry_after_s > 0
            await hear(aiter(conversation), Sound)
        await asyncio.to_thread(server.wait_until_empty)

    with serving(model, token="correct-horse-battery", sessions=1) as server:
        run(talk(server, "correct-horse-battery"))


def test_addresses_that_lead_nowhere(server: Running) -> None:
    async def talk() -> None:
        with pytest.raises(ConnectionFailed, match="is the server running"):
            await connect("localhost:9").__aenter__()
        with pytest.raises(ConnectionFailed, match="looks like"):
            connect("ftp://localhost")
        with pytest.raises(ConnectionFailed, match="looks like"):
            await open_link(Address("ws://a..example/api/chat"), {}, 1.0)
        with pytest.raises(ConnectionFailed, match="no server of conversations"):
            await connect(f"ws://127.0.0.1:{server.port}/nothing").__aenter__()
        with pytest.raises(TlsFailed, match="needs http"):
            await connect(f"https://127.0.0.1:{server.port}").__aenter__()
        with pytest.raises(TlsFailed, match="https"):
            await connect(server.http, fingerprint="00" * 32).__aenter__()

    run(talk())


def test_bad_samples_are_refused_before_they_are_sent(server: Running) -> None:
    async def talk() -> None:
        async with connect(server.http) as conversation:
            for bad in (np.zeros((1, 4), np.float32), np.zeros(4, np.int16), np.full(4, np.nan)):
                with pytest.raises(ValueError, match="sample"):
                    await conversation.send(bad)

    run(talk())


def test_a_certificate_is_checked_before_the_token_is_shown(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    files = make_certificate(tmp_path, ["localhost", "127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    shown: list[str] = []

    async def note(_: ServerConnection, request: Request) -> None:
        shown.append(request.headers["Authorization"])

    async def talk() -> None:
        async with serve(published, "127.0.0.1", 0, ssl=context, process_request=note) as there:
            url = f"https://127.0.0.1:{there.sockets[0].getsockname()[1]}/?token=t"
            with pytest.raises(TlsFailed, match="--fingerprint"):
                await connect(url).__aenter__()
            with pytest.raises(TlsFailed, match="another one"):
                await connect(url, fingerprint="ab" * 32).__aenter__()
            assert shown == []
            for proof in ({"fingerprint": files.fingerprint}, {"ca": files.certificate}):
                async with connect(url, **proof) as conversation:
                    await conversation.send(speech(1))
            assert shown == ["Bearer t"] * 2
            with pytest.raises(ConnectionFailed, match="https://"):
                await connect(url.replace("https", "http")).__aenter__()

    run(talk())


async def published(socket: ServerConnection) -> None:
    """As the published Python servers: one byte, Opus both ways, text in pieces; nothing else."""
    coder = OpusCoder()
    await socket.send(b"\x04" + json.dumps({"instance_name": "x"}).encode())
    await socket.send(bytes(9))
    waiting = np.zeros(0, np.float32)
    async for message in socket:
        assert isinstance(message, bytes)
        assert message[0] == 1, "nothing but audio may be sent to it"
        waiting = np.concatenate([waiting, coder.decode(message[1:])])
        while len(waiting) >= FRAME:
            await socket.send(b"\x01" + coder.encode(waiting[:FRAME]))
            await socket.send(b"\x02" + " Sí".encode())
            await socket.send(b"\x63unknown kind")
            waiting = waiting[FRAME:]


def test_published_servers_are_spoken_to_as_published() -> None:
    async def talk() -> None:
        async with serve(published, "127.0.0.1", 0) as there:
            url = f"http://127.0.0.1:{there.sockets[0].getsockname()[1]}"
            async with connect(url) as conversation:
                texts: list[TextToken] = []
                recorded = await play(
                    conversation, speech(20), fast=True,
                    on_event=lambda event, _: texts.append(event)
                    if isinstance(event, TextToken) else None,
                )  # fmt: skip
                assert recorded.complete
                assert {(token.role, token.text) for token in texts} == {(Role.MODEL, " Sí")}
                assert [token.frame for token in texts] == list(range(len(texts)))
                with pytest.raises(Unsupported, match="audio only"):
                    await conversation.interrupt()
            with pytest.raises((Unsupported, ConnectionFailed)):
                await connect(url, audio="pcm16", open_timeout_s=0.05).__aenter__()

    run(talk())
