"""Numbers as English words, both ways: `spell*` for what is spoken, `parse*` for what was heard.

Integers up to `MAX_SPELLED_DIGITS` digits are spelled as quantities, longer ones digit by digit.
`parse_number(spell_number(x)) == x` for every decimal within that bound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

MAX_SPELLED_DIGITS = 18

_SMALL = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen
""".split()  # noqa: SIM905
_TENS = """
    zero ten twenty thirty forty fifty sixty seventy eighty ninety
""".split()  # noqa: SIM905
_SCALES = ("", "thousand", "million", "billion", "trillion", "quadrillion")
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}

_UNIT_VALUES = {word: value for value, word in enumerate(_SMALL)} | {"oh": 0, "nought": 0, "nil": 0}
_TENS_VALUES = {word: 10 * value for value, word in enumerate(_TENS) if value >= 2}
_SCALE_VALUES = {word: 1000**power for power, word in enumerate(_SCALES) if power}
_ORDINAL_VALUES = {ordinal: _UNIT_VALUES[word] for word, ordinal in _ORDINALS.items()} | {
    f"{word}th": value for value, word in enumerate(_SMALL) if word not in _ORDINALS and value
}
_ORDINAL_TENS = {f"{word[:-1]}ieth": value for word, value in _TENS_VALUES.items()}
_ORDINAL_SCALES = {f"{word}th": value for word, value in _SCALE_VALUES.items()} | {"hundredth": 100}
_DIGITS = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+")
_COMPOUND = re.compile(r"(?<=[^\W\d_])-+(?=[^\W\d_])")
_DIGIT_ORDINAL = re.compile(r"([0-9]+)(?:st|nd|rd|th)")

NUMBER_WORDS = frozenset(
    {*_UNIT_VALUES, *_TENS_VALUES, *_SCALE_VALUES, *_ORDINAL_VALUES, *_ORDINAL_TENS}
    | {*_ORDINAL_SCALES, "hundred", "point", "dozen"}
)
"""Every word that can be part of a spoken number."""


def spell_digits(digits: str) -> str:
    """Each digit by itself: phone numbers, codes."""
    return " ".join(_SMALL[int(digit)] for digit in digits if digit in "0123456789")


def spell_integer(value: int) -> str:
    """A whole number as a quantity: 1205 -> "one thousand two hundred five"."""
    if value < 0:
        return f"minus {spell_integer(-value)}"
    if value < 20:
        return _SMALL[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")
    if value < 1000:
        hundreds, rest = divmod(value, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" {spell_integer(rest)}" if rest else "")
    if value >= 10**MAX_SPELLED_DIGITS:
        return spell_digits(str(value))
    groups: list[str] = []
    for scale in _SCALES:
        value, group = divmod(value, 1000)
        if group:
            groups.append(f"{spell_integer(group)} {scale}".strip())
        if not value:
            break
    return " ".join(reversed(groups))


def spell_number(value: int | float | str | Decimal) -> str:
    """A number as a quantity, digits after the point one by one: 3.14 -> "three point one four"."""
    number = value if isinstance(value, Decimal) else Decimal(str(value).replace(",", ""))
    if not number.is_finite():
        raise ValueError(f"{value!r} is not a finite number")
    if abs(number.adjusted()) > 400:
        raise ValueError("a number of more than 400 digits is not spelled out")
    whole, _, fraction = f"{abs(number):f}".partition(".")
    words = spell_integer(int(whole))
    if fraction:
        words += f" point {spell_digits(fraction)}"
    return f"minus {words}" if number < 0 else words


def spell_ordinal(value: int) -> str:
    """21 -> "twenty-first"."""
    words = spell_integer(value)
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[cut:]
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last += "th"
    return words[:cut] + last


def spell_year(year: int) -> str:
    """1984 -> "nineteen eighty-four", 1905 -> "nineteen oh five", 2007 -> "two thousand seven"."""
    century, rest = divmod(year, 100)
    if not 1000 <= year <= 2099 or (century % 10 == 0 and rest < 10):
        return spell_integer(year)
    if rest == 0:
        return f"{spell_integer(century)} hundred"
    if rest < 10:
        return f"{spell_integer(century)} oh {_SMALL[rest]}"
    return f"{spell_integer(century)} {spell_integer(rest)}"


def spell_clock(hour: int, minute: int) -> str:
    """A time of day on a twelve-hour dial, as people tell it: (15, 40) -> "twenty to four"."""
    name = spell_integer((hour - 1) % 12 + 1)
    following = spell_integer(hour % 12 + 1)
    if minute == 0:
        return f"{name} o'clock"
    if minute == 15:
        return f"a quarter past {name}"
    if minute == 30:
        return f"half past {name}"
    if minute == 45:
        return f"a quarter to {following}"
    if minute % 5 == 0:
        past = minute < 30
        minutes = spell_integer(minute if past else 60 - minute)
        return f"{minutes} past {name}" if past else f"{minutes} to {following}"
    return f"{name} {'oh ' if minute < 10 else ''}{spell_integer(minute)}"


def open_compounds(text: str) -> str:
    """Hyphens between letters become spaces, as in all speech that models are taught with:
    "eighty-nine" -> "eighty nine".
    """
    return _COMPOUND.sub(" ", text)


@dataclass(frozen=True, slots=True)
class SpokenNumber:
    """A number found in a list of words: it covers `words[start:end]`."""

    start: int
    end: int
    value: Decimal
    ordinal: bool = False


def split_words(text: str) -> list[str]:
    """Lower-case words; hyphens between words are opened ("twenty-five"), digits keep signs."""
    words: list[str] = []
    for raw in text.lower().replace("\u2212", "-").split():
        word = raw.strip("\"'!?;:()").rstrip(".,")
        if re.fullmatch(r"[a-z]+(-[a-z]+)+", word):
            words.extend(word.split("-"))
        elif word:
            words.append(word)
    return words


def parse_number(text: str) -> Decimal | None:
    """The number that the whole text says, or None: "minus two point five" -> -2.5."""
    words = split_words(text)
    negative = bool(words) and words[0] in ("minus", "negative")
    found = _parse_at(words, 1 if negative else 0)
    if found is None or found.end != len(words) or found.ordinal:
        return None
    return -found.value if negative else found.value


def find_numbers(words: Sequence[str]) -> list[SpokenNumber]:
    """Every number among lower-case words, longest reading first, without overlaps."""
    found: list[SpokenNumber] = []
    position = 0
    while position < len(words):
        number = _parse_at(words, position)
        if number is None:
            position += 1
        else:
            found.append(number)
            position = number.end
    return found


def _parse_at(words: Sequence[str], start: int) -> SpokenNumber | None:
    """The number beginning exactly at `start`, ordinals included."""
    if start >= len(words):
        return None
    first = words[start]
    if match := _DIGIT_ORDINAL.fullmatch(first):
        return SpokenNumber(start, start + 1, Decimal(match.group(1)), ordinal=True)
    if _DIGITS.fullmatch(first):
        return _scaled(words, start + 1, _decimal(first), start)
    if first in ("a", "an"):
        following = words[start + 1] if start + 1 < len(words) else ""
        if following in ("hundred", "dozen") or following in _SCALE_VALUES:
            return _parse_cardinal(words, start + 1, start)
        return None
    if first == "oh":  # as the first word it is an exclamation
        return None
    if first == "point":
        digits, end = _fraction_digits(words, start)
        return SpokenNumber(start, end, Decimal(f"0.{digits}")) if digits else None
    return _parse_cardinal(words, start, start)


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits.replace(",", ""))
    except InvalidOperation as error:  # pragma: no cover - excluded by the pattern
        raise ValueError(digits) from error


def _scaled(words: Sequence[str], position: int, value: Decimal, start: int) -> SpokenNumber:
    """Digits followed by scale words: "3.5 million", "5 hundred"."""
    while position < len(words):
        factor = 100 if words[position] == "hundred" else _SCALE_VALUES.get(words[position], 0)
        if not factor:
            break
        value *= factor
        position += 1
    return SpokenNumber(start, position, value)


def _parse_cardinal(words: Sequence[str], position: int, start: int) -> SpokenNumber | None:
    total = 0  # closed groups: thousands, millions ...
    group = -1  # the open group below one thousand, -1 while empty
    last_scale = 1000**6
    room = 0  # what may still be added to the group: 100 after "hundred", 10 after a ten, else 0
    pairs: list[int] = []  # two-digit groups said after each other: nineteen eighty-four
    scaled = ordinal = False
    end = position

    while end < len(words):
        word = words[end]
        if word == "and" and room >= 100 and end + 1 < len(words):
            if not _is_small(words[end + 1]):
                break
            end += 1
            continue
        if word in _ORDINAL_SCALES:
            factor = _ORDINAL_SCALES[word]
            if factor == 100:
                group = max(group, 1) * 100
            elif factor < last_scale:
                total, group, scaled = total + max(group, 1) * factor, 0, True
            else:
                break
            end, ordinal = end + 1, True
            break
        if word == "hundred":
            if group == 0 or group >= 100 or pairs:
                break
            group, room = max(group, 1) * 100, 100
        elif word == "dozen":
            if scaled or pairs or room == 100:
                break
            group, room = max(group, 1) * 12, 0
            end += 1
            break
        elif word in _SCALE_VALUES:
            if group == 0 or _SCALE_VALUES[word] >= last_scale or pairs:
                break
            last_scale = _SCALE_VALUES[word]
            total, group, room, scaled = total + max(group, 1) * last_scale, -1, 1000, True
        else:
            value, is_ordinal = _small_value(word)
            if value is None:
                break
            if group < 0 or (room > value > 0 and not (room == 10 and value >= 10)):
                group = max(group, 0) + value
                room = 10 if word in _TENS_VALUES else 0
            elif word == "oh" and end + 1 < len(words) and _is_digit(words[end + 1]):
                if not 10 <= group < 100 or scaled or pairs:
                    break
                pairs.append(group)
                group, room = _UNIT_VALUES[words[end + 1]], 0
                end += 2
                break
            elif 10 <= group < 100 and value >= 10 and not scaled and not pairs:
                pairs.append(group)
                group, room = value, 10 if word in _TENS_VALUES else 0
            else:
                break
            if is_ordinal:
                end, ordinal = end + 1, True
                break
        end += 1

    if group < 0 and not scaled:
        return None
    value_found = Decimal(total + max(group, 0))
    if pairs:
        value_found = Decimal(pairs[0] * 100 + group)
    if ordinal:
        return SpokenNumber(start, end, value_found, ordinal=True)
    digits, after = _fraction_digits(words, end)
    if digits:
        value_found += Decimal(f"0.{digits}")
        return _scaled(words, after, value_found, start)
    return SpokenNumber(start, end, value_found)


def _fraction_digits(words: Sequence[str], position: int) -> tuple[str, int]:
    """Digits spoken after "point", and where they end."""
    if position + 1 >= len(words) or words[position] != "point":
        return "", position
    digits = ""
    position += 1
    while position < len(words) and _is_digit(words[position]):
        digits += str(_UNIT_VALUES[words[position]])
        position += 1
    return digits, position


def _small_value(word: str) -> tuple[int | None, bool]:
    if word in _UNIT_VALUES:
        return _UNIT_VALUES[word], False
    if word in _TENS_VALUES:
        return _TENS_VALUES[word], False
    if word in _ORDINAL_VALUES:
        return _ORDINAL_VALUES[word], True
    if word in _ORDINAL_TENS:
        return _ORDINAL_TENS[word], True
    return None, False


def _is_small(word: str) -> bool:
    return _small_value(word)[0] is not None


def _is_digit(word: str) -> bool:
    return _UNIT_VALUES.get(word, 10) < 10
