"""Numbers, times and dates as plain lower-case words, the way the synthesised people speak.

The words are those of `duologue.numbers`, without hyphens. What is here only says *which* words a
dialogue uses; corpora are the same for ever by their seed, so none of it may change.
"""

from __future__ import annotations

from duologue.numbers import (
    open_compounds,
    spell_clock,
    spell_integer,
    spell_number,
    spell_ordinal,
    spell_year,
)
from duologue.synthesis.wordlist import listed

_ROUNDED = ((1_000_000_000, "billion"), (1_000_000, "million"))

MONTHS = listed(
    """
    January February March April May June July August September October November December
    """
)
WEEKDAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def say_integer(value: int) -> str:
    """1250 -> "one thousand two hundred fifty"; a negative number begins with "minus"."""
    return open_compounds(spell_integer(value))


def say_number(value: float, places: int = 2) -> str:
    """2.5 -> "two point five": at most `places` digits after the point, no trailing zeros."""
    digits = f"{abs(value):.{places}f}"
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    words = open_compounds(spell_number(digits))
    return f"minus {words}" if value < 0 else words


def say_rounded(value: int) -> str:
    """A large count in two leading figures: 1_630_000 -> "one point six million"."""
    for size, name in _ROUNDED:
        if value >= size:
            return f"{say_number(round(value / size, 1 if value < 10 * size else 0), 1)} {name}"
    return say_integer(value)


def say_ordinal(value: int) -> str:
    """21 -> "twenty first"."""
    return open_compounds(spell_ordinal(value))


def say_year(year: int) -> str:
    """1868 -> "eighteen sixty eight", 2004 -> "two thousand four", 1005 -> "ten oh five"."""
    if 1000 <= year < 1010:
        return f"ten oh {spell_integer(year - 1000)}" if year > 1000 else "ten hundred"
    return open_compounds(spell_year(year))


def say_clock(hour: int, minute: int) -> str:
    """(15, 5) -> "five past three", (15, 40) -> "twenty to four", on a twelve-hour dial."""
    return open_compounds(spell_clock(hour, minute))


def say_date(month: int, day: int, year: int | None = None) -> str:
    """(5, 21, 2026) -> "May twenty first, twenty twenty six"."""
    text = f"{MONTHS[month - 1]} {say_ordinal(day)}"
    return text if year is None else f"{text}, {say_year(year)}"


def spell(letters: str) -> str:
    """ "Fe" -> "F E"."""
    return " ".join(letters.upper())


def join_list(items: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
