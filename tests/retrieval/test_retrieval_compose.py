"""Several retrievers as one: order, races, hedging, sources; nobody is left running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from duologue.retrieval.breaker import BreakerState, CircuitBreaker
from duologue.retrieval.compose import (
    Cascade,
    LearnedDelay,
    Member,
    grounded,
    hedged,
    in_order,
    race,
)
from duologue.retrieval.protocol import (
    BackendUnavailable,
    Clause,
    Outcome,
    RetrievalContext,
    Retrieved,
    Retriever,
    Source,
    attempt,
    stream_attempt,
)

QUESTION = RetrievalContext.from_question("who are you")
SOURCE = (Source("facts.md"),)


class Scripted:
    """Answers after `after_s`; None as an answer means that it fails. Counts what happens to it."""

    def __init__(
        self,
        name: str,
        answer: str | None = "",
        *,
        after_s: float = 0.0,
        confidence: float = 1.0,
        sources: tuple[Source, ...] = (),
    ) -> None:
        self.name = name
        self.answer = answer
        self.after_s = after_s
        self.confidence = confidence
        self.sources = sources
        self.asked = self.finished = self.cancelled = self.closed = 0

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        self.asked += 1
        try:
            await asyncio.sleep(self.after_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1
        if self.answer is None:
            raise BackendUnavailable(f"{self.name} is down")
        outcome = Outcome.ANSWERED if self.answer else Outcome.EMPTY
        return Retrieved(outcome, self.answer, self.sources, self.confidence)

    async def aclose(self) -> None:
        self.closed += 1


class Streaming(Scripted):
    """The same, one clause a word."""

    async def stream(
        self, context: RetrievalContext, deadline_s: float
    ) -> AsyncIterator[Clause | Retrieved]:
        self.asked += 1
        try:
            for word in (self.answer or "").split():
                await asyncio.sleep(self.after_s)
                yield Clause(word, self.name, self.confidence, self.sources)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        if self.answer is None:
            raise BackendUnavailable(f"{self.name} is down")
        self.finished += 1
        outcome = Outcome.ANSWERED if self.answer else Outcome.EMPTY
        yield Retrieved(outcome, self.answer, self.sources, self.confidence)


def ask(retriever: Retriever, deadline_s: float = 2.0) -> Retrieved:
    return asyncio.run(attempt(retriever, QUESTION, deadline_s))


def ask_stream(retriever: Retriever, deadline_s: float = 2.0) -> list[Clause | Retrieved]:
    async def collect() -> list[Clause | Retrieved]:
        return [item async for item in stream_attempt(retriever, QUESTION, deadline_s)]

    return asyncio.run(collect())


def outcomes(result: Retrieved) -> list[tuple[str, Outcome]]:
    return [(entry.backend, entry.outcome) for entry in result.attempts]


def test_in_order_asks_until_somebody_knows() -> None:
    a, b, c, d = Scripted("a"), Scripted("b", None), Scripted("c", "yes"), Scripted("d", "no")
    result = ask(in_order([a, b, c, d]))
    assert (result.reference, result.backend) == ("yes", "c")
    assert outcomes(result) == [
        ("a", Outcome.EMPTY),
        ("b", Outcome.FAILED),
        ("c", Outcome.ANSWERED),
    ]
    assert d.asked == 0


def test_an_answer_below_its_confidence_is_passed_over() -> None:
    a, b = Scripted("a", "maybe", confidence=0.3), Scripted("b", "yes")
    result = ask(in_order([Member(a, min_confidence=0.5), b]))
    assert result.reference == "yes"
    assert result.attempts[0].detail == "not confident enough"


def test_a_member_has_a_deadline_of_its_own() -> None:
    a, b = Scripted("a", "late", after_s=5.0), Scripted("b", "yes")
    started = time.monotonic()
    result = ask(in_order([Member(a, deadline_s=0.05), b]))
    assert result.reference == "yes"
    assert outcomes(result)[0] == ("a", Outcome.TIMED_OUT)
    assert a.cancelled == 1
    assert time.monotonic() - started < 1.0


def test_the_overall_deadline_holds() -> None:
    members = [Scripted(name, "late", after_s=5.0) for name in "ab"]
    started = time.monotonic()
    result = ask(race(members), 0.1)
    assert result.outcome is Outcome.TIMED_OUT
    assert outcomes(result) == [("a", Outcome.TIMED_OUT), ("b", Outcome.TIMED_OUT)]
    assert [member.cancelled for member in members] == [1, 1]
    assert time.monotonic() - started < 2.5


def test_the_first_acceptable_answer_wins_a_race() -> None:
    slow, down, quick = (
        Scripted("slow", "slow", after_s=5.0),
        Scripted("down", None),
        Scripted("quick", "quick", after_s=0.01),
    )
    result = ask(race([slow, down, quick]))
    assert result.reference == "quick"
    assert slow.cancelled == 1
    assert ("slow", Outcome.CANCELLED) in outcomes(result)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (("", ""), Outcome.EMPTY),
        (("", None), Outcome.FAILED),
        ((None, None), Outcome.FAILED),
    ],
)
def test_what_it_means_when_nobody_answers(
    answers: tuple[str | None, ...], outcome: Outcome
) -> None:
    members = [Scripted(str(i), answer) for i, answer in enumerate(answers)]
    for composed in (in_order(members), race(members), hedged(members[0], members[1])):
        result = ask(composed)
        assert result.outcome is outcome
        assert len(result.attempts) == 2


def test_hedging_asks_the_second_only_when_the_first_is_slow() -> None:
    quick, spare = Scripted("quick", "yes", after_s=0.01), Scripted("spare", "no")
    assert ask(hedged(quick, spare, delay=0.5)).reference == "yes"
    assert spare.asked == 0
    slow = Scripted("slow", "yes", after_s=5.0)
    result = ask(hedged(slow, spare, delay=0.02))
    assert result.reference == "no"
    assert (slow.cancelled, spare.finished) == (1, 1)


def test_hedging_does_not_wait_for_a_first_that_failed() -> None:
    started = time.monotonic()
    assert ask(hedged(Scripted("a", None), Scripted("b", "yes"), delay=5.0)).reference == "yes"
    assert time.monotonic() - started < 1.0


def test_a_hedged_first_may_still_win() -> None:
    first = Scripted("first", "first", after_s=0.05)
    second = Scripted("second", "second", after_s=5.0)
    assert ask(hedged(first, second, delay=0.01)).reference == "first"
    assert second.cancelled == 1


def test_the_delay_is_learned_from_answers() -> None:
    delay = LearnedDelay(initial_s=1.0, least_s=0.0)
    assert delay.delay_s == 1.0
    for milliseconds in range(1, 101):
        delay.observe(milliseconds / 1000)
    assert 0.09 <= delay.delay_s <= 0.1
    first, second = Scripted("first", "yes", after_s=0.01), Scripted("second", "no")
    learned = LearnedDelay(initial_s=0.5, least_s=0.001)
    both = hedged(first, second, delay=learned)

    async def main() -> None:
        for _ in range(LearnedDelay.MIN_SAMPLES):
            await attempt(both, QUESTION, 2.0)
        assert learned.delay_s < 0.3
        first.after_s = 5.0
        assert (await attempt(both, QUESTION, 2.0)).reference == "no"

    asyncio.run(main())


def test_no_source_no_claim() -> None:
    claim, fact = Scripted("claim", "trust me"), Scripted("fact", "see here", sources=SOURCE)
    assert ask(grounded(claim)).outcome is Outcome.EMPTY
    assert ask(grounded(claim)).attempts[0].detail == "no source"
    assert ask(grounded(fact)).reference == "see here"
    members = [Member(claim, require_sources=True), Member(fact, require_sources=True)]
    assert ask(in_order(members)).reference == "see here"
    assert all(not isinstance(item, Clause) for item in ask_stream(grounded(Streaming("s", "a b"))))


def test_a_streaming_member_wins_with_its_first_clause() -> None:
    slow = Streaming("slow", "one two", after_s=5.0)
    quick = Streaming("quick", "three four", after_s=0.01)
    *clauses, result = ask_stream(race([slow, quick]))
    assert [clause.text for clause in clauses if isinstance(clause, Clause)] == ["three", "four"]
    assert isinstance(result, Retrieved)
    assert (result.reference, result.backend) == ("three four", "quick")
    assert slow.cancelled == 1


def test_streams_fall_back_before_the_first_clause() -> None:
    items = ask_stream(in_order([Streaming("a", None), Streaming("b"), Scripted("c", "yes")]))
    assert [item.text for item in items if isinstance(item, Clause)] == ["yes"]
    result = items[-1]
    assert isinstance(result, Retrieved)
    assert [outcome for _, outcome in outcomes(result)] == [
        Outcome.FAILED,
        Outcome.EMPTY,
        Outcome.ANSWERED,
    ]


def test_a_stream_is_cut_at_the_deadline_and_says_so() -> None:
    member = Streaming("slow", "one two three four five six", after_s=0.05)
    started = time.monotonic()
    *clauses, result = ask_stream(in_order([member]), 0.18)
    assert time.monotonic() - started < 0.7
    assert isinstance(result, Retrieved)
    assert result.truncated
    assert 1 <= len(clauses) < 6
    assert result.reference.split() == [c.text for c in clauses if isinstance(c, Clause)]


def test_compositions_nest_and_close() -> None:
    members = [Scripted(name, name) for name in "abc"]
    nested = in_order([Member(hedged(members[0], members[1]), min_confidence=2.0), members[2]])
    assert ask(nested).reference == "c"
    asyncio.run(nested.aclose())
    assert [member.closed for member in members] == [1, 1, 1]


def test_cancelling_a_composition_cancels_its_members() -> None:
    members = [Scripted(name, name, after_s=5.0) for name in "ab"]

    async def main() -> None:
        task = asyncio.create_task(attempt(race(members), QUESTION, 10.0))
        while not all(member.asked for member in members):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert [member.cancelled for member in members] == [1, 1]


def test_composing_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="members"):
        Cascade([], name="none", delay_s=0.0)


def test_the_breaker_opens_probes_and_closes() -> None:
    now = [0.0]
    breaker = CircuitBreaker("x", threshold=2, open_s=10.0, max_open_s=30.0, clock=lambda: now[0])

    def state() -> BreakerState:
        return breaker.state

    for _ in range(2):
        breaker.enter()
        breaker.failed()
    with pytest.raises(BackendUnavailable, match="left alone"):
        breaker.enter()
    now[0] = 10.0
    assert state() is BreakerState.HALF_OPEN
    breaker.enter()
    with pytest.raises(BackendUnavailable):
        breaker.enter()  # one probe at a time
    breaker.failed()
    now[0] = 29.0
    with pytest.raises(BackendUnavailable):
        breaker.enter()  # twice as long after a failed probe
    now[0] = 30.0
    breaker.enter()
    breaker.cancelled(0.1, 1.0)
    breaker.enter()
    breaker.succeeded()
    assert state() is BreakerState.CLOSED
    breaker.enter()
    breaker.cancelled(1.0, 1.0)
    assert state() is BreakerState.CLOSED
