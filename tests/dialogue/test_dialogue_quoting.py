"""Which piece goes on with what is being read out."""

from __future__ import annotations

import json
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from duologue.dialogue import Piece, Quotation
from duologue.dialogue.quoting import (
    LATE,
    MAX_PIECES,
    NOTHING,
    PATIENCE,
    SURE_RUN,
    URGE_LIMIT,
    URGED,
)

TEXTS = st.lists(st.integers(5, 12), max_size=30)
SAID = st.lists(st.none() | st.integers(5, 14), max_size=60)


def pieces(text: Iterable[int]) -> list[Piece]:
    return [Piece(token) for token in text]


def sentence(*text: int) -> list[Piece]:
    return [*pieces(text[:-1]), Piece(text[-1], ends=True)]


def quoted(text: Iterable[int], said: list[int | None]) -> Quotation:
    quotation = Quotation()
    quotation.offer(pieces(text))
    for piece in said:
        quotation.hear(piece)
    return quotation


@given(st.lists(st.integers(5, 500), min_size=1, max_size=40, unique=True), st.data())
def test_a_text_is_followed_from_wherever_it_is_begun(text: list[int], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(text) - 1))
    quotation = quoted(text, [])
    assert quotation.following == NOTHING, "it may be said in other words"
    for place in range(begin, len(text)):
        quotation.hear(text[place])
        quotation.hear(None)
        expected = text[place + 1] if place + 1 < len(text) else 0
        assert quotation.following[0] == expected


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
    quotation = quoted(text, said)
    if len(expected) == 1:
        assert quotation.following == (expected.pop(), min(1.0, longest / SURE_RUN))
    elif quotation.urge and text:
        assert quotation.following == (text[0], 1.0), "from the beginning"
    else:
        assert quotation.following == NOTHING


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
    assert quoted([5, 6, 5, 7], [5]).following == NOTHING
    assert quoted([5, 6, 5, 7], [6, 5]).following[0] == 7
    assert quoted([5, 6, 8, 5, 6], [5]).following[0] == 6, "both go on alike"


def test_after_a_slip_it_goes_on_where_the_text_does() -> None:
    quotation = quoted([5, 6, 7, 8, 9], [5, 6, 11])
    assert quotation.following == NOTHING
    quotation.hear(8)
    assert quotation.following[0] == 9


def test_it_is_forgotten_in_time_and_replaced() -> None:
    quotation = quoted([5, 6], [5, *[None] * PATIENCE])
    assert quotation.following[0] == 6
    assert quotation.urge == 0
    quotation.hear(None)
    assert quotation.following == NOTHING
    quotation.hear(5)
    assert quotation.following == NOTHING
    quotation.offer(pieces([7, 8]))
    quotation.hear(7)
    quotation.offer(pieces([9]), append=True)
    assert quotation.following[0] == 8
    quotation.hear(8)
    assert quotation.following[0] == 9
    quotation.offer(pieces([5, 6]))
    assert quotation.following == NOTHING
    quotation.hear(5)
    quotation.forget()
    assert quotation.following == NOTHING


def test_long_texts_are_bounded() -> None:
    quotation = quoted(range(5, 5 + 2 * MAX_PIECES), [])
    quotation.offer(pieces(range(5)), append=True)
    assert len(quotation.save()["pieces"]) == MAX_PIECES


def test_who_owes_a_sentence_is_urged_to_begin_it() -> None:
    quotation = Quotation()
    quotation.offer(sentence(5, 6, 7))
    urges = []
    for _ in range(LATE + URGED + 10):
        assert (quotation.following == NOTHING) == (quotation.urge == 0)
        assert quotation.following in (NOTHING, (5, 1.0))
        urges.append(quotation.urge)
        quotation.hear(None)
    assert not any(urges[: LATE + 1])
    assert all(urges[LATE + 1 : LATE + URGED + 1])
    assert not any(urges[LATE + URGED + 1 :])
    assert max(urges) <= URGE_LIMIT
    quotation.hear(5)
    assert quotation.urge == 0


def test_who_stops_short_is_urged_to_go_on() -> None:
    quotation = Quotation()
    quotation.offer(sentence(5, 6, 7))
    for token in (8, 5, 6, *[None] * (LATE + 1)):
        quotation.hear(token)
    assert quotation.urge > 0
    assert quotation.following[0] == 7
    for token in (9, *[None] * (LATE + 1)):
        quotation.hear(token)
    assert quotation.following[0] == 5, "who has lost the thread begins again"


def test_one_sentence_is_enough() -> None:
    quotation = Quotation()
    quotation.offer(sentence(5, 6, 7) + sentence(8, 9))
    for token in (5, 6, 7):
        quotation.hear(token, ends=token == 7)
    assert quotation.following[0] == 8, "it may go on"
    for _ in range(LATE + URGED):
        quotation.hear(None)
        assert quotation.urge == 0, "and need not"


@given(TEXTS, SAID)
def test_urges_are_bounded(text: list[int], said: list[int | None]) -> None:
    quotation = Quotation()
    quotation.offer(sentence(*text) if text else [])
    for token in (*said, *[None] * 80):
        quotation.hear(token)
        assert 0 <= quotation.urge <= URGE_LIMIT
        assert quotation.urge == 0 or text or said
    assert quotation.urge == 0


def test_who_breaks_off_is_urged_to_go_on_though_nothing_was_looked_up() -> None:
    quotation = Quotation()
    for _ in range(LATE + 5):
        quotation.hear(None)
        assert quotation.urge == 0, "nothing was begun"
    for token in (5, 6, *[None] * (LATE + 1)):
        quotation.hear(token)
    assert quotation.urge > 0
    assert quotation.following == NOTHING
    for token in (7, *[None] * (LATE + 1)):
        quotation.hear(token, ends=token is not None)
        assert quotation.urge == 0
    quotation.hear(5)
    quotation.forget()
    for _ in range(LATE + 5):
        quotation.hear(None)
        assert quotation.urge == 0, "who was talked over need not go on"
