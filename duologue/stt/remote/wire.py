"""What a recognition protocol must say and understand. No sockets: messages in, events out.

A `Wire` lives as long as one connection. Times in its events are the service's own: seconds and
frames of the audio that was sent on this connection, silence for flushing included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Message: TypeAlias = "str | bytes"
Pcm: TypeAlias = "NDArray[np.float32]"

MAX_TEXT = 500
"""Longer texts of one message are cut."""
WORD_FRAMES = 2
"""A service gives whole words: it is taken to hold back one that began so many frames ago."""


class WireError(Exception):
    """A message that breaks the protocol; its connection is of no further use."""


@dataclass(frozen=True)
class Ready:
    """The service takes audio from here on (it may be sent before)."""


@dataclass(frozen=True)
class Text:
    """One word or a few."""

    text: str
    start_s: float


@dataclass(frozen=True)
class TextEnd:
    """When the last text ended."""

    stop_s: float


@dataclass(frozen=True)
class Progress:
    """The service goes on. `transcribed` counts frames whose words have all been given."""

    transcribed: int | None = None
    inactivity: float | None = None
    processed: int | None = None
    """Frames of audio that the service has heard."""


@dataclass(frozen=True)
class Flushed:
    """All words of the audio before flush `number` have been given."""

    number: int


@dataclass(frozen=True)
class Refused:
    """The service gives up; `detail` is its own text, one line."""

    detail: str


@dataclass(frozen=True)
class Ended:
    """The service ends the session of its own accord."""


WireEvent: TypeAlias = Ready | Text | TextEnd | Progress | Flushed | Refused | Ended


class Wire(Protocol):
    """One connection's side of a protocol."""

    def greeting(self) -> Sequence[Message]:
        """What the client says first."""
        ...

    def audio(self, pcm: Pcm) -> Sequence[Message]:
        """The next frame."""
        ...

    def flush(self, number: int) -> tuple[Sequence[Message], int]:
        """Ask for all words so far; also how many frames of silence that puts into the audio."""
        ...

    def receive(self, message: Message) -> Sequence[WireEvent]:
        """Understand one message; kinds that are not known give nothing.

        Raises:
            WireError: it is not a message of this protocol.
        """
        ...


WireFactory: TypeAlias = Callable[[], Wire]


def clean_text(text: str) -> str:
    """Text of a service as one line of bounded length, without what can not be printed."""
    spaced = " ".join(text[: 2 * MAX_TEXT].split())
    return "".join(c for c in spaced if c.isprintable())[:MAX_TEXT].strip()


def seconds(value: float) -> float:
    """A time from a message.

    Raises:
        WireError: it is not a time.
    """
    if not (math.isfinite(value) and -1.0 <= value <= 1e7):
        raise WireError("a time is not a number of seconds")
    return max(0.0, value)


def probability(value: float) -> float | None:
    """A probability from a message, None if it is none."""
    return min(1.0, max(0.0, value)) if math.isfinite(value) else None
