"""The contract: bounds, deadlines and outcomes hold whatever a back end does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.retrieval import protocol
from duologue.retrieval.clauses import ClauseStream, split_clauses, split_sentences
from duologue.retrieval.cleaning import clean_text, strip_label
from duologue.retrieval.compose import in_order
from duologue.retrieval.protocol import (
    MAX_CONTEXT_CHARS,
    MAX_REFERENCE_CHARS,
    MAX_SOURCES,
    MAX_TURNS,
    BackendUnavailable,
    Budget,
    Clause,
    EarlierReference,
    Outcome,
    RetrievalContext,
    RetrievalTimeout,
    Retrieved,
    Role,
    Source,
    Turn,
    attempt,
    stream_attempt,
)

QUESTION = RetrievalContext.from_question("who are you")
Answer = Callable[[RetrievalContext, float], Awaitable[Retrieved]]


class Fake:
    """A retriever made of one coroutine function."""

    def __init__(self, answer: Answer, name: str = "fake") -> None:
        self._answer = answer
        self.name = name

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        return await self._answer(context, deadline_s)

    async def aclose(self) -> None:
        pass


class FakeStream(Fake):
    """A retriever that yields the given items, raises given errors, and hangs on None."""

    def __init__(self, *items: Clause | Retrieved | Exception | None) -> None:
        async def nothing(context: RetrievalContext, deadline_s: float) -> Retrieved:
            raise AssertionError("not asked this way")

        super().__init__(nothing)
        self._items = items
        self.closed = False

    async def stream(
        self, context: RetrievalContext, deadline_s: float
    ) -> AsyncIterator[Clause | Retrieved]:
        try:
            for item in self._items:
                if item is None:
                    await asyncio.Event().wait()
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            self.closed = True


def run(answer: Answer, deadline_s: float = 1.0) -> Retrieved:
    return asyncio.run(attempt(Fake(answer), QUESTION, deadline_s))


def run_stream(fake: FakeStream, deadline_s: float = 1.0) -> list[Clause | Retrieved]:
    async def collect() -> list[Clause | Retrieved]:
        return [item async for item in stream_attempt(fake, QUESTION, deadline_s)]

    return asyncio.run(collect())


def test_an_answer_is_bounded_and_cleaned() -> None:
    async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
        text = "one\ntwo\t\x00three \u202egnirts " + "word " * 1000
        sources = tuple(Source(str(i)) for i in range(50))
        return Retrieved(Outcome.ANSWERED, text, sources, confidence=7.0)

    result = run(answer)
    assert result.reference.startswith("one two three gnirts word")
    assert len(result.reference) <= MAX_REFERENCE_CHARS
    assert len(result.sources) == MAX_SOURCES
    assert result.confidence == 1.0
    assert result.backend == "fake"
    assert [entry.backend for entry in result.attempts] == ["fake"]


def test_an_answer_without_text_is_empty() -> None:
    async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
        return Retrieved(Outcome.ANSWERED, " \n\x07 ")

    assert run(answer).outcome is Outcome.EMPTY


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BackendUnavailable("down"), Outcome.FAILED),
        (RetrievalTimeout("late"), Outcome.TIMED_OUT),
        (TimeoutError(), Outcome.TIMED_OUT),
        (ZeroDivisionError("secret"), Outcome.FAILED),
    ],
)
def test_errors_become_outcomes(error: Exception, outcome: Outcome) -> None:
    async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
        raise error

    result = run(answer)
    assert result.outcome is outcome
    assert "secret" not in result.detail


def test_a_back_end_that_never_answers_is_cancelled() -> None:
    cancelled = []

    async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)
        raise AssertionError

    started = time.monotonic()
    assert run(answer, 0.05).outcome is Outcome.TIMED_OUT
    assert time.monotonic() - started < 0.5
    assert cancelled == [True]


def test_a_back_end_that_ignores_cancellation_does_not_hold_anybody_up() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return Retrieved(Outcome.EMPTY)

        started = time.monotonic()
        result = await attempt(Fake(answer, "stubborn"), QUESTION, 0.05)
        assert result.outcome is Outcome.TIMED_OUT
        assert time.monotonic() - started < 0.5
        release.set()
        await asyncio.sleep(0.01)

    asyncio.run(main())


class Stubborn(FakeStream):
    """Gives a clause, then lets no cancellation through until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "stubborn"
        self.release = asyncio.Event()

    async def stream(
        self, context: RetrievalContext, deadline_s: float
    ) -> AsyncIterator[Clause | Retrieved]:
        yield Clause("a.")
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()
        yield Retrieved(Outcome.ANSWERED, "a. b.")


@pytest.mark.parametrize("composed", [False, True])
def test_a_stream_that_ignores_cancellation_does_not_hold_anybody_up(composed: bool) -> None:
    async def main() -> None:
        fake = Stubborn()
        asyncio.get_running_loop().call_later(1.5, fake.release.set)
        retriever = in_order([fake]) if composed else fake
        started = time.monotonic()
        *clauses, result = [item async for item in stream_attempt(retriever, QUESTION, 0.1)]
        assert time.monotonic() - started < 0.5
        assert len(clauses) == 1
        assert isinstance(result, Retrieved)
        assert (result.reference, result.truncated) == ("a.", True)
        fake.release.set()
        await asyncio.sleep(0.01)
        assert not protocol._abandoned

    asyncio.run(main())


def test_streams_that_do_not_end_are_refused_after_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "MAX_ABANDONED", 1)

    async def main() -> None:
        fake = Stubborn()
        outcomes = []
        for _ in range(2):
            items = [item async for item in stream_attempt(fake, QUESTION, 0.02)]
            outcomes.append((len(items), items[-1]))
        (first, _), (second, refused) = outcomes
        assert (first, second) == (2, 1)
        assert isinstance(refused, Retrieved)
        assert (refused.outcome, "do not end" in refused.detail) == (Outcome.FAILED, True)
        fake.release.set()
        await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_stream_is_run_and_closed_by_one_task() -> None:
    tasks = []

    class Owned(FakeStream):
        async def stream(
            self, context: RetrievalContext, deadline_s: float
        ) -> AsyncIterator[Clause | Retrieved]:
            try:
                tasks.append(asyncio.current_task())
                yield Clause("a.")
                tasks.append(asyncio.current_task())
                yield Retrieved(Outcome.ANSWERED, "a.")
            finally:
                await asyncio.sleep(0)
                tasks.append(asyncio.current_task())

    assert len(run_stream(Owned())) == 2
    assert len(tasks) == 3
    assert len(set(tasks)) == 1


def test_no_time_left_asks_nobody() -> None:
    async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
        raise AssertionError

    assert run(answer, 0.0).outcome is Outcome.TIMED_OUT
    (result,) = run_stream(FakeStream(AssertionError()), 0.0)
    assert isinstance(result, Retrieved)
    assert result.outcome is Outcome.TIMED_OUT


def test_what_a_retriever_says_when_it_breaks_stays_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = "404 for ?q=what was said"

    async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
        raise LookupError(said)

    assert run(answer).outcome is Outcome.FAILED
    run_stream(FakeStream(LookupError(said)))
    assert said not in caplog.text
    assert caplog.text.count("retriever fake raised LookupError") == 2
    assert "in answer" in caplog.text


def test_a_cancelled_caller_cancels_the_back_end() -> None:
    async def main() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        task = asyncio.create_task(attempt(Fake(answer), QUESTION, 10.0))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


def test_a_stream_ends_with_its_result() -> None:
    whole = Retrieved(Outcome.ANSWERED, "a. b.")
    items = run_stream(FakeStream(Clause("a."), Clause("b."), whole))
    assert [item.text for item in items[:-1] if isinstance(item, Clause)] == ["a.", "b."]
    assert isinstance(items[-1], Retrieved)
    assert items[-1].reference == "a. b."


@pytest.mark.parametrize("end", [None, BackendUnavailable("gone"), KeyError("bug")])
def test_a_stream_that_breaks_keeps_what_it_gave(end: Exception | None) -> None:
    fake = FakeStream(Clause("a."), end)
    *clauses, result = run_stream(fake, 0.05)
    assert len(clauses) == 1
    assert isinstance(result, Retrieved)
    assert (result.outcome, result.reference, result.truncated) == (Outcome.ANSWERED, "a.", True)
    assert fake.closed


@pytest.mark.parametrize(
    ("end", "outcome"), [(None, Outcome.TIMED_OUT), (BackendUnavailable("gone"), Outcome.FAILED)]
)
def test_a_stream_that_breaks_before_any_clause_fails(
    end: Exception | None, outcome: Outcome
) -> None:
    (result,) = run_stream(FakeStream(end), 0.05)
    assert isinstance(result, Retrieved)
    assert result.outcome is outcome


def test_a_stream_without_a_result_is_malformed() -> None:
    (result,) = run_stream(FakeStream())
    assert isinstance(result, Retrieved)
    assert (result.outcome, "without a result" in result.detail) == (Outcome.FAILED, True)


def test_a_retriever_that_cannot_stream_gives_one_clause() -> None:
    async def answer(context: RetrievalContext, deadline_s: float) -> Retrieved:
        return Retrieved(Outcome.ANSWERED, "All of it. At once.")

    async def collect() -> list[Clause | Retrieved]:
        return [item async for item in stream_attempt(Fake(answer), QUESTION, 1.0)]

    clause, result = asyncio.run(collect())
    assert isinstance(clause, Clause)
    assert isinstance(result, Retrieved)
    assert clause.text == result.reference == "All of it. At once."


# -- contexts


def turns(*texts: str) -> tuple[Turn, ...]:
    """Alternating turns, the user's first."""
    roles = (Role.USER, Role.MODEL)
    return tuple(Turn(roles[i % 2], text) for i, text in enumerate(texts))


def test_greeting_and_lead_are_left_out() -> None:
    context = RetrievalContext((Turn(Role.MODEL, "hi"), *turns("q1", "a1", "q2", "well")))
    assert [turn.text for turn in context.turns] == ["q1", "a1", "q2"]
    assert context.question == "q2"
    assert context.background == "q1 a1"
    assert context.turn_count == 3


def test_long_conversations_lose_their_oldest_turns() -> None:
    texts = [f"turn {i} " + "x" * 300 for i in range(99)]
    references = tuple(EarlierReference(i, f"ref {i}") for i in range(1, 99, 7))
    context = RetrievalContext(turns(*texts), references)
    assert len(context.turns) <= MAX_TURNS
    assert sum(len(turn.text) for turn in context.turns) <= MAX_CONTEXT_CHARS
    assert context.turns[-1].text.startswith("turn 98")
    assert context.turn_count == 99
    assert all(earlier.turn_count > context.dropped_turns for earlier in context.references)


def test_one_huge_turn_is_cut_not_dropped() -> None:
    context = RetrievalContext.from_question("word " * 10_000)
    assert 0 < len(context.question) <= 2_000


@given(st.lists(st.tuples(st.sampled_from(list(Role)), st.text(max_size=50)), max_size=80))
def test_any_conversation_gives_a_context_within_bounds(
    spoken: list[tuple[Role, str]],
) -> None:
    context = RetrievalContext(tuple(Turn(role, text) for role, text in spoken))
    assert len(context.turns) <= MAX_TURNS
    assert all("\n" not in turn.text for turn in context.turns)
    again = RetrievalContext(context.turns, dropped_turns=context.dropped_turns)
    assert again.turn_count <= context.turn_count


def test_the_budget_cuts_at_clauses() -> None:
    text = "Paris is the capital of France, and it lies on the Seine. It is old."
    assert Budget(max_frames=6).trim(text) == text
    assert Budget(max_frames=4).trim(text) == (
        "Paris is the capital of France, and it lies on the Seine."
    )
    assert Budget(max_frames=2).trim(text) == "Paris is the capital of France"
    assert Budget(max_frames=1).trim(text) == "Paris is the"
    by_letters = Budget(max_frames=5, frames_of=len)
    assert by_letters.trim(text) == "Paris"
    assert by_letters.trim("Constantinople") == ""
    with pytest.raises(ValueError, match="max_frames"):
        Budget(max_frames=0)


def test_citations() -> None:
    assert Source("facts.md", line=12).cite() == "facts.md, line 12"
    assert Source("a.csv", row=3).cite() == "a.csv, row 3"
    assert Source("a.pdf", page=1).cite() == "a.pdf, page 1"
    assert Source("Page title", "https://x.org").cite() == "Page title"


# -- text


@given(st.text(max_size=300), st.integers(1, 100))
def test_cleaned_text_is_one_bounded_printable_line(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit)
    assert len(cleaned) <= limit
    assert cleaned == cleaned.strip()
    assert not any(char in "\n\r\t\x00\u2028\u202e\ud800" for char in cleaned)
    assert clean_text(cleaned, limit) == cleaned


def test_cleaning_cuts_at_words_and_labels_go() -> None:
    assert clean_text("alpha beta gamma", 12) == "alpha beta"
    assert clean_text("alphabetagamma", 5) == "alpha"
    assert strip_label("Reference: Paris") == "Paris"
    assert strip_label("**Reference:** Paris") == "Paris"
    assert strip_label("Opening hours: nine") == "Opening hours: nine"


def test_sentences_and_clauses() -> None:
    text = "Dr. Smith paid 3.5 dollars at 9:30 a.m. to J. Doe. He left; she, too, stayed on!"
    assert split_sentences(text) == [
        "Dr. Smith paid 3.5 dollars at 9:30 a.m. to J. Doe.",
        "He left; she, too, stayed on!",
    ]
    assert split_clauses("One two three four five, six. Seven: eight, nine") == [
        "One two three four five,",
        "six.",
        "Seven:",
        "eight, nine",
    ]


@given(st.text(alphabet="ab .,;!?\n", max_size=120), st.integers(1, 7))
def test_streamed_clauses_are_the_clauses_of_the_whole(text: str, step: int) -> None:
    stream = ClauseStream()
    pieces: list[str] = []
    for start in range(0, len(text), step):
        pieces += stream.feed(text[start : start + step])
    pieces += stream.flush()
    assert " ".join(pieces).split() == text.split()
    assert pieces == split_clauses(text)
