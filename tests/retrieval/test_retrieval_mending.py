"""Questions heard wrong: names found by their sound, and questions read anew with them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.retrieval.knowledge import KnowledgeBase, KnowledgeRetriever
from duologue.retrieval.knowledge.base import Hit, Mended
from duologue.retrieval.knowledge.mending import MAX_NAMES, MAX_READINGS, Mender, shares
from duologue.retrieval.knowledge.pronunciation import EXCHANGED, LOST, SOUNDS, sounds_of
from duologue.retrieval.knowledge.rehearing import Meanings, placed, together
from duologue.retrieval.knowledge.spotting import Spotter
from duologue.retrieval.protocol import (
    Guess,
    Outcome,
    RetrievalContext,
    Retrieved,
    Role,
    Source,
    Turn,
    attempt,
)
from duologue.retrieval.settings import documents_at

NAMES = ("Kosovo", "Mauritania", "Portugal", "Jamaica", "Thaverode", "South Korea", "Malta")


def read(text: str) -> str:
    return "".join(SOUNDS[sound] for sound in sounds_of(text))


@pytest.mark.parametrize(
    ("word", "sounds"),
    [
        ("ship", "Sip"), ("chin", "Cin"), ("thing", "TiN"), ("phone", "fon"), ("bird", "bRd"),
        ("queen", "kwEn"), ("yes", "yes"), ("city", "siti"), ("nation", "naSn"), ("night", "nIt"),
        ("", ""), ("42", ""),
    ],
)  # fmt: skip
def test_words_are_read_as_sounds(word: str, sounds: str) -> None:
    assert read(word) == sounds


def test_costs_of_mishearing() -> None:
    np.testing.assert_array_equal(EXCHANGED, EXCHANGED.T)
    assert not EXCHANGED.diagonal().any()
    off = ~np.eye(len(SOUNDS), dtype=bool)
    assert EXCHANGED[off].min() > 0
    assert LOST.min() > 0
    at = SOUNDS.index
    assert EXCHANGED[at("p"), at("b")] < EXCHANGED[at("p"), at("k")] < EXCHANGED[at("p"), at("z")]


@pytest.mark.parametrize(
    ("heard", "name", "part"),
    [
        ("what do the people in kasobo speak et home", "Kosovo", "kasobo"),
        ("who lives next orterr moritania", "Mauritania", "moritania"),
        ("in which family would i lok for thather road", "Thaverode", "thather road"),
        ("the capital of patogol is", "Portugal", "patogol"),
        ("people of germaka", "Jamaica", "germaka"),
        ("the south korea of today", "South Korea", "south korea"),
    ],
)
def test_a_name_is_spotted_where_it_was_said(heard: str, name: str, part: str) -> None:
    words = heard.split()
    best = Spotter(NAMES).spot(words, 3)[0]
    assert best.name == name
    assert " ".join(words[best.first : best.last + 1]) == part
    assert best.distance < 0.35


@given(
    st.lists(st.text("abcdefghiklmnoprstuvwz", min_size=2, max_size=9), min_size=1, max_size=8),
    st.lists(st.text("abcdefghiklmnoprstuvwz", min_size=2, max_size=9), min_size=1, max_size=8),
)
def test_alignment_is_that_of_the_plain_algorithm(names: list[str], words: list[str]) -> None:
    """All names at once as each by itself, by the textbook's recursion."""
    found = {one.name: one for one in Spotter(names).spot(words, len(names))}
    for name, one in found.items():
        plain = least_cost(sounds_of(name), [sounds_of(word) for word in words])
        assert one.distance * one.whole == pytest.approx(plain, abs=1e-4)
        assert 0 <= one.first <= one.last < len(words)


def least_cost(name: tuple[int, ...], words: list[tuple[int, ...]]) -> float:
    """Least cost of hearing a name as any run of sounds, 0.5 for each end inside a word."""
    heard = [sound for word in words for sound in word]
    edges = {0}
    for word in words:
        edges.add(max(edges) + len(word))
    best = float("inf")
    for start in range(len(heard)):
        row = np.concatenate([[0.0], np.cumsum(LOST[list(name)])])
        row += 0.0 if start in edges else 0.5
        for end in range(start, len(heard)):
            sound, new = heard[end], np.empty_like(row)
            new[0] = np.inf
            for i, own in enumerate(name, 1):
                new[i] = min(
                    row[i - 1] + EXCHANGED[sound, own],
                    row[i] + LOST[sound],
                    new[i - 1] + LOST[own],
                )
            row = new
            best = min(best, float(row[-1]) + (0.0 if end + 1 in edges else 0.5))
    return best


def test_nothing_is_spotted_in_nothing() -> None:
    assert Spotter(NAMES).spot([], 3) == []
    assert Spotter(NAMES).spot(["42"], 3) == []
    assert Spotter([]).spot(["malta"], 3) == []
    assert Spotter(["7"]).spot(["malta"], 3) == []


FACTS = """# Facts

- The capital of Kosovo is Pristina.
- Malta is an island.
- The head of the choir is Paula Brand.
- The phone number of Irene is two three four.
- The meeting with the council is on Friday.
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeRetriever:
    path = tmp_path_factory.mktemp("facts") / "facts.md"
    path.write_text(FACTS)
    return KnowledgeRetriever(KnowledgeBase.from_files([path]))


@pytest.mark.parametrize(
    ("heard", "answer"),
    [
        ("What is the capital of Kasobo?", "The capital of Kosovo is Pristina."),
        ("What is the vone number of Irine?", "The phone number of Irene is two three four."),
    ],
)
def test_a_question_heard_wrong_is_answered(
    facts: KnowledgeRetriever, heard: str, answer: str
) -> None:
    found = facts.look_up(RetrievalContext.from_question(heard))
    assert found.reference == answer
    assert 0.5 <= found.confidence < 1
    assert [source.title for source in found.sources] == ["facts.md"]


@pytest.mark.parametrize(
    "heard",
    [
        "What is the capital of Wakanda?",
        "Who is the head of the orchestra?",
        "What is the phone number of Robert?",
        "Which day is it?",
        "How old is Irene?",
        "What is the emferor of Kasobo?",
    ],
)
def test_what_was_heard_right_and_is_not_there_stays_unanswered(
    facts: KnowledgeRetriever, heard: str
) -> None:
    found = facts.look_up(RetrievalContext.from_question(heard))
    assert (found.outcome, found.reference) == (Outcome.EMPTY, "")


def test_a_name_of_several_words_is_meant_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "museum.md"
    path.write_text(
        "# Harbor Museum\n\nThe Harbor Museum was founded in 1889 by Agnes Thornbury.\n"
    )
    base = KnowledgeRetriever(KnowledgeBase.from_files([path]))

    def told(question: str) -> str:
        return base.look_up(RetrievalContext.from_question(question)).reference

    assert told("Who founded the maritime museum?") == ""
    assert told("Who founded the glurf museum?") == ""
    assert "Agnes" in told("Who founded the harper museum?")


def test_readings_that_find_the_same_are_added_up() -> None:
    book = KnowledgeBase.from_files([documents_at("factbook")])
    question = "What is the currency of Sowdi Arabeea?"
    readings = book.readings(question)
    hits = [book.search(reading.text, 1) for reading in readings]
    sure = [found[0].confidence if found else 0.0 for found in hits]
    alone = shares(readings, sure)
    mended = book.search_mended(question, 1)
    assert mended is not None
    same = [s for s, found in zip(alone, hits, strict=True)
            if found and found[0].text == mended.hits[0].text]  # fmt: skip
    assert len(same) > 1
    assert mended.hits[0].confidence == pytest.approx(sum(same))
    assert "riyal" in mended.hits[0].text


def test_readings_are_few_and_leave_out_what_nobody_knows(facts: KnowledgeRetriever) -> None:
    mender = facts.base._searcher.mender
    readings = mender.readings("Wat is the capital of Kasobo, glurf, tell me?")
    assert 0 < len(readings) <= MAX_READINGS
    best = max(readings, key=lambda reading: reading.score(0.9))
    assert best.name.lower() == "kosovo"
    assert best.text == "is the capital of kosovo tell me"


def test_shares_are_probabilities(facts: KnowledgeRetriever) -> None:
    readings = facts.base.readings("Wat is the capital of Kasobo?")
    sure = shares(readings, [0.9] * len(readings))
    assert all(0 <= share < 1 for share in sure)
    assert sum(sure) < 1
    assert max(sure) == sure[max(range(len(readings)), key=lambda i: readings[i].score(0.9))]
    assert shares(readings, [0.1] * len(readings)) == [0.0] * len(readings)
    assert shares([], []) == []


def test_files_with_too_many_names_are_not_mended() -> None:
    texts = [
        ("", "", f"Ba{chr(97 + a)}o{chr(97 + b)}{chr(97 + c)}ik is here.")
        for a in range(26) for b in range(26) for c in range(8)
    ]  # fmt: skip
    assert len(texts) > MAX_NAMES
    base = KnowledgeBase.from_texts(texts)
    assert base.readings("where is bagofik") == []
    assert base.search_mended("where is bagofik") is None


def test_the_fact_book_is_found_by_sound() -> None:
    book = KnowledgeRetriever(KnowledgeBase.from_files([documents_at("factbook")]))
    found = book.look_up(RetrievalContext.from_question("What do the people in Jamayka pay with?"))
    assert "Jamaica" in found.reference


def test_what_is_left_must_ask_for_something(tmp_path: Path) -> None:
    path = tmp_path / "one.md"
    path.write_text("- The ferry to Malta leaves at nine.\n")
    base = KnowledgeBase.from_files([path])
    asked = "When does the ferry to Moltar leave?"
    readings = base.readings(asked)
    assert "when does the ferry to malta leave" in [reading.text for reading in readings]
    deaf = Mender(base._searcher.segments, lambda term: False)
    assert deaf.readings("a skiff to Moltar") == [], "a what?"


class Sound(NamedTuple):
    guessed: float
    pieces: int
    written: float


class Heard:
    """What a question may have been besides, and how the names in `sounds` sound."""

    def __init__(
        self,
        *texts: str,
        error: Exception | None = None,
        sounds: Mapping[str, float] | None = None,
        deaf: Exception | None = None,
    ) -> None:
        self.texts, self.error, self.asked = texts, error, 0
        self.sounds, self.deaf, self.guesses = sounds, deaf, 0

    async def __call__(self) -> Heard:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self

    async def likelihoods(self, guesses: Sequence[Sequence[Guess]]) -> list[list[Sound]]:
        if self.deaf is not None:
            raise self.deaf
        for text, some in zip(self.texts, guesses, strict=True):
            for one in some:
                assert 0 <= one.first <= one.last < len(text.split())
        self.guesses += sum(map(len, guesses))
        if self.sounds is None:
            return [[] for _ in guesses]
        return [
            [Sound(self.sounds.get(one.name.lower(), -25.0), 3, -4.0) for one in some]
            for some in guesses
        ]


def asked(facts: KnowledgeRetriever, question: str, heard: Heard) -> Retrieved:
    context = RetrievalContext(
        (Turn(Role.USER, "Hello."), Turn(Role.MODEL, "Hi."), Turn(Role.USER, question)),
        hear_again=heard,
    )
    return asyncio.run(facts.retrieve(context, 1.0))


def test_a_question_is_heard_again_where_nothing_is_found(facts: KnowledgeRetriever) -> None:
    heard = Heard("Hoo leeds the", "", "Who is the head of the choir?", "Who is the head of it?")
    found = asked(facts, "Oo iz the hat off a quire?", heard)
    assert found.reference == "The head of the choir is Paula Brand."
    assert heard.asked == 1


@pytest.mark.parametrize(
    "question", ["Who is the head of the choir?", "Thank you very much.", "Okay, thanks."]
)
def test_it_is_not_where_something_is_found_or_nothing_is_asked(
    facts: KnowledgeRetriever, question: str
) -> None:
    heard = Heard("What is the phone number of Irene?")
    asked(facts, question, heard)
    assert heard.asked == 0


VAIN = {
    "none": Heard(),
    "nothing": Heard("", "", "", ""),
    "nonsense": Heard("Glurf.", "Glurf.", "Glurf.", "Glurf."),
    "error": Heard(error=RuntimeError("deaf")),
}


@pytest.mark.parametrize("way", VAIN)
@pytest.mark.parametrize(
    ("question", "reference"),
    [
        ("Oo iz the hat off a quire?", ""),
        ("Wat is the capital of Kasobo?", "The capital of Kosovo is Pristina."),
    ],
)
def test_hearing_again_in_vain_changes_nothing(
    facts: KnowledgeRetriever, way: str, question: str, reference: str
) -> None:
    heard = VAIN[way]
    before = heard.asked
    assert asked(facts, question, heard).reference == reference
    assert heard.asked == before + 1


def test_a_slow_second_hearing_costs_no_answer(facts: KnowledgeRetriever) -> None:
    """What spelling finds in milliseconds is told when there is no time for more."""

    async def sleepy() -> Heard:
        await asyncio.sleep(60.0)
        raise AssertionError

    question = Turn(Role.USER, "Wat is the capital of Kasobo?")
    context = RetrievalContext((question,), hear_again=sleepy)
    found = asyncio.run(attempt(facts, context, 0.4))
    assert "Pristina" in found.reference


@pytest.mark.parametrize("sounds", [None, {"mauritania": -1.0}])
@pytest.mark.parametrize("asked", ["Moritania.", "And of Moritania?", "What about Moritania?"])
def test_a_misheard_follow_up_asks_for_what_was_asked_before(
    asked: str, sounds: Mapping[str, float] | None
) -> None:
    book = KnowledgeRetriever(KnowledgeBase.from_files([documents_at("factbook")]))
    context = RetrievalContext(
        (
            Turn(Role.USER, "What is the currency of Portugal?"),
            Turn(Role.MODEL, "It is the euro."),
            Turn(Role.USER, asked),
        ),
        hear_again=Heard(*[asked] * 4, sounds=sounds),
    )
    assert "ouguiya" in book.look_up(context).reference
    assert "ouguiya" in asyncio.run(book.retrieve(context, 1.0)).reference


def test_what_is_heard_clearly_and_not_known_is_not_told_for_being_heard_again() -> None:
    book = KnowledgeRetriever(KnowledgeBase.from_files([documents_at("factbook")]))
    for question in (
        "What is the weather in Malta?",
        "Who is the king of New Zealand?",
        "What is the time in Nepal?",
    ):
        alone = book.look_up(RetrievalContext.from_question(question))
        context = RetrievalContext(
            (Turn(Role.USER, question),), hear_again=Heard(*[question] * 4, sounds={})
        )
        again = asyncio.run(book.retrieve(context, 1.0))
        assert again.confidence <= max(alone.confidence, 0.5)
        assert again.answered <= alone.answered


@pytest.mark.parametrize(("sounding", "other"), [("morocco", "monaco"), ("monaco", "morocco")])
def test_the_sound_decides_between_names(tmp_path: Path, sounding: str, other: str) -> None:
    path = tmp_path / "two.md"
    path.write_text("- The capital of Morocco is Rabat.\n- The capital of Monaco is Monaco City.\n")
    base = KnowledgeRetriever(KnowledgeBase.from_files([path]))
    question = "What is the capital of Monocko?"
    assert {one.name for one in base.base.readings(question)} >= {"morocco", "monaco"}
    heard = Heard(question, question, sounds={sounding: -2.0, other: -24.0})
    found = asked(base, question, heard)
    assert heard.guesses >= 4
    assert sounding in found.reference.lower()


def test_a_name_that_does_not_sound_so_is_not_meant(facts: KnowledgeRetriever) -> None:
    question = "Wat is the capital of Kasobo?"
    alone = facts.look_up(RetrievalContext.from_question(question))
    assert "Pristina" in alone.reference
    found = asked(facts, question, Heard(question, question, sounds={}))
    assert found.outcome is Outcome.EMPTY
    assert found.confidence < alone.confidence


@pytest.mark.parametrize("sounds", [None, {"kosovo": -1.0}])
def test_where_sounds_cannot_be_told_spelling_decides(
    facts: KnowledgeRetriever, sounds: Mapping[str, float] | None
) -> None:
    question = "Wat is the capital of Kasobo?"
    deaf = RuntimeError("deaf") if sounds is not None else None
    found = asked(facts, question, Heard(question, question, sounds=sounds, deaf=deaf))
    assert "Pristina" in found.reference


def test_names_are_placed_by_the_spaces_of_a_text(facts: KnowledgeRetriever) -> None:
    text = "So, twenty-two: what is the capital of Kasobo?"
    readings = [one for one in facts.base.readings(text) if one.name.lower() == "kosovo"]
    assert [(one.first, one.last) for one in placed(text, text, readings)] == [(7, 7)]
    assert text.split()[7] == "Kasobo?"
    assert placed("And Kasobo?", text, readings) == []


def mended(text: str, confidence: float) -> Mended:
    source = Source("notes.md")
    return Mended(text, (Hit(text, "", source, 1.0, 1.0, confidence),))


confidences = st.floats(0.0, 0.99)


def sounding(*meant: Mended) -> Meanings:
    return Meanings(meant, ())


@given(st.lists(st.lists(confidences, max_size=3), max_size=5))
def test_what_hearings_find_is_put_together(hearings: list[list[float]]) -> None:
    named = [sounding(*(mended(f"fact {i}", c) for i, c in enumerate(one))) for one in hearings]
    found = together(named)
    if not any(hearings):
        assert found is None
        return
    assert found is not None
    assert 0.0 <= found.confidence < 1.0
    more = together([*named, sounding(mended(found.hits[0].text, 0.5))])
    assert more is not None
    assert more.hits[0].text == found.hits[0].text
    assert more.confidence > found.confidence, "what one more hearing finds is surer"
    turned = together(named[::-1])
    assert turned is not None
    assert turned.confidence == pytest.approx(found.confidence)


def test_one_hearing_alone_says_less_than_it_would_to_itself() -> None:
    none = sounding()
    alone = together([sounding(mended("a", 0.6)), none, none, none])
    assert alone is not None
    assert alone.confidence < 0.5
    several = together([sounding(mended("a", 0.6)), sounding(mended("b", 0.7)),
                        sounding(mended("a", 0.6)), none])  # fmt: skip
    assert several is not None
    assert (several.hits[0].text, several.confidence > 0.5) == ("a", True)
    twice = together([sounding(mended("a", 0.6), mended("a", 0.3))])
    assert twice == together([sounding(mended("a", 0.6))]), "one hearing counts once"


def test_words_that_are_heard_alike_count_once() -> None:
    once = together([Meanings((), [mended("a", 0.4)])])
    assert once is not None
    assert once.confidence == 0.4
    assert together([Meanings((), [mended("a", 0.4)])] * 4) == once
    both = together([Meanings([mended("a", 0.4)], [mended("a", 0.4)])] * 4)
    assert both is not None
    assert both.confidence > 0.5


def test_a_context_heard_anew_is_the_same_conversation() -> None:
    context = RetrievalContext(
        (Turn(Role.USER, "One."), Turn(Role.MODEL, "Yes."), Turn(Role.USER, "Too.")),
        dropped_turns=3, hear_again=Heard("Two."),
    )  # fmt: skip
    anew = context.heard_as("Two.")
    assert [turn.text for turn in anew.turns] == ["One.", "Yes.", "Two."]
    assert (anew.turn_count, anew.hear_again) == (context.turn_count, None)
    assert context.question == "Too."
