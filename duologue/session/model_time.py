"""Conversations in model time: the model waits for the world, and the world's delay is simulated.

What the brain asks for is carried out at once, to its end, however long that really takes; how long
it took is measured (or made up) and counts in frames (`LatencyMode.SIMULATED`). So results do not
depend on how fast the machine runs the model.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from duologue.dialogue import (
    CancelLookup,
    Command,
    EncodeReference,
    Event,
    InjectReference,
    Output,
    Reply,
    StartLookup,
)
from duologue.encoder.ports import RowEncoder
from duologue.session.core import ConversationCore
from duologue.session.lookups import Backends, LookupCounters, encode, look_up, retrieval_context
from duologue.session.questions import Rehearing

T = TypeVar("T")
Elapsed = Callable[[Command, float], float]
"""What a command is taken to have lasted, given what it really did."""


def as_measured(command: Command, elapsed_s: float) -> float:
    """Take the time that it really took."""
    return elapsed_s


class LoopThread:
    """An event loop on a thread of its own, for blocking callers of asynchronous parts."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="duologue-loop", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something to its end; not from the thread itself."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call something on the loop, some time soon."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """Stop the loop; what still runs is left alone."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class ModelTime:
    """Carries out the commands of conversations, one after the other."""

    def __init__(
        self,
        loop: LoopThread,
        backends: Backends,
        encoder: RowEncoder | None = None,
        *,
        system_prompt: str | None = None,
        elapsed: Elapsed = as_measured,
        rehearing: Rehearing | None = None,
    ) -> None:
        self._loop, self._backends, self._encoder = loop, backends, encoder
        self._system_prompt, self._elapsed = system_prompt, elapsed
        self._rehearing = rehearing or Rehearing(None)
        self.counters: defaultdict[str, LookupCounters] = defaultdict(LookupCounters)

    def settle(self, core: ConversationCore, outputs: Sequence[Output]) -> list[Event]:
        """Carry out the commands among `outputs` and those that follow; returns all events."""
        events: list[Event] = []
        todo = list(outputs)
        while todo:
            output = todo.pop(0)
            match output:
                case StartLookup() | EncodeReference():
                    for reply, rows in self._loop.run(self._answer(output, core)):
                        measured_s = reply.elapsed_s or 0.0
                        taken = replace(reply, elapsed_s=self._elapsed(output, measured_s))
                        todo += core.receive(taken, rows)
                case CancelLookup() | InjectReference():
                    pass  # it has long ended; done by the core
                case _:
                    events.append(output)
        return events

    async def _answer(
        self, command: StartLookup | EncodeReference, core: ConversationCore
    ) -> list[tuple[Reply, Tensor | None]]:
        if isinstance(command, EncodeReference):
            return [await encode(self._encoder, command, core.bank.dim)]
        route = self._backends.routes.get(command.backend)
        context = retrieval_context(
            command.context,
            backend_id=route.backend_id if route else None,
            system_prompt=self._system_prompt,
            hear_again=self._rehearing.of(core.questions, command.lookup),
        )
        counters = self.counters[command.backend]
        return [(reply, None) async for reply in look_up(route, command, context, counters)]
