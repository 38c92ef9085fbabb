"""One conversation live, without a server: send audio, read events.

Sending waits until the model has made its frames, which is all the pacing there is. Events wait in
a bounded queue for their reader (see `outputs`); a reader that does not come loses audio, and when
everything else fills the queue too, the conversation has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from duologue.dialogue import (
    CancelLookup,
    Command,
    Control,
    EncodeReference,
    End,
    EndReason,
    Event,
    InjectReference,
    Output,
    Reply,
    StartLookup,
)
from duologue.encoder.ports import RowEncoder
from duologue.engine.api import EngineError
from duologue.faults import fault
from duologue.session.core import ConversationCore, FrameGiven, advance
from duologue.session.inputs import playable
from duologue.session.lookups import Backends
from duologue.session.model_time import LoopThread
from duologue.session.outputs import OutputQueue
from duologue.session.questions import Rehearing
from duologue.session.runtime import CommandRunner

logger = logging.getLogger(__name__)

MAX_EVENTS = 1_024
"""Events that wait for their reader: 80 s and more."""


class SessionStream:
    """An async context manager and iterator; `send` and iterate in two tasks, or in turn."""

    def __init__(
        self,
        core: ConversationCore,
        thread: ThreadPoolExecutor,
        world: LoopThread,
        backends: Backends,
        encoder: Callable[[], RowEncoder | None],
        *,
        system_prompt: str | None = None,
        rehearing: Rehearing,
    ) -> None:
        self._core, self._thread, self._world = core, thread, world
        self._backends, self._open_encoder = backends, encoder
        self._system_prompt = system_prompt
        self._rehearing = rehearing
        self._partial = np.zeros(0, np.float32)
        self._events = OutputQueue(MAX_EVENTS)
        self._news = asyncio.Event()
        self._finished = False
        self._runner: CommandRunner | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        encoder = await asyncio.to_thread(self._open_encoder)
        self._runner = CommandRunner(
            self._backends,
            encoder,
            self._core.bank.dim,
            lambda reply, rows: self._post(self._receive, reply, rows),
            system_prompt=self._system_prompt,
            hear_again=partial(self._rehearing.of, self._core.questions),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop what runs; the conversation can go on in another stream."""
        self._finished = True
        self._news.set()
        if self._runner is not None:
            await asyncio.to_thread(self._world.run, self._runner.aclose())

    async def send(self, pcm: NDArray[np.float32]) -> None:
        """The user's audio [n] at 24 kHz, any length; returns when its whole frames are made.

        Raises:
            EngineError: the session is closed, or the conversation has ended.
            ValueError: the audio is not of one channel [n].
        """
        size = self._core.bank.frame_size
        samples = np.concatenate([self._partial, playable(pcm)])
        whole = len(samples) - len(samples) % size
        self._partial = samples[whole:]
        for frame in samples[:whole].reshape(-1, size):
            await self._on_thread(self._frame, frame)

    async def control(self, control: Control) -> None:
        """Interrupt, reset, or choose a back end."""
        await self._on_thread(self._receive, control)

    async def finish(self) -> None:
        """The audio has ended: what is left is filled up with silence, then the events end."""
        if len(self._partial):
            await self.send(np.zeros(self._core.bank.frame_size - len(self._partial), np.float32))
        self._finished = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = self._events.take()
            if event is not None:
                yield event
            elif self._finished or self._events.finished:
                return
            else:
                self._news.clear()
                if not len(self._events):
                    await self._news.wait()

    # On the model's thread.

    def _frame(self, pcm: NDArray[np.float32]) -> None:
        core = self._core
        core.check_open()
        if core.brain.ended:
            raise EngineError("the conversation has ended; its last event says why")
        if core.needs_start:
            for _ in core.prepare():
                pass
        made = advance(core.bank, {core: FrameGiven(pcm)})[core]
        if isinstance(made, Exception):
            raise made
        self._put(made.outputs)

    def _receive(self, given: Reply | Control, rows: Tensor | None = None) -> None:
        if isinstance(given, Reply):
            if self._core.closed:
                return  # it comes too late
            # Latency is real here, not simulated: the reply counts now.
            given = replace(given, elapsed_s=None)
        self._core.check_open()
        self._put(self._core.receive(given, rows))

    def _put(self, outputs: list[Output]) -> None:
        events: list[Event] = []
        for output in outputs:
            match output:
                case StartLookup() | CancelLookup() | EncodeReference():
                    self._carry_out(output)
                case InjectReference():
                    pass
                case _:
                    events.append(output)
        if not self._events.put(events) and not self._core.brain.ended:
            detail = f"the reader left {len(self._events)} events unread"
            self._put(self._core.receive(End(EndReason.FAILED, detail)))
        with contextlib.suppress(RuntimeError):  # a late reply; the caller's loop is closed
            self._loop.call_soon_threadsafe(self._news.set)

    def _carry_out(self, command: Command) -> None:
        assert self._runner is not None
        self._world.call(self._runner.carry_out, command)

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        self._thread.submit(function, *arguments).add_done_callback(_report)

    async def _on_thread(self, function: Callable[..., None], *arguments: object) -> None:
        await asyncio.wrap_future(self._thread.submit(function, *arguments))


def _report(done: Future[None]) -> None:
    """Nobody waits for what is posted: what it raises is logged, without what was said."""
    if not done.cancelled() and (error := done.exception()) is not None:
        logger.error("a reply failed with %s", fault(error))
