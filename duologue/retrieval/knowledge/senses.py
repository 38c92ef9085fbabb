"""What a question asks for, whatever its words: "which money do I need" asks for a currency.

A *sense* is a kind of thing that people ask for, with the words that tell it in documents. The
words of a question, alone and in pairs, vote for senses; what the vote leaves sure is added to the
search as more words (see `search`). Votes and words were learnt (`duologue.synthesis.senses`), and
are read from `data/senses/senses.json` at the first question. A question that asks for nothing
that is known here has no sense, and its words speak for themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import duologue
from duologue.retrieval.knowledge.analysis import term_of

SENSES_FILE = Path(duologue.__file__).parent / "data" / "senses" / "senses.json"
PAIR_SPAN = 5
"""Words of a pair are at most so many places apart: names stand between."""
PREFIX_CHARS = 6
"""Of a word that votes: "chemistry" and "chemical" vote alike."""
LEAST_PROBABILITY = 0.2
MAX_SENSES = 2
ENOUGH = 0.6
"""A sense of this probability is as good as certain."""
FULL_VOTE = 1.2
"""A word with this much of a vote for a sense is wholly explained by it."""
SURE_VOTE = 2.0
"""A word with this much of a vote for a sense asks for that, or names something of its kind."""
NONE = "none"
_PLACED = re.compile(
    r"\b(?:is|are|was|were|lies?|hangs?|stands?|stays?) (?:in|on|at|under|behind|beside|inside|near"
    r"|above|below|over|between|with|next to)\b",
    re.IGNORECASE,
)
MUTUAL = frozenset({"neighbours"})
"""Senses that things have of each other: passages about others name them too."""
PLACES = frozenset({"whereabouts"})
"""Senses that words tell as well which nobody searches for (`tells_place`)."""


@dataclass(frozen=True, slots=True)
class Sense:
    """One thing that a question may ask for.

    `told`: terms of documents that tell it, with how surely, most first. `explained`: for each word
    of the question, by place, how much of it serves to ask for this, in [0, 1].
    """

    name: str
    probability: float
    told: tuple[tuple[str, float], ...]
    explained: tuple[float, ...]


def votes_of(words: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """The features of a question: (feature, place of its first word, place of its last)."""
    tokens = [_token(word) for word in words]
    for first, token in enumerate(tokens):
        if not token:
            continue
        yield token, first, first
        for last in range(first + 1, min(first + 1 + PAIR_SPAN, len(tokens))):
            if tokens[last]:
                yield f"{token} {tokens[last]}", first, last


def senses_of(words: Sequence[str]) -> tuple[Sense, ...]:
    """What a question asks for, most likely first; nothing if that is unclear."""
    table = load_senses()
    voted = [
        (row, first, last)
        for feature, first, last in votes_of(words)
        if (row := table.rows.get(feature)) is not None
    ]
    if not voted:
        return ()
    rows, first, last = np.array(voted).T
    votes = table.votes[rows]
    scores = table.biases + votes.sum(axis=0)
    powers = np.exp(scores - scores.max())
    powers /= powers.sum()
    found = []
    for sense in np.argsort(-powers, kind="stable")[:MAX_SENSES].tolist():
        probability = float(powers[sense])
        if probability < LEAST_PROBABILITY:
            break
        if table.names[sense] == NONE:
            continue
        shares = np.bincount(first, votes[:, sense], len(words))
        shares += np.bincount(last, votes[:, sense], len(words))
        explained = np.clip(shares / (2 * FULL_VOTE), 0.0, 1.0)
        sureness = min(1.0, probability / ENOUGH)
        name, told = table.names[sense], table.told[sense]
        found.append(Sense(name, sureness, told, tuple(explained.tolist())))
    return tuple(found)


def tells_place(text: str) -> bool:
    """Whether a text says where something is: "your piano is in the stadium"."""
    return _PLACED.search(text) is not None


def asks(word: str) -> bool:
    """Whether questions were seen that use a word to ask, for whatever."""
    return _token(word) in load_senses().rows


def chats(word: str, sense: str) -> bool:
    """Whether a word is known from questions and does not surely ask for another sense."""
    table = load_senses()
    row = table.rows.get(_token(word))
    if row is None:
        return False
    others = [
        vote
        for name, vote in zip(table.names, table.votes[row].tolist(), strict=True)
        if name not in (sense, NONE)
    ]
    return max(others, default=0.0) < SURE_VOTE


@dataclass(frozen=True)
class SenseTable:
    """As learnt: S senses with the terms that tell each, and the votes of F features."""

    names: tuple[str, ...]
    told: tuple[tuple[tuple[str, float], ...], ...]
    biases: NDArray[np.float64]  # [S]
    rows: Mapping[str, int]
    votes: NDArray[np.float64]  # [F, S], by the rows of the features


@lru_cache(maxsize=1)
def load_senses() -> SenseTable:
    """The shipped table."""
    data = json.loads(SENSES_FILE.read_text(encoding="utf-8"))
    senses, votes = data["senses"], data["votes"]
    table = np.zeros((len(votes), len(senses)))
    for row, weights in enumerate(votes.values()):
        for sense, weight in weights.items():
            table[row, int(sense)] = weight
    return SenseTable(
        tuple(sense["name"] for sense in senses),
        tuple(tuple(sense["told"].items()) for sense in senses),
        np.array([sense["bias"] for sense in senses]),
        {feature: row for row, feature in enumerate(votes)},
        table,
    )


@lru_cache(maxsize=1 << 14)
def _token(word: str) -> str:
    word = word.partition("'")[0]
    return (term_of(word) or word)[:PREFIX_CHARS]
