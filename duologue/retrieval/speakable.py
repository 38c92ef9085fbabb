"""Rewrite written English so that it can be spoken as it stands.

Numbers, dates, times, money, units, symbols, abbreviations and mark-up become words. The result has
letters (of any script), spaces, apostrophes and `. , ? !`, and nothing else; compounds are opened
("eighty nine"), as in all speech that models are taught with; rewriting it again changes nothing.
Conventions: American month-first dates where a date is ambiguous, "point" for decimals, four-digit
numbers from 1100 to 2099 without a comma read as years.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from duologue.numbers import (
    open_compounds,
    spell_digits,
    spell_integer,
    spell_ordinal,
    spell_year,
)
from duologue.retrieval.cleaning import clean_text
from duologue.retrieval.units import units_by_symbol

MAX_SPEAKABLE_CHARS = 4_000
MAX_NUMBER_CHARS = 100
"""Of a longer number the beginning is spelled; nobody listens to the rest."""

_MONTHS = """
    January February March April May June July August September October November December
""".split()  # noqa: SIM905
_MONTH_NAMES = "|".join(
    [*_MONTHS, "Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sept?", "Oct", "Nov", "Dec"]
)
_WEEKDAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday",
    "Thur": "Thursday", "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
_MONTH_OF = {name[:3].lower(): name for name in _MONTHS}

_ABBREVIATIONS = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Prof": "Professor",
    "St": "Saint", "Mt": "Mount", "Jr": "Junior", "Sr": "Senior", "Ave": "Avenue", "Rd": "Road",
    "Blvd": "Boulevard", "Dept": "Department", "Inc": "Incorporated", "Ltd": "Limited",
    "Corp": "Corporation", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative",
    "Gen": "General", "Capt": "Captain", "Sgt": "Sergeant", "Lt": "Lieutenant", "Col": "Colonel",
    "vs": "versus", "etc": "and so on", "approx": "approximately", "dept": "department",
    "est": "established", "max": "maximum", "min": "minimum", "vol": "volume", "pp": "pages",
    "cf": "compare", "ca": "around", "Tel": "telephone",
}  # fmt: skip
_ABBREVIATION = re.compile(r"\b(" + "|".join(_ABBREVIATIONS) + r")\.(?=\W|$)")
_LATIN = (
    (re.compile(r"\be\.\s?g\.,?", re.I), "for example,"),
    (re.compile(r"\bi\.\s?e\.,?", re.I), "that is,"),
    (re.compile(r"\bNos?\.\s?(?=\d)"), "number "),
    (re.compile(r"\bet al\."), "and others"),
    (re.compile(r"\bw/o\b"), "without"),
    (re.compile(r"\band/or\b"), "or"),
    (re.compile(r"\b24/7\b"), "around the clock"),
)
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent"), "€": ("euro", "euros", "cent"),
    "£": ("pound", "pounds", "penny"), "¥": ("yen", "yen", ""), "₹": ("rupee", "rupees", "paisa"),
    "USD": ("dollar", "dollars", "cent"), "EUR": ("euro", "euros", "cent"),
    "GBP": ("pound", "pounds", "penny"), "DOLLAR": ("dollar", "dollars", "cent"),
    "EURO": ("euro", "euros", "cent"),
}  # fmt: skip
_MAGNITUDES = {
    "k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion",
    "tn": "trillion", "thousand": "thousand", "million": "million", "billion": "billion",
    "trillion": "trillion",
}  # fmt: skip
_SYMBOLS = {
    "&": " and ", "+": " plus ", "=": " equals ", "<": " less than ", ">": " greater than ",
    "\u00d7": " times ", "÷": " divided by ", "±": " plus or minus ", "≈": " about ",
    "~": " about ", "≤": " at most ", "≥": " at least ", "≠": " is not ", "→": " to ",
    "@": " at ", "%": " percent ", "°": " degrees ", "/": " or ", "\u2014": ", ", ";": ",",
    ":": ",", "(": ", ", ")": ", ", "[": ", ", "]": ", ", "\u2026": ".", "§": " section ",
    "©": "", "®": "", "™": "", "∞": " infinity ", "$": " dollars ", "€": " euros ",
    "£": " pounds ", "¥": " yen ", "₹": " rupees ", "#": " number ", "µ": " micro ",
    "\u2013": " to ",
}  # fmt: skip
_FRACTIONS = {"½": "one half", "¼": "one quarter", "¾": "three quarters", "⅓": "one third",
              "⅔": "two thirds"}  # fmt: skip
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_UNIT_PATTERN = "|".join(
    re.escape(unit) for unit in sorted(units_by_symbol(), key=len, reverse=True)
)

_URL = re.compile(r"\b(?:https?://|www\.)([^\s/]+)\S*", re.I)
_MAIL = re.compile(r"\b([\w.+-]+)@([\w-]+(?:\.[\w-]+)+)")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_CITATION = re.compile(r"\s?\[\d{1,3}\]")
_MARKUP = re.compile(r"[*_`|{}\\^\"\u201c\u201d\u00ab\u00bb]+|^\s*(?:#+|[-•*]|\d+[.)])\s+")
_ISO_DATE = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b(?:T[\d:.]+Z?)?")
_SLASH_DATE = re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b")
_MONTH_DAY = re.compile(
    rf"\b({_MONTH_NAMES})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(\d{{4}}))?\b(?!:\d)"
)
_DAY_MONTH = re.compile(
    rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+({_MONTH_NAMES})\b\.?(?:,?\s+(\d{{4}}))?\b"
)
_TIME = re.compile(
    r"\b(\d{1,2})(?::(\d{2})(?::\d{2})?)?\s?(a\.?m\b\.?|p\.?m\b\.?)|\b(\d{1,2}):(\d{2})\b", re.I
)
_WEEKDAY = re.compile(
    r"(?<![\w'])(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)(?:\.(?!\w)|(?=\s?[-\u2013\u2014:]|\s+\d))"
    r"|(?<=[-\u2013\u2014])(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\b"
)
_WEEKDAY_RANGE = re.compile(
    r"(?<=day)\s?[-\u2013\u2014]\s?(?=(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)"
)
_TIME_RANGE = re.compile(
    r"(?<=[\dm.])\s?[-\u2013\u2014]\s?(?=\d{1,2}(?::\d{2}|\s?[ap]\.?m\b))", re.I
)
_MONEY = re.compile(
    # Without `a`, letters that only look like these match, too.
    rf"([$€£¥₹])\s?({_NUMBER})(?:\s?(?a:({'|'.join(_MAGNITUDES)}))\b)?"
    rf"|\b({_NUMBER})\s?([€£¥₹]|USD\b|EUR\b|GBP\b)"
    rf"|\b(\d[\d,]*\.\d\d)\s(dollar|euro)s?\b",
    re.I,
)
_SPACED_THOUSANDS = re.compile(
    r"(?<![\d+.,] )(?<![\d+.,])([1-9]\d{0,2}) (?:(\d{3})|(000(?: 000)+))(?![ -]?\d|[.,]\d)"
)
_RANGE = re.compile(rf"(?<![\w.])({_NUMBER})\s?(?:-|\u2013|\u2014)\s?({_NUMBER})(?![\w-])")
_PERCENT = re.compile(rf"(-?(?:{_NUMBER}))\s?%")
_MEASURE = re.compile(
    rf"(?<![\w.])(-?(?:{_NUMBER}))\s?({_UNIT_PATTERN})(?:/({_UNIT_PATTERN}|[a-z]{{3,}}))?(?![\w²³])"
)
_PER_UNIT = re.compile(rf"\b({_UNIT_PATTERN})/({_UNIT_PATTERN})(?![\w²³])")
_WRITTEN_ORDINAL = re.compile(r"\b(\d{1,6})(?:st|nd|rd|th)\b", re.I)
_FRACTION = re.compile(r"(?<![\d/.])([1-9]\d?)/([2-9]|1\d)(?![\d/])")
_DECADE = re.compile(r"\b(1[1-9]|20)(\d)0s\b")
_PHONE = re.compile(r"(?<![\w])\+?\d{2,4}(?:[ -]\d{2,4}){2,4}(?![\w])|(?<![\w.])0\d{4,14}(?![\w.])")
_DOTTED = re.compile(r"\b[vV]?(\d+(?:\.\d+){2,})\b")
_SIGNED = re.compile(rf"(?<![\w.])[-\u2212](?={_NUMBER})")
_LETTER_DIGIT = re.compile(r"(?<=[^\W\d_])-?(?=\d)|(?<=\d)(?=[^\W\d_])")
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", "01234567890123456789")
_ALLOWED_MARKS = frozenset(" '-.,?!")
"""Hyphens go last, when all that they hold together has been read."""
_PLAIN = re.compile(r"[A-Za-z ',.?!-]*")
_DIGIT = re.compile(r"[\d⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉]")
_MAX_PASSES = 6
_DENOMINATORS = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def speakable(text: str, max_chars: int = MAX_SPEAKABLE_CHARS) -> str:
    """The text in words; "" when nothing in it can be said."""
    text = clean_text(text, max_chars)
    for _ in range(_MAX_PASSES):  # opening "1Sat." makes a new "Sat." to expand, and so on
        rewritten = _rewrite(text)
        if rewritten == text:
            break
        text = rewritten
    return text


def _rewrite(text: str) -> str:
    """One pass. What a text has no signs of is not looked for: most sentences are plain words."""
    if not _PLAIN.fullmatch(text):
        text = _without_markup(text)
    for pattern, words in _LATIN:
        text = pattern.sub(words, text)
    if _DIGIT.search(text):
        text = _dates_and_times(text)
        text = _quantities(text)
        text = _ABBREVIATION.sub(_expand_abbreviation, text)
        text = _plain_numbers(text)
    else:
        text = _per_unit(_weekdays(text))
        text = _ABBREVIATION.sub(_expand_abbreviation, text)
    return _tidy(text)


def _without_markup(text: str) -> str:
    text = _LINK.sub(r"\1", text)
    text = _URL.sub(lambda m: _dotted_name(m.group(1)), text)
    text = _MAIL.sub(lambda m: f"{_dotted_name(m.group(1))} at {_dotted_name(m.group(2))}", text)
    text = _CITATION.sub("", text)
    text = _MARKUP.sub(" ", text)
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("\u2212", "-")
    for fraction, words in _FRACTIONS.items():
        if fraction in text:
            text = re.sub(rf"(?<=\d)\s?{fraction}", f" and {words}", text)
            text = text.replace(fraction, words)
    return text


def _dates_and_times(text: str) -> str:
    text = _ISO_DATE.sub(lambda m: _date(m, int(m[2]), int(m[3]), int(m[1])), text)
    text = _SLASH_DATE.sub(_slash_date, text)
    text = _MONTH_DAY.sub(
        lambda m: _date(m, _month_number(m[1]), int(m[2]), int(m[3]) if m[3] else None), text
    )
    text = _DAY_MONTH.sub(
        lambda m: _date(m, _month_number(m[2]), int(m[1]), int(m[3]) if m[3] else None), text
    )
    text = _DECADE.sub(lambda m: _plural_tens(int(m[1]), int(m[2])), text)
    text = _TIME_RANGE.sub(" to ", _weekdays(text))
    return _TIME.sub(_time, text)


def _weekdays(text: str) -> str:
    text = _WEEKDAY.sub(lambda m: _WEEKDAYS[m[1] or m[2]], text)
    return _WEEKDAY_RANGE.sub(" to ", text)


def _quantities(text: str) -> str:
    text = _MONEY.sub(_money, text)
    text = _SPACED_THOUSANDS.sub(lambda m: m.group().replace(" ", ""), text)
    text = _PHONE.sub(lambda m: spell_digits(m.group()), text)
    text = _RANGE.sub(_range, text)
    text = _SIGNED.sub("minus ", text)
    text = _PERCENT.sub(lambda m: f"{_spell(m[1])} percent", text)
    return _per_unit(_MEASURE.sub(_measure, text))


def _per_unit(text: str) -> str:
    if "/" not in text:
        return text
    return _PER_UNIT.sub(
        lambda m: f"{units_by_symbol()[m[1]].plural} per {units_by_symbol()[m[2]].singular}", text
    )


def _plain_numbers(text: str) -> str:
    text = _DOTTED.sub(lambda m: " point ".join(map(_whole, m[1].split("."))), text)
    text = _WRITTEN_ORDINAL.sub(lambda m: spell_ordinal(int(m[1])), text)
    text = _FRACTION.sub(lambda m: _fraction(int(m[1]), int(m[2])), text)
    text = text.translate(_SUPERSCRIPT)
    text = re.sub(r"#(?=\d)", "number ", text)
    text = _LETTER_DIGIT.sub(" ", text)
    return re.sub(_NUMBER, _bare_number, text)


def _tidy(text: str) -> str:
    if not _PLAIN.fullmatch(text):
        text = _allowed_only("".join(_SYMBOLS.get(char, char) for char in text))
    text = open_compounds(re.sub(r"(?<!\w)-+|-+(?!\w)", " ", text))
    text = re.sub(r"(?<!\w)'+|'+(?!\w)", " ", text)
    text = re.sub(r"\s+([.,?!])", r"\1", text)
    text = re.sub(r"[.,?!]*([.?!])[.,?!]*", r"\1", text)
    text = re.sub(r",+", ",", text)
    text = re.sub(r"([.,?!])(?=\w)", r"\1 ", text)
    text = " ".join(text.split())
    text = re.sub(r"^[\s.,?!-]+", "", text)
    return text.rstrip(", ")


def _allowed_only(text: str) -> str:
    kept: list[str] = []
    for char in unicodedata.normalize("NFC", text):
        if char in _ALLOWED_MARKS or char.isalpha() or unicodedata.category(char) in ("Mn", "Mc"):
            kept.append(char)
        elif char.isdigit():
            kept.append(f" {_digit_word(char)} ")
        else:
            kept.append(" ")
    return "".join(kept)


def _digit_word(char: str) -> str:
    value = unicodedata.digit(char, None)
    return "" if value is None else spell_digits(str(value))


def _dotted_name(name: str) -> str:
    name = name.removeprefix("www.").rstrip(".,;:!?)")
    name = re.sub(r"[-_+:]", " ", name)
    return " dot ".join(part for part in name.split(".") if part)


def _expand_abbreviation(match: re.Match[str]) -> str:
    word = match[1]
    rest = match.string[match.end() :]
    ends_sentence = rest == "" or re.match(r"\s+[A-Z]", rest) is not None
    title = word[0].isupper() and word not in (
        "Inc",
        "Ltd",
        "Corp",
        "Jr",
        "Sr",
        "Ave",
        "Rd",
        "Blvd",
    )
    if word == "St" and re.search(r"[A-Z]\w+ $", match.string[: match.start()]):
        return "Street" + ("." if ends_sentence else "")
    return _ABBREVIATIONS[word] + ("." if ends_sentence and not title else "")


def _month_number(name: str) -> int:
    return _MONTHS.index(_MONTH_OF[name[:3].lower()]) + 1


def _date(match: re.Match[str], month: int, day: int, year: int | None) -> str:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match.group()
    words = f"{_MONTHS[month - 1]} {spell_ordinal(day)}"
    return f"{words}, {spell_year(year)}" if year is not None else words


def _slash_date(match: re.Match[str]) -> str:
    first, second = int(match[1]), int(match[2])
    month, day = (second, first) if first > 12 else (first, second)
    return _date(match, month, day, int(match[3]))


def _time(match: re.Match[str]) -> str:
    if match[3]:
        hour, minute, half = int(match[1]), int(match[2] or 0), match[3][0].lower()
    else:
        hour, minute, half = int(match[4]), int(match[5]), ""
    if hour > 23 or minute > 59:
        return match.group()
    if half and not 1 <= hour <= 12:
        half = ""
    hour24 = hour if not half else hour % 12 + (12 if half == "p" else 0)
    return spell_time(hour24, minute, with_period=bool(half) or hour > 12)


def spell_time(hour: int, minute: int, *, with_period: bool = True) -> str:
    """A time of day (24-hour clock): 17:45 -> "five forty five in the afternoon"."""
    if (hour, minute) in ((0, 0), (12, 0)) and with_period:
        return "midnight" if hour == 0 else "noon"
    spoken_hour = spell_integer((hour - 1) % 12 + 1)
    if minute == 0:
        words = spoken_hour if with_period else f"{spoken_hour} o'clock"
    elif minute < 10:
        words = f"{spoken_hour} oh {spell_integer(minute)}"
    else:
        words = f"{spoken_hour} {spell_integer(minute)}"
    words = open_compounds(words)
    return f"{words} {part_of_day(hour)}" if with_period else words


def part_of_day(hour: int) -> str:
    """What is said after a time on a twelve-hour dial: 17 -> "in the afternoon"."""
    if hour < 12:
        return "in the morning"
    if hour < 18:
        return "in the afternoon"
    return "in the evening" if hour < 22 else "at night"


def _money(match: re.Match[str]) -> str:
    symbol = match[1] or match[5] or match[7]
    amount, magnitude = match[2] or match[4] or match[6], match[3]
    one, many, cent = _CURRENCIES[symbol.upper()]
    amount = amount.replace(",", "")
    if magnitude:
        return f"{_spell(amount)} {_MAGNITUDES[magnitude.lower()]} {many}"
    whole, _, cents = amount.partition(".")
    if cent and len(cents) == 2:
        major = f"{_spell(whole)} {one if int(whole) == 1 else many}"
        if int(cents) == 0:
            return major
        minor_name = (
            cent if int(cents) == 1 else {"penny": "pence", "paisa": "paise"}.get(cent, "cents")
        )
        minor = f"{spell_integer(int(cents))} {minor_name}"
        return minor if int(whole) == 0 else f"{major} and {minor}"
    return f"{_spell(amount)} {one if Decimal(amount) == 1 else many}"


def _measure(match: re.Match[str]) -> str:
    unit = units_by_symbol()[match[2]]
    one = Decimal(match[1].replace(",", "")) == 1
    per = ""
    if match[3]:
        divisor = units_by_symbol().get(match[3])
        per = f" per {divisor.singular if divisor else match[3]}"
    return f"{_spell(match[1])} {unit.spoken(one=one)}{per}"


def _range(match: re.Match[str]) -> str:
    """`5-10` is a range and `5-3` a score; `747-400` and `555-0123` are neither."""
    low, high = match[1], match[2]
    written_as_code = high.startswith("0") and len(high) > 1
    if not written_as_code and (_value(low) < _value(high) or _value(low) < 100):
        return f"{low} to {high}"
    return f"{low} {high}"


def _value(written: str) -> Decimal:
    return Decimal(written.replace(",", ""))


def _fraction(top: int, bottom: int) -> str:
    singular, plural = _DENOMINATORS.get(
        bottom, (spell_ordinal(bottom), f"{spell_ordinal(bottom)}s")
    )
    return f"{spell_integer(top)} {singular if top == 1 else plural}"


def _plural_tens(century: int, decade: int) -> str:
    if decade == 0:
        return f"{spell_integer(century)} hundreds" if century != 20 else "two thousands"
    tens = spell_integer(decade * 10) if decade > 1 else "ten"
    return (
        f"{spell_integer(century)} {tens[:-1]}ies"
        if decade > 1
        else f"{spell_integer(century)} tens"
    )


def _whole(digits: str) -> str:
    return spell_digits(digits) if digits.startswith("0") and len(digits) > 1 else _spell(digits)


def _bare_number(match: re.Match[str]) -> str:
    written = match.group()
    if re.fullmatch(r"1[1-9]\d\d|20\d\d", written):
        return spell_year(int(written))
    if len(written) > 1 and written.startswith("0") and written.isdigit():
        return spell_digits(written)
    return _spell(written)


def _spell(written: str) -> str:
    """A number of any length as a quantity, digits after the point one by one."""
    number = Decimal(written.replace(",", "")[:MAX_NUMBER_CHARS])
    whole, _, fraction = f"{number.copy_abs():f}".partition(".")
    words = spell_integer(int(whole)) + (f" point {spell_digits(fraction)}" if fraction else "")
    return f"minus {words}" if number < 0 else words
