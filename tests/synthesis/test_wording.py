"""Numbers in words, invented names, templates, and draws that never change."""

from __future__ import annotations

import pytest

from duologue.synthesis import numbers
from duologue.synthesis.draw import Draw, bucket
from duologue.synthesis.grammar import expand, tidy, variants
from duologue.synthesis.names import invent
from duologue.synthesis.writer.sentences import plural
from duologue.synthesis.writer.talk import lower_first


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (numbers.say_integer(0), "zero"),
        (numbers.say_integer(-7), "minus seven"),
        (numbers.say_integer(1250), "one thousand two hundred fifty"),
        (numbers.say_integer(2_000_019), "two million nineteen"),
        (numbers.say_number(2.5), "two point five"),
        (numbers.say_number(0.25), "zero point two five"),
        (numbers.say_number(-2.504), "minus two point five"),
        (numbers.say_number(120.0), "one hundred twenty"),
        (numbers.say_number(120.0, 0), "one hundred twenty"),
        (numbers.say_rounded(1_630_000), "one point six million"),
        (numbers.say_rounded(68_400_000), "sixty eight million"),
        (numbers.say_ordinal(21), "twenty first"),
        (numbers.say_ordinal(30), "thirtieth"),
        (numbers.say_year(1868), "eighteen sixty eight"),
        (numbers.say_year(1905), "nineteen oh five"),
        (numbers.say_year(2004), "two thousand four"),
        (numbers.say_year(1000), "ten hundred"),
        (numbers.say_year(1007), "ten oh seven"),
        (numbers.say_clock(15, 40), "twenty to four"),
        (numbers.say_clock(0, 0), "twelve o'clock"),
        (numbers.say_clock(12, 7), "twelve oh seven"),
        (numbers.say_date(5, 21, 2026), "May twenty first, twenty twenty six"),
        (numbers.spell("Fe"), "F E"),
        (numbers.join_list(["one", "two", "three"]), "one, two and three"),
    ],
)
def test_numbers_in_words(said: str, expected: str) -> None:
    assert said == expected


def test_draws_are_the_same_for_ever() -> None:
    draw = Draw("fixed", 1)
    assert [draw.integer(0, 999) for _ in range(4)] == [116, 66, 950, 393]
    assert bucket("name/tarvonia") == bucket("name/tarvonia", 100)
    assert sorted(Draw(1).sample("abcd", 9)) == list("abcd")


def test_a_split_stream_leaves_its_parent_alone() -> None:
    one, other = Draw("key"), Draw("key")
    one.split("child").unit()
    assert one.unit() == other.unit()


def test_weights_are_respected() -> None:
    draw = Draw("weights")
    drawn = [draw.weighted({"often": 9.0, "never": 0.0, "seldom": 1.0}) for _ in range(2000)]
    assert "never" not in drawn
    assert 0.85 < drawn.count("often") / 2000 < 0.95


def test_invented_names_are_many_and_speakable() -> None:
    draw = Draw("names")
    names = [invent(draw, kind) for kind in ("place", "person", "thing") for _ in range(3000)]
    assert len(set(names)) > 8000
    assert all(name.isalpha() and name.istitle() and 4 <= len(name) <= 12 for name in names)


def test_templates_expand_to_all_their_variants() -> None:
    template = "(What|Which) city[, please|, then] is {e}[ now]?"
    draw = Draw("template")
    texts = {expand(template, draw, e="it") for _ in range(500)}
    assert len(texts) == variants(template) == 12
    assert "Which city, please is it now?" in texts


def test_texts_are_tidied() -> None:
    assert tidy("so  what is it , please ? and now.") == "So what is it, please? And now."
    assert lower_first("What is it?") == "what is it?"
    assert lower_first("I'd like it.") == "I'd like it."
    assert lower_first("France is it.") == "France is it."


def test_plurals() -> None:
    nouns = ["lamp", "watch", "compass", "battery", "key", "shelf"]
    assert [plural(noun) for noun in nouns] == [
        *("lamps", "watches", "compasses", "batteries", "keys", "shelves")
    ]
