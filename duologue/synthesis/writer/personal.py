"""The user's own facts: sentences that no training set can hold, on everyday subjects.

Names, numbers, places and wordings are drawn at random, so that the reference is the only source
of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import Phrase, expand, pick
from duologue.synthesis.names import invent, invent_full_name
from duologue.synthesis.numbers import WEEKDAYS, join_list, say_clock, say_date, say_integer
from duologue.synthesis.splits import Split, name_split
from duologue.synthesis.world import capitalise
from duologue.synthesis.writer import words
from duologue.synthesis.writer.personal_patterns import PATTERNS
from duologue.synthesis.writer.sentences import free_sentence
from duologue.synthesis.writer.tools import random_year


@dataclass(frozen=True)
class PersonalQuestion:
    """A question about a fact of the user's own, the fact, and the words that count."""

    relation: str
    entity: str
    phrase: Phrase
    reference: str
    answer: str


@dataclass(frozen=True)
class Pattern:
    """What may be asked of the user's own facts, and how it is stated; texts have slots."""

    relation: str
    subject: str
    """What is asked for, as a noun phrase: "the price of the {object}"."""
    answer: str
    """The slot that holds the answer."""
    questions: list[str]
    statements: list[str]


_NOTE_SHARE = 0.22
NOTE_QUESTIONS = (
    "What do my notes say about {x}?",
    "Read me the note about {x}[, please].",
    "What was that about {x}?",
    "What did I write about {x}?",
    "Is there a note about {x}?",
    "What was the story with {x}?",
    "Do you remember {x}?",
    "Is there anything in my file on {x}?",
    "I would like to hear about {x}.",
)
_TOPICS = frozenset((*words.OBJECTS, *words.ANIMALS, *words.PLACES, *words.FOODS, *words.PEOPLE))
_MONEY = ("euros", "dollars", "pounds")
GENERAL_QUESTIONS = (
    "What is {x}?",
    "What's {x}?",
    "Tell me {x}[, please].",
    "(Can|Could) you tell me {x}[, please]?",
    "I need to know {x}.",
    "Do you know {x}?",
    "Can you look up {x} for me?",
    "I would like to hear about {x}.",
    "My notes should have {x}, what do they say?",
    "Is there anything in my file on {x}?",
)


def _parse(text: str) -> tuple[Pattern, ...]:
    patterns: list[Pattern] = []
    for line in text.strip().splitlines():
        if line.startswith("? "):
            patterns[-1].questions.append(line[2:])
        elif line.startswith("! "):
            patterns[-1].statements.append(line[2:])
        else:
            head, _, subject = line.partition(": ")
            relation, _, answer = head.partition(" ")
            patterns.append(Pattern(relation, subject, answer.strip("()"), [], []))
    return tuple(patterns)


OWN_FACTS = _parse(PATTERNS)


def ask_personal(draw: Draw, split: Split) -> PersonalQuestion:
    """A question about a fact that only the user's file holds."""
    if draw.chance(_NOTE_SHARE):
        return _ask_note(draw, split)
    pattern = draw.choice(OWN_FACTS)
    slots = draw_slots(draw, split)
    subject = expand(pattern.subject, draw, **slots)
    subject = subject[0].lower() + subject[1:]
    phrase = pick((*pattern.questions, *GENERAL_QUESTIONS), draw, split, x=subject, **slots)
    reference = capitalise(draw.choice(pattern.statements).format(**slots))
    answer = slots[pattern.answer]
    if answer.lower() not in reference.lower():
        answer = reference.rstrip(".")
    return PersonalQuestion(pattern.relation, subject, phrase, reference, answer)


def _ask_note(draw: Draw, split: Split) -> PersonalQuestion:
    """A question about a note, which can be any sentence at all."""
    while True:
        note = free_sentence(draw, split)
        topics = [word for word in note.strip(".").split() if word.strip(",") in _TOPICS]
        if topics and note.endswith("."):
            break
    subject = f"the {draw.choice(topics).strip(',')}"
    phrase = pick(NOTE_QUESTIONS, draw, split, x=subject)
    return PersonalQuestion("note", subject, phrase, note, note.rstrip("."))


def draw_slots(draw: Draw, split: Split) -> dict[str, str]:
    """A value for every slot that a pattern may have."""

    def allowed(name: str) -> bool:
        return name_split(name) == split

    def new(kind: str) -> str:
        return invent(draw, kind, allowed)

    def plain() -> str:
        return draw.choice(words.FIRST_NAMES)

    number = say_integer(draw.integer(2, 400))
    foods = draw.sample(words.FOODS, 4)
    colours = draw.sample(words.COLOURS, 2)
    places = draw.sample(words.PLACES, 2)
    objects = draw.sample(words.OBJECTS, 2)
    known_person = draw.chance(0.35)
    return {
        "animal": draw.choice(words.ANIMALS),
        "name": new("person"),
        "first": plain(),
        "date": say_date(draw.integer(1, 12), draw.integer(1, 28)),
        "object": objects[0],
        "other": objects[1],
        "place": places[0],
        "place_two": places[1],
        "adjective": draw.choice(words.ADJECTIVES),
        "price": f"{say_integer(draw.integer(2, 300))} {draw.choice(_MONEY)}",
        "time": say_clock(draw.integer(0, 23), draw.integer(0, 11) * 5),
        "day": draw.choice(WEEKDAYS),
        "full": (f"{plain()} {new('person')}" if known_person else invent_full_name(draw, allowed)),
        "person": (
            plain() if known_person else draw.choice(("Mister ", "Doctor ", "")) + new("person")
        ),
        "number": number,
        "small": say_integer(draw.integer(1, 24)),
        "large": say_integer(draw.integer(2, 98) * 10 ** draw.integer(1, 3)),
        "digits": " ".join(say_integer(draw.integer(0, 9)) for _ in range(draw.integer(3, 5))),
        "secret": f"{draw.choice(words.ADJECTIVES)} {draw.choice(words.ANIMALS)} {number}",
        "town": new("place"),
        "city": new("place"),
        "coin": new("thing").lower(),
        "tongue": new("place"),
        "thing": new("thing"),
        "title": f"the {draw.choice(words.TITLES)}",
        "year": random_year(draw),
        "material": draw.choice(words.MATERIALS),
        "colour": colours[0],
        "colour_two": colours[1],
        "food": foods[0],
        "food_two": foods[1],
        "foods": join_list(foods[: draw.integer(2, 4)]),
        "role": draw.choice(words.PEOPLE),
        "letters": " ".join(draw.choice("BCDEFGHKLMNPRSTVXZ") for _ in range(2)),
    }
