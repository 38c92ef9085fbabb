"""How often the knowledge base answers what it should not: `python benchmarks/confidence.py`.

Asks questions that documents answer and near misses that they do not (known properties of things
that are not there), through the simulated recogniser of `retrieval.py` at several word error rates.
Documents: generated passages, the fact book with every third country left out, and the pages of an
invented hotel (`hotel.json`). Reports, for each: recall@1, the share answered and answered rightly
at the default confidence, the share of near misses answered, and how well confidences are
calibrated. `--fit` also fits the constants of `duologue.retrieval.knowledge.confidence` anew.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from retrieval_questions import COMMON, ERROR_RATES, Recogniser, World, make_passages

import duologue
from duologue.retrieval.knowledge.confidence import MAX_ABSENCE, MAX_EVIDENCE
from duologue.retrieval.knowledge.passages import Block, passages_of
from duologue.retrieval.knowledge.readers import read_blocks
from duologue.retrieval.knowledge.retriever import MIN_CONFIDENCE
from duologue.retrieval.knowledge.search import Match, Searcher
from duologue.retrieval.knowledge.segment import Document, SegmentBuilder

ANSWERABLE_SHARE = 0.55
"""How many of the questions that people ask their documents are taken to have an answer there."""
COUNTRY_QUESTIONS = (
    ("what is the capital of {name}", "capital"),
    ("so um what's the capital city of {name}", "capital"),
    ("which currency do they use in {name}", "currency"),
    ("what money do people pay with in {name}", "currency"),
    ("what language do people speak in {name}", "language"),
    ("what is the main language of {name}", "language"),
    ("how many people live in {name}", "people live"),
    ("what is the population of {name}", "people live"),
    ("which continent is {name} in", " is in "),
    ("what are the neighbours of {name}", "neighbours"),
    ("which countries are next to {name}", "neighbours"),
)

OTHER_WORDS = (
    ("where does the parliament of {name} meet", "capital"),
    ("what is the most important city of {name} politically", "capital"),
    ("in which city do i find the ministries of {name}", "capital"),
    ("what do i get from a cash machine in {name}", "currency"),
    ("what do the shops in {name} accept", "currency"),
    ("what should i have in my purse in {name}", "currency"),
    ("what will i hear people speaking in {name}", "language"),
    ("in what tongue do they talk in {name}", "language"),
    ("how populated is {name}", "people live"),
    ("how many folks are living in {name}", "people live"),
    ("on what landmass is {name}", " is in "),
    ("which corner of the world does {name} lie in", " is in "),
    ("which states adjoin {name}", "neighbours"),
    ("what surrounds {name}", "neighbours"),
)
"""The same without the words of the fact book; no phrase that the senses were learnt from."""

NOT_THERE = (
    "who founded {name}",
    "when was {name} founded",
    "who rules {name}",
    "who is the president of {name}",
    "what does the flag of {name} look like",
    "how high is the highest mountain of {name}",
    "how long is the longest river of {name}",
    "how much is a flight to {name}",
    "what time is it in {name}",
    "what do they like to eat in {name}",
    "how is the weather in {name}",
    "who wrote the anthem of {name}",
    "where is the airport of {name}",
    "how do i get to {name}",
    "when do shops close in {name}",
    "how big is {name}",
)
"""What no passage of the fact book tells of any country."""

IsRight = Callable[[str], bool]
"""Whether a passage (its heading and text) answers a question."""


@dataclass(frozen=True)
class Case:
    """Documents and what is asked of them; a near miss has nothing that is right."""

    name: str
    searcher: Searcher
    answered: Sequence[tuple[str, IsRight]]
    unanswered: Sequence[str]
    recogniser: Recogniser


@dataclass(frozen=True)
class Asked:
    """One question as heard, and what was found."""

    case: str
    error_rate: float
    answerable: bool
    right: bool
    match: Match


def index(blocks: Sequence[Block]) -> Searcher:
    builder = SegmentBuilder()
    passages = list(passages_of(blocks))
    builder.add(Document("a", "a", "", 0, 0, len(passages)), passages)
    return Searcher([builder.build()], [None])


def generated(passages: int, questions: int, seed: int) -> Case:
    world = World(seed)
    texts, pool = make_passages(world, passages)
    asked = [(q.text, _is(texts[q.passage])) for q in pool[:questions]]
    lexicon = sorted({word for q in pool for word in q.text.split()} | set(COMMON))
    strangers = World(seed + 1000)
    strangers.adopt(world)
    unanswered = [q.text for q in make_passages(strangers, 2_000)[1][:questions]]
    searcher = index([Block(text) for text in texts])
    return Case(f"generated-{passages}", searcher, asked, unanswered,
                Recogniser(world, lexicon, seed + 1))  # fmt: skip


def fact_book(
    questions: int,
    seed: int,
    forms: Sequence[tuple[str, str]] = COUNTRY_QUESTIONS,
    name: str = "fact book",
    not_there: Sequence[str] = (),
) -> Case:
    """The fact book without a third of its countries; near misses ask for these, or `not_there`."""
    draw = random.Random(seed)
    path = Path(duologue.__file__).parent / "data" / "factbook" / "facts.md"
    blocks = list(read_blocks(path))
    names = [b.heading.rpartition(" / ")[2] for b in blocks if b.text.startswith("The capital of")]
    draw.shuffle(names)
    gone = set(names[::3])
    kept = [block for block in blocks if block.heading.rpartition(" / ")[2] not in gone]

    def ask(name: str) -> tuple[str, IsRight]:
        form, key = draw.choice(forms)
        return form.format(
            name=name.lower()
        ), lambda text: f" / {name}: " in text and key in text.partition(": ")[2]

    there = [other for other in names if other not in gone]
    answered = [ask(draw.choice(there)) for _ in range(questions)]
    if not_there:
        unanswered = [
            draw.choice(not_there).format(name=draw.choice(there).lower()) for _ in range(questions)
        ]
    else:
        unanswered = [ask(draw.choice(sorted(gone)))[0] for _ in range(questions)]
    words = {word for other in names for word in other.lower().split()} | set(COMMON)
    return Case(name, index(kept), answered, unanswered,
                Recogniser(World(seed), sorted(words), seed + 1))  # fmt: skip


def hotel(questions: int, seed: int) -> Case:
    data = json.loads(Path(__file__).with_name("hotel.json").read_text(encoding="utf-8"))
    text = "\n".join(data["document"])
    blocks = []
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.strip():
            blocks.append(Block(line.removeprefix("- "), heading=heading))
    answered = [(asked, _has(key)) for asked, key in data["answered"]]
    lexicon = {word for asked, _ in data["answered"] for word in asked.split()} | set(COMMON)
    times = max(1, questions // len(answered))
    return Case("hotel", index(blocks), answered * times, data["unanswered"] * times,
                Recogniser(World(seed), sorted(lexicon), seed + 1))  # fmt: skip


def _is(wanted: str) -> IsRight:
    return lambda text: text.endswith(wanted)


def _has(key: str) -> IsRight:
    return lambda text: re.search(re.escape(key), text, re.IGNORECASE) is not None


def ask_all(case: Case) -> Iterator[Asked]:
    segment = case.searcher.segments[0]
    nothing = Match(0, 0, 0.0, 0.0, 0.0, 0.0)
    for rate in ERROR_RATES:
        for question, is_right in [*case.answered, *((q, None) for q in case.unanswered)]:
            found = case.searcher.search(case.recogniser.hear(question, rate), 1)
            match = found[0] if found else nothing
            heading = segment.headings[int(segment.passage_heading[match.passage])]
            text = f"{heading}: {segment.texts[match.passage]}"
            right = bool(found) and is_right is not None and is_right(text)
            yield Asked(case.name, rate, is_right is not None, right, match)


def report(asked: Sequence[Asked]) -> None:
    print(f"at confidence {MIN_CONFIDENCE}:")
    print("documents          WER  recall@1  answered  rightly | near misses answered")
    for name in dict.fromkeys(one.case for one in asked):
        for rate in ERROR_RATES:
            here = [one for one in asked if (one.case, one.error_rate) == (name, rate)]
            known = [one for one in here if one.answerable]
            other = [one for one in here if not one.answerable]
            given = [one for one in known if one.match.confidence >= MIN_CONFIDENCE]
            wrong = [one for one in other if one.match.confidence >= MIN_CONFIDENCE]
            print(
                f"{name:16} {rate:5.0%} {_share([one.right for one in known]):9.3f}"
                f" {len(given) / len(known):9.3f} {sum(o.right for o in given) / len(known):8.3f}"
                f" | {len(wrong) / len(other):.3f}"
            )
    weights = _weights(asked)
    confidences = np.array([one.match.confidence for one in asked])
    right = np.array([one.right for one in asked], float)
    print("calibration: confidence  right (weighed as fitted)")
    for low in np.arange(0.0, 1.0, 0.2):
        some = (confidences >= low) & (confidences < low + 0.2)
        if some.any():
            mean = np.average(confidences[some], weights=weights[some])
            print(f"{mean:23.2f} {np.average(right[some], weights=weights[some]):6.2f}")


def fit(asked: Sequence[Asked], steps: int = 30) -> NDArray[np.float64]:
    """(bias, per coverage, evidence, absence) of a logistic regression, by Newton's method."""
    matches = [one.match for one in asked]
    features = np.array(
        [
            (
                1.0,
                m.coverage,
                min(m.evidence, MAX_EVIDENCE),
                min(m.absence, MAX_ABSENCE),
                min(m.untold, 1.0),
                m.foreign,
            )
            for m in matches
        ]
    )
    right = np.array([one.right for one in asked], float)
    weights = _weights(asked)
    constants = np.zeros(6)
    for _ in range(steps):
        guess = 1.0 / (1.0 + np.exp(-features @ constants))
        curvature = (features * (weights * guess * (1.0 - guess))[:, None]).T @ features
        constants -= np.linalg.solve(curvature, features.T @ (weights * (guess - right)))
    return constants


def _weights(asked: Sequence[Asked]) -> NDArray[np.float64]:
    """Each document, error rate and kind of question counts the same; near misses for less."""
    kinds = [(one.case, one.error_rate, one.answerable) for one in asked]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    share = {True: ANSWERABLE_SHARE, False: 1 - ANSWERABLE_SHARE}
    return np.array([share[kind[2]] / counts[kind] for kind in kinds])


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / max(1, len(flags))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000], help="passages")
    parser.add_argument("--questions", type=int, default=300, help="of each kind and document")
    parser.add_argument("--seed", type=int, default=2, help="the constants were fitted with 1")
    parser.add_argument("--fit", action="store_true", help="fit the constants anew")
    arguments = parser.parse_args()
    questions, seed = arguments.questions, arguments.seed
    cases = [generated(size, questions, seed) for size in arguments.sizes]
    cases += [
        fact_book(questions, seed),
        fact_book(questions, seed, OTHER_WORDS, "in other words"),
        fact_book(questions, seed, name="not there", not_there=NOT_THERE),
        hotel(questions, seed),
    ]
    asked = [one for case in cases for one in ask_all(case)]
    report(asked)
    if arguments.fit:
        names = ("BIAS", "PER_COVERAGE", "PER_EVIDENCE", "PER_ABSENCE", "PER_UNTOLD", "FOREIGN")
        print(*(f"{name} = {c:.2f}" for name, c in zip(names, fit(asked), strict=True)), sep="\n")


if __name__ == "__main__":
    main()
