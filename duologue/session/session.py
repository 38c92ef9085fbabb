"""One conversation, seen from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

from duologue.dialogue import Event, Interrupt, Reset, SelectBackend, SessionEnded
from duologue.session.seat import Seat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Host(Protocol):
    """What a session needs of its engine."""

    def control(self, seat: Seat, control: Interrupt | Reset | SelectBackend) -> None: ...

    def attach(self, seat: Seat, attached: bool) -> None: ...

    async def close(self, seat: Seat, detail: str) -> None: ...

    async def snapshot(self, seat: Seat, resume_token: str) -> bytes: ...


class Session:
    """Made by `Engine.open`, `resume` and `restore`; all methods belong to the event loop."""

    def __init__(
        self, host: Host, seat: Seat, resume_token: str, clock: Callable[[], float]
    ) -> None:
        self._host, self._seat, self._token, self._clock = host, seat, resume_token, clock
        self._attached = True
        self._reader = 0
        self._news = asyncio.Event()

    @property
    def id(self) -> str:
        """Safe to log; gives no access."""
        return self._seat.id

    @property
    def resume_token(self) -> str:
        """Secret with which a dropped client comes back: `engine.resume(token)`."""
        return self._token

    @property
    def ended(self) -> bool:
        """Whether `SessionEnded` has been put out (it may still wait in the queue)."""
        return self._seat.ended

    def push(self, pcm: NDArray[np.float32]) -> int:
        """Take the user's audio [n] at 24 kHz, any length; never blocks.

        Returns how many samples were dropped (the oldest waiting) to make room; all of `pcm` when
        the session has ended or is detached. Samples that are not finite are heard as silence.
        """
        if not self._attached or self._seat.ended:
            return len(pcm)
        return self._seat.input.push(pcm, self._clock())

    def events(self) -> AsyncIterator[Event]:
        """Events in order; ends after `SessionEnded`. `AudioFrame.payload` is float32 [1920].

        One reader at a time: a newer call (after a resume) takes over, and the older iterator ends.
        Breaking off loses nothing that was not yet given out.
        """
        self._take_over()
        return self._read(self._reader)

    def control(self, control: Interrupt | Reset | SelectBackend) -> None:
        """Act on the conversation before its next frame; ignored once it has ended."""
        self._host.control(self._seat, control)

    def detach(self) -> None:
        """The client is lost: the session stands still for `resume_s`, then ends.

        Nothing is fed and nothing is made meanwhile; waiting events are kept for the next reader.
        """
        self._attached = False
        self._host.attach(self._seat, False)

    async def close(self, detail: str = "") -> None:
        """End with `EndReason.CLIENT_CLOSED` and give the slot back; may be called twice."""
        self._attached = False
        await self._host.close(self._seat, detail)

    async def snapshot(self) -> bytes:
        """Everything the conversation is, between two frames; it goes on. See `Engine.restore`.

        Raises:
            SnapshotError: the session has ended, or is being made ready after a reset.
        """
        return await self._host.snapshot(self._seat, self._token)

    def come_back(self) -> None:
        """Attach again; the reader that is still there ends. For the engine."""
        self._take_over()
        self._attached = True
        self._host.attach(self._seat, True)

    def wake(self) -> None:
        """There are new events. For the engine."""
        self._news.set()

    def _take_over(self) -> None:
        self._reader += 1
        self._news.set()

    async def _read(self, reader: int) -> AsyncIterator[Event]:
        output = self._seat.output
        while reader == self._reader:
            event = output.take()
            if event is not None:
                yield event
                if isinstance(event, SessionEnded):
                    return
            elif output.finished:
                return
            else:
                self._news.clear()
                if not len(output) and not output.finished:
                    await self._news.wait()
