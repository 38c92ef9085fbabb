"""A generated world to search in: passages, questions about them, and a recogniser that mishears.

Everything follows from a seed. The simulated recogniser shares no code with the index: it edits
letters by a table of confusions of its own, replaces words by others of similar spelling, splits,
drops, inserts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ERROR_RATES = (0.0, 0.1, 0.2, 0.3)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words("b br c ch d dr f fl g gr h j k kr l m n p ph pr qu r s sh sl st t th tr v w y z")
_NUCLEI = _words("a e i o u a e i o u a e i o u a e i o u y ai ea ee ia io oa oo ou au")
_CODAS = (*_words("n r l s t d m p g b nd rk st ck x ng th sh lt mp rn nk ft ss"), *[""] * 16)
_KINDS = {
    "museum": ("founder", "opening year", "ticket price", "visitor count", "architect"),
    "river": ("length", "source", "mouth", "widest bridge", "fish"),
    "company": ("chief executive", "revenue", "headquarters", "flagship product", "staff count"),
    "bridge": ("span", "builder", "toll", "paint color", "speed limit"),
    "festival": ("main act", "entry fee", "organizer", "venue", "starting day"),
    "orchid": ("color", "discoverer", "scent", "height", "habitat"),
    "castle": ("owner", "oldest tower", "garden designer", "ghost", "restoration cost"),
    "engine": ("inventor", "fuel", "horsepower", "weight", "first test"),
    "village": ("mayor", "population", "patron saint", "market day", "dialect"),
    "library": ("director", "oldest book", "opening hours", "number of volumes", "reading room"),
}
_LEADS = (
    "what is the {attribute} of the {name} {kind}",
    "can you tell me the {attribute} of the {name} {kind}",
    "i was wondering about the {name} {kind} what is its {attribute}",
    "so um the {name} {kind} do you know the {attribute}",
    "tell me the {attribute} of {name}",
)
COMMON = _words(
    """time people year water house world school state family student group country problem hand
    part place case week system program question work night point home room mother area money story
    fact month lot right study book eye job word business issue side kind head service friend father
    power hour game line end member law car city community name president team minute idea body
    information back parent face level office door health person art war history party result
    change morning reason research girl guy moment air teacher force education"""
)
_VERBS = _words("has shows keeps holds carries offers needs draws meets joins marks crosses feeds")


class World:
    """Generated names and facts; the same seed gives the same world."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._made: set[str] = set()
        self.vocabulary = [self.word() for _ in range(40_000)]
        ranks = np.arange(1, len(self.vocabulary) + 1)
        self._weights = list(np.cumsum(1.0 / (ranks + 20.0)))

    def word(self) -> str:
        """A new pronounceable word."""
        while True:
            word = "".join(
                self.random.choice(sounds)
                for _ in range(self.random.choice((1, 2, 2, 2, 3, 3)))
                for sounds in (_ONSETS, _NUCLEI, _CODAS)
            )
            if len(word) > 3 and word not in self._made:
                self._made.add(word)
                return word

    def adopt(self, other: World) -> None:
        """Use another world's vocabulary, but none of its words for new names."""
        self.vocabulary = other.vocabulary
        self._made |= other._made

    def filler(self, words: int) -> str:
        """A sentence of common English words and words of a long-tailed vocabulary."""
        rare = self.random.choices(self.vocabulary, cum_weights=self._weights, k=words)
        said = [self.random.choice(COMMON) if self.random.random() < 0.5 else word for word in rare]
        said.insert(1, self.random.choice(_VERBS))
        return " ".join(["The", *said]) + "."


@dataclass(frozen=True, slots=True)
class Question:
    """A question as spoken, and the number of the passage that answers it."""

    text: str
    passage: int


def make_passages(world: World, count: int) -> tuple[list[str], list[Question]]:
    """Passages of two facts about one thing and filler; one question per fact."""
    passages: list[str] = []
    questions: list[Question] = []
    kinds = list(_KINDS)
    first_names = [world.word() for _ in range(max(50, count // 12))]
    while len(passages) < count:
        kind = world.random.choice(kinds)
        name = world.random.choice(first_names)
        if world.random.random() < 0.6:
            name = f"{name} {world.word()}"
        attributes = world.random.sample(_KINDS[kind], 4)
        for pair in (attributes[:2], attributes[2:]):
            facts = [f"The {a} of the {name.title()} {kind} is {_value(world)}." for a in pair]
            facts.insert(world.random.randrange(3), world.filler(world.random.randrange(8, 22)))
            for attribute in pair:
                lead = world.random.choice(_LEADS)
                text = lead.format(attribute=attribute, name=name, kind=kind)
                questions.append(Question(text, len(passages)))
            passages.append(" ".join(facts))
    world.random.shuffle(questions)
    return passages[:count], [question for question in questions if question.passage < count]


def _value(world: World) -> str:
    if world.random.random() < 0.4:
        return str(world.random.randrange(2, 3000))
    return world.random.choice(world.vocabulary).title()


class Recogniser:
    """Mishears words at a given rate: 60 % substituted, 20 % dropped, 20 % inserted."""

    _CONFUSIONS = (
        ("ph", "f"), ("f", "v"), ("v", "f"), ("c", "k"), ("k", "c"), ("ck", "k"), ("qu", "kw"),
        ("s", "z"), ("z", "s"), ("b", "p"), ("p", "b"), ("d", "t"), ("t", "d"), ("g", "k"),
        ("m", "n"), ("n", "m"), ("th", "t"), ("th", "f"), ("sh", "ch"), ("ch", "sh"), ("j", "ch"),
        ("ee", "ea"), ("ea", "e"), ("ai", "ay"), ("oo", "u"), ("ou", "ow"), ("au", "o"),
        ("a", "e"), ("e", "i"), ("i", "e"), ("o", "a"), ("u", "o"), ("ia", "ya"), ("oa", "o"),
        ("l", "r"), ("r", "l"), ("x", "ks"), ("y", "i"), ("w", "wh"), ("h", ""), ("r", ""),
    )  # fmt: skip

    def __init__(self, world: World, lexicon: Sequence[str], seed: int) -> None:
        self._random = random.Random(seed)
        self._world = world
        self._by_shape: dict[tuple[str, int], list[str]] = {}
        for word in lexicon:
            self._by_shape.setdefault((word[:1], len(word)), []).append(word)

    def hear(self, text: str, error_rate: float) -> str:
        heard: list[str] = []
        for word in text.split():
            chance = self._random.random()
            if chance >= error_rate:
                heard.append(word)
            elif chance < 0.6 * error_rate:
                heard.append(self._mistake(word))
            elif chance < 0.8 * error_rate:
                heard += [word, self._random.choice(COMMON)]
        return " ".join(heard)

    def _mistake(self, word: str) -> str:
        kind = self._random.random()
        if kind < 0.15:
            return self._random.choice(COMMON)
        if kind < 0.30 and len(word) >= 6:
            cut = self._random.randrange(2, len(word) - 1)
            return f"{word[:cut]} {self._misspell(word[cut:])}"
        if kind < 0.55:
            length = len(word) + self._random.choice((-1, 0, 0, 1))
            near = self._by_shape.get((word[:1], length), [])
            sample = self._random.sample(near, min(len(near), 300))
            if sample:
                return min(sample, key=lambda other: edits(word, other))
        return self._misspell(word)

    def _misspell(self, word: str) -> str:
        for _ in range(1 + (len(word) > 5)):
            possible = [pair for pair in self._CONFUSIONS if pair[0] in word]
            if possible:
                old, new = self._random.choice(possible)
                word = word.replace(old, new, 1)
        return word


def edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
