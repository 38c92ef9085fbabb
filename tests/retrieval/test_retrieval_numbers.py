"""Numbers in words and back, and written English made speakable."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duologue.retrieval.numbers import (
    find_numbers,
    parse_number,
    spell_integer,
    spell_number,
    spell_ordinal,
    spell_year,
    split_words,
)
from duologue.retrieval.speakable import speakable, spell_time
from duologue.retrieval.units import UNITS, convert, units_by_name, units_by_symbol


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_integers_survive_being_said(value: int) -> None:
    assert parse_number(spell_integer(value)) == value


@given(st.decimals(-(10**12), 10**12, places=4))
def test_decimals_survive_being_said(value: Decimal) -> None:
    assert parse_number(spell_number(value)) == value


@pytest.mark.parametrize("year", range(1000, 2100, 7))
def test_years_survive_being_said(year: int) -> None:
    assert parse_number(spell_year(year)) == year


@given(st.integers(1, 10**9))
def test_ordinals_are_recognised(value: int) -> None:
    (found,) = find_numbers(split_words(spell_ordinal(value)))
    assert found.ordinal
    assert found.value == value


@given(st.text(max_size=60))
@example("point point")
@example("a hundred and")
def test_nothing_breaks_the_parser(text: str) -> None:
    words = split_words(text)
    ends = 0
    for found in find_numbers(words):
        assert ends <= found.start < found.end <= len(words)
        ends = found.end


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("a hundred and five", "105"),
        ("two thousand and seven", "2007"),
        ("nineteen eighty four", "1984"),
        ("twenty ten", "2010"),
        ("nineteen oh five", "1905"),
        ("one point five million", "1500000"),
        ("3.5 million", "3500000"),
        ("1,250", "1250"),
        ("two dozen", "24"),
        ("minus five", "-5"),
        ("point five", "0.5"),
        ("five hundred thousand", "500000"),
    ],
)
def test_numbers_as_people_say_them(said: str, value: str) -> None:
    assert parse_number(said) == Decimal(value)


@pytest.mark.parametrize("said", ["", "five six", "twenty first", "oh five", "the", "twelve men"])
def test_what_is_no_number(said: str) -> None:
    assert parse_number(said) is None


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("It is 330 m (1,083 ft) tall.", "It is three hundred thirty meters, one thousand "
         "eighty-three feet, tall."),
        ("Open 9:00-17:30, Mon.\u2013Fri.", "Open nine o'clock to five thirty in the afternoon, "
         "Monday to Friday"),
        ("£4.50 or $3bn", "four pounds and fifty pence or three billion dollars"),
        ("20°C at 5 km/h, 12.5% off", "twenty degrees Celsius at five kilometers per hour, twelve "
         "point five percent off"),
        ("Dr. Smith of St. Mary St. vs. the rest", "Doctor Smith of Saint Mary Street versus the "
         "rest"),
        ("1914\u20131918", "nineteen fourteen to nineteen eighteen"),
        ("in the 1990s", "in the nineteen nineties"),
        ("on 2024-05-17 at 5pm", "on May seventeenth, twenty twenty-four at five in the afternoon"),
        ("call +44 20 7946 0958", "call four four two zero seven nine four six zero nine five "
         "eight"),
        ("v2.1.0 of B12", "two point one point zero of B twelve"),
        ("see https://www.example.org/a?b=c now", "see example dot org now"),
        ("**Bold** [link](http://a.b) [3]", "Bold link"),
        ("2½ hours, ¾ cup, 2/3", "two and one half hours, three quarters cup, two thirds"),
        ("5 g/cm³", "five grams per cubic centimeter"),
        ("32 000 or 5 000 000 of 12 345", "thirty-two thousand or five million of twelve thousand "
         "three hundred forty-five"),
        ("-3 °C", "minus three degrees Celsius"),
        ("1,000,000 people", "one million people"),
        ("the 747-400, tel. 555-0123", "the seven hundred forty-seven four hundred, tel. five "
         "hundred fifty-five zero one two three"),
        ("e.g. this & that", "for example, this and that"),
    ],
)  # fmt: skip
def test_speakable(written: str, spoken: str) -> None:
    assert speakable(written) == spoken


_WRITTEN = """1 2 12 1984 0 007 3.5 1,000 - \u2013 \u2014 / : . , ; % $ £ € km km/h m² °C am pm p.m.
Mon Sat. Dr. St. e.g. No. 1st 22nd 1990s ( ) [ ] & + = # @ May Jan. 2024-05-17 3/4 ½ http://x.org/a
a@b.co v1.2.3 x2 ' \" ** _ the is Tel. +44 20 7946"""
_ATOMS = st.sampled_from([*_WRITTEN.split(), " ", "\n"])


@given(st.one_of(st.lists(_ATOMS, max_size=12).map("".join), st.text(max_size=40)))
def test_speakable_text_has_only_words_and_stays_as_it_is(text: str) -> None:
    spoken = speakable(text)
    for char in spoken:
        assert char in " '-.,?!" or char.isalpha() or unicodedata.category(char) in ("Mn", "Mc")
    assert speakable(spoken) == spoken


def test_times_of_day() -> None:
    assert spell_time(0, 0) == "midnight"
    assert spell_time(12, 0) == "noon"
    assert spell_time(9, 5) == "nine oh five in the morning"
    assert spell_time(22, 30) == "ten thirty at night"


def test_units_have_no_two_meanings() -> None:
    assert len(units_by_symbol()) == sum(len(unit.symbols) for unit in UNITS)
    names = [name.lower() for unit in UNITS for name in dict.fromkeys(unit.names)]
    assert len(units_by_name()) == len(names)


@given(st.decimals(-(10**6), 10**6, places=3), st.sampled_from(UNITS), st.sampled_from(UNITS))
def test_conversion_is_undone_by_its_reverse(value: Decimal, a: object, b: object) -> None:
    from duologue.retrieval.units import Unit

    assert isinstance(a, Unit)
    assert isinstance(b, Unit)
    if a.dimension != b.dimension:
        with pytest.raises(ValueError, match="measure"):
            convert(value, a, b)
        return
    back = convert(convert(value, a, b), b, a)
    assert abs(back - value) < Decimal("1e-6")
