"""Numbers as English words, and back."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duologue.numbers import (
    find_numbers,
    parse_number,
    spell_integer,
    spell_number,
    spell_ordinal,
    spell_year,
    split_words,
)


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
