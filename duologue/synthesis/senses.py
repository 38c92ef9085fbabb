"""Learn what questions ask for: `python -m duologue.synthesis.senses` writes `senses.json`.

From the questions and statements of the training part of the generated dialogues, and from the
phrases that are written by hand in `data/senses/phrases.txt`. Votes are the weights of a logistic
regression over words and pairs of words, of questions whose names are left out and some of whose
words are missing, as a recogniser leaves them. Words that tell a sense are those that its
statements have and others have not. Nothing that evaluation holds out is used.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.retrieval.knowledge.analysis import term_of, words_of
from duologue.retrieval.knowledge.senses import NONE, SENSES_FILE, votes_of
from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import expand
from duologue.synthesis.script import Novelty
from duologue.synthesis.splits import Split, allowed_phrasings
from duologue.synthesis.writer import facts, personal, talk

PHRASES_FILE = SENSES_FILE.with_name("phrases.txt")
SPLIT: Split = "train"
COPIES = 8
"""Of each question, with other words missing."""
BALANCE = 0.5
"""1: each sense counts the same; 0: each question."""
MISSING = 0.18
STEPS = 120
RATE = 0.1
DECAY = 1e-4
PAIR_SCALE = 0.4
"""Of pairs against single words: words that were never seen together are to add up."""
LEAST_USES = 2
LEAST_VOTE = 0.08
STATEMENTS = 120
LEAST_SHARE = 0.04
LEAST_TELLING = 0.4
MAX_TOLD = 16
BY_HAND = 0.9
"""How surely a word tells a sense for which it was written down by hand."""

_GAP = "xgapx"
_OPENERS = 0.25
_TYPED = ("day", "price")
"""Slots of the user's own facts whose words tell what kind of thing they are."""
_SHORT_NUMBER = 3
"""Digits of a number that tells nothing; "million" does."""
_MIXED = {"element": NONE, "thing": NONE, "pass": "directions"}
"""Relations of the user's own facts that are called otherwise here."""


@dataclass(frozen=True)
class Lessons:
    """What is learnt from: texts by sense."""

    asked: Mapping[str, list[str]]
    told: Mapping[str, list[str]]
    asked_by_hand: Mapping[str, list[str]]
    told_by_hand: Mapping[str, list[str]]


def lessons() -> Lessons:
    """Everything that training may see."""
    asked: dict[str, list[str]] = defaultdict(list)
    told: dict[str, list[str]] = defaultdict(list)
    for kind in ("country", "element"):
        for relation, templates in facts.questions_of(kind).items():
            asked[relation] += allowed_phrasings(templates, SPLIT)
            for noun in facts.nouns_of(kind)[relation]:
                asked[relation] += [f"and its {noun}", *_general(f"the {noun} of {{e}}")]
            told[relation] += _book_statements(kind, relation)
    for pattern in personal.OWN_FACTS:
        name = _MIXED.get(pattern.relation, pattern.relation)
        asked[name] += allowed_phrasings(tuple(pattern.questions), SPLIT)
        if name != NONE:
            asked[name] += _general(pattern.subject)
            told[name] += _own_statements(pattern)
    for templates in (personal.NOTE_QUESTIONS, personal.GENERAL_QUESTIONS, talk.OFF_TOPIC):
        asked[NONE] += allowed_phrasings(templates, SPLIT)
    asked_by_hand, told_by_hand = read_phrases(PHRASES_FILE)
    return Lessons(asked, told, asked_by_hand, told_by_hand)


def _general(subject: str) -> list[str]:
    """Ways of asking for anything, and one to ask in a word or two, with a subject."""
    ways = allowed_phrasings(personal.GENERAL_QUESTIONS, SPLIT)
    return [subject, *(way.replace("{x}", subject) for way in ways)]


def read_phrases(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The phrases to ask with, and the words that tell, by sense; the form is in the file."""
    asked: dict[str, list[str]] = defaultdict(list)
    told: dict[str, list[str]] = defaultdict(list)
    name = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark, _, rest = line.partition(" ")
        phrases = [phrase.strip() for phrase in rest.split(",")]
        if not line or mark == "#":
            continue
        if mark == "?" and name:
            asked[name] += phrases
        elif mark == "!" and name:
            told[name] += phrases
        elif not rest and line.isidentifier():
            name = line
        else:
            raise ValueError(f"{path}, line {number}: neither a name nor `?` nor `!`")
    return asked, told


def _book_statements(kind: str, relation: str) -> Iterator[str]:
    entities = [
        subject
        for subject in map(facts.as_subject, facts.entities(SPLIT))
        if subject.kind == kind
        and relation in facts.possible_relations(subject, SPLIT, Novelty.KNOWN)
    ]
    for number in range(STATEMENTS):
        draw = Draw("senses", relation, number)
        subject = draw.choice(entities)
        yield facts.answer(draw, SPLIT, subject, relation, Novelty.KNOWN)[1]


def _own_statements(pattern: personal.Pattern) -> Iterator[str]:
    for number in range(STATEMENTS):
        draw = Draw("senses", pattern.subject, number)
        slots = personal.draw_slots(draw, SPLIT)
        slots = {name: text if name in _TYPED else _GAP for name, text in slots.items()}
        yield draw.choice(pattern.statements).format(**slots)


def _examples(texts: Lessons, names: list[str]) -> Iterator[tuple[set[str], int, float]]:
    """Features of a question, number of its sense, and how much it counts."""
    for number, name in enumerate(names):
        sources = (texts.asked.get(name, []), texts.asked_by_hand.get(name, []))
        count = sum(map(len, sources))
        for template in (text for source in sources for text in source):
            for copy in range(COPIES):
                draw = Draw("senses", name, template, copy)
                gap = " ".join([_GAP] * draw.integer(1, 2))
                text = expand(template, draw, **dict.fromkeys(_slots_in(template), gap))
                if draw.chance(_OPENERS):
                    text = f"{draw.choice((*talk.OPENERS, *talk.NEXT_OPENERS))} {text}"
                words = words_of(text)
                if copy:
                    words = [word for word in words if not draw.chance(MISSING)]
                features = {f for f, _, _ in votes_of(words) if _GAP not in f}
                yield features, number, count**-BALANCE / COPIES


def _slots_in(template: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", template))


def learn_votes(
    texts: Lessons, names: list[str]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Biases [S], and for each feature its votes [S]."""
    examples = list(_examples(texts, names))
    uses = Counter(feature for features, _, _ in examples for feature in features)
    vocabulary = sorted(feature for feature, count in uses.items() if count >= LEAST_USES)
    place = {feature: index for index, feature in enumerate(vocabulary)}
    scale = np.array([PAIR_SCALE if " " in feature else 1.0 for feature in vocabulary] + [1.0])
    cells: list[tuple[int, int]] = []
    wanted = torch.zeros(len(examples), len(names))
    counts = np.zeros(len(examples))
    for row, (features, sense, weight) in enumerate(examples):
        cells += [(row, place[feature]) for feature in features if feature in place]
        cells.append((row, len(vocabulary)))
        wanted[row, sense] = 1.0
        counts[row] = weight
    counts *= len(counts) / counts.sum()
    where = torch.tensor(cells).T
    inputs = torch.sparse_coo_tensor(
        where,
        torch.from_numpy(scale).float()[where[1]],
        (len(examples), len(vocabulary) + 1),
        check_invariants=False,
    ).coalesce()
    found = _regression(inputs, wanted, torch.from_numpy(counts).float()[:, None])
    weights = found.double().numpy() * scale[:, None]
    return weights[-1], {feature: weights[index] for feature, index in place.items()}


def _regression(inputs: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """Weights [F, S] of a logistic regression that shuns large ones, by Adam on all examples.

    Args:
        inputs: sparse [N, F].
        wanted: [N, S]; `counts` [N, 1] how much each example counts.
    """
    back = inputs.t().coalesce()
    weights = torch.zeros(inputs.shape[1], wanted.shape[1])
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    for step in range(1, STEPS + 1):
        guess = torch.softmax(torch.sparse.mm(inputs, weights), dim=1)
        slope = torch.sparse.mm(back, (guess - wanted) * counts) / len(wanted) + DECAY * weights
        mean += 0.1 * (slope - mean)
        square += 0.01 * (slope**2 - square)
        weights -= RATE * (mean / (1 - 0.9**step)) / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
    return weights


def learn_told(texts: Lessons, names: list[str]) -> dict[str, dict[str, float]]:
    """For each sense, the terms that tell it, with how surely, most first."""
    shares: dict[str, dict[str, float]] = {}
    entities = {term for entity in facts.entities(SPLIT) for term in _terms(entity.spoken)}
    for name in names:
        statements = texts.told.get(name, [])
        seen = Counter(
            term
            for text in statements
            for term in _terms(text) - entities
            if not term.isdigit() or len(term) > _SHORT_NUMBER
        )
        shares[name] = {term: count / len(statements) for term, count in seen.items()}
    totals: dict[str, float] = defaultdict(float)
    for found in shares.values():
        for term, share in found.items():
            totals[term] += share
    told: dict[str, dict[str, float]] = {}
    for name in names:
        sure = {
            term: share / totals[term]
            for term, share in shares[name].items()
            if share >= LEAST_SHARE and share / totals[term] >= LEAST_TELLING
        }
        for phrase in texts.told_by_hand.get(name, []):
            for term in _terms(phrase):
                sure[term] = max(BY_HAND, sure.get(term, 0.0))
        told[name] = dict(sorted(sure.items(), key=lambda item: (-item[1], item[0]))[:MAX_TOLD])
    return told


def _terms(text: str) -> set[str]:
    return {term for word in words_of(text) if (term := term_of(word)) and _GAP not in term}


def learn(texts: Lessons | None = None) -> dict[str, Any]:
    """The table as it is shipped."""
    texts = texts or lessons()
    names = sorted({*texts.asked, *texts.asked_by_hand})
    biases, votes = learn_votes(texts, names)
    told = learn_told(texts, names)
    return {
        "senses": [
            {
                "name": name,
                "bias": round(float(bias), 2),
                "told": {term: round(sure, 2) for term, sure in told[name].items()},
            }
            for name, bias in zip(names, biases, strict=True)
        ],
        "votes": {
            feature: kept
            for feature, weights in votes.items()
            if (
                kept := {
                    str(sense): round(float(weight), 2)
                    for sense, weight in enumerate(weights)
                    if abs(weight) >= LEAST_VOTE
                }
            )
        },
    }


def lines_of(table: Mapping[str, Any]) -> Iterable[str]:
    """The table as JSON, one sense or feature a line."""

    def dumped(value: object) -> str:
        return json.dumps(value, separators=(",", ":"))

    yield '{"senses":['
    yield ",\n".join(map(dumped, table["senses"]))
    yield '],"votes":{'
    yield ",\n".join(f"{dumped(key)}:{dumped(value)}" for key, value in table["votes"].items())
    yield "}}"


def main() -> None:
    SENSES_FILE.write_text("\n".join(lines_of(learn())) + "\n", encoding="utf-8")
    print(f"wrote {SENSES_FILE} ({SENSES_FILE.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
