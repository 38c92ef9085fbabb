"""Questions that lean on what was said before find the right fact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.retrieval.knowledge import KnowledgeBase, KnowledgeRetriever
from duologue.retrieval.knowledge.followup import asks_nothing, completed, leans
from duologue.retrieval.protocol import RetrievalContext, Role, Turn
from duologue.retrieval.settings import documents_at


@pytest.fixture(scope="module")
def book() -> KnowledgeRetriever:
    return KnowledgeRetriever(KnowledgeBase.from_files([documents_at("factbook")]))


def told(retriever: KnowledgeRetriever, *said: str) -> str:
    """What is told after the user said that, each but the last answered somehow."""
    turns: list[Turn] = []
    for text in said:
        turns += [Turn(Role.USER, text), Turn(Role.MODEL, "Let me see. Here it is.")]
    return retriever.look_up(RetrievalContext(tuple(turns[:-1]))).reference


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (("What is the currency of Peru?", "And its capital?"), "Lima"),
        (("What is the currency of Peru?", "What about its neighbours?"), "neighbours of Peru"),
        (("What is the capital of Peru?", "Sorry, I meant Chile."), "Santiago"),
        (("What is the capital of Peru?", "No, not Peru, Chile."), "Santiago"),
        (("What is the capital of Peru?", "I said Chile, not Peru."), "Santiago"),
        (("What is the capital of Peru?", "And for Chile?"), "Santiago"),
        (("What is the capital of Peru?", "And Chile?", "And its currency?"), "Chilean peso"),
        (("What do they speak in Kenya?", "No, I meant Malta.", "And its capital?"), "Valletta"),
        (("What is the symbol of oxygen?", "The same question for argon, please."), "A R"),
        (("How many people live in the Ivory Coast?", "And its continent?"), "Africa"),
    ],
)
def test_what_is_left_out_is_taken_from_before(
    book: KnowledgeRetriever, said: tuple[str, ...], answer: str
) -> None:
    assert answer in told(book, *said)


def test_a_whole_question_is_not_mixed_with_earlier_ones(book: KnowledgeRetriever) -> None:
    assert "Lima" in told(book, "What money do they use in Kenya?", "What is the capital of Peru?")
    assert completed(
        "What is the capital of Peru?", ["Which language do they speak in Kenya?"]
    ) == (
        "",
        "",
    )


def test_what_nobody_has_is_refused_in_follow_ups_too(book: KnowledgeRetriever) -> None:
    assert told(book, "What is the capital of Peru?", "Sorry, I meant Wakanda.") == ""
    assert told(book, "What is the capital of Peru?", "And the capital of Wakanda?") == ""


@pytest.mark.parametrize(
    "thanks",
    [
        "Thanks, that helps.",
        "Thank you.",
        "Okay, good to know.",
        "No, that's all, thanks.",
        "Perfect, goodbye.",
        "I see.",
        "How are you?",
    ],
)
def test_thanks_ask_for_nothing(book: KnowledgeRetriever, thanks: str) -> None:
    assert asks_nothing(thanks)
    assert told(book, "What is the capital of Peru?", thanks) == ""
    assert "sol" in told(book, "What is the capital of Peru?", thanks, "And its currency?")


def test_thanks_and_a_question_ask_for_something(book: KnowledgeRetriever) -> None:
    assert "Santiago" in told(book, "What is the capital of Peru?", "Thanks, and Chile?")
    assert "sol" in told(book, "What is the capital of Peru?", "Thanks. And its currency?")


def test_which_questions_lean() -> None:
    assert leans("And its capital?")
    assert leans("What about Chile?")
    assert not leans("What is the capital of Chile?")


@given(st.text(max_size=80), st.lists(st.text(max_size=80), max_size=12))
def test_any_text_is_completed_or_left_alone(question: str, earlier: list[str]) -> None:
    whole, meant = completed(question, earlier)
    assert isinstance(whole, str)
    assert whole or not meant
    assert completed(question, [])[0] == ""
