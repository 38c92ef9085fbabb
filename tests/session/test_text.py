"""The model's text stream as pieces of text."""

from __future__ import annotations

from support.conversations import model

from duologue.moshi.config import UNGENERATED
from duologue.session.text import TextReader


def test_what_was_not_generated_is_no_text() -> None:
    """While a model's delays fill there is no token, however many frames that takes."""
    reader = TextReader(model())
    assert [reader.push(UNGENERATED) for _ in range(4)] == [None] * 4
    assert not reader.is_spoken(UNGENERATED)
    assert any(reader.push(token) for token in range(5, 12))
