"""One conversation with a server: samples go in, typed events come out, lost connections heal.

`send` waits while `MAX_UNSENT_S` of audio has not been handed to the network, so nothing that was
sent is dropped here; whoever cannot wait (a microphone) drops before. Events wait for their reader
in a queue of `MAX_EVENTS`; when it is full, reading from the network stops, and the server ends
conversations with clients that do not read.

When the connection breaks and the server gave a resume token, the client comes back by itself for
as long as the server waits; the events tell (`Interrupted`, `Resumed`). What was on its way at that
moment is lost: audio both ways, never more than was in flight. A published server gives no token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from duologue.audio.errors import AudioError
from duologue.client.errors import (
    ClientError,
    ConnectionFailed,
    ConnectionLost,
    ConversationOver,
    ServerFull,
    Unsupported,
)
from duologue.client.events import SAMPLE_RATE, Event, Interrupted, Opened, Pcm, Resumed
from duologue.client.link import Address, open_link
from duologue.client.reading import Reader
from duologue.dialogue import SessionEnded
from duologue.server.protocols.kyutai.audio import AudioCoder, audio_coder
from duologue.server.protocols.kyutai.query import AudioFormat
from duologue.server.protocols.kyutai.wire import Kind

MAX_UNSENT_S = 1.0
MAX_EVENTS = 512
MAX_COMMANDS = 16
BLOCK_SAMPLES = 960
"""Audio is sent in multiples of 40 ms: an Opus packet; small sends are gathered."""
MAX_BLOCK_SAMPLES = 5 * BLOCK_SAMPLES
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0
NORMAL = 1000
CLOSED_FOR = {
    1007: "the server could not read the audio",
    1008: "the server hung up: no audio came, or the events were not read",
    1009: "the server found a message too large",
    1011: "the conversation failed on the server",
    4001: "the conversation was taken over by a newer connection",
}
"""Ends after which coming back would not help."""


def connect(
    url: str,
    *,
    token: str | None = None,
    audio: str = "opus",
    parameters: Mapping[str, object] | None = None,
    ca: Path | None = None,
    fingerprint: str | None = None,
    open_timeout_s: float = 10.0,
) -> Conversation:
    """A conversation with the server at `url`; enter it with `async with`.

    Args:
        url: `http(s)://host:port` of a Duologue, Moshi or MoshiRAG server, or `ws(s)://` of its
            chat socket.
        token: the server's token.
        audio: `opus`, which every server speaks, or `pcm16` or `pcmf32`, which ours do.
        parameters: of the session: `voice`, `system_prompt`, `seed`, `backend`, ...; a server
            ignores those it does not know.
        ca: certificates to trust (PEM). fingerprint: or the one certificate, by its SHA-256.
        open_timeout_s: how long to wait for the server, and again for its handshake.

    Raises:
        ConnectionFailed: the address cannot be one.
    """
    try:
        audio_format = AudioFormat(audio)
    except ValueError:
        raise Unsupported(f"audio: one of {', '.join(AudioFormat)}") from None
    address = Address.parse(url, token=token, ca=ca, fingerprint=fingerprint)
    return Conversation(address, audio_format, parameters or {}, open_timeout_s)


class Conversation:
    """See the module; made by `connect`. One task iterates, any may send; one event loop."""

    def __init__(
        self,
        address: Address,
        audio: AudioFormat,
        parameters: Mapping[str, object],
        open_timeout_s: float,
    ) -> None:
        self.address = address
        self.opened: Opened | None = None
        """The last introduction; None with a published server, and until it has come."""
        self.error: Exception | None = None
        """Why the conversation ended, where that was a fault."""
        self._audio, self._open_timeout_s = audio, open_timeout_s
        self._parameters = {"dialect": "events", "audio": audio.value, **parameters}
        self._reader = Reader()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(MAX_EVENTS)
        self._samples: deque[Pcm] = deque()
        self._unsent = 0
        self._commands: deque[bytes] = deque()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._introduced: Opened | None = None
        self._ended = self._over = False
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._open({})
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, pcm: Pcm) -> None:
        """Say samples [n], any n; they are clipped to [-1, 1]. Send silence too: it is the clock.

        Raises:
            ConversationOver: it has ended; iterating tells why.
            ValueError: not a vector of finite floats.
        """
        samples = np.asarray(pcm)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"expected float samples [n], got {samples.dtype} {samples.shape}")
        if not np.isfinite(samples).all():
            raise ValueError("samples contain NaN or Inf")
        samples = np.clip(samples, -1.0, 1.0).astype(np.float32)
        for at in range(0, len(samples), MAX_BLOCK_SAMPLES):
            while self._unsent >= MAX_UNSENT_S * SAMPLE_RATE and not self._over:
                self._room.clear()
                await self._room.wait()
            if self._over:
                raise ConversationOver("the conversation is over")
            piece = samples[at : at + MAX_BLOCK_SAMPLES]
            self._samples.append(piece)
            self._unsent += len(piece)
            self._news.set()

    async def interrupt(self) -> None:
        """Give up the open lookup. What was said already is the player's to drop."""
        self._command(type="interrupt")

    async def reset(self) -> None:
        """Begin anew: nothing said so far counts."""
        self._command(type="reset")

    async def select_backend(self, backend: str) -> None:
        """Ask this one from the next lookup on; see `Opened.retrieval_backends`."""
        self._command(type="select_backend", backend=backend)

    async def close(self) -> None:
        """End the conversation for good; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._socket is not None:
            await self._socket.close(NORMAL)
        self._finish()
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Everything that happens, until the end.

        Raises:
            ConnectionLost: it broke and could not be resumed.
        """
        while not self._ended:
            event = await self._events.get()
            if event is None:
                self._ended = True
            else:
                yield event
        if self.error is not None:
            raise self.error

    def _command(self, **values: Any) -> None:
        if self._over:
            raise ConversationOver("the conversation is over")
        if self.opened is None:
            raise Unsupported(f"{self.address.shown} is a published server: it takes audio only")
        if len(self._commands) >= MAX_COMMANDS:
            raise ConnectionFailed("too many commands wait for the connection; try again later")
        self._commands.append(bytes([Kind.EVENT]) + json.dumps(values).encode())
        self._news.set()

    # Opening, at first and again.

    async def _open(self, more: Mapping[str, object]) -> None:
        """Connect, and wait for the handshake, after which audio may be sent."""
        parameters = {**self._parameters, **more}
        socket = await open_link(self.address, parameters, self._open_timeout_s)
        self._reader.coder = audio_coder(self._audio)
        try:
            async with asyncio.timeout(self._open_timeout_s):
                while True:
                    message = await socket.recv()
                    if message and message[0] == Kind.HANDSHAKE:
                        break
                    list(self._reader.read(message))
                if self._audio is not AudioFormat.OPUS:
                    await self._introduction(socket)
        except BaseException as error:
            await socket.close()
            match error:
                case TimeoutError():
                    reason = "it lets us wait; it may be busy with somebody else"
                case WebSocketException():
                    reason = self._reader.fault or "it hung up at once"
                case _:
                    raise
            raise ConnectionFailed(f"{self.address.shown}: {reason}") from None
        self._socket = socket

    async def _introduction(self, socket: ClientConnection) -> None:
        """Plain samples are noise to a server that does not tell that it takes them."""
        for event in self._reader.read(await socket.recv()):
            if isinstance(event, Opened):
                self._introduced = event
                return
        raise Unsupported(f"{self.address.shown} is a published server: it speaks Opus only")

    async def _come_back(self, reason: str) -> None:
        """Resume, as long as the server waits.

        Raises:
            ConnectionLost: the time is over, or the server does not have the session any more.
        """
        await self._events.put(Interrupted(reason))
        began, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                await self._open({"resume": self._reader.resume_token})
                break
            except (ConnectionFailed, ServerFull) as error:
                # Full also means that the server has not noticed yet that we are gone.
                if time.monotonic() + pause - began > self._reader.resume_s:
                    raise ConnectionLost(f"{reason}, and could not be resumed: {error}") from None
            except ClientError as error:
                raise ConnectionLost(f"{reason}, and could not be resumed: {error}") from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)
        await self._events.put(Resumed(time.monotonic() - began))

    # The task that holds the conversation.

    async def _run(self) -> None:
        try:
            while (reason := await self._converse()) is not None:
                await self._come_back(reason)
        except AudioError as error:
            self.error = ConnectionLost(f"the server's audio cannot be decoded: {error}")
        except Exception as error:  # raised again where events are awaited, which must not hang
            self.error = error
        self._finish()
        await self._events.put(None)

    def _finish(self) -> None:
        self._over = True
        self._room.set()

    async def _converse(self) -> str | None:
        """Both ways until the connection ends; returns why, if it is worth coming back."""
        socket, coder = self._socket, self._reader.coder
        assert socket is not None
        assert coder is not None
        writer = asyncio.create_task(self._write(socket, coder))
        said_goodbye = False
        try:
            if self._introduced is not None:
                await self._tell(self._introduced)
                self._introduced = None
            async for message in socket:
                for event in self._reader.read(message):
                    said_goodbye |= isinstance(event, SessionEnded)
                    await self._tell(event)
        except ConnectionClosed:
            pass
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
        return self._judge(socket.close_code or 1006, said_goodbye)

    async def _tell(self, event: Event) -> None:
        if isinstance(event, Opened):
            self.opened = event
        await self._events.put(event)

    def _judge(self, code: int, said_goodbye: bool) -> str | None:
        """What an end means.

        Raises:
            ConnectionLost: it was not meant to be, and nothing can be done.
        """
        if code in CLOSED_FOR:
            reason = CLOSED_FOR[code]
            raise ConnectionLost(
                f"{reason} ({self._reader.fault})" if self._reader.fault else reason
            )
        if said_goodbye or code == NORMAL:
            return None
        reason = f"the connection broke (code {code})"
        if self._reader.resume_token is not None and self._reader.resume_s > 0:
            return reason
        if self.opened is None and code in (1001, 1005):
            return None  # published servers say no goodbye
        raise ConnectionLost(self._reader.fault or f"{reason}; this server cannot resume it")

    async def _write(self, socket: ClientConnection, coder: AudioCoder) -> None:
        """Commands at once, audio in whole blocks; ends with the connection."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._news.clear()
                while self._commands:
                    await socket.send(self._commands[0])
                    self._commands.popleft()
                while (pcm := self._take()) is not None:
                    if payload := coder.encode(pcm):
                        await socket.send(bytes([Kind.AUDIO]) + payload)
                await self._news.wait()

    def _take(self) -> Pcm | None:
        """The next whole blocks of what waits, None when there is none."""
        count = min(self._unsent, MAX_BLOCK_SAMPLES) // BLOCK_SAMPLES * BLOCK_SAMPLES
        if not count:
            return None
        parts, have = [], 0
        while have < count:
            part = self._samples.popleft()
            if len(part) > count - have:
                self._samples.appendleft(part[count - have :])
                part = part[: count - have]
            parts.append(part)
            have += len(part)
        self._unsent -= count
        self._room.set()
        return np.concatenate(parts)
