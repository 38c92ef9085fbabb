"""Cut what a file says into passages: short enough to score and to quote, long enough to stand
alone.

A passage is a few sentences, one list item or one table row, with the headings above it. Its place
(line, row or page) is where its block starts in the file. Bounds: `MAX_PASSAGE_WORDS` words and
`MAX_PASSAGE_CHARS` characters a passage, `MAX_HEADING_CHARS` a heading path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from duologue.retrieval.clauses import split_sentences
from duologue.retrieval.cleaning import clean_text

MAX_PASSAGE_WORDS = 60
MAX_PASSAGE_CHARS = 1_000
MAX_HEADING_CHARS = 200


class PlaceKind(IntEnum):
    """What the place number of a passage counts; numbers start at 1."""

    NONE = 0
    LINE = 1
    ROW = 2
    PAGE = 3


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a file that belongs together: a paragraph, a list item, a row."""

    text: str
    place: int = 0
    kind: PlaceKind = PlaceKind.NONE
    heading: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """What is indexed, scored and quoted."""

    text: str
    place: int = 0
    kind: PlaceKind = PlaceKind.NONE
    heading: str = ""


def innermost(heading: str) -> str:
    """The last part of a heading, which has those above it before it: "Prices / Tickets"."""
    return heading.rpartition(" / ")[2]


def passages_of(blocks: Iterable[Block]) -> Iterator[Passage]:
    """Passages in file order; empty blocks give none."""
    for block in blocks:
        heading = clean_text(block.heading, MAX_HEADING_CHARS)
        for text in _pieces(clean_text(block.text, len(block.text))):
            yield Passage(text, block.place, block.kind, heading)


def _pieces(text: str) -> Iterator[str]:
    """Whole sentences up to the bounds; a longer sentence is cut between words."""
    gathered: list[str] = []
    words = chars = 0
    for sentence in split_sentences(text):
        for piece in _bounded(sentence):
            piece_words = len(piece.split())
            if gathered and (
                words + piece_words > MAX_PASSAGE_WORDS or chars + len(piece) > MAX_PASSAGE_CHARS
            ):
                yield " ".join(gathered)
                gathered, words, chars = [], 0, 0
            gathered.append(piece)
            words += piece_words
            chars += len(piece) + 1
    if gathered:
        yield " ".join(gathered)


def _bounded(sentence: str) -> Iterator[str]:
    """A sentence in pieces within the bounds; one-word monsters are cut between characters."""
    if len(sentence) <= MAX_PASSAGE_CHARS and sentence.count(" ") < MAX_PASSAGE_WORDS:
        yield sentence
        return
    gathered: list[str] = []
    chars = 0
    for word in sentence.split():
        for start in range(0, len(word), MAX_PASSAGE_CHARS):
            piece = word[start : start + MAX_PASSAGE_CHARS]
            if gathered and (
                len(gathered) == MAX_PASSAGE_WORDS or chars + len(piece) > MAX_PASSAGE_CHARS
            ):
                yield " ".join(gathered)
                gathered, chars = [], 0
            gathered.append(piece)
            chars += len(piece) + 1
    if gathered:
        yield " ".join(gathered)
