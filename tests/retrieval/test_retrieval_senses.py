"""Facts asked for in other words: what a question asks for, and what is found by it."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.evaluation import finding
from duologue.evaluation.systems import open_retriever
from duologue.retrieval.knowledge import KnowledgeBase, KnowledgeRetriever
from duologue.retrieval.knowledge.analysis import words_of
from duologue.retrieval.knowledge.retriever import MIN_CONFIDENCE
from duologue.retrieval.knowledge.senses import MAX_SENSES, load_senses, senses_of
from duologue.retrieval.protocol import RetrievalContext
from duologue.retrieval.settings import documents_at
from duologue.synthesis import senses as learning
from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import expand
from duologue.synthesis.splits import HELD_OUT_PHRASINGS
from duologue.synthesis.writer import countries

ASKED = 40
FLOORS = {"known": 0.95, "changed": 0.9, "unseen": 0.95, "invented": 0.95, "personal": 0.88}
"""Share of held-out phrasings that are answered rightly; 0.2 to 0.53 without senses."""

HOUSE = """# House

- The plumber is called Ines Marok; her number is five five two.
- The electrician is called Tom Reel; his number is nine one seven.
- The wireless password is brown otter.
- You can leave your luggage with the porter.
- The sauna costs twelve euros.
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeRetriever:
    path = tmp_path_factory.mktemp("house") / "house.md"
    path.write_text(HOUSE)
    return KnowledgeRetriever(KnowledgeBase.from_files([path]))


@pytest.fixture(scope="module")
def book() -> KnowledgeRetriever:
    return KnowledgeRetriever(KnowledgeBase.from_files([documents_at("factbook")]))


@pytest.mark.parametrize(
    ("question", "reference"),
    [
        ("What do people in Kenya speak?", "The main language of Kenya is Swahili."),
        (
            "What do the people in Saint Lucia speak at home?",
            "The main language of Saint Lucia is English.",
        ),
        ("How many people live in Spain?", "About forty eight million people live in Spain."),
        ("Which continent is Saint Lucia in?", "Saint Lucia is in North America."),
    ],
)
def test_nothing_else_is_told_beside_what_is_asked(
    book: KnowledgeRetriever, question: str, reference: str
) -> None:
    """A model that is given two facts may tell the other one."""
    assert book.look_up(RetrievalContext.from_question(question)).reference == reference


def test_a_second_passage_tells_what_the_first_does_not(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text(
        "# My notes\n\n- Each weaver needs a lamp made of clay.\n"
        "- There were ninety five lamps and two hundred envelopes on the table.\n"
        "- You reach Doctor Chekaxez under five two eight.\n"
        "- You reach Doctor Noltel under five two eight five.\n"
    )
    notes = KnowledgeRetriever(KnowledgeBase.from_files([path]))
    for question, reference in (
        ("I would like to hear about the lamp.", "Each weaver needs a lamp made of clay."),
        (
            "Can you look up the phone number of Doctor Chekaxez for me?",
            "You reach Doctor Chekaxez under five two eight.",
        ),
    ):
        assert notes.look_up(RetrievalContext.from_question(question)).reference == reference


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory) -> tuple[KnowledgeBase, list[str]]:
    """The fact book without a third of its countries, and the names of these."""
    head, *parts = documents_at("factbook").read_text().split("\n## ")
    there = [part for part in parts if "The capital of" in part]
    random.Random(5).shuffle(there)
    gone = there[::3]
    path = tmp_path_factory.mktemp("thinned") / "facts.md"
    path.write_text("\n## ".join([head, *(part for part in parts if part not in gone)]))
    return KnowledgeBase.from_files([path]), [part.partition("\n")[0] for part in gone]


def told(retriever: KnowledgeRetriever, question: str) -> str:
    return retriever.look_up(RetrievalContext.from_question(question)).reference


def test_what_is_asked_in_phrasings_never_seen_is_found(tmp_path: Path) -> None:
    """On the phrasings, entities and names held out for validation."""
    results = finding.measure(tmp_path, open_retriever, limit=ASKED, split="valid")
    for group, floor in FLOORS.items():
        right = [bool(result["right"]) for result in results if result["group"] == group]
        assert len(right) == ASKED
        assert sum(right) >= floor * ASKED, group


def test_what_is_not_there_is_refused_in_those_phrasings_too(
    thinned: tuple[KnowledgeBase, list[str]],
) -> None:
    base, gone = thinned
    templates = [
        template
        for ways in countries.QUESTIONS.values()
        for template in ways
        if template in HELD_OUT_PHRASINGS["valid"]
    ]
    answered = asked = 0
    for number, name in enumerate(gone):
        for template in templates:
            draw = Draw("near miss", number, template)
            hits = base.search(expand(template, draw, e=name), 1)
            answered += bool(hits) and hits[0].confidence >= MIN_CONFIDENCE
            asked += 1
    assert asked > 300
    assert answered <= 0.05 * asked


def test_most_is_found_when_words_are_missing(book: KnowledgeRetriever) -> None:
    """Every fifth word of the question, but not of its subject, is not heard."""
    random_ = random.Random(1)
    names = ("Bolivia", "Botswana", "Estonia", "Jamaica", "Kenya", "Malta", "Portugal", "Vietnam")
    keys = {"capital": "capital", "currency": "currency", "language": "language"}
    right = asked = 0
    for relation, key in keys.items():
        for template in countries.QUESTIONS[relation]:
            if template not in HELD_OUT_PHRASINGS["valid"]:
                continue
            for name in names:
                words = expand(template, Draw(template, name), e=name).split()
                heard = [w for w in words if name in w or random_.random() >= 0.2]
                answer = told(book, " ".join(heard))
                right += key in answer and name in answer
                asked += 1
    assert asked == 7 * len(names)
    assert right >= 0.75 * asked


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who do I call about the heating?", "Marok"),
        ("Who do I ring about a broken fuse?", "Tom Reel"),
        ("Where can I leave my suitcase?", "porter"),
        ("What do I type to get online?", "otter"),
        ("What do I have to pay for the sauna?", "twelve euros"),
    ],
)
def test_a_users_own_file(house: KnowledgeRetriever, question: str, answer: str) -> None:
    assert answer in told(house, question)


@pytest.mark.parametrize(
    "question",
    [
        "How much is the massage?",
        "Which currency do they use in Peru?",
        "When is the pool open?",
        "Who founded the sauna?",
        "Who wrote the sauna?",
        "When does the sauna close?",
        "How old is the plumber?",
        "When is the plumber's birthday?",
        "Who owns the luggage?",
        "Who is the author of the massage?",
    ],
)
def test_a_users_own_file_does_not_have_it(house: KnowledgeRetriever, question: str) -> None:
    assert told(house, question) == ""


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Whose currency is the forint?", "Hungary"),
        ("Nairobi is the capital of which country?", "Kenya"),
        ("What is the capital of North Korea?", "Pyongyang"),
        ("Name the countries around South Korea.", "neighbour of South Korea"),
    ],
)
def test_subjects_are_told_apart_and_may_be_what_is_asked_for(
    book: KnowledgeRetriever, question: str, answer: str
) -> None:
    assert answer in told(book, question)


def test_a_name_is_not_another_that_shares_a_word(tmp_path: Path) -> None:
    path = tmp_path / "korea.md"
    path.write_text(
        "## South Korea\n\nThe capital of South Korea is Seoul.\n\n"
        "The only neighbour of South Korea is North Korea.\n\n"
        "## Chad\n\nThe capital of Chad is the city of the north.\n"
    )
    retriever = KnowledgeRetriever(KnowledgeBase.from_files([path]))
    assert "Seoul" in told(retriever, "What is the capital of South Korea?")
    assert told(retriever, "What is the capital of North Korea?") == ""
    assert told(retriever, "What are the neighbours of North Korea?") == ""


def test_the_words_themselves_come_first(tmp_path: Path) -> None:
    path = tmp_path / "peru.md"
    path.write_text(
        "- The currency of Peru is the sol.\n\n- The money of Peru is printed abroad.\n"
    )
    base = KnowledgeBase.from_files([path])
    assert "printed" in base.search("what about the money of Peru", 1)[0].text
    assert "sol" in base.search("what about the currency of Peru", 1)[0].text


@given(st.lists(st.sampled_from(words_of("how many people pay the capital of zork 12 in"))))
def test_senses_explain_words_by_shares(words: list[str]) -> None:
    found = senses_of(words)
    assert len(found) <= MAX_SENSES
    for sense in found:
        assert 0.0 < sense.probability <= 1.0
        assert len(sense.explained) == len(words)
        assert all(0.0 <= share <= 1.0 for share in sense.explained)
        assert sense.told


def test_no_sense_without_words_that_ask() -> None:
    assert senses_of([]) == ()
    assert senses_of(words_of("Zorbia Wakanda")) == ()


# -- how they are learnt


def test_the_shipped_words_are_those_that_are_learnt() -> None:
    """Votes take most of a minute to learn; the words that tell are checked in full."""
    texts = learning.lessons()
    names = sorted({*texts.asked, *texts.asked_by_hand})
    table = load_senses()
    assert list(table.names) == names
    expected = learning.learn_told(texts, names)
    for name, terms in zip(table.names, table.told, strict=True):
        assert dict(terms) == pytest.approx(expected[name], abs=0.006)


def test_learning_tells_two_things_apart() -> None:
    asked = {"price": ["what does {e} cost", "how much is {e}"], "none": ["what is {e}"]}
    told = {"price": ["It costs two euros.", "It costs nine."], "none": []}
    table = learning.learn(learning.Lessons(asked, told, {"price": ["dear"]}, {"price": ["fee"]}))
    price = [sense["name"] for sense in table["senses"]].index("price")
    assert table["votes"]["dear"][str(price)] > 0.5
    assert table["votes"]["cost"][str(price)] > 0.5
    assert {"cost", "fee"} <= set(table["senses"][price]["told"])


def test_nothing_held_out_is_learnt() -> None:
    held_out = {text for texts in HELD_OUT_PHRASINGS.values() for text in texts}
    texts = learning.lessons()
    learnt = [text for ways in texts.asked.values() for text in ways]
    assert held_out.isdisjoint(learnt)

    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", text.lower()))
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    by_hand = [text for ways in texts.asked_by_hand.values() for text in ways]
    written = {run for text in by_hand for run in runs(text)}
    assert written.isdisjoint({run for text in held_out for run in runs(text)})


def test_phrases_that_belong_to_nothing_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "phrases.txt"
    path.write_text("# a comment\n\nprice\n? how much, how dear\n! costs\n")
    asked, told = learning.read_phrases(path)
    assert asked == {"price": ["how much", "how dear"]}
    assert told == {"price": ["costs"]}
    path.write_text("? how much\n")
    with pytest.raises(ValueError, match="line 1"):
        learning.read_phrases(path)


PLACES = """# Things

- Your piano is in the stadium.
- Please put the jacket next to the brown folder.
"""


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where did I put my piano?", "stadium"),
        ("Where did I leave the piano?", "stadium"),
        ("Where is my piano?", "stadium"),
    ],
)
def test_what_is_told_without_a_telling_word_is_found(
    tmp_path: Path, question: str, answer: str
) -> None:
    """ "Is in" tells where something is, and no word of it can be searched for."""
    path = tmp_path / "things.md"
    path.write_text(PLACES)
    things = KnowledgeRetriever(KnowledgeBase.from_files([path]))
    assert answer in things.look_up(RetrievalContext.from_question(question)).reference


@pytest.mark.parametrize(
    "question", ["Where did I put my fiddle?", "Where did I leave my passport?"]
)
def test_what_tells_no_place_does_not_answer_where_something_is(
    tmp_path: Path, question: str
) -> None:
    path = tmp_path / "things.md"
    path.write_text("- Your fiddle was tuned in May.\n- Your passport expires in June.\n" + PLACES)
    things = KnowledgeRetriever(KnowledgeBase.from_files([path]))
    assert things.look_up(RetrievalContext.from_question(question)).reference == ""


def test_a_sure_passage_is_told_before_one_that_only_scores_better() -> None:
    book = KnowledgeRetriever(KnowledgeBase.from_files([documents_at("factbook")]))
    found = book.look_up(RetrievalContext.from_question("Name the countries around Vatican City."))
    assert "Italy" in found.reference
