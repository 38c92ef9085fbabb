"""The connection of one conversation to a service, which comes back when it is lost.

One task connects, sends what waits, and passes on what comes; `push` and `take` only touch queues.
A connection is lost when the network or the service ends it, when it breaks the protocol, or when
frames were sent and nothing came back for `stall_s`. Then it is made anew, at once and then after
growing pauses, for as long as the conversation lasts. Frames whose words had not come are sent
again (up to `MAX_BACKLOG`), so a service that limits the length of a session (Gradium's: 300 s)
costs nothing. Who is away for longer than `report_after_s` is reported as lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from duologue.faults import fault
from duologue.stt.ports import FRAME_SIZE, Heard, Link, Notice
from duologue.stt.remote.hearing import Hearing
from duologue.stt.remote.link import LinkSettings, Lost, connected
from duologue.stt.remote.wire import Pcm, Ready, Refused, Wire, WireError, WireFactory

logger = logging.getLogger(__name__)


@dataclass
class LinkStats:
    """Counters of one conversation."""

    connections: int = 0
    losses: int = 0
    frames_dropped: int = 0
    """Frames that waited too long to be sent."""
    words_dropped: int = 0
    """Words that waited too long to be taken."""


class ServiceStream:
    """See `stt.ports.RemoteStream`. Made by `Service.open`; for one event loop."""

    def __init__(
        self,
        settings: LinkSettings,
        wire: WireFactory,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.stats = LinkStats()
        self._settings, self._make_wire = settings, wire
        self._clock, self._jitter = clock, jitter
        self._hearing = Hearing()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        # The link as the conversation knows it.
        self._ready_at: float | None = None
        self._down_since: float | None = clock()
        self._why = ""
        self._reported = False
        self._notices: list[Notice] = []

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._run(), name="stt")

    # -- the conversation's side

    def push(self, frame: Pcm) -> None:
        """Send a frame of float32 [1920]."""
        if frame.shape != (FRAME_SIZE,):
            raise ValueError(f"a frame has {FRAME_SIZE} samples, got {frame.shape}")
        if self._closed:
            return
        self._hearing.backlog.push(frame)
        self.stats.frames_dropped = self._hearing.backlog.dropped
        self._wake.set()

    def take(self) -> Heard:
        """What has come since the last call."""
        self._report_if_gone()
        self.stats.words_dropped = self._hearing.words_dropped
        notices, self._notices = tuple(self._notices), []
        return self._hearing.take(notices)

    def flush(self) -> None:
        """Ask for all words so far; a newer request takes an older one's place."""
        if self._closed or not self._hearing.backlog.pushed:
            return
        self._hearing.ask()
        self._wake.set()

    @property
    def unsent(self) -> int:
        """Frames that wait to be sent; beyond `MAX_BACKLOG` the oldest are lost."""
        return self._hearing.backlog.unsent

    async def finish(self, timeout_s: float = 5.0) -> Heard:
        """End the audio, and give its last words once they have come or the time is over."""
        self.flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._hearing.flushed and not self._closed:
                    self._changed.clear()
                    await self._changed.wait()
        heard = self.take()
        await self.aclose()
        return heard

    async def aclose(self) -> None:
        """End the connection; may be called twice."""
        self._closed = True
        self._changed.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- the connection's side

    async def _run(self) -> None:
        settings, retry_s = self._settings, 0.0
        while True:
            self._ready_at = None
            try:
                async with connected(settings) as socket:
                    self.stats.connections += 1
                    await self._serve(socket)
            except Lost as lost:
                self._note_down(str(lost))
            except Exception as error:
                logger.error("speech recognition: unexpected %s", fault(error))
                self._note_down("an internal fault, see the log")
            if self._ready_at and self._clock() - self._ready_at >= settings.stable_s:
                retry_s = 0.0
            await asyncio.sleep(retry_s * (0.5 + 0.5 * self._jitter()))
            retry_s = min(settings.max_retry_s, max(settings.first_retry_s, 2 * retry_s))

    async def _serve(self, socket: ClientConnection) -> None:
        """Use a connection until it is lost."""
        wire = self._make_wire()
        faults: list[BaseException] = []
        try:
            for message in wire.greeting():
                await socket.send(message)
            await self._await_ready(socket, wire)
            self._note_up()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(socket, wire))
                group.create_task(self._receive(socket, wire))
        except* (Lost, WireError, ConnectionClosed) as group_of_faults:
            faults = list(_leaves(group_of_faults))
        # What the service said counts more than that it hung up afterwards.
        said = [fault for fault in faults if not isinstance(fault, ConnectionClosed)]
        fault = (said or faults)[0]
        raise Lost(str(fault)) if isinstance(fault, WireError) else fault

    async def _await_ready(self, socket: ClientConnection, wire: Wire) -> None:
        try:
            async with asyncio.timeout(self._settings.open_timeout_s):
                while True:
                    for event in wire.receive(await socket.recv()):
                        if isinstance(event, Ready):
                            return
                        if isinstance(event, Refused):
                            raise Lost(f"the service refused: {event.detail}")
        except TimeoutError:
            raise Lost(f"not ready within {self._settings.open_timeout_s:g} s") from None

    async def _send(self, socket: ClientConnection, wire: Wire) -> None:
        hearing = self._hearing
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (pcm := hearing.next_frame()) is not None:
                for message in wire.audio(pcm):
                    await socket.send(message)
            if (number := hearing.next_flush()) is not None:
                messages, silence_frames = wire.flush(number)
                hearing.flush_sent(silence_frames)
                for message in messages:
                    await socket.send(message)
                self._wake.set()

    async def _receive(self, socket: ClientConnection, wire: Wire) -> None:
        stall_s = self._settings.stall_s
        while True:
            sent = self._hearing.sent
            try:
                async with asyncio.timeout(stall_s):
                    message = await socket.recv()
            except TimeoutError:
                if sent < self._hearing.sent:
                    raise Lost(f"the service said nothing for {stall_s:g} s") from None
                continue
            for event in wire.receive(message):
                self._hearing.understand(event)
            self._changed.set()

    # -- what the conversation is told of the connection

    def _note_up(self) -> None:
        self._hearing.begin()
        now = self._clock()
        if self._reported and self._down_since is not None:
            dropped = self.stats.frames_dropped
            detail = f"back after {now - self._down_since:.1f} s; {dropped} frames lost so far"
            self._notices.append(Notice(Link.RESTORED, detail))
        self._down_since, self._reported, self._ready_at = None, False, now
        self._wake.set()

    def _note_down(self, why: str) -> None:
        self._hearing.end()
        self.stats.losses += 1
        self._why = why
        if self._down_since is None:
            self._down_since = self._clock()
        logger.info("speech recognition: %s", why)

    def _report_if_gone(self) -> None:
        # The first attempt may take its time: it ends by itself.
        if self._down_since is None or self._reported or not self.stats.losses:
            return
        if self._clock() - self._down_since >= self._settings.report_after_s:
            self._reported = True
            self._notices.append(Notice(Link.LOST, self._why))


class Service:
    """A service that recognises any number of conversations, one connection each."""

    def __init__(self, settings: LinkSettings, wire: WireFactory) -> None:
        self.settings, self._wire = settings, wire

    async def open(self) -> ServiceStream:
        """Begin a conversation; never fails for the network."""
        stream = ServiceStream(self.settings, self._wire)
        stream.start()
        return stream


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The single errors of a group."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
