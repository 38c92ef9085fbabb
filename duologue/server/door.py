"""What a protocol is to the server: bytes to what was heard, and events to bytes.

A new protocol is a class with these methods and a route that hands it to `Lobby.host`. It knows no
engine and no socket, holds the state of one connection, and never waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from duologue.dialogue import Event, Interrupt, Reset, SelectBackend

Message: TypeAlias = bytes | str
Pcm: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Samples:
    """The user's audio [n], float32 at 24 kHz."""

    pcm: Pcm


@dataclass(frozen=True, slots=True)
class Answer:
    """Something to send back at once."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """The client ends its session for good."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """A message without effect; `reason` is one of few, for counting."""

    reason: str


Heard: TypeAlias = Samples | Interrupt | Reset | SelectBackend | Answer | Leave | Nothing


class Door(Protocol):
    """What a protocol is: bytes to what was heard, and events to bytes."""

    @property
    def name(self) -> str: ...

    @property
    def resumable(self) -> bool:
        """Whether the client has been told how to come back."""
        ...

    def opening(self) -> Iterable[Message]:
        """What the client gets before anything else."""
        ...

    def hear(self, message: Message) -> Iterator[Heard]:
        """Understand one message, in small pieces of work; raises AudioError."""
        ...

    def render(self, event: Event) -> Iterable[Message]: ...

    def note(self, values: Mapping[str, Any]) -> Iterable[Message]:
        """Something the server says by itself, for clients that asked to hear it."""
        ...

    def fault(self, reason: str) -> Iterable[Message]:
        """Why the visit ends, in words."""
        ...
