"""Numbers, times and dates as plain lower-case words, the way they are spoken."""

from __future__ import annotations

from duologue.synthesis.wordlist import listed

_SMALL = listed(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen
    """
)
_TENS = listed("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
_SCALES = ((1_000_000_000, "billion"), (1_000_000, "million"), (1_000, "thousand"))
_IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}

MONTHS = listed(
    """
    January February March April May June July August September October November December
    """
)
WEEKDAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def say_integer(value: int) -> str:
    """1250 -> "one thousand two hundred fifty"; a negative number begins with "minus"."""
    if value < 0:
        return f"minus {say_integer(-value)}"
    if value < 20:
        return _SMALL[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens] + (f" {_SMALL[ones]}" if ones else "")
    if value < 1000:
        hundreds, rest = divmod(value, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" {say_integer(rest)}" if rest else "")
    for size, name in _SCALES:
        if value >= size:
            count, rest = divmod(value, size)
            return f"{say_integer(count)} {name}" + (f" {say_integer(rest)}" if rest else "")
    raise AssertionError("unreachable")


def say_number(value: float, places: int = 2) -> str:
    """2.5 -> "two point five": at most `places` digits after the point, no trailing zeros."""
    if value < 0:
        return f"minus {say_number(-value, places)}"
    whole, _, digits = f"{value:.{places}f}".partition(".")
    digits = digits.rstrip("0")
    if not digits:
        return say_integer(int(whole))
    return f"{say_integer(int(whole))} point {' '.join(_SMALL[int(digit)] for digit in digits)}"


def say_rounded(value: int) -> str:
    """A large count in two leading figures: 1_630_000 -> "one point six million"."""
    for size, name in _SCALES[:2]:
        if value >= size:
            return f"{say_number(round(value / size, 1 if value < 10 * size else 0), 1)} {name}"
    return say_integer(value)


def say_ordinal(value: int) -> str:
    """21 -> "twenty first"."""
    words = say_integer(value).split()
    last = words[-1]
    if last in _IRREGULAR_ORDINALS:
        words[-1] = _IRREGULAR_ORDINALS[last]
    elif last.endswith("y"):
        words[-1] = last[:-1] + "ieth"
    else:
        words[-1] = last + "th"
    return " ".join(words)


def say_year(year: int) -> str:
    """1868 -> "eighteen sixty eight", 2004 -> "two thousand four"."""
    century, rest = divmod(year, 100)
    if year < 1000 or 2000 <= year < 2010:
        return say_integer(year)
    if rest == 0:
        return f"{say_integer(century)} hundred"
    return f"{say_integer(century)} {'oh ' if rest < 10 else ''}{say_integer(rest)}"


def say_clock(hour: int, minute: int) -> str:
    """(15, 5) -> "five past three", (15, 40) -> "twenty to four", on a twelve-hour dial."""
    name = _SMALL[(hour - 1) % 12 + 1]
    following = _SMALL[hour % 12 + 1]
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
        return (
            f"{say_integer(minute)} past {name}"
            if past
            else f"{say_integer(60 - minute)} to {following}"
        )
    return f"{name} {'oh ' if minute < 10 else ''}{say_integer(minute)}"


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
