"""The text row of a training example: word pieces at their frames, padding between them.

The rules are those of the published fine-tuning code (see the interleaver in moshi-finetune): a
word's pieces begin in the frame in which it begins, the frame before it says that padding ends,
and a word that begins before the last one's pieces are out takes its place. A small tokenizer needs
two pieces a word where the published one needs one, and would lose every twelfth word so: there,
words may wait for each other instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

END_OF_PADDING = 0
PADDING = 3
RETRIEVAL = 4
FIRST_PIECE = 5
"""Ids below this are control tokens in wren's tokenizers."""

Word = tuple[str, float, float]
"""Text, start and end in seconds."""


class Tokenizer(Protocol):
    """Text to token ids, without special tokens."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class TextRow:
    """Tokens by frame, and where each word's first piece went (-1: it found no place)."""

    tokens: NDArray[np.int64]
    placed: NDArray[np.int64]


def text_row(
    words: Sequence[Word],
    frames: int,
    frame_rate: float,
    tokenizer: Tokenizer,
    *,
    delay_s: float = 0.0,
    wait: bool = False,
) -> TextRow:
    """Lay words, sorted by start, on a row of `frames`.

    Args:
        delay_s: moves them to later frames.
        wait: a word waits until all pieces of the one before it are out.
    """
    tokens = np.full(frames, PADDING, dtype=np.int64)
    placed = np.full(len(words), -1, dtype=np.int64)
    upcoming = 0
    pending: deque[tuple[int, int]] = deque()
    for frame in range(frames):
        while upcoming < len(words):
            text, start, end = words[upcoming]
            if (start + delay_s) * frame_rate >= frame + 1:
                break
            if end > start:
                if not wait:
                    pending.clear()
                pending += [(upcoming, piece) for piece in tokenizer.encode(text.strip())]
            upcoming += 1
        if pending:
            if frame and tokens[frame - 1] == PADDING:
                tokens[frame - 1] = END_OF_PADDING
            word, tokens[frame] = pending.popleft()
            if placed[word] < 0:
                placed[word] = frame
    return TextRow(tokens, placed)


def place_retrieval(row: TextRow, words: Sequence[Word], start_s: float, token: int) -> int | None:
    """Put the retrieval token just before the first piece of the word that starts at `start_s`.

    Returns:
        The frame, or `None` where no word begins there or no frame is before it.
    """
    for (_, begin, _), frame in zip(words, row.placed, strict=True):
        if begin >= start_s - 0.02:
            if frame < 1:
                return None
            row.tokens[frame - 1] = token
            return int(frame) - 1
    return None
