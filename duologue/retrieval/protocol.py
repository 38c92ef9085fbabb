"""What every retrieval back end promises: text in, text out, inside a deadline.

`Retriever.retrieve(context, deadline_s)` answers with a `Retrieved`; every way a lookup can end is
an `Outcome`, never an empty string. Callers go through `attempt` (or `stream_attempt`), which hold
the deadline even against a back end that ignores it, turn exceptions into outcomes and bound
whatever comes back. This file knows no audio, no model and no wire format.

Bounds: a context holds at most `MAX_TURNS` turns and `MAX_CONTEXT_CHARS` characters (oldest turns
out first), a reference at most `MAX_REFERENCE_CHARS`, a result at most `MAX_SOURCES` sources, a
deadline at most `MAX_DEADLINE_S`. A back end that ignores cancellation for `CANCEL_GRACE_S` is left
behind and logged; at most `MAX_ABANDONED` may be left behind before lookups to it are refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from duologue.errors import DuologueError
from duologue.faults import fault
from duologue.retrieval.clauses import split_clauses
from duologue.retrieval.cleaning import clean_text

logger = logging.getLogger(__name__)

MAX_TURNS = 64
MAX_CONTEXT_CHARS = 8_000
MAX_TURN_CHARS = 2_000
MAX_REFERENCE_CHARS = 1_200
MAX_SOURCES = 8
MAX_TITLE_CHARS = 200
MAX_LOCATION_CHARS = 500
MAX_DETAIL_CHARS = 300
MAX_DEADLINE_S = 60.0
CANCEL_GRACE_S = 0.05
HAND_OVER_S = 0.02
MAX_ABANDONED = 32

Clock = Callable[[], float]
"""Monotonic seconds."""


class Guess(Protocol):
    """What may have been said in place of the words `first` to `last` (inclusive) of a text, of
    those that spaces part.
    """

    @property
    def name(self) -> str: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...


class Likelihood(Protocol):
    """How well a guess fits the sound, as a recogniser has it: natural logarithms."""

    @property
    def guessed(self) -> float:
        """Of the guess, which has so many `pieces`."""
        ...

    @property
    def pieces(self) -> int: ...
    @property
    def written(self) -> float:
        """Of what was written in its place."""
        ...


class HeardAgain(Protocol):
    """The newest user turn, heard again in several ways."""

    @property
    def texts(self) -> Sequence[str]:
        """What it may have been, one text for each way."""
        ...

    async def likelihoods(
        self, guesses: Sequence[Sequence[Guess]]
    ) -> Sequence[Sequence[Likelihood]]:
        """How likely names were said, for each text those that are guessed for it; takes a
        fraction of a second.
        """
        ...


HearAgain = Callable[[], Awaitable[HeardAgain]]
"""Has the newest user turn heard again; takes a fraction of a second."""


class RetrievalError(DuologueError):
    """A lookup that could not be made or finished; the message is safe to log and to show."""


class BackendUnavailable(RetrievalError):
    """The back end cannot be reached, is overloaded, or its circuit breaker is open."""


class BackendRejected(RetrievalError):
    """The back end refuses the request (credentials, parameters, a redirect to another host)."""


class BackendMalformed(RetrievalError):
    """The back end answered something that is not what its protocol says."""


class RetrievalTimeout(RetrievalError):
    """The deadline passed before an acceptable answer."""


class Outcome(StrEnum):
    """How a lookup ended."""

    ANSWERED = "answered"
    EMPTY = "empty"
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Role(StrEnum):
    """Who spoke a turn."""

    USER = "user"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the transcript."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class EarlierReference:
    """A reference retrieved before, and the `RetrievalContext.turn_count` it was retrieved for."""

    turn_count: int
    text: str


def estimate_frames(text: str) -> int:
    """Frames to inject a reference whose tokenizer is unknown: 4/3 tokens a word, 4 a frame."""
    words = len(text.split())
    return -(-words // 3)


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a reference may be: its vectors are added to the model's input one per frame."""

    max_frames: int = 32
    frames_of: Callable[[str], int] = estimate_frames

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, not {self.max_frames}")

    def fits(self, text: str) -> bool:
        return self.frames_of(text) <= self.max_frames

    def trim(self, text: str) -> str:
        """The longest run of leading clauses that fits, or of words if no clause does."""
        if self.fits(text):
            return text
        for pieces in (split_clauses(text), text.split()):
            low, high = 0, len(pieces)
            while low < high:
                middle = (low + high + 1) // 2
                if self.fits(" ".join(pieces[:middle])):
                    low = middle
                else:
                    high = middle - 1
            if low:
                return " ".join(pieces[:low]).rstrip(",;: ")
        return ""


@dataclass(frozen=True)
class RetrievalContext:
    """The conversation as a retriever sees it; bounded and cleaned on construction.

    Of the turns given, a trailing model turn (the lead of the very answer being prepared) and a
    leading one (the greeting) are left out. `turn_count` numbers the turns that remain before the
    oldest are dropped for length, so it keeps growing over a long conversation.
    """

    turns: tuple[Turn, ...]
    references: tuple[EarlierReference, ...] = ()
    backend_id: str | None = None
    system_prompt: str | None = None
    budget: Budget = field(default_factory=Budget)
    dropped_turns: int = 0
    hear_again: HearAgain | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        turns = list(self.turns)
        if turns and turns[-1].role is Role.MODEL:
            turns.pop()
        if turns and turns[0].role is Role.MODEL and not self.dropped_turns:
            turns.pop(0)
        kept: list[Turn] = []
        room = MAX_CONTEXT_CHARS
        for turn in reversed(turns):
            text = clean_text(turn.text, MAX_TURN_CHARS)
            if len(kept) == MAX_TURNS or (kept and len(text) > room):
                break
            room -= len(text)
            kept.append(Turn(Role(turn.role), text))
        kept.reverse()
        dropped = self.dropped_turns + len(turns) - len(kept)
        references = tuple(
            EarlierReference(earlier.turn_count, clean_text(earlier.text, MAX_REFERENCE_CHARS))
            for earlier in self.references[-MAX_TURNS:]
            if earlier.turn_count > dropped
        )
        object.__setattr__(self, "turns", tuple(kept))
        object.__setattr__(self, "references", references)
        object.__setattr__(self, "dropped_turns", dropped)

    @classmethod
    def from_question(cls, question: str, *, budget: Budget | None = None) -> RetrievalContext:
        """A conversation of one user turn."""
        return cls((Turn(Role.USER, question),), budget=budget or Budget())

    def heard_as(self, question: str) -> RetrievalContext:
        """The same conversation with another newest user turn, which is heard no more."""
        turns = list(self.turns)
        for place in reversed(range(len(turns))):
            if turns[place].role is Role.USER:
                turns[place] = Turn(Role.USER, question)
                break
        return replace(self, turns=tuple(turns), hear_again=None)

    @property
    def turn_count(self) -> int:
        return self.dropped_turns + len(self.turns)

    @property
    def question(self) -> str:
        """The newest user turn, "" when there is none."""
        return next((turn.text for turn in reversed(self.turns) if turn.role is Role.USER), "")

    @property
    def background(self) -> str:
        """The two turns before the question: what a follow-up such as "and when?" refers to."""
        before = list(self.turns)
        while before and before[-1].text != self.question:
            before.pop()
        return " ".join(turn.text for turn in before[-3:-1])


@dataclass(frozen=True, slots=True)
class Source:
    """Where a reference comes from, precise enough to be cited and checked."""

    title: str
    location: str = ""
    line: int | None = None
    row: int | None = None
    page: int | None = None
    score: float = 0.0

    def cleaned(self) -> Source:
        """The same within bounds, without characters that a screen should not see."""
        title = clean_text(self.title, MAX_TITLE_CHARS)
        return replace(self, title=title, location=clean_text(self.location, MAX_LOCATION_CHARS))

    def cite(self) -> str:
        """For example `facts.md, line 12`."""
        places = (("page", self.page), ("row", self.row), ("line", self.line))
        place = next((f", {name} {number}" for name, number in places if number is not None), "")
        return f"{self.title}{place}"


def bounded_sources(sources: Sequence[Source]) -> tuple[Source, ...]:
    """At most `MAX_SOURCES`, each cleaned."""
    return tuple(source.cleaned() for source in sources[:MAX_SOURCES])


@dataclass(frozen=True, slots=True)
class Attempt:
    """One back end asked on the way to a result; for logs, metrics and the conversation trace."""

    backend: str
    outcome: Outcome
    elapsed_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What a lookup ended with.

    `reference` is non-empty exactly when `outcome` is ANSWERED. `backend` labels who answered (for
    an LLM its model name). `confidence` is in [0, 1] and comparable within one back end only.
    `truncated` marks an answer cut short by the deadline or a lost connection, kept because
    complete sentences had already arrived.
    """

    outcome: Outcome
    reference: str = ""
    sources: tuple[Source, ...] = ()
    confidence: float = 0.0
    backend: str = ""
    elapsed_s: float = 0.0
    detail: str = ""
    truncated: bool = False
    attempts: tuple[Attempt, ...] = ()

    @property
    def answered(self) -> bool:
        return self.outcome is Outcome.ANSWERED

    def bounded(self) -> Retrieved:
        """The same result within this file's bounds; an answer without text becomes EMPTY."""
        reference = clean_text(self.reference, MAX_REFERENCE_CHARS) if self.answered else ""
        outcome = Outcome.EMPTY if self.answered and not reference else self.outcome
        return replace(
            self,
            outcome=outcome,
            reference=reference,
            sources=bounded_sources(self.sources),
            confidence=min(1.0, max(0.0, float(self.confidence))),
            detail=clean_text(self.detail, MAX_DETAIL_CHARS),
        )

    def as_attempt(self) -> Attempt:
        return Attempt(self.backend, self.outcome, self.elapsed_s, self.detail)


@dataclass(frozen=True, slots=True)
class Clause:
    """A complete clause of an answer whose rest is still coming; ready to be injected."""

    text: str
    backend: str = ""
    confidence: float = 0.0
    sources: tuple[Source, ...] = ()


@runtime_checkable
class Retriever(Protocol):
    """A source of references.

    `retrieve` returns within `deadline_s` where it can; it may raise `RetrievalError`, and must let
    `CancelledError` through. `aclose` releases connections and files and may be called twice.
    """

    @property
    def name(self) -> str: ...

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class StreamingRetriever(Retriever, Protocol):
    """A retriever that can hand out clauses before its answer is complete."""

    def stream(
        self, context: RetrievalContext, deadline_s: float
    ) -> AsyncIterator[Clause | Retrieved]:
        """Zero or more clauses, then exactly one `Retrieved` holding the whole answer."""
        ...


def handing_over(deadline_s: float) -> float:
    """When a back end ends by itself so as to hand over what it has before it is cancelled."""
    deadline_s = min(max(deadline_s, 0.0), MAX_DEADLINE_S)
    return deadline_s - min(HAND_OVER_S, 0.1 * deadline_s)


async def attempt(
    retriever: Retriever,
    context: RetrievalContext,
    deadline_s: float,
    *,
    clock: Clock = time.monotonic,
) -> Retrieved:
    """Ask a back end; always returns a bounded result by the deadline (plus `CANCEL_GRACE_S`).

    Only cancellation of the caller propagates, after the back end has been cancelled too.
    """
    started = clock()
    try:
        result = await _hold_to_deadline(retriever, context, deadline_s)
    except (RetrievalTimeout, TimeoutError) as error:
        result = Retrieved(Outcome.TIMED_OUT, detail=str(error) or "deadline passed")
    except RetrievalError as error:
        result = Retrieved(Outcome.FAILED, detail=str(error))
    except Exception as error:
        logger.error("retriever %s raised %s", retriever.name, fault(error))
        result = Retrieved(Outcome.FAILED, detail=f"{type(error).__name__} in {retriever.name}")
    return _completed(result, retriever, clock() - started)


async def stream_attempt(
    retriever: Retriever,
    context: RetrievalContext,
    deadline_s: float,
    *,
    clock: Clock = time.monotonic,
) -> AsyncGenerator[Clause | Retrieved]:
    """Ask a back end for clauses; always ends with one bounded `Retrieved`, by the deadline.

    A retriever that cannot stream yields its whole reference as one clause. When the deadline or an
    error comes after the first clause, the clauses already given are the (truncated) answer.
    """
    if not isinstance(retriever, StreamingRetriever):
        result = await attempt(retriever, context, deadline_s, clock=clock)
        if result.answered:
            yield Clause(result.reference, result.backend, result.confidence, result.sources)
        yield result
        return

    started = clock()
    given: list[Clause] = []
    room = MAX_REFERENCE_CHARS
    ended: Retrieved | None = None
    try:
        deadline = asyncio.get_running_loop().time() + _time_for(retriever, deadline_s)
        inbox: asyncio.Queue[Clause | Retrieved | Exception] = asyncio.Queue(1)
        task = asyncio.create_task(_pass_on(retriever.stream(context, deadline_s), inbox))
        try:
            while ended is None:
                async with asyncio.timeout_at(deadline):
                    item = await inbox.get()
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Retrieved):
                    ended = item
                    continue
                text = clean_text(item.text, room)
                if text:
                    room = max(0, room - len(text) - 1)
                    given.append(replace(item, text=text, sources=bounded_sources(item.sources)))
                    yield given[-1]
        finally:
            if ended is not None:  # it is closing what it had opened
                await asyncio.wait({task}, timeout=CANCEL_GRACE_S)
            await _cancel(task, retriever.name)
    except (RetrievalTimeout, TimeoutError) as error:
        ended = Retrieved(Outcome.TIMED_OUT, detail=str(error) or "deadline passed")
    except RetrievalError as error:
        ended = Retrieved(Outcome.FAILED, detail=str(error))
    except Exception as error:
        logger.error("retriever %s raised %s", retriever.name, fault(error))
        ended = Retrieved(Outcome.FAILED, detail=f"{type(error).__name__} in {retriever.name}")
    if given and not ended.answered:
        last = given[-1]
        ended = replace(
            ended,
            outcome=Outcome.ANSWERED,
            reference=" ".join(clause.text for clause in given),
            sources=last.sources,
            confidence=last.confidence,
            backend=last.backend,
            truncated=True,
        )
    yield _completed(ended, retriever, clock() - started)


async def _pass_on(
    items: AsyncIterator[Clause | Retrieved],
    inbox: asyncio.Queue[Clause | Retrieved | Exception],
) -> None:
    """Hand over what a stream gives, up to its result or error; it is closed in the same task."""
    last: Exception = BackendMalformed("the stream ended without a result")
    try:
        async with aclosing(_as_generator(items)) as given:
            async for item in given:
                await inbox.put(item)
                if isinstance(item, Retrieved):
                    return
    except Exception as error:
        last = error
    await inbox.put(last)


async def _as_generator(
    items: AsyncIterator[Clause | Retrieved],
) -> AsyncGenerator[Clause | Retrieved]:
    """Give any async iterator the `aclose` that generators have."""
    try:
        async for item in items:
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


def _completed(result: Retrieved, retriever: Retriever, elapsed_s: float) -> Retrieved:
    result = replace(
        result, backend=result.backend or retriever.name, elapsed_s=elapsed_s
    ).bounded()
    if not result.attempts:
        result = replace(result, attempts=(result.as_attempt(),))
    return result


_abandoned: dict[asyncio.Task[Any], str] = {}


def _time_for(retriever: Retriever, deadline_s: float) -> float:
    """Seconds a back end gets; raises RetrievalError where it is not to be asked."""
    if deadline_s <= 0:
        raise RetrievalTimeout("no time left")
    if sum(name == retriever.name for name in _abandoned.values()) >= MAX_ABANDONED:
        raise BackendUnavailable(f"{retriever.name} has too many lookups that do not end")
    return min(deadline_s, MAX_DEADLINE_S)


async def _hold_to_deadline(
    retriever: Retriever, context: RetrievalContext, deadline_s: float
) -> Retrieved:
    deadline_s = _time_for(retriever, deadline_s)
    task = asyncio.ensure_future(retriever.retrieve(context, deadline_s))
    try:
        await asyncio.wait({task}, timeout=deadline_s)
        if task.done() and not task.cancelled():
            return task.result()
    finally:
        await _cancel(task, retriever.name)
    if task.done() and not task.cancelled() and task.exception() is None:
        return task.result()
    raise RetrievalTimeout("deadline passed")


async def _cancel(task: asyncio.Task[Any], name: str) -> None:
    """End a back end's task; one that ignores that is left behind."""
    if task.done():
        return
    task.cancel()
    try:
        await asyncio.wait({task}, timeout=CANCEL_GRACE_S)
    finally:
        if not task.done():
            logger.warning("retriever %s ignores cancellation", name)
            _abandoned[task] = name
            task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.pop(task, None)
    if not task.cancelled() and task.exception() is not None:
        logger.warning("an abandoned lookup failed late: %s", type(task.exception()).__name__)
