"""Questions that nothing answers as they were heard, read once more with names that they may mean.

"What do the people in Kasobo speak Et home?": nothing is known of Kasobo, and "Et" is no word that
questions have. Each name that sounds like part of the question (`spotting`) makes a reading of it,
in which that part is the name and words that nobody knows are left out. Each reading is searched
for, and the readings compete, with each other and with the possibility that something else was
meant, by how well the name fits the sound and how surely the passage answers the reading.

Where the question's sound can be asked (`retrieval.protocol.HeardAgain`), how likely the recogniser
finds each name there counts too, beside how likely it finds what it wrote.

Both sets of weights were fitted (multinomial logistic regression) to what wren's recogniser made of
questions with an answer and of ones without in the files at hand, in phrasings of the split
"valid": `SPELLING` to 390 and 630 in voices of that split, `SOUND` to 458 and 552, half of them in
those and half in the diphone voices of the training. Questions without an answer count for half,
being asked more rarely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from duologue.retrieval.knowledge.analysis import is_asking, is_generic, term_of, words_of
from duologue.retrieval.knowledge.naming import EXPLAINED
from duologue.retrieval.knowledge.passages import innermost
from duologue.retrieval.knowledge.segment import Segment
from duologue.retrieval.knowledge.senses import asks, senses_of
from duologue.retrieval.knowledge.spotting import Spotted, Spotter
from duologue.retrieval.protocol import Likelihood

MAX_NAMES = 4000
"""In files with more names than this no question is mended: among so many something always fits."""
MAX_SPOTTED = 60
"""Most of these are in words that are known."""
MAX_READINGS = 8
LEAST_LETTERS = 3
MAX_HEADING_WORDS = 4
ALIKE = 0.35
"""Most distance of what was heard from the rest of a name whose other words were heard right."""
MAX_SHARE = 0.02
"""A word that more of the passages have than this, or than `USUAL_PASSAGES`, names nothing."""
USUAL_PASSAGES = 30

FEW_NAMES = 100
"""Fewer count as so many: the weights were fitted to no fewer."""
LEAST_SURE = 0.3
"""Confidence below which what is found answers no reading."""
MAX_LOGIT = 2.0
LEAST_LIKELY = -25.0
LEAST_WRITTEN = -10.0
MAX_PIECES = 8


@dataclass(frozen=True, slots=True)
class Weights:
    """What makes a reading likely, in logits."""

    bias: float
    whole: float
    """Per cost of missing the whole name: long names do not fit by chance."""
    missed: float
    """Per cost of hearing it so."""
    known: float
    """Per word in its place that is known."""
    said: float
    """Of names that were heard as they are written."""
    log_names: float
    """Among more names one is nearer by chance."""
    sure: float
    """Per logit of the passage's confidence."""
    guessed: float = 0.0
    """Per log-likelihood of the name."""
    pieces: float = 0.0
    """Per piece of the name: each costs likelihood, however right it is."""
    written: float = 0.0
    """Per log-likelihood of what was written in its place."""


SPELLING = Weights(3.14, 1.13, -2.51, -0.97, -0.53, -0.96, 0.68)
SOUND = Weights(2.64, 0.57, -1.08, -0.54, -0.44, -0.88, 0.34, 0.22, 0.5, -0.27)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a question may mean: its words with `name` in place of those that sounded like it."""

    text: str
    spotted: Spotted
    known: int
    """Words in the name's place that questions or the files have."""
    names: int
    """So many could have been meant."""
    sound: Likelihood | None = None

    @property
    def name(self) -> str:
        return self.spotted.name

    def score(self, confidence: float) -> float:
        """Logit of meaning this, given how surely it is answered, against meaning none of these."""
        if confidence < LEAST_SURE:
            return -math.inf
        spotted, sound = self.spotted, self.sound
        weights = SPELLING if sound is None else SOUND
        logit = math.log(confidence / max(1.0 - confidence, 1e-9))
        score = (
            weights.bias
            + weights.whole * spotted.whole
            + weights.missed * spotted.whole * spotted.distance
            + weights.known * self.known
            + weights.said * (spotted.distance == 0.0)
            + weights.log_names * math.log(max(self.names, FEW_NAMES))
            + weights.sure * min(logit, MAX_LOGIT)
        )
        if sound is not None:
            score += (
                weights.guessed * max(sound.guessed, LEAST_LIKELY)
                + weights.pieces * min(sound.pieces, MAX_PIECES)
                + weights.written * max(sound.written, LEAST_WRITTEN)
            )
        return score


class Mender:
    """Reads questions anew, over a fixed set of segments.

    Args:
        knows: whether a term is in the index.
    """

    def __init__(self, segments: Sequence[Segment], knows: Callable[[str], bool]) -> None:
        names: dict[str, None] = {}
        for name in _names(segments):
            names[name] = None
            if len(names) > MAX_NAMES:
                names.clear()
                break
        self._spotter = Spotter(tuple(names))
        self._knows = knows

    def readings(self, question: str) -> list[Reading]:
        """At most `MAX_READINGS`, those with the nearest names."""
        words = words_of(question)
        found: list[Reading] = []
        for spotted in self._spotter.spot(words, MAX_SPOTTED):
            meant = words[spotted.first : spotted.last + 1]
            own = spotted.name.lower().split()
            rest = words[: spotted.first], words[spotted.last + 1 :]
            if self._is_another(own, meant, [*rest[0][-1:], *rest[1][:1]]):
                continue
            known = sum(
                _is_usual(word) or (word not in own and self._knows(term_of(word)))
                for word in meant
            )
            if known == len(meant) and meant != own:
                continue  # "stand in" is no scandium
            before, after = ([w for w in part if self._means_something(w)] for part in rest)
            text = " ".join([*before, spotted.name.lower(), *after])
            if text == " ".join(words):
                continue  # that was heard right, and has been searched for
            if _asks_with(text, len(before), len(own)):
                continue  # no name: "the capital of Wakanda" is not about capitals
            if len(before) + len(after) < len(rest[0]) + len(rest[1]) and not (
                self._tells([*before, *after])
            ):
                continue  # what asked for something has been left out
            found.append(Reading(text, spotted, known, len(self._spotter.names)))
        return found[:MAX_READINGS]

    def _is_another(self, own: Sequence[str], meant: Sequence[str], beside: Sequence[str]) -> bool:
        """Whether a name some words of which were heard is another one by the words next to them:
        North Korea is not South Korea, the maritime museum not the harbour museum.
        """
        if set(own).isdisjoint(meant):
            return False
        others = [word for word in meant if word not in own]
        if any(self._knows(term_of(word)) for word in others):
            return True
        others += [word for word in beside if not self._means_something(word)]
        unheard = [word for word in own if word not in meant]
        return bool(others) and not (unheard and _alike(others, unheard))

    def _tells(self, words: Sequence[str]) -> bool:
        """Whether words ask for something, or name something that the index has."""
        telling = (w for w in words if not _is_usual(w) and self._knows(term_of(w)))
        return bool(senses_of(words)) or any(telling)

    def _means_something(self, word: str) -> bool:
        return _is_usual(word) or self._knows(term_of(word))


def shares(readings: Sequence[Reading], confidences: Sequence[float]) -> list[float]:
    """Probability of each reading, given how surely each is answered; they sum to less than 1."""
    powers = [
        math.exp(reading.score(confidence))
        for reading, confidence in zip(readings, confidences, strict=True)
    ]
    whole = 1.0 + sum(powers)
    return [power / whole for power in powers]


def _alike(words: Sequence[str], name: Sequence[str]) -> bool:
    """Whether words sound like the rest of a name that they share a word with."""
    found = Spotter([" ".join(name)]).spot(words, 1)
    return bool(found) and found[0].distance <= ALIKE


def _asks_with(text: str, first: int, count: int) -> bool:
    """Whether some words of a text only serve to ask for something."""
    return any(
        min(sense.explained[first : first + count]) >= EXPLAINED
        for sense in senses_of(text.split())
    )


def _is_usual(word: str) -> bool:
    """Whether questions have a word, whatever they are about."""
    term = term_of(word)
    return not term or asks(word) or is_generic(term) or is_asking(term)


def _names(segments: Sequence[Segment]) -> Iterator[str]:
    """Words that few passages have, and headings of several words."""
    passages = sum(segment.passages for segment in segments)
    most = max(USUAL_PASSAGES, round(MAX_SHARE * passages))
    for segment in segments:
        for number in range(len(segment.term_words)):
            word = segment.term_words[number]
            if segment.document_frequency(number) > most or not word.isalpha():
                continue
            term = term_of(word)
            if len(word) >= LEAST_LETTERS and not is_generic(term) and not is_asking(term):
                yield word
        for number in range(len(segment.headings)):
            heading = innermost(segment.headings[number])
            if 1 < len(heading.split()) <= MAX_HEADING_WORDS:
                yield heading
