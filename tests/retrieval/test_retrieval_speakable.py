"""Written English made speakable; units and their conversion."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.retrieval.speakable import speakable, spell_time
from duologue.retrieval.units import UNITS, convert, units_by_name, units_by_symbol


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("It is 330 m (1,083 ft) tall.", "It is three hundred thirty meters, one thousand "
         "eighty three feet, tall."),
        ("Open 9:00-17:30, Mon.\u2013Fri.", "Open nine o'clock to five thirty in the afternoon, "
         "Monday to Friday"),
        ("4.50 euros, 1.5 dollars", "four euros and fifty cents, one point five dollars"),
        ("£4.50 or $3bn", "four pounds and fifty pence or three billion dollars"),
        ("20°C at 5 km/h, 12.5% off", "twenty degrees Celsius at five kilometers per hour, twelve "
         "point five percent off"),
        ("Dr. Smith of St. Mary St. vs. the rest", "Doctor Smith of Saint Mary Street versus the "
         "rest"),
        ("1914\u20131918", "nineteen fourteen to nineteen eighteen"),
        ("in the 1990s", "in the nineteen nineties"),
        ("on 2024-05-17 at 5pm", "on May seventeenth, twenty twenty four at five in the afternoon"),
        ("call +44 20 7946 0958", "call four four two zero seven nine four six zero nine five "
         "eight"),
        ("v2.1.0 of B12", "two point one point zero of B twelve"),
        ("see https://www.example.org/a?b=c now", "see example dot org now"),
        ("**Bold** [link](http://a.b) [3]", "Bold link"),
        ("2½ hours, ¾ cup, 2/3", "two and one half hours, three quarters cup, two thirds"),
        ("5 g/cm³", "five grams per cubic centimeter"),
        ("32 000 or 5 000 000 of 12 345", "thirty two thousand or five million of twelve thousand "
         "three hundred forty five"),
        ("-3 °C", "minus three degrees Celsius"),
        ("1,000,000 people", "one million people"),
        ("the 747-400, tel. 555-0123", "the seven hundred forty seven four hundred, tel. five "
         "hundred fifty five zero one two three"),
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


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("€5 kn", "five euros kn"),
        ("€5 bn or $2 MN", "five billion euros or two million dollars"),
        ("€5 m\u0131llion", "five euros m\u0131llion"),
        ("€5 thou\u017fand", "five euros thou\u017fand"),
    ],
)
def test_only_what_means_a_magnitude_is_one(written: str, spoken: str) -> None:
    assert speakable(written) == spoken


@pytest.mark.parametrize(
    "around", ["{}", "{}%", "${}", "{} km", "€{} bn", "{}.00 dollars", "1.2.{}"]
)
@pytest.mark.parametrize("number", ["7" * 1000, f"0.{'0' * 500}7"])
def test_numbers_too_long_to_be_spoken_are_cut(around: str, number: str) -> None:
    spoken = speakable(around.format(number))
    assert 0 < len(spoken.split()) < 1000


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
