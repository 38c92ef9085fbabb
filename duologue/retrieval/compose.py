"""Several retrievers as one: in order, racing, hedged, or grounded only.

All of them start their members by one rule: the next member starts when the one before has ended
without an acceptable answer, or when a delay has passed, whichever is first. In order is an endless
delay, a race is none, and hedging learns it from how long the first member usually takes. The first
acceptable answer wins; the others are cancelled and awaited, for `CANCEL_GRACE_S` at most. A
streaming member wins with its first acceptable clause.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from duologue.retrieval.protocol import (
    CANCEL_GRACE_S,
    Attempt,
    Clause,
    Clock,
    Outcome,
    RetrievalContext,
    Retrieved,
    Retriever,
    attempt,
    handing_over,
    stream_attempt,
)

MAX_MEMBERS = 16
MAX_WAITING_ITEMS = 64
Item = Clause | Retrieved
_Open = Callable[[Retriever, RetrievalContext, float], AsyncGenerator[Item]]


@dataclass(frozen=True, slots=True)
class Member:
    """A retriever with a time limit of its own and what its answers need to be acceptable."""

    retriever: Retriever
    deadline_s: float = math.inf
    min_confidence: float = 0.0
    require_sources: bool = False

    def objection(self, item: Item) -> str:
        """Why an answer is not acceptable, "" when it is."""
        if isinstance(item, Retrieved) and not item.answered:
            return item.detail or item.outcome.value
        if item.confidence < self.min_confidence:
            return "not confident enough"
        if self.require_sources and not item.sources:
            return "no source"
        return ""


class LearnedDelay:
    """How long to wait for a first answer before asking for a second.

    The `quantile` of the last `window` answering times, within `least_s` and `most_s`; `initial_s`
    until `MIN_SAMPLES` are known. So about one question in 1 / (1 - quantile) is asked twice.
    """

    MIN_SAMPLES = 5

    def __init__(
        self,
        *,
        quantile: float = 0.9,
        initial_s: float = 0.4,
        least_s: float = 0.05,
        most_s: float = 2.0,
        window: int = 64,
    ) -> None:
        self._quantile = quantile
        self._initial_s = initial_s
        self._least_s = least_s
        self._most_s = most_s
        self._times: deque[float] = deque(maxlen=window)

    def observe(self, elapsed_s: float) -> None:
        self._times.append(elapsed_s)

    @property
    def delay_s(self) -> float:
        if len(self._times) < self.MIN_SAMPLES:
            return self._initial_s
        ordered = sorted(self._times)
        index = max(0, math.ceil(self._quantile * len(ordered)) - 1)
        return min(self._most_s, max(self._least_s, ordered[index]))


class Cascade:
    """See the module; made by `in_order`, `race`, `hedged` and `grounded`."""

    def __init__(
        self,
        members: Sequence[Member | Retriever],
        *,
        name: str,
        delay_s: float | LearnedDelay,
        clock: Clock = time.monotonic,
    ) -> None:
        if not 1 <= len(members) <= MAX_MEMBERS:
            raise ValueError(f"1 to {MAX_MEMBERS} members, not {len(members)}")
        self._members = tuple(m if isinstance(m, Member) else Member(m) for m in members)
        self._name = name
        self._delay = delay_s
        self._clock = clock

    @property
    def name(self) -> str:
        return self._name

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        """The first acceptable whole answer, or the most telling way of having none."""
        result = Retrieved(Outcome.EMPTY)
        async with aclosing(self._relay(context, deadline_s, self._whole)) as items:
            async for item in items:
                if isinstance(item, Retrieved):
                    result = item
        return result

    async def stream(self, context: RetrievalContext, deadline_s: float) -> AsyncGenerator[Item]:
        """The clauses of the first member to give an acceptable one, then its whole answer."""
        async with aclosing(self._relay(context, deadline_s, self._clauses)) as items:
            async for item in items:
                yield item

    async def aclose(self) -> None:
        for member in self._members:
            await member.retriever.aclose()

    async def _whole(
        self, retriever: Retriever, context: RetrievalContext, deadline_s: float
    ) -> AsyncGenerator[Item]:
        yield await attempt(retriever, context, deadline_s, clock=self._clock)

    def _clauses(
        self, retriever: Retriever, context: RetrievalContext, deadline_s: float
    ) -> AsyncGenerator[Item]:
        return stream_attempt(retriever, context, deadline_s, clock=self._clock)

    async def _relay(
        self, context: RetrievalContext, deadline_s: float, open_member: _Open
    ) -> AsyncGenerator[Item]:
        """Items of the winning member, the last one a `Retrieved` with everybody's attempts."""
        loop = asyncio.get_running_loop()
        end_at = loop.time() + handing_over(deadline_s)
        delay_s = self._delay.delay_s if isinstance(self._delay, LearnedDelay) else self._delay
        inbox: asyncio.Queue[tuple[int, Item]] = asyncio.Queue(MAX_WAITING_ITEMS)
        pumps: list[asyncio.Task[None]] = []
        began: list[float] = []
        unfinished: set[int] = set()
        winner: int | None = None
        given: list[Clause] = []
        refused: list[Retrieved] = []
        final: Retrieved | None = None

        async def pump(index: int) -> None:
            member = self._members[index]
            left = min(member.deadline_s, end_at - loop.time())
            async with aclosing(open_member(member.retriever, context, left)) as items:
                async for item in items:
                    await inbox.put((index, item))

        next_at = loop.time()
        try:
            while final is None and loop.time() < end_at:
                more = winner is None and len(pumps) < len(self._members)
                if more and (not unfinished or loop.time() >= next_at):
                    unfinished.add(len(pumps))
                    began.append(self._clock())
                    pumps.append(asyncio.create_task(pump(len(pumps))))
                    next_at = loop.time() + delay_s
                    continue
                if not unfinished:
                    break
                try:
                    async with asyncio.timeout_at(min(end_at, next_at) if more else end_at):
                        index, item = await inbox.get()
                except TimeoutError:
                    continue
                member = self._members[index]
                objection = "" if index == winner else member.objection(item)
                if winner is None and not objection:
                    winner = index
                    if index == 0 and isinstance(self._delay, LearnedDelay):
                        self._delay.observe(self._clock() - began[0])
                    for other, task in enumerate(pumps):
                        if other != index:
                            task.cancel()
                if isinstance(item, Retrieved):
                    unfinished.discard(index)
                    if index == winner:
                        final = item
                    else:
                        refused.append(_refused(item, objection))
                elif index == winner:
                    given.append(item)
                    yield item
        finally:
            for task in pumps:
                task.cancel()
            ends = asyncio.gather(*pumps, return_exceptions=True)
            await asyncio.wait({ends}, timeout=CANCEL_GRACE_S)

        late = loop.time() >= end_at
        if final is None:
            final = _cut_short(given) if given else _best_refusal(refused, self._name, late=late)
        stopped = tuple(
            Attempt(
                self._members[index].retriever.name,
                Outcome.TIMED_OUT if late else Outcome.CANCELLED,
                self._clock() - began[index],
            )
            for index in sorted(unfinished)
        )
        tried = tuple(entry for result in refused for entry in result.attempts)
        own = final.attempts if final not in refused else ()
        yield replace(final, attempts=(*tried, *own, *stopped))


def _refused(result: Retrieved, objection: str) -> Retrieved:
    """An answer that is not acceptable counts as empty; its attempt says why."""
    if not result.answered:
        return result
    attempts = tuple(
        replace(entry, outcome=Outcome.EMPTY, detail=objection)
        if entry.outcome is Outcome.ANSWERED
        else entry
        for entry in result.attempts
    )
    return replace(result, outcome=Outcome.EMPTY, reference="", detail=objection, attempts=attempts)


def _best_refusal(refused: Sequence[Retrieved], name: str, *, late: bool) -> Retrieved:
    """What to report when nobody answered: a timeout, else a failure, else nothing known."""
    if late:
        return Retrieved(Outcome.TIMED_OUT, backend=name, detail="deadline passed")
    for outcome in (Outcome.TIMED_OUT, Outcome.FAILED, Outcome.EMPTY):
        for result in refused:
            if result.outcome is outcome:
                return result
    return Retrieved(Outcome.EMPTY, backend=name)


def _cut_short(given: Sequence[Clause]) -> Retrieved:
    last = given[-1]
    return Retrieved(
        Outcome.ANSWERED,
        " ".join(clause.text for clause in given),
        sources=last.sources,
        confidence=last.confidence,
        backend=last.backend,
        truncated=True,
    )


def in_order(
    members: Sequence[Member | Retriever],
    *,
    name: str = "in order",
    clock: Clock = time.monotonic,
) -> Cascade:
    """Each member is asked when those before it have no acceptable answer."""
    return Cascade(members, name=name, delay_s=math.inf, clock=clock)


def race(
    members: Sequence[Member | Retriever], *, name: str = "race", clock: Clock = time.monotonic
) -> Cascade:
    """All members are asked at once; the first acceptable answer wins."""
    return Cascade(members, name=name, delay_s=0.0, clock=clock)


def hedged(
    first: Member | Retriever,
    second: Member | Retriever,
    *,
    delay: LearnedDelay | float | None = None,
    name: str = "hedged",
    clock: Clock = time.monotonic,
) -> Cascade:
    """The second is asked too when the first is slower than usual, or at once when it fails."""
    learned = LearnedDelay() if delay is None else delay
    return Cascade([first, second], name=name, delay_s=learned, clock=clock)


def grounded(retriever: Retriever, *, clock: Clock = time.monotonic) -> Cascade:
    """No source, no claim: answers without sources count as empty.

    Around a composition this only filters its answer; to let a member with sources win over one
    without, give each `Member` its own `require_sources`.
    """
    member = Member(retriever, require_sources=True)
    return Cascade([member], name=f"{retriever.name}, grounded", delay_s=math.inf, clock=clock)
