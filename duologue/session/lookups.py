"""Carrying out what the brain asks for: questions to back ends, texts to rows.

Each command becomes replies, whatever happens: a back end or encoder that fails, hangs or answers
nonsense is a reply that says so. Deadlines are those of the command, in wall time.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from torch import Tensor

from duologue.dialogue import (
    EncodeReference,
    EncodingFailed,
    LookupAnswered,
    LookupContext,
    LookupFailed,
    ReferenceEncoded,
    Source,
    StartLookup,
)
from duologue.dialogue import Role as Speaker
from duologue.encoder.ports import EncoderError, RowEncoder
from duologue.engine.api import FRAME_S, BackendStats
from duologue.retrieval.protocol import (
    Budget,
    Clause,
    EarlierReference,
    HearAgain,
    Outcome,
    RetrievalContext,
    Retrieved,
    Retriever,
    Role,
    Turn,
    stream_attempt,
)
from duologue.retrieval.protocol import Source as Citation

DEFAULT_BACKEND = "default"
Clock = Callable[[], float]


@dataclass(frozen=True)
class Route:
    """Whom a back end's name stands for, and what that retriever calls it."""

    retriever: Retriever
    backend_id: str | None = None


@dataclass(frozen=True)
class Backends:
    """Back ends by name, the default first; without routes every lookup fails at once."""

    names: tuple[str, ...]
    routes: Mapping[str, Route] = field(default_factory=dict)

    @classmethod
    def of(
        cls, retriever: Retriever | Mapping[str, Retriever] | None, names: Sequence[str]
    ) -> Backends:
        """One retriever for all `names` (each told its name), or a mapping's own names."""
        if isinstance(retriever, Mapping):
            routes = {name: Route(one) for name, one in retriever.items()}
            return cls(tuple(routes) or (DEFAULT_BACKEND,), routes)
        if retriever is None:
            return cls(tuple(names))
        return cls(
            tuple(names),
            {name: Route(retriever, None if name == DEFAULT_BACKEND else name) for name in names},
        )

    def behind(self, wrap: Callable[[Retriever | None], Retriever]) -> Backends:
        """The same back ends with something asked before each."""
        routes = {}
        for name in self.names:
            known = self.routes.get(name)
            inner, backend_id = (known.retriever, known.backend_id) if known else (None, None)
            routes[name] = Route(wrap(inner), backend_id)
        return Backends(self.names, routes)


@dataclass
class LookupCounters:
    """Lookups of one back end, counted as they end."""

    started: int = 0
    total_s: float = 0.0
    ended: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))

    def end(self, outcome: Outcome, elapsed_s: float) -> None:
        self.ended[outcome] += 1
        self.total_s += elapsed_s

    def report(self) -> BackendStats:
        ended = self.ended
        return BackendStats(
            started=self.started,
            answered=ended[Outcome.ANSWERED],
            empty=ended[Outcome.EMPTY],
            failed=ended[Outcome.FAILED],
            timed_out=ended[Outcome.TIMED_OUT],
            cancelled=ended[Outcome.CANCELLED],
            total_s=self.total_s,
        )


def retrieval_context(
    context: LookupContext,
    *,
    backend_id: str | None = None,
    system_prompt: str | None = None,
    budget: Budget | None = None,
    hear_again: HearAgain | None = None,
) -> RetrievalContext:
    """The conversation as back ends see it, from the brain's view of it.

    Turns that the brain has forgotten are not counted here, so references are numbered by the
    turns that are given.
    """
    roles = {Speaker.USER: Role.USER, Speaker.MODEL: Role.MODEL}
    return RetrievalContext(
        tuple(Turn(roles[turn.role], turn.text) for turn in context.turns),
        tuple(EarlierReference(earlier.after, earlier.text) for earlier in context.references),
        backend_id=backend_id,
        system_prompt=system_prompt,
        budget=budget or Budget(),
        hear_again=hear_again,
    )


async def look_up(
    route: Route | None,
    command: StartLookup,
    context: RetrievalContext,
    counters: LookupCounters,
    *,
    deadline_s: float | None = None,
    clock: Clock = time.monotonic,
) -> AsyncGenerator[LookupAnswered | LookupFailed]:
    """The replies to one lookup, parts first; the last one is final. Cancelling it is real."""
    if route is None:
        yield LookupFailed(command.lookup, "no retrieval is configured", elapsed_s=0.0)
        return
    if deadline_s is None:
        deadline_s = (command.deadline_frame - command.frame) * FRAME_S
    begin, ended = clock(), False
    counters.started += 1
    try:
        parts = 0
        async with aclosing(stream_attempt(route.retriever, context, deadline_s)) as items:
            async for item in items:
                elapsed_s = clock() - begin
                if isinstance(item, Clause):
                    parts += 1
                    yield _part(command.lookup, item, elapsed_s)
                    continue
                ended = True
                counters.end(item.outcome, elapsed_s)
                yield _end(command.lookup, item, parts, elapsed_s)
    finally:
        if not ended:
            counters.end(Outcome.CANCELLED, clock() - begin)


def _part(lookup: int, clause: Clause, elapsed_s: float) -> LookupAnswered:
    return LookupAnswered(
        lookup,
        clause.text,
        _sources(clause.sources),
        min(1.0, max(0.0, clause.confidence)),
        clause.backend,
        final=False,
        elapsed_s=elapsed_s,
    )


def _end(
    lookup: int, result: Retrieved, parts: int, elapsed_s: float
) -> LookupAnswered | LookupFailed:
    if result.outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED):
        timed_out = result.outcome is Outcome.TIMED_OUT
        reason = result.detail or result.outcome.value
        return LookupFailed(lookup, reason, timed_out=timed_out, elapsed_s=elapsed_s)
    # What came in parts is not said twice.
    return LookupAnswered(
        lookup,
        "" if parts else result.reference,
        _sources(result.sources) if not parts else (),
        result.confidence if result.answered else None,
        result.backend,
        elapsed_s=elapsed_s,
    )


def _sources(citations: Sequence[Citation]) -> tuple[Source, ...]:
    return tuple(Source(citation.cite(), citation.location) for citation in citations)


async def encode(
    encoder: RowEncoder | None,
    command: EncodeReference,
    dim: int,
    *,
    clock: Clock = time.monotonic,
) -> tuple[ReferenceEncoded | EncodingFailed, Tensor | None]:
    """The reply to one encoding, and the rows that belong to it; never raises but to be cancelled.

    Rows are checked here, so that an encoder gone mad costs a reference and not a conversation.
    """
    begin = clock()
    deadline_s = (command.deadline_frame - command.frame) * FRAME_S
    rows: Tensor | None = None
    reason = ""
    try:
        if encoder is None:
            reason = "no reference encoder is configured"
        else:
            rows = await encoder.encode(command.text, deadline_s)
            reason = _objection(rows, dim)
    except EncoderError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__} in the reference encoder"
    elapsed_s = clock() - begin
    if reason or rows is None:
        failed = EncodingFailed(command.sequence, command.part, reason, elapsed_s=elapsed_s)
        return failed, None
    done = ReferenceEncoded(command.sequence, command.part, len(rows), elapsed_s=elapsed_s)
    return done, rows


def _objection(rows: Tensor, dim: int) -> str:
    """Why rows can not be used, "" when they can."""
    if rows.dim() != 2 or rows.shape[1] != dim or not len(rows):
        return f"the encoder gave {list(rows.shape)}, the model takes rows of {dim}"
    if not bool(rows.isfinite().all()):
        return "the encoder gave values that are not finite"
    return ""
