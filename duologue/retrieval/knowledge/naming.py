"""Whether a passage is about what a question names, or about another subject.

A passage under a heading that it repeats is about that heading. It may have every word of a
question and still belong to something else: a country's neighbours are told under its own name, and
under theirs.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from duologue.retrieval.knowledge.slots import Slot

TOUCHING = 0.32
"""Likeness from which a word of a heading is one that was asked about; more than any word is like
another that the index has as it was said."""
EXPLAINED = 0.5
"""A word of which this much serves to ask is no name."""


@dataclass(frozen=True, slots=True)
class Naming:
    """Which terms of headings a question touches, and the terms of each word that may name."""

    touching: Set[int]
    names: Sequence[Set[int]]
    """By slot; nothing for those that were not said, that ask or say little."""
    pairs: Sequence[tuple[Set[int], Set[int]]]
    """Of these, those of two words in a row."""
    single: Set[int]
    """Those of these terms that one passage alone has."""


def naming(slots: Sequence[Slot], single: Set[int]) -> Naming:
    """What a question touches in headings, and which of its words may be part of a name."""
    asking = {
        part
        for slot in slots
        if slot.sense
        for part, share in zip(slot.parts, slot.shares, strict=True)
        if share >= EXPLAINED
    }
    touching: set[int] = set()
    names: list[frozenset[int]] = []
    for index, slot in enumerate(slots):
        is_name = slot.asked and index not in asking and slot.telling >= 1.0
        names.append(frozenset())
        if not (slot.asked or slot.parts or slot.sense):
            continue
        # A word that asks is not also a name that it sounds like: "coins", "Guinea".
        least = 1.0 if index in asking else TOUCHING
        terms = frozenset(term for term, likeness in slot.terms if likeness >= least)
        touching |= terms
        if is_name:
            names[-1] = terms
    if any(slot.mutual for slot in slots):
        single = frozenset()
    pairs = [
        (names[index - 1], names[index])
        for index, slot in enumerate(slots)
        if slot.follows and names[index - 1] and names[index]
    ]
    return Naming(touching, names, pairs, single & frozenset().union(*names))


def is_foreign(heading: Sequence[int], text: Sequence[int], asked: Naming, *, tells: bool) -> bool:
    """Whether a passage names its own subject, and that is not what was asked about.

    What one passage alone has may be asked for the other way round ("whose capital is Vienna"), if
    the passage tells what is asked for, and that is not what things are of each other. A name of
    several words is another one where the question has another word right beside one that they
    share: "North Korea" is not South Korea.
    """
    own = set(heading)
    if not own or not own.issubset(text) or own <= asked.touching:
        return False
    if asked.touching.isdisjoint(own):
        return not tells or asked.single.isdisjoint(text)
    return any(own.isdisjoint(one) != own.isdisjoint(other) for one, other in asked.pairs)
