"""Questions that nothing answers as they were heard, read once more with names that they may mean.

"What do the people in Kasobo speak Et home?": nothing is known of Kasobo, and "Et" is no word that
questions have. Each name that sounds like part of the question (`spotting`) makes a reading of it,
in which that part is the name and words that nobody knows are left out. Each reading is searched
for, and the readings compete, with each other and with the possibility that something else was
meant, by how well the name fits the sound and how surely the passage answers the reading.

The weights were fitted (multinomial logistic regression) to what wren's recogniser made of 390
questions with an answer and of 630 without one in the files at hand, in voices and phrasings of the
split "valid"; the latter count for less, being asked more rarely.
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

MAX_NAMES = 4000
"""In files with more names than this no question is mended: among so many something always fits."""
MAX_READINGS = 8
LEAST_LETTERS = 3
MAX_HEADING_WORDS = 4
ALIKE = 0.35
"""Most distance of what was heard from the rest of a name whose other words were heard right."""
MAX_SHARE = 0.02
"""A word that more of the passages have than this, or than `USUAL_PASSAGES`, names nothing."""
USUAL_PASSAGES = 30

BIAS = 3.14
PER_WHOLE = 1.13
PER_MISSED = -2.51
PER_KNOWN = -0.97
SAID = -0.53
"""Of names that were heard as they are written."""
PER_LOG_NAMES = -0.96
"""Among more names one is nearer by chance."""
FEW_NAMES = 100
"""Fewer count as so many: the weights were fitted to no fewer."""
PER_SURE = 0.68
LEAST_SURE = 0.3
"""Confidence below which what is found answers no reading."""
_MAX_LOGIT = 2.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a question may mean: its words with `name` in place of those that sounded like it."""

    text: str
    name: str
    fit: float
    """Logit of meaning this, before it is known what is found."""

    def score(self, confidence: float) -> float:
        """Logit of meaning this, given how surely it is answered, against meaning none of these."""
        if confidence < LEAST_SURE:
            return -math.inf
        logit = math.log(confidence / max(1.0 - confidence, 1e-9))
        return self.fit + PER_SURE * min(logit, _MAX_LOGIT)


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
        for spotted in self._spotter.spot(words, 2 * MAX_READINGS):
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
            found.append(
                Reading(text, spotted.name, _fit(spotted, known, len(self._spotter.names)))
            )
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


def _fit(spotted: Spotted, known: int, names: int) -> float:
    return (
        BIAS
        + PER_WHOLE * spotted.whole
        + PER_MISSED * spotted.whole * spotted.distance
        + PER_KNOWN * known
        + SAID * (spotted.distance == 0.0)
        + PER_LOG_NAMES * math.log(max(names, FEW_NAMES))
    )


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
