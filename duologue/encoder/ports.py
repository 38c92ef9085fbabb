"""What a reference encoder is to the rest of the program: a text in, rows out, inside a deadline.

Row k is added to the language model's input k frames after a reference was installed, so the
number of rows is also the number of frames that delivery takes. Who computes them (this process, a
service elsewhere, a cache) is not told apart: all are a `RowEncoder` and fail by the same errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from duologue.errors import DuologueError

if TYPE_CHECKING:
    from torch import Tensor

MAX_TEXT_CHARS = 4_096
"""Longest text to encode: some 700 words, far more than the seconds of a reference can say."""
MAX_ROWS = 512
"""Most rows of one text, as many as a slot of the language model can have pending."""


class EncoderError(DuologueError):
    """A reference could not be encoded; the conversation goes on without it."""


class EncoderTimeout(EncoderError):
    """The deadline passed."""


class EncoderBusy(EncoderError):
    """Too many texts wait already; this one was not queued."""


class EncoderUnavailable(EncoderError):
    """The service cannot be reached, broke off, or says that it failed."""


class EncoderMalformed(EncoderError):
    """The service answered something that is no encoding, or one for another model."""


class TextRefused(EncoderError, ValueError):
    """The text is too long; sending it again will not help."""


class RowEncoder(Protocol):
    """Turns reference texts into rows for the language model's input."""

    @property
    def dim(self) -> int | None:
        """Width of the rows; None while a service has not been asked for any."""

    async def encode(self, text: str, deadline_s: float) -> Tensor:
        """Rows of one text: float32 [rows, dim] on the CPU, shared with a cache: do not write.

        A text without any token (the empty one is) gives one row of zeros, as the published
        service does. Concurrent calls are batched, and equal a single one up to float rounding.
        Cancelling the call withdraws the text. At most `MAX_TEXT_CHARS` characters, `MAX_ROWS`
        rows.

        Raises:
            EncoderError: one of those above, within `deadline_s` seconds.
        """

    async def aclose(self) -> None:
        """Give up what is under way and free threads and connections; later calls fail."""


def check_text(text: str) -> None:
    """Refuse a text that is too long before it takes any room."""
    if len(text) > MAX_TEXT_CHARS:
        raise TextRefused(
            f"a reference of {len(text)} characters; at most {MAX_TEXT_CHARS} are encoded"
        )
