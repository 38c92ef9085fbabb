"""One answer from several hearings of a question.

Each hearing is searched for by itself: its words as they are, or else its readings with names that
it may mean (`mending`), weighed by their sound. What several of them find is likelier than what one
finds; being hearings of one recording they are no independent witnesses, though, and count for less
than so many.

The constants were chosen on the questions that `mending` was fitted to, for most answers told
rightly less those told wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from duologue.retrieval.knowledge.analysis import words_of
from duologue.retrieval.knowledge.base import Found, Mended
from duologue.retrieval.knowledge.mending import Reading
from duologue.retrieval.protocol import Likelihood

INDEPENDENCE = 0.576
"""Share of a hearing that tells what the others do not."""
UNSURE = 0.75
"""What the confidence of a passage counts for that nobody would tell by itself."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A name in place of the words `first` to `last` of a text, of those that spaces part."""

    name: str
    first: int
    last: int


def placed(text: str, readings: Sequence[Reading]) -> list[Placed]:
    """Where in the text the names of its readings stand; nothing if its words cannot be matched."""
    places = [place for place, part in enumerate(text.split()) for _ in words_of(part)]
    if len(places) != len(words_of(text)):
        return []
    return [
        Placed(one.name, places[one.spotted.first], places[one.spotted.last]) for one in readings
    ]


def by_sound(readings: Sequence[Reading], sounds: Sequence[Likelihood]) -> list[Reading]:
    """Readings with how likely their names are; as they are if that is not known."""
    if len(sounds) != len(readings):
        return list(readings)
    return [replace(one, sound=sound) for one, sound in zip(readings, sounds, strict=True)]


def together(hearings: Iterable[Iterable[Mended]]) -> Mended | None:
    """What is likeliest meant by what each hearing may mean; None where nothing was found."""
    doubts: dict[Found, float] = {}
    likeliest: dict[Found, Mended] = {}
    for meanings in hearings:
        surest: dict[Found, Mended] = {}
        for one in meanings:
            other = surest.setdefault(one.found, one)
            if one.confidence > other.confidence:
                surest[one.found] = one
        for found, one in surest.items():
            doubts[found] = doubts.get(found, 1.0) * (1.0 - one.confidence)
            if one.confidence >= likeliest.setdefault(found, one).confidence:
                likeliest[found] = one
    if not doubts:
        return None
    found = min(doubts, key=lambda one: doubts[one])
    return likeliest[found].at(1.0 - doubts[found] ** INDEPENDENCE)
