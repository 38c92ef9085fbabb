"""Lookups and encodings on the event loop: replies whatever happens, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import torch
from support.conversations import DIM, Facts, Rows
from torch import Tensor

from duologue.dialogue import (
    CancelLookup,
    ContextReference,
    ContextTurn,
    EncodeReference,
    EncodingFailed,
    LookupAnswered,
    LookupContext,
    LookupFailed,
    ReferenceEncoded,
    Reply,
    Role,
    StartLookup,
)
from duologue.retrieval import Clause, Outcome, RetrievalContext, Retrieved
from duologue.session.lookups import Backends, LookupCounters, retrieval_context
from duologue.session.runtime import MAX_TASKS, CommandRunner

CONTEXT = LookupContext(
    turns=(ContextTurn(Role.USER, "how tall is the tower"),),
    references=(ContextReference(1, "earlier"),),
    prompt="",
    last_turn=0,
)


def ask(lookup: int = 1, backend: str = "default", frames: int = 20) -> StartLookup:
    return StartLookup(lookup, 1, 5, backend, CONTEXT, 5 + frames)


def encode(sequence: int = 1, part: int = 0, frames: int = 20) -> EncodeReference:
    return EncodeReference(sequence, part, 5, "three small words", 5 + frames)


class Desk:
    """A runner and what it delivered."""

    def __init__(self, retriever: Any = None, encoder: Any = None, **options: Any) -> None:
        self.replies: list[Reply] = []
        self.rows: list[Tensor | None] = []
        self.counters: defaultdict[str, LookupCounters] = defaultdict(LookupCounters)
        self.arrived = asyncio.Event()
        backends = Backends.of(retriever, ("default", "fast"))
        self.runner = CommandRunner(
            backends, encoder, DIM, self.take, counters=self.counters, **options
        )

    def take(self, reply: Reply, rows: Tensor | None) -> None:
        self.replies.append(reply)
        self.rows.append(rows)
        self.arrived.set()

    async def until(self, count: int) -> list[Reply]:
        async with asyncio.timeout(20):
            while len(self.replies) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.replies


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_an_answer_comes_back_with_its_sources() -> None:
    async def test() -> None:
        facts = Facts()
        desk = Desk(facts, system_prompt="be brief")
        desk.runner.carry_out(ask(backend="fast"))
        part, end = await desk.until(2)
        assert isinstance(part, LookupAnswered)
        assert (part.text, part.final) == ("the answer is number 1", False)
        assert part.sources[0].title == "facts.md, line 3"
        assert isinstance(end, LookupAnswered)
        assert (end.text, end.final) == ("", True)
        (context,) = facts.asked
        assert context.question == "how tall is the tower"
        assert (context.backend_id, context.system_prompt) == ("fast", "be brief")
        assert context.references[0].text == "earlier"
        assert desk.counters["fast"].report().answered == 1

    run(test)


class Streaming(Facts):
    """Two clauses, and then whatever is asked for."""

    def __init__(self, then: str) -> None:
        super().__init__()
        self.then = then

    async def stream(
        self, context: RetrievalContext, deadline_s: float
    ) -> AsyncIterator[Clause | Retrieved]:
        yield Clause("one half,", "facts", 7.0)
        yield Clause("the other half.", "facts", 0.9)
        if self.then == "raise":
            raise RuntimeError("broke off")
        yield Retrieved(Outcome.ANSWERED, "one half, the other half.", confidence=0.9)


@pytest.mark.parametrize("then", ["end", "raise"])
def test_clauses_come_one_by_one_and_are_not_said_twice(then: str) -> None:
    async def test() -> None:
        desk = Desk(Streaming(then))
        desk.runner.carry_out(ask())
        first, second, end = await desk.until(3)
        texts = [reply.text for reply in (first, second, end)]  # type: ignore[union-attr]
        assert texts == ["one half,", "the other half.", ""]
        assert isinstance(first, LookupAnswered)
        assert first.confidence == 1.0, "confidences are cut to what the brain takes"
        assert isinstance(end, LookupAnswered)
        assert end.final

    run(test)


@pytest.mark.parametrize(
    ("behaviour", "timed_out"), [("raise", False), ("hang", True), ("none", False)]
)
def test_a_back_end_that_fails_is_a_failed_lookup(behaviour: str, timed_out: bool) -> None:
    async def test() -> None:
        facts = Facts(behaviour)
        desk = Desk(None if behaviour == "none" else facts)
        desk.runner.carry_out(ask(frames=0 if timed_out else 20))
        (reply,) = await desk.until(1)
        assert isinstance(reply, LookupFailed)
        assert reply.timed_out is timed_out
        assert reply.reason

    run(test)


def test_nothing_found_is_an_empty_answer() -> None:
    async def test() -> None:
        desk = Desk(Facts("empty"))
        desk.runner.carry_out(ask())
        (reply,) = await desk.until(1)
        assert reply == LookupAnswered(1, "", label="facts", elapsed_s=reply.elapsed_s)
        assert desk.counters["default"].report().empty == 1

    run(test)


def test_cancelling_a_lookup_cancels_the_work() -> None:
    async def test() -> None:
        facts = Facts("hang")
        desk = Desk(facts)
        desk.runner.carry_out(ask(frames=10_000))
        while not facts.asked:
            await asyncio.sleep(0)
        desk.runner.carry_out(CancelLookup(1, 6))
        desk.runner.carry_out(CancelLookup(99, 6))
        while not facts.cancelled:
            await asyncio.sleep(0)
        await desk.runner.aclose()
        assert not desk.replies
        report = desk.counters["default"].report()
        assert (report.started, report.cancelled) == (1, 1)

    run(test)


def test_closing_leaves_nothing_running() -> None:
    async def test() -> None:
        facts = Facts("hang")
        desk = Desk(facts, Rows("hang"))
        desk.runner.carry_out(ask(1, frames=10_000))
        desk.runner.carry_out(ask(2, frames=10_000))
        desk.runner.carry_out(encode(frames=10_000))
        while len(facts.asked) < 2:
            await asyncio.sleep(0)
        await desk.runner.aclose()
        assert facts.cancelled == 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_too_much_at_once_is_refused() -> None:
    async def test() -> None:
        desk = Desk(Facts("hang"), Rows())
        for lookup in range(MAX_TASKS):
            desk.runner.carry_out(ask(lookup, frames=10_000))
        desk.runner.carry_out(ask(99))
        desk.runner.carry_out(encode())
        assert [type(reply) for reply in desk.replies] == [LookupFailed, EncodingFailed]
        await desk.runner.aclose()

    run(test)


def test_rows_come_with_their_reply() -> None:
    async def test() -> None:
        desk = Desk(None, Rows())
        desk.runner.carry_out(encode())
        (reply,) = await desk.until(1)
        assert isinstance(reply, ReferenceEncoded)
        assert reply.rows == 3
        assert desk.rows[0] is not None
        assert desk.rows[0].shape == (3, DIM)

    run(test)


@pytest.mark.parametrize("behaviour", ["raise", "nan", "narrow", "none"])
def test_an_encoder_gone_mad_costs_a_reference(behaviour: str) -> None:
    async def test() -> None:
        desk = Desk(None, None if behaviour == "none" else Rows(behaviour))
        desk.runner.carry_out(encode())
        (reply,) = await desk.until(1)
        assert isinstance(reply, EncodingFailed)
        assert reply.reason
        assert desk.rows == [None]

    run(test)


def test_a_newer_reference_withdraws_the_older_ones_parts() -> None:
    async def test() -> None:
        rows = Rows("hang")
        desk = Desk(None, rows)
        desk.runner.carry_out(encode(sequence=1, frames=10_000))
        await asyncio.sleep(0)
        rows.behaviour = "encode"
        desk.runner.carry_out(encode(sequence=2))
        (reply,) = await desk.until(1)
        assert isinstance(reply, ReferenceEncoded)
        assert reply.sequence == 2
        await asyncio.sleep(0)
        assert not desk.runner._encodings

    run(test)


def test_the_brains_context_keeps_its_turns_and_references() -> None:
    turns = tuple(
        ContextTurn(role, f"turn {n}") for n, role in enumerate([Role.USER, Role.MODEL, Role.USER])
    )
    seen = LookupContext(turns, (ContextReference(2, "ref"),), "", 2)
    context = retrieval_context(seen)
    assert [turn.text for turn in context.turns] == ["turn 0", "turn 1", "turn 2"]
    assert context.turn_count == 3
    assert context.references[0].turn_count == 2


def test_back_ends_by_name_or_one_for_all() -> None:
    one, other = Facts(), Facts()
    by_name = Backends.of({"a": one, "b": other}, ("ignored",))
    assert by_name.names == ("a", "b")
    assert by_name.routes["b"].retriever is other
    shared = Backends.of(one, ("default", "b"))
    assert shared.routes["default"].backend_id is None
    assert shared.routes["b"].backend_id == "b"
    assert Backends.of(None, ("default",)).routes == {}
    assert torch.is_tensor(asyncio.run(Rows().encode("a b", 1.0)))
