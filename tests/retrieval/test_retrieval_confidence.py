"""Near misses: what is asked about things that are not there must not be answered."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import duologue
from duologue.retrieval.knowledge import KnowledgeBase, KnowledgeRetriever
from duologue.retrieval.knowledge.analysis import is_generic, sounds_like_filler, term_of
from duologue.retrieval.knowledge.confidence import confidence
from duologue.retrieval.knowledge.retriever import MIN_CONFIDENCE
from duologue.retrieval.protocol import RetrievalContext
from duologue.retrieval.settings import documents_at

HOTEL = """# Hotel Marenco

The hotel was built in 1924 by the architect Luis Ferrante.

- Breakfast is served from seven to ten in the garden room.
- The restaurant Tramonto opens at half past six and is closed on Mondays.
- The sauna costs 12 euros an hour.
- A taxi to the airport costs about 40 euros.
- The nearest pharmacy is Farmacia Bruni.
- The Castello Grimaldi is open every day but Tuesday.
"""


@pytest.fixture(scope="module")
def hotel(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    path = tmp_path_factory.mktemp("hotel") / "hotel.md"
    path.write_text(HOTEL)
    return KnowledgeBase.from_files([path])


def told(base: KnowledgeBase, question: str) -> str:
    return KnowledgeRetriever(base).look_up(RetrievalContext.from_question(question)).reference


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("who was the architect of the hotel", "Ferrante"),
        ("what time is breakfast served", "seven to ten"),
        ("is the tramonto open on mondays", "closed on Mondays"),
        ("how much does the sauna cost", "twelve euros"),
        ("how much is a taksi to the air port", "forty euros"),
        ("so um iz the castello grimaldi open", "Tuesday"),
        ("where is the hotel", "hotel"),
        ("which day is the castello closed", "Tuesday"),
    ],
)
def test_what_is_there_is_told(hotel: KnowledgeBase, question: str, answer: str) -> None:
    assert answer in told(hotel, question)


@pytest.mark.parametrize(
    "question",
    [
        "what time is lunch served",
        "how much does the massage cost",
        "is the bellavista open",
        "where is the nearest hospital",
        "when was the cathedral built",
        "who is the manager of the hotel",
    ],
)
def test_near_misses_are_not(hotel: KnowledgeBase, question: str) -> None:
    assert hotel.search(question, 1), "the question shares a word with a passage"
    assert told(hotel, question) == ""


def test_countries_that_are_left_out_are_refused(tmp_path: Path) -> None:
    """Many still occur as neighbours of others; that alone must not make an answer."""
    head, *parts = documents_at("factbook").read_text().split("\n## ")
    countries = [part for part in parts if "The capital of" in part]
    random.Random(4).shuffle(countries)
    gone = countries[:40]
    path = tmp_path / "facts.md"
    path.write_text("\n## ".join([head, *(part for part in parts if part not in gone)]))
    base = KnowledgeBase.from_files([path])
    forms = ("what is the capital of {}", "which currency do they use in {}", "population of {}")

    def asked(parts: list[str]) -> list[tuple[str, str]]:
        names = [part.partition("\n")[0].lower() for part in parts]
        return [(name, forms[i % 3].format(name)) for i, name in enumerate(names)]

    known = [name in told(base, question).lower() for name, question in asked(countries[40:80])]
    unknown = [told(base, question) != "" for _, question in asked(gone)]
    assert sum(known) >= 0.9 * len(known)
    assert sum(unknown) <= 0.25 * len(unknown)


@given(st.floats(0, 1), st.floats(0, 20), st.floats(0, 20), st.floats(0, 0.2))
def test_confidence_grows_with_what_is_shared(
    coverage: float, evidence: float, absence: float, more: float
) -> None:
    value = confidence(coverage, evidence, absence)
    assert 0 < value < 1
    assert confidence(min(1.0, coverage + more), evidence, absence) >= value
    assert confidence(coverage, evidence + more, absence) >= value
    assert confidence(coverage, evidence, absence + more) <= value


def test_where_the_threshold_lies() -> None:
    """A name found with what was asked of it; a name alone; what was asked without the name."""
    assert confidence(1.0, 1.2, 0.0) > 0.8 > MIN_CONFIDENCE
    assert confidence(0.75, 0.9, 1.0) < MIN_CONFIDENCE
    assert confidence(0.3, 0.3, 0.0) < 0.1


def test_words_that_tell_little() -> None:
    assert {word for word in ("om", "iz", "ov", "dhe", "thi") if sounds_like_filler(word)} == {
        "om", "iz", "ov", "dhe", "thi",
    }  # fmt: skip
    assert not any(map(sounds_like_filler, ("bmw", "pool", "oslo", "sauna", "bus", "asia")))
    assert is_generic(term_of("places"))
    assert not is_generic(term_of("sauna"))


def test_a_word_heard_as_nonsense_does_not_silence_an_answer(hotel: KnowledgeBase) -> None:
    clean = hotel.search("what is the price of the sauna", 1)[0].confidence
    noisy = hotel.search("what iz the price ov the sauna", 1)[0].confidence
    assert clean > MIN_CONFIDENCE
    assert noisy > 0.5 * clean


def test_a_shipped_fact_book_answers_to_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert documents_at("factbook").is_relative_to(Path(duologue.__file__).parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factbook").mkdir()
    assert documents_at("factbook") == Path("factbook")
