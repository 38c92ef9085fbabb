"""Questions about countries and elements, and the references that answer them.

A reference is the book's fact, or the same sentence with a value that contradicts the book, or one
about a country or an element that does not exist. Which entities, facts and invented names may be
used is decided by the split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import Phrase, pick
from duologue.synthesis.names import invent
from duologue.synthesis.numbers import join_list, say_integer, say_rounded
from duologue.synthesis.script import FactId, Novelty
from duologue.synthesis.splits import Split, entity_split, fact_split, name_split
from duologue.synthesis.world import (
    ANCIENT,
    COUNTRY_RELATIONS,
    ELEMENT_RELATIONS,
    Entity,
    bundled_fact_book,
    capitalise,
    state_fact,
)
from duologue.synthesis.writer import countries, elements
from duologue.synthesis.writer.tools import random_year

_MIX: dict[Split, dict[Novelty, float]] = {
    "train": {Novelty.KNOWN: 0.38, Novelty.CHANGED: 0.34, Novelty.INVENTED: 0.28},
    "valid": {
        Novelty.KNOWN: 0.36,
        Novelty.CHANGED: 0.26,
        Novelty.HELD_OUT_FACT: 0.08,
        Novelty.HELD_OUT_ENTITY: 0.2,
        Novelty.INVENTED: 0.1,
    },
}
_MIX["test"] = _MIX["valid"]
_ENTIRELY_NEW_VALUE = 0.6
"""Share of the contradicting values that are invented words rather than somebody else's value."""


@dataclass(frozen=True)
class Subject:
    """What a stretch of dialogue is about: a real entity, or an invented one."""

    kind: str
    name: str
    spoken: str
    entity: Entity | None


@dataclass(frozen=True)
class FactQuestion:
    """A question, its identity and a reference that answers it."""

    subject: Subject
    fact: FactId
    phrase: Phrase
    reference: str


def questions_of(kind: str) -> Mapping[str, tuple[str, ...]]:
    return countries.QUESTIONS if kind == "country" else elements.QUESTIONS


def nouns_of(kind: str) -> Mapping[str, tuple[str, ...]]:
    return countries.NOUNS if kind == "country" else elements.NOUNS


def relations_of(kind: str) -> tuple[str, ...]:
    return COUNTRY_RELATIONS if kind == "country" else ELEMENT_RELATIONS


def draw_novelty(draw: Draw, split: Split) -> Novelty:
    return draw.weighted(_MIX[split])


def draw_subject(draw: Draw, split: Split, novelty: Novelty) -> Subject:
    """An entity that may stand for that novelty."""
    kind = "country" if draw.chance(0.65) else "element"
    if novelty is Novelty.INVENTED:
        return invented_subject(draw, split, kind)
    wanted: Split = split if novelty is Novelty.HELD_OUT_ENTITY else "train"
    if novelty is Novelty.HELD_OUT_FACT:
        choices = [e for e in entities("train") if _facts_of(e, split)]
        return as_subject(draw.choice(choices))
    choices = [e for e in entities(wanted) if e.kind == kind and _facts_of(e, wanted)]
    return as_subject(draw.choice(choices))


def invented_subject(draw: Draw, split: Split, kind: str) -> Subject:
    allowed = _allowed_in(split)
    name = invent(draw, "place", allowed) if kind == "country" else invent(draw, "thing", allowed)
    if kind == "element":
        name = name.lower()
    return Subject(kind, name, name, None)


def as_subject(entity: Entity) -> Subject:
    return Subject(entity.kind, entity.name, entity.spoken, entity)


def possible_relations(subject: Subject, split: Split, novelty: Novelty) -> tuple[str, ...]:
    """What may be asked about a subject."""
    if subject.entity is None:
        return relations_of(subject.kind)
    wanted: Split = (
        split if novelty in (Novelty.HELD_OUT_FACT, Novelty.HELD_OUT_ENTITY) else "train"
    )
    return _facts_of(subject.entity, wanted)


def ask(
    draw: Draw, split: Split, subject: Subject, relation: str, novelty: Novelty
) -> FactQuestion:
    """A full question about a relation of a subject, with a reference for it."""
    phrase = pick(questions_of(subject.kind)[relation], draw, split, e=subject.spoken)
    fact, reference = answer(draw, split, subject, relation, novelty)
    return FactQuestion(subject, fact, phrase, reference)


def answer(
    draw: Draw, split: Split, subject: Subject, relation: str, novelty: Novelty
) -> tuple[FactId, str]:
    """The reference for a relation of a subject."""
    if subject.entity is not None and novelty is not Novelty.CHANGED:
        stated = state_fact(subject.entity, relation)
        assert stated is not None
        value, reference = stated.value, stated.sentence
        special = value in (ANCIENT, "none") or len(subject.entity.mentions) == 1
        if not special and draw.chance(0.5):
            reference = _state(draw, subject, relation, value)
    else:
        novelty = Novelty.CHANGED if subject.entity else Novelty.INVENTED
        value = _any_value(draw, split, subject, relation)
        reference = _state(draw, subject, relation, value)
    return FactId(subject.kind, subject.name, relation, value, novelty), reference


def _state(draw: Draw, subject: Subject, relation: str, value: str) -> str:
    table = countries.STATEMENTS if subject.kind == "country" else elements.STATEMENTS
    text = draw.choice(table[relation])
    return capitalise(text.format(e=subject.spoken, E=capitalise(subject.spoken), v=value))


def _any_value(draw: Draw, split: Split, subject: Subject, relation: str) -> str:
    """A value that the fact book does not give: another's, or one nobody has heard of."""
    allowed = _allowed_in(split)
    if relation == "population":
        digits = draw.integer(11, 990)
        return say_rounded(digits * 10 ** draw.integer(2, 6))
    if relation == "number":
        return say_integer(draw.integer(1, 199))
    if relation == "discovered":
        return random_year(draw)
    if relation == "symbol":
        return " ".join(draw.choice("BCDEFGHIKLMNOPRSTUVWXYZ") for _ in range(draw.integer(1, 2)))
    if relation == "neighbours":
        known = [e.spoken for e in entities("train") if e.kind == "country"]
        names = [
            invent(draw, "place", allowed) if draw.chance(0.4) else draw.choice(known)
            for _ in range(draw.integer(1, 3))
        ]
        return join_list(names)
    own = subject.entity.values.get(relation) if subject.entity else None
    borrowed = [value for value in _values(subject.kind, relation) if value != own]
    if relation in ("continent", "state", "category") or not draw.chance(_ENTIRELY_NEW_VALUE):
        if relation != "continent" or draw.chance(0.7):
            return draw.choice(borrowed)
        return invent(draw, "place", allowed)
    kind: dict[str, Callable[[], str]] = {
        "currency": lambda: invent(draw, "thing", allowed).lower(),
        "language": lambda: invent(draw, "place", allowed),
        "capital": lambda: invent(draw, "place", allowed),
    }
    return kind[relation]()


@cache
def _real_names() -> frozenset[str]:
    book = bundled_fact_book()
    return frozenset(entity.name.capitalize() for entity in book.countries + book.elements)


def _allowed_in(split: Split) -> Callable[[str], bool]:
    return lambda name: name_split(name) == split and name not in _real_names()


@cache
def entities(split: Split) -> tuple[Entity, ...]:
    """Real entities of a split, in the order of the book."""
    book = bundled_fact_book()
    return tuple(e for e in book.countries + book.elements if entity_split(e.name) == split)


@cache
def _facts_of_name(name: str, split: Split) -> tuple[str, ...]:
    entity = bundled_fact_book().entity(name)
    return tuple(
        relation
        for relation in relations_of(entity.kind)
        if state_fact(entity, relation) is not None
        and fact_split(name, relation) == split
        and not (
            relation == "neighbours"
            and any(entity_split(n) != "train" for n in entity.mentions)
            and entity_split(name) == "train"
        )
    )


def _facts_of(entity: Entity, split: Split) -> tuple[str, ...]:
    """Relations of an entity that a split may ask for."""
    return _facts_of_name(entity.name, split)


@cache
def _values(kind: str, relation: str) -> tuple[str, ...]:
    """Values that entities of the training part have, each once."""
    found = {
        e.values[relation]: None
        for e in entities("train")
        if e.kind == kind and e.values.get(relation)
    }
    return tuple(value for value in found if value != ANCIENT)
