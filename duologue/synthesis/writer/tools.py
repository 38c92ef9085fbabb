"""Questions that only a live tool can answer: time, date, sums and units, with a made-up world.

The clock stands at a random time and one result in four is wrong on purpose: wren is to say what
the tool says, not what it would expect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import Phrase, pick
from duologue.synthesis.numbers import (
    MONTHS,
    WEEKDAYS,
    say_clock,
    say_date,
    say_integer,
    say_number,
    say_year,
)
from duologue.synthesis.splits import Split
from duologue.synthesis.world import capitalise

_WRONG_SHARE = 0.25

_TIME_QUESTIONS = (
    "What time is it [now|right now]?",
    "What's the time[, please]?",
    "(Can|Could) you tell me the time[, please]?",
    "Do you have the time?",
    "Tell me the time[, please].",
    "How late is it?",
    "What does the clock say?",
    "Do you know what time it is?",
    "I'd like to know the time[, please].",
    "Could I get the time from you?",
    "Is it late already, what does the clock say?",
    "My watch has stopped, how late is it?",
)
_TIME_STATEMENTS = ("It is {v}.", "The time is {v}.", "It's {v} now.", "Right now it is {v}.")

_DATE_QUESTIONS = (
    "What day is it [today]?",
    "What's the date [today]?",
    "What is today's date?",
    "Which date do we have today?",
    "(Can|Could) you tell me the date[, please]?",
    "Tell me what day it is[, please].",
    "What day of the week is it?",
    "Do you know today's date?",
    "I'd like to know the date[, please].",
    "What is the calendar showing today?",
    "Which day are we on?",
    "What would I write at the top of a letter as today's date?",
)
_DATE_STATEMENTS = ("Today is {v}.", "It is {v}.", "It's {v} today.", "Today's date is {v}.")

_SUM_QUESTIONS = (
    "What is {a}?",
    "What's {a}?",
    "How much is {a}?",
    "(Can|Could) you tell me what {a} is?",
    "Calculate {a}[, please].",
    "Tell me what {a} makes[, please].",
    "What does {a} make?",
    "I need to know what {a} is.",
    "Do you know how much {a} is?",
    "Please work out {a}.",
    "Work out {a} for me.",
    "How much do I get for {a}?",
    "Help me with a sum, {a}.",
)
_SUM_STATEMENTS = ("{A} is {v}.", "{A} makes {v}.", "That is {v}.", "The result is {v}.")

_UNIT_QUESTIONS = (
    "How many {u} is {q}?",
    "How many {u} are there in {q}?",
    "What is {q} in {u}?",
    "What's {q} in {u}?",
    "Convert {q} to {u}[, please].",
    "(Can|Could) you convert {q} to {u}[, please]?",
    "How much is {q} in {u}?",
    "Tell me what {q} is in {u}.",
    "I need {q} in {u}[, please].",
    "I have {q}, how many {u} is that?",
    "Turn {q} into {u}.",
    "Give me {q} in {u}, would you?",
)
_UNIT_STATEMENTS = (
    "{Q} is about {v} {u}.",
    "{Q} is {v} {u}.",
    "That is {v} {u}.",
    "{Q} makes {v} {u}.",
)

_UNITS = (
    ("kilometers", "miles", 0.6214), ("miles", "kilometers", 1.609), ("meters", "feet", 3.281),
    ("feet", "meters", 0.3048), ("inches", "centimeters", 2.54), ("centimeters", "inches", 0.3937),
    ("kilograms", "pounds", 2.205), ("pounds", "kilograms", 0.4536), ("ounces", "grams", 28.35),
    ("liters", "gallons", 0.2642), ("gallons", "liters", 3.785), ("hours", "minutes", 60.0),
    ("days", "hours", 24.0), ("weeks", "days", 7.0), ("minutes", "seconds", 60.0),
    ("yards", "meters", 0.9144), ("acres", "hectares", 0.4047), ("cups", "milliliters", 240.0),
    ("tons", "kilograms", 1000.0), ("years", "months", 12.0),
)  # fmt: skip
_PLACES_OF_DAY = ("in the morning", "in the afternoon", "in the evening", "at night")


@dataclass(frozen=True)
class ToolQuestion:
    """A question, what the tool answers, and the words that count."""

    relation: str
    entity: str
    phrase: Phrase
    reference: str
    answer: str


def ask_tool(draw: Draw, split: Split) -> ToolQuestion:
    """A question about time, date, a sum or units."""
    makers: dict[Callable[[Draw, Split], ToolQuestion], float] = {
        _time: 2.5,
        _date: 2.0,
        _sum: 4.0,
        _units: 3.0,
    }
    return draw.weighted(makers)(draw, split)


def _time(draw: Draw, split: Split) -> ToolQuestion:
    hour, minute = draw.integer(0, 23), draw.integer(0, 59)
    if draw.chance(0.6):
        minute -= minute % 5
    value = say_clock(hour, minute)
    if draw.chance(0.3):
        part = 3 if hour < 5 or hour > 21 else 0 if hour < 12 else 1 if hour < 18 else 2
        value += f" {_PLACES_OF_DAY[part]}"
    reference = draw.choice(_TIME_STATEMENTS).format(v=value)
    return ToolQuestion("time", "clock", pick(_TIME_QUESTIONS, draw, split), reference, value)


def _date(draw: Draw, split: Split) -> ToolQuestion:
    month, day = draw.integer(1, len(MONTHS)), draw.integer(1, 28)
    value = say_date(month, day, draw.integer(2020, 2039) if draw.chance(0.3) else None)
    if draw.chance(0.7):
        value = f"{draw.choice(WEEKDAYS)}, {value}"
    reference = draw.choice(_DATE_STATEMENTS).format(v=value)
    return ToolQuestion("date", "calendar", pick(_DATE_QUESTIONS, draw, split), reference, value)


def _sum(draw: Draw, split: Split) -> ToolQuestion:
    kind = draw.choice(("plus", "minus", "times", "divided by", "percent", "half", "square"))
    if kind == "times":
        one, other = draw.integer(2, 40), draw.integer(2, 25)
        result: float = one * other
    elif kind == "divided by":
        other, quotient = draw.integer(2, 20), draw.integer(2, 40)
        one, result = other * quotient, quotient
    elif kind == "percent":
        one, other = draw.integer(1, 19) * 5, draw.integer(2, 60) * 10
        result = one * other / 100
    elif kind in ("half", "square"):
        one = other = draw.integer(3, 60) * (2 if kind == "half" else 1)
        result = one / 2 if kind == "half" else one * one
    else:
        one, other = sorted((draw.integer(2, 400), draw.integer(2, 400)), reverse=True)
        result = one + other if kind == "plus" else one - other
    if draw.chance(_WRONG_SHARE):
        result = draw.integer(2, 900)
    first, second = say_integer(one), say_integer(other)
    task = {
        "percent": f"{first} percent of {second}",
        "half": f"half of {first}",
        "square": f"{first} squared",
    }.get(kind, f"{first} {kind} {second}")
    value = say_number(result)
    reference = draw.choice(_SUM_STATEMENTS).format(A=capitalise(task), v=value)
    return ToolQuestion("sum", task, pick(_SUM_QUESTIONS, draw, split, a=task), reference, value)


def _units(draw: Draw, split: Split) -> ToolQuestion:
    source, target, factor = draw.choice(_UNITS)
    amount = draw.integer(2, 20) if draw.chance(0.6) else draw.integer(3, 40) * 10
    result = amount * factor
    if draw.chance(_WRONG_SHARE):
        result = draw.between(2, 500)
    value = say_number(result, 0 if result >= 100 else 1)
    quantity = f"{say_integer(amount)} {source}"
    phrase = pick(_UNIT_QUESTIONS, draw, split, q=quantity, u=target)
    reference = draw.choice(_UNIT_STATEMENTS).format(Q=capitalise(quantity), v=value, u=target)
    return ToolQuestion("units", f"{quantity} in {target}", phrase, reference, value)


def random_year(draw: Draw) -> str:
    """A year in words, mostly of the last three centuries."""
    return say_year(draw.integer(1650, 2024) if draw.chance(0.85) else draw.integer(1000, 1650))
