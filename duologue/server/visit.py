"""One visit: a websocket and a session, from the handshake to the close. Shared by all doors.

A door only translates. The visit holds what every door needs: it reads no faster than the
conversation goes (`limits.Pace`), ends on silence from the client, on a client that does not read,
and on the session's own end; and it decides what becomes of the session. A client that comes back
takes its session over, and the earlier visit then leaves it alone.

Bounds: `VisitLimits`; one message is in hand at a time, so a fast sender is held back by its own
connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from duologue.audio.errors import AudioError
from duologue.dialogue import (
    AudioFrame,
    EndReason,
    Interrupt,
    Reset,
    SelectBackend,
    SessionEnded,
)
from duologue.faults import fault
from duologue.server.door import Answer, Door, Leave, Message, Nothing, Pcm, Samples
from duologue.server.limits import Pace
from duologue.server.metrics import ServerMetrics

if TYPE_CHECKING:
    from duologue.session import Session

logger = logging.getLogger(__name__)

SAMPLE_RATE = 24_000
AUDIO_RATE = 1.05
"""Seconds of audio read per second; a little more than a client's clock can be fast."""
AUDIO_BURST_S = 1.5
"""Audio read at once; less than what a session can have waiting, so that none is lost."""
PIECE_SAMPLES = 4800
"""Samples handed on at once, so that a long message is paced too."""
BYTES_PER_S = 512 * 1024
BYTES_BURST = 4 * 2**20
STATS_EVERY_S = 1.0
FAREWELL_S = 1.0

NORMAL, GOING_AWAY, BAD_DATA, POLICY, FAILED, TAKEN_OVER = 1000, 1001, 1007, 1008, 1011, 4001
LOST = frozenset({1001, 1005, 1006})
"""Close codes after which a client may come back: it went away, or it never said."""


@dataclass(frozen=True, slots=True)
class VisitLimits:
    idle_s: float = 30.0
    send_s: float = 10.0
    messages_per_s: float = 200.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a visit ended. `keep`: the session waits for its client, if that can come back."""

    code: int
    reason: str
    keep: bool = False


class _Over(Exception):
    def __init__(self, ending: Ending) -> None:
        self.ending = ending


class Visit:
    """See the module; `run` once, with a websocket that is not accepted yet."""

    def __init__(
        self,
        websocket: WebSocket,
        session: Session,
        door: Door,
        limits: VisitLimits,
        metrics: ServerMetrics,
        *,
        max_frames: int | None = None,
        stats: Callable[[], Mapping[str, Any]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._websocket, self.session, self._door = websocket, session, door
        self._limits, self._metrics = limits, metrics
        self._max_frames, self._stats, self._clock = max_frames, stats, clock
        self._messages = Pace(limits.messages_per_s, 2 * limits.messages_per_s)
        self._bytes = Pace(BYTES_PER_S, BYTES_BURST)
        self._audio = Pace(AUDIO_RATE * SAMPLE_RATE, AUDIO_BURST_S * SAMPLE_RATE)
        self._heard_at = clock()
        self.frame = -1
        self.frames = 0
        self.dropped_samples = 0
        self.superseded = False

    async def run(self) -> Ending:
        """Hold the conversation; returns once session and websocket are settled."""
        ending = Ending(FAILED, "the server was stopped")
        try:
            ending = await self._converse()
        finally:
            await self._settle(ending)
        return ending

    async def _converse(self) -> Ending:
        endings: list[Ending] = []
        try:
            await self._websocket.accept()
            await self._send(self._door.opening())
            async with asyncio.TaskGroup() as tasks:
                for loop in (self._listen(), self._speak(), self._report()):
                    tasks.create_task(loop)
        except* (WebSocketDisconnect, OSError):
            endings.append(Ending(1006, "the client left before it was let in", keep=True))
        except* _Over as group:
            endings += [over.ending for over in _flat(group) if isinstance(over, _Over)]
        except* Exception as group:
            for error in _flat(group):
                logger.error("the visit failed with %s", fault(error))
            endings.insert(0, Ending(FAILED, "internal error"))
        return endings[0]

    # The three loops; each ends by raising _Over.

    async def _listen(self) -> None:
        while True:
            try:
                idle_at = self._heard_at + self._limits.idle_s - self._clock()
                async with asyncio.timeout(max(0.0, idle_at)):
                    message = await self._websocket.receive()
            except TimeoutError:
                raise _Over(Ending(POLICY, "no audio came", keep=True)) from None
            if message["type"] == "websocket.disconnect":
                code = message.get("code") or 1005
                raise _Over(Ending(code, "the client left", keep=code in LOST))
            data: Message = message.get("bytes") or message.get("text") or b""
            try:
                await self._take(data)
            except AudioError as error:
                await self._send(self._door.fault(str(error)))
                raise _Over(Ending(BAD_DATA, "the audio could not be read")) from None
            await self._hold_back(self._messages, 1)
            await self._hold_back(self._bytes, len(data))

    async def _take(self, message: Message) -> None:
        """Do what a message says, unless the session has a newer visit."""
        for heard in () if self.superseded else self._door.hear(message):
            match heard:
                case Samples(pcm):
                    for at in range(0, len(pcm), PIECE_SAMPLES):
                        await self._push(pcm[at : at + PIECE_SAMPLES])
                case Answer(messages):
                    await self._send(messages)
                case Leave():
                    await self.session.close("the client ended it")
                case Nothing(reason):
                    self._metrics.ignored.labels(reason).inc()
                case Interrupt() | Reset() | SelectBackend():
                    self.session.control(heard)

    async def _push(self, pcm: Pcm) -> None:
        await self._hold_back(self._audio, len(pcm))
        self._heard_at = self._clock()
        if not self.superseded:  # it may have become so meanwhile
            self.dropped_samples += self.session.push(pcm)

    async def _hold_back(self, pace: Pace, amount: int) -> None:
        """Wait as long as this much takes at its pace; others get their turn in any case."""
        await asyncio.sleep(pace.delay(amount, self._clock()))

    async def _speak(self) -> None:
        async for event in self.session.events():
            if isinstance(event, AudioFrame) and self.frames == self._max_frames:
                continue
            await self._send(self._door.render(event))
            self._metrics.observe(self.session.id, event)
            if isinstance(event, AudioFrame):
                self.frame = event.frame
                self.frames += 1
                if self.frames == self._max_frames:
                    await self.session.close("as many frames as were asked for")
            elif isinstance(event, SessionEnded):
                raise _Over(_ending_of(event))
        raise _Over(Ending(TAKEN_OVER, "taken over by a newer connection"))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(STATS_EVERY_S)
            dropped_ms = round(self.dropped_samples / SAMPLE_RATE * 1000)
            own = {"type": "stats", "frame": self.frame, "dropped_ms": dropped_ms}
            await self._send(self._door.note({**own, **self._stats()}))

    async def _send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            try:
                async with asyncio.timeout(self._limits.send_s):
                    if isinstance(message, str):
                        await self._websocket.send_text(message)
                    else:
                        await self._websocket.send_bytes(message)
            except TimeoutError:
                raise _Over(Ending(POLICY, "the client does not read", keep=True)) from None
            except (WebSocketDisconnect, RuntimeError):
                # The listener knows how the client left, unless it is holding a fast sender back.
                await asyncio.sleep(FAREWELL_S)
                raise _Over(Ending(1006, "the client left", keep=True)) from None

    # The end.

    async def _settle(self, ending: Ending) -> None:
        """Keep or close the session, then close the websocket."""
        self._metrics.closed(ending.code)
        self._metrics.forget(self.session.id)
        if not self.superseded and ending.code != TAKEN_OVER:
            if ending.keep and self._door.resumable:
                self.session.detach()
            else:
                await self.session.close(ending.reason)
        code = ending.code if ending.code not in (1005, 1006) else NORMAL
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._websocket.close(code, ending.reason)
        except (TimeoutError, WebSocketDisconnect, OSError, RuntimeError):
            logger.debug("the client was gone before the farewell")


def _ending_of(event: SessionEnded) -> Ending:
    match event.reason:
        case EndReason.SERVER_STOPPING:
            return Ending(GOING_AWAY, "the server stops")
        case EndReason.FAILED:
            return Ending(FAILED, "the session failed")
        case EndReason.FRAME_LIMIT:
            return Ending(NORMAL, "the longest time is over")
    return Ending(NORMAL, "ended")


def _flat(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flat(error)
        else:
            yield error
