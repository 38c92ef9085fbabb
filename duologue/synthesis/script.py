"""A dialogue on paper: who says what, what is looked up, who interrupts whom. No sound, no clock.

Times are relative: a turn begins `gap_s` after the end of the speech before it, so that one script
can be spoken by any voice. The mixer turns it into a time line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from duologue.synthesis.splits import Split


class Speaker(StrEnum):
    """The names of the published fine-tuning format."""

    WREN = "SPEAKER_MAIN"
    USER = "SPEAKER_OTHER"
    NOBODY = "NOBODY"


class Outcome(StrEnum):
    """What came of a lookup."""

    FOUND = "found"
    """A reference arrived."""
    EMPTY = "empty"
    """The lookup ended and had found nothing."""
    FAILED = "failed"
    """The lookup ended with an error."""
    LOST = "lost"
    """Nothing ever came back."""


class Novelty(StrEnum):
    """How far a fact is from what training showed."""

    KNOWN = "known"
    """A real fact that training may state."""
    HELD_OUT_FACT = "held_out_fact"
    """A real fact that training never asks for, of an entity that it knows."""
    HELD_OUT_ENTITY = "held_out_entity"
    """A real fact of an entity that training never names."""
    CHANGED = "changed"
    """A real entity with a value that contradicts the fact book."""
    INVENTED = "invented"
    """An entity that exists nowhere, or a fact of the user's own."""
    LIVE = "live"
    """Worked out by a tool at the time of asking."""


@dataclass(frozen=True)
class FactId:
    """What a question is about, for scoring by class."""

    topic: str
    entity: str
    relation: str
    answer: str
    """The words that an answer must contain."""
    novelty: Novelty


@dataclass(frozen=True)
class Delay:
    """When the result of a lookup arrives after its trigger: low + draw * (high - low).

    `high_s` None stands for the length of the lead, the published rule for short leads.
    """

    low_s: float
    high_s: float | None
    draw: float

    def seconds(self, lead_s: float) -> float:
        high_s = max(self.low_s, lead_s) if self.high_s is None else self.high_s
        return self.low_s + self.draw * (high_s - self.low_s)


@dataclass(frozen=True)
class Lookup:
    """A retrieval: triggered just before the first word of the lead."""

    fact: FactId
    reference: str
    outcome: Outcome
    delay: Delay


@dataclass(frozen=True)
class Pause:
    """Silence inside a turn, after so many of its words."""

    after_words: int
    seconds: float


@dataclass(frozen=True)
class Backchannel:
    """The listener's short sign of attention, begun that long after the speaker's n-th word."""

    after_words: int
    delay_s: float
    text: str


@dataclass(frozen=True)
class BargeIn:
    """This user turn begins inside the wren turn before it, which then stops.

    The start is a share of the lead (`in_lead`) or of the body; wren is silent `reaction_s` later.
    """

    fraction: float
    reaction_s: float
    in_lead: bool = False


@dataclass(frozen=True)
class Turn:
    """One speaker's turn. A wren turn with a lookup is lead, perhaps filler, then `text`."""

    speaker: Speaker
    act: str
    text: str = ""
    gap_s: float = 0.3
    lead: str = ""
    filler: str = ""
    lookup: Lookup | None = None
    pauses: tuple[Pause, ...] = ()
    backchannels: tuple[Backchannel, ...] = ()
    barge_in: BargeIn | None = None
    phrasing: str = ""
    """The template that the text comes from."""
    duration_s: float = 0.0
    """Of a turn of nobody: silence or noise for so long."""


@dataclass(frozen=True)
class Dialogue:
    """A whole script. `label` is the class of its main scene."""

    seed: int
    index: int
    split: Split
    label: str
    turns: tuple[Turn, ...]
    wren_begins: bool = False
    tail_s: float = 1.0
    """Silence after the last turn."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.split}-{self.seed}-{self.index:07d}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def text(self) -> str:
        """The script as readable lines."""
        lines = []
        for turn in self.turns:
            who = {Speaker.WREN: "wren", Speaker.USER: "user"}.get(turn.speaker, "-")
            said = " | ".join(part for part in (turn.lead, turn.filler, turn.text) if part)
            lines.append(f"{who}: {said or f'[{turn.act} {turn.duration_s:.1f} s]'}")
        return "\n".join(lines)
