"""Unit conversion asked in words: "how many kilometers is five miles", "70 f to celsius"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from duologue.numbers import find_numbers, spell_number, split_words
from duologue.retrieval.units import Unit, convert, units_by_name, units_by_symbol

MAX_WORDS = 40
_TRIGGERS = frozenset({"in", "to", "into", "many", "convert", "as", "much"})
_NO_SYMBOLS = frozenset(
    {"a", "in", "as", "is", "to", "m", "t", "h", "s", "g", "l", "k", "v", "w", "n"}
)
_SPOKEN_LETTERS = {"f": "fahrenheit", "c": "celsius"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """A quantity and the unit it is wanted in."""

    value: Decimal
    source: Unit
    target: Unit

    @property
    def result(self) -> Decimal:
        return convert(self.value, self.source, self.target)


def read_conversion(question: str) -> Conversion | None:
    """The conversion that a question asks for, or None when it asks for something else."""
    words = split_words(question)
    if len(words) > MAX_WORDS or _TRIGGERS.isdisjoint(words):
        return None
    units = _units_in(words)
    quantity: tuple[Decimal, Unit] | None = None
    wanted: list[Unit] = []
    number_before = {number.end: number for number in find_numbers(words) if not number.ordinal}
    for start, unit in units:
        number = number_before.get(start)
        if number is not None:
            if quantity is not None:
                return None
            negative = words[number.start - 1 : number.start] in (["minus"], ["negative"])
            quantity = (-number.value if negative else number.value, unit)
        elif words[start - 1 : start] in (["a"], ["an"]) and quantity is None:
            quantity = (Decimal(1), unit)
        else:
            wanted.append(unit)
    if quantity is None or len(wanted) != 1 or quantity[1].dimension != wanted[0].dimension:
        return None
    return Conversion(quantity[0], quantity[1], wanted[0])


def convert_spoken(question: str) -> str | None:
    """The answer as a sentence: "Five miles is about eight point zero five kilometers."."""
    found = read_conversion(question)
    if found is None:
        return None
    rounded, exact = _rounded(found.result)
    said = f"{spell_number(found.value)} {found.source.spoken(one=found.value == 1)}"
    result = f"{spell_number(rounded)} {found.target.spoken(one=rounded == 1)}"
    return f"{said[:1].upper()}{said[1:]} is {'' if exact else 'about '}{result}."


def _units_in(words: Sequence[str]) -> list[tuple[int, Unit]]:
    """(position, unit) of every unit named, longest names first."""
    found: list[tuple[int, Unit]] = []
    position = 0
    while position < len(words):
        for length in (4, 3, 2, 1):
            said = " ".join(words[position : position + length])
            unit = units_by_name().get(said)
            if unit is None and length == 1 and said not in _NO_SYMBOLS:
                unit = units_by_symbol().get(said) or units_by_name().get(
                    _SPOKEN_LETTERS.get(said, "")
                )
            if unit is not None and position + length <= len(words):
                found.append((position, unit))
                position += length
                break
        else:
            position += 1
    # "degrees" alone is an angle, before a scale it is part of its name ("degrees in celsius").
    scales = [pair for pair in found if pair[1].dimension == "temperature"]
    if scales:
        scale_names = {"degree", "degrees"}
        found = [pair for pair in found if words[pair[0]] not in scale_names or pair in scales]
    return found


def _rounded(value: Decimal) -> tuple[Decimal, bool]:
    """A value with as many digits as one says, and whether nothing was lost."""
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3 - size.adjusted()
    if (size and size < Decimal("1e-9")) or size >= Decimal("1e18"):
        rounded = Decimal(f"{value:.3e}")
    else:
        rounded = Decimal(f"{value:.{min(digits, 15)}f}")
    rounded = rounded.normalize()
    return rounded, abs(rounded - value) <= size * Decimal("1e-20")
