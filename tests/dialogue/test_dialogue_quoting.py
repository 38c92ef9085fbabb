"""Which piece goes on with what is being read out."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from duologue.dialogue import Quotation
from duologue.dialogue.quoting import MAX_PIECES, PATIENCE

TEXTS = st.lists(st.integers(5, 12), max_size=30)
SAID = st.lists(st.none() | st.integers(5, 14), max_size=60)


def quoted(text: list[int], said: list[int | None]) -> Quotation:
    quotation = Quotation()
    quotation.offer(text)
    for piece in said:
        quotation.hear(piece)
    return quotation


@given(st.lists(st.integers(5, 500), min_size=1, max_size=40, unique=True), st.data())
def test_a_text_is_followed_from_wherever_it_is_begun(text: list[int], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(text) - 1))
    quotation = quoted(text, [])
    assert quotation.following is None, "it may be said in other words"
    for place in range(begin, len(text)):
        quotation.hear(text[place])
        quotation.hear(None)
        expected = text[place + 1] if place + 1 < len(text) else None
        assert quotation.following == expected


@given(TEXTS, SAID)
def test_what_follows_has_the_longest_run_before_it(
    text: list[int], said: list[int | None]
) -> None:
    words = [piece for piece in said if piece is not None]

    def run(place: int) -> int:
        length = 0
        while length < min(place, len(words)) and text[place - 1 - length] == words[-1 - length]:
            length += 1
        return length

    longest = max((run(place) for place in range(len(text) + 1)), default=0)
    fitting = [place for place in range(len(text)) if longest and run(place) == longest]
    expected = {text[place] for place in fitting}
    following = quoted(text, said).following
    assert following == (expected.pop() if len(expected) == 1 else None)


@given(TEXTS, SAID, SAID)
def test_saved_and_loaded_it_goes_on(
    text: list[int], before: list[int | None], after: list[int | None]
) -> None:
    one, other = quoted(text, before), Quotation()
    other.load(json.loads(json.dumps(one.save())))
    for piece in after:
        assert one.following == other.following
        one.hear(piece)
        other.hear(piece)
    assert one.save() == other.save()


def test_equal_runs_that_go_on_differently_name_nothing() -> None:
    assert quoted([5, 6, 5, 7], [5]).following is None
    assert quoted([5, 6, 5, 7], [6, 5]).following == 7
    assert quoted([5, 6, 8, 5, 6], [5]).following == 6, "both go on alike"


def test_after_a_slip_it_goes_on_where_the_text_does() -> None:
    quotation = quoted([5, 6, 7, 8, 9], [5, 6, 11])
    assert quotation.following is None
    quotation.hear(8)
    assert quotation.following == 9


def test_it_is_forgotten_in_time_and_replaced() -> None:
    quotation = quoted([5, 6], [5, *[None] * PATIENCE])
    assert quotation.following == 6
    quotation.hear(None)
    assert quotation.following is None
    quotation.hear(5)
    assert quotation.following is None
    quotation.offer([7, 8])
    quotation.hear(7)
    quotation.offer([9], append=True)
    assert quotation.following == 8
    quotation.hear(8)
    assert quotation.following == 9
    quotation.offer([5, 6])
    assert quotation.following is None
    quotation.hear(5)
    quotation.forget()
    assert quotation.following is None


def test_long_texts_are_bounded() -> None:
    quotation = quoted(list(range(5, 5 + 2 * MAX_PIECES)), [])
    quotation.offer(range(5), append=True)
    assert len(quotation.save()["pieces"]) == MAX_PIECES
