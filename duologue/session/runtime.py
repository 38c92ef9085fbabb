"""One conversation's commands on the event loop: a task for each, and nothing left behind.

The brain opens and closes lookups; here is the table from lookup number to task that its ports
speak of. At most `MAX_TASKS` run at a time (the brain asks for far fewer); one more is answered as
failed. `aclose` cancels whatever runs and waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from torch import Tensor

from duologue.dialogue import (
    CancelLookup,
    Command,
    EncodeReference,
    EncodingFailed,
    LookupFailed,
    Reply,
    StartLookup,
)
from duologue.encoder.ports import RowEncoder
from duologue.retrieval.protocol import Budget, HearAgain
from duologue.session.lookups import Backends, LookupCounters, encode, look_up, retrieval_context

logger = logging.getLogger(__name__)

MAX_TASKS = 32
Deliver = Callable[[Reply, Tensor | None], None]


class CommandRunner:
    """See the module. `deliver` takes replies, in order for each command; any thread may own it."""

    def __init__(
        self,
        backends: Backends,
        encoder: RowEncoder | None,
        dim: int,
        deliver: Deliver,
        *,
        system_prompt: str | None = None,
        budget: Budget | None = None,
        counters: defaultdict[str, LookupCounters] | None = None,
        hear_again: Callable[[int], HearAgain | None] = lambda lookup: None,
    ) -> None:
        """
        Args:
            hear_again: how the question of a lookup is heard again, by number.
        """
        self._backends, self._encoder, self._dim = backends, encoder, dim
        self._deliver, self._system_prompt, self._budget = deliver, system_prompt, budget
        self._counters = counters if counters is not None else defaultdict(LookupCounters)
        self._hear_again = hear_again
        self._lookups: dict[int, tuple[StartLookup, asyncio.Task[None]]] = {}
        self._encodings: dict[tuple[int, int], tuple[EncodeReference, asyncio.Task[None]]] = {}

    def carry_out(self, command: Command) -> None:
        """Begin or stop something; returns at once."""
        match command:
            case StartLookup() if self._has_room():
                task = self._spawn(self._look_up(command))
                self._lookups[command.lookup] = (command, task)
                task.add_done_callback(lambda _: self._lookups.pop(command.lookup, None))
            case StartLookup():
                self._deliver(LookupFailed(command.lookup, "too many lookups at once"), None)
            case CancelLookup():
                if running := self._lookups.get(command.lookup):
                    running[1].cancel()
            case EncodeReference() if self._has_room():
                self._drop_older(command.sequence)
                key = (command.sequence, command.part)
                task = self._spawn(self._encode(command))
                self._encodings[key] = (command, task)
                task.add_done_callback(lambda _: self._encodings.pop(key, None))
            case EncodeReference():
                failed = EncodingFailed(command.sequence, command.part, "too many texts at once")
                self._deliver(failed, None)

    def pending(self, frame: int) -> list[Command]:
        """What runs, as commands to begin again at `frame` with the time that is left to them."""
        running: list[StartLookup | EncodeReference] = [
            *(command for command, _ in self._lookups.values()),
            *(command for command, _ in self._encodings.values()),
        ]
        return [replace(command, frame=min(frame, command.deadline_frame)) for command in running]

    async def aclose(self) -> None:
        """Cancel everything and wait for it."""
        tasks = [task for _, task in (*self._lookups.values(), *self._encodings.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_up(self, command: StartLookup) -> None:
        route = self._backends.routes.get(command.backend)
        context = retrieval_context(
            command.context,
            backend_id=route.backend_id if route else None,
            system_prompt=self._system_prompt,
            budget=self._budget,
            hear_again=self._hear_again(command.lookup),
        )
        counters = self._counters[command.backend]
        async with aclosing(look_up(route, command, context, counters)) as replies:
            async for reply in replies:
                self._deliver(reply, None)

    async def _encode(self, command: EncodeReference) -> None:
        reply, rows = await encode(self._encoder, command, self._dim)
        self._deliver(reply, rows)

    def _drop_older(self, sequence: int) -> None:
        """Nobody waits for the parts of an older reference."""
        for (older, _), (_, task) in list(self._encodings.items()):
            if older < sequence:
                task.cancel()

    def _has_room(self) -> bool:
        return len(self._lookups) + len(self._encodings) < MAX_TASKS

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_report)
        return task


def _report(task: asyncio.Task[None]) -> None:
    """A task that fails is a fault in this program; its command ends at the brain's deadline."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a command of the dialogue brain failed: %s", type(error).__name__)
