"""One answer from several hearings of a question.

Each hearing is searched for by itself: its words as they are, or else its readings with names that
it may mean (`mending`), weighed by their sound. What several of them find is likelier than what one
finds; being hearings of one recording they are no independent witnesses, though, and count for less
than so many. What is not sure though it was heard clearly gets no surer by being heard again: that
counts once.

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


@dataclass(frozen=True, slots=True)
class Meanings:
    """What a hearing may mean: what its sound speaks for, and what only its words do."""

    sounding: Sequence[Mended]
    worded: Sequence[Mended]


@dataclass(frozen=True, slots=True)
class Placed:
    """A name in place of the words `first` to `last` of a text, of those that spaces part."""

    name: str
    first: int
    last: int


def placed(text: str, question: str, readings: Sequence[Reading]) -> list[Placed]:
    """Where in a text the names of readings stand; nothing if the question that they read is none
    of its words but completed by what was said before, or if the words cannot be matched.
    """
    places = [place for place, part in enumerate(text.split()) for _ in words_of(part)]
    words = words_of(text)
    if len(places) != len(words) or words != words_of(question):
        return []
    return [
        Placed(one.name, places[one.spotted.first], places[one.spotted.last]) for one in readings
    ]


def by_sound(readings: Sequence[Reading], sounds: Sequence[Likelihood]) -> list[Reading]:
    """Readings with how likely their names are; as they are if that is not known."""
    if len(sounds) != len(readings):
        return list(readings)
    return [replace(one, sound=sound) for one, sound in zip(readings, sounds, strict=True)]


def together(hearings: Iterable[Meanings]) -> Mended | None:
    """What is likeliest meant by what each hearing may mean; None where nothing was found."""
    doubts: dict[Found, float] = {}
    worded: dict[Found, float] = {}
    likeliest: dict[Found, Mended] = {}
    for meanings in hearings:
        for found, confidence in _surest(meanings.sounding, likeliest).items():
            doubts[found] = doubts.get(found, 1.0) * (1.0 - confidence)
        for found, confidence in _surest(meanings.worded, likeliest).items():
            worded[found] = max(worded.get(found, 0.0), confidence)
    if not likeliest:
        return None
    sure = {
        found: 1.0 - (doubts.get(found, 1.0) * (1.0 - worded.get(found, 0.0))) ** INDEPENDENCE
        for found in likeliest
    }
    # One hearing says no less than its words do.
    sure = {found: max(one, worded.get(found, 0.0)) for found, one in sure.items()}
    found = max(sure, key=lambda one: sure[one])
    return likeliest[found].at(sure[found])


def _surest(meanings: Iterable[Mended], likeliest: dict[Found, Mended]) -> dict[Found, float]:
    """How sure each passage is at best; the surest of all is noted in `likeliest`."""
    surest: dict[Found, float] = {}
    for one in meanings:
        surest[one.found] = max(surest.get(one.found, 0.0), one.confidence)
        if one.confidence >= likeliest.setdefault(one.found, one).confidence:
            likeliest[one.found] = one
    return surest
