"""The port to a system under test: a recording of the user in, a conversation out.

Everything is on the frame clock of the input: what a system says in frame k was said when frame k
of the user was heard. An adapter must be causal and, for one request, deterministic: interruptions
are placed into what the same system says to the same beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from duologue.evaluation.activity import Pcm
from duologue.evaluation.knowledge import Knowledge
from duologue.evaluation.scene import Scene

FRAME_S = 0.08
SAMPLE_RATE = 24_000
FRAME_SIZE = 1920


@dataclass(frozen=True)
class Request:
    """What a system is given. Systems under test leave `scene` alone: it is for oracles."""

    pcm: Pcm
    """The user's microphone, float32 [T] at `SAMPLE_RATE`."""
    knowledge: Knowledge
    init_speaker: str
    """`model` if the system is to begin, else `user`."""
    seed: int
    scene: Scene | None = None
    """What there is to know about it, where there is more than its sound."""


@dataclass(frozen=True)
class Piece:
    """Text at its frame, with its own spaces."""

    frame: int
    text: str


@dataclass(frozen=True)
class Lookup:
    """What became of one retrieval."""

    trigger_frame: int
    arrival_frame: int | None = None
    """When the first row of what was found (or of the sign that nothing was) could be added."""
    rows: int = 0
    outcome: str = "open"
    """answered, empty, timed_out, failed, cancelled; open if it was still running at the end."""
    reference: str = ""


@dataclass(frozen=True)
class Conversation:
    """What a system did."""

    pcm: Pcm
    """Its voice, float32 [T'] at `SAMPLE_RATE`, on the clock of the request."""
    text: tuple[Piece, ...] = ()
    """Its own text stream."""
    heard: tuple[Piece, ...] | None = None
    """What it understood of the user, at the frames in which it knew; None if it has no STT."""
    lookups: tuple[Lookup, ...] = ()
    frame_seconds: tuple[float, ...] = field(default=(), repr=False)
    """Wall time of each frame, for systems that work frame by frame."""


class Talker(Protocol):
    """A system under test."""

    @property
    def name(self) -> str:
        """For people: what was measured."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the system would say something else."""
        ...

    def converse(self, request: Request) -> Conversation: ...


def text_of(pieces: Sequence[Piece], start_s: float = 0.0, end_s: float = float("inf")) -> str:
    """The text of a stretch of time."""
    chosen = (piece.text for piece in pieces if start_s <= piece.frame * FRAME_S < end_s)
    return "".join(chosen).strip()


def text_of_details(pieces: Sequence[Sequence[object]]) -> str:
    """The same of pieces as they are stored: [frame, text]."""
    return "".join(str(text) for _, text in pieces).strip()
