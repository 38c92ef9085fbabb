"""Whether the user is heard speaking, from the level of each frame alone.

A frame counts as voice when it stands out of what the room sounds like by `margin_db`, is not more
than `range_db` below the loudest that the user has lately been, and is louder than the echo that
the model's own voice can have left in the microphone. What is taken for the room falls quickly and
rises slowly, so a steady noise is taken for the room after a while, and a speaker, who pauses, is
not.

Speech over the model's is counted as evidence: a loud frame weighs twice as much as a quiet one,
and silence takes away what a loud one gave. So "stop" is believed soon, a murmured "uh-huh" later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from duologue.dialogue.checks import check_int, check_number

DEEPEST_DB, LOUDEST_DB = -75.0, 20.0
"""Levels are cut to this; digital silence is far below."""
MOST_ROOM_DB = -38.0
"""A conversation that begins in the middle of a word must not take it for the room."""
LEAST_PEAK_DB = -40.0
ECHO_FRAMES = 6
"""The model's voice may come back that much later."""
AUDIBLE_DB = -50.0
"""Above this the model is heard speaking."""
_GAP_FRAMES = 3
LOUD, QUIET = 2, 1
"""Evidence of a frame."""


@dataclass(frozen=True)
class VoicingRules:
    """See the module. Levels are dB of full scale, or differences of them, per frame of 80 ms."""

    margin_db: float = 9.0
    range_db: float = 22.0
    least_db: float = -58.0
    """Nothing below counts as voice."""
    loud_db: float = 12.0
    """Voice within so much of the user's loudest is loud."""
    echo_db: float = 20.0
    """The model's voice comes back at least so much weaker."""
    room_rise_db: float = 0.15
    peak_fall_db: float = 0.1
    evidence: int = 6
    """From so much on the user is taken to speak over the model: three loud frames in a row."""

    def __post_init__(self) -> None:
        for name in ("margin_db", "range_db", "loud_db", "echo_db"):
            check_number(self, name, 0.0, 100.0)
        check_number(self, "least_db", -100.0, 0.0)
        for name in ("room_rise_db", "peak_fall_db"):
            check_number(self, name, 0.001, 10.0)
        check_int(self, "evidence", 1, 100)


@dataclass
class VoicingState:
    """All that is remembered of levels."""

    room_db: float | None = None
    peak_db: float = LEAST_PEAK_DB
    echoes: list[float] = field(default_factory=list)
    """Levels of the model's last frames."""
    evidence: int = 0
    silent: int = 0
    """Frames since the last one with voice, or since the beginning."""

    def copy(self) -> VoicingState:
        """The same, to go on with apart."""
        return replace(self, echoes=list(self.echoes))

    @property
    def sounds(self) -> bool:
        """Whether the last frame had the user's voice in it."""
        return self.silent == 0

    @property
    def model_sounds(self) -> bool:
        """Whether the model has just been heard."""
        return max(self.echoes[-2:], default=DEEPEST_DB) > AUDIBLE_DB

    @property
    def goes_on(self) -> bool:
        """Whether the user has been heard for more than a moment, and still is."""
        return self.sounds and self.evidence >= 2 * LOUD

    def talks_over(self, rules: VoicingRules) -> bool:
        """Whether the user is taken to speak over the model, which sounds."""
        return self.evidence >= rules.evidence and self.model_sounds

    def listen(self, rules: VoicingRules, level_db: float) -> None:
        """Take the level of the user's next frame."""
        level = _bounded(level_db)
        room = min(level, MOST_ROOM_DB) if self.room_db is None else self.room_db
        room = (
            room + 0.3 * (level - room) if level < room else min(level, room + rules.room_rise_db)
        )
        if level > self.peak_db:
            self.peak_db += 0.5 * (level - self.peak_db)
        else:
            self.peak_db = max(self.peak_db - rules.peak_fall_db, LEAST_PEAK_DB, room + 12.0)
        self.room_db = room
        loudest_echo = max(self.echoes, default=DEEPEST_DB) - rules.echo_db
        least = max(
            room + rules.margin_db, self.peak_db - rules.range_db, rules.least_db, loudest_echo
        )
        if level <= least:
            self.silent += 1
            # After a gap it would be another interruption.
            self.evidence = max(0, self.evidence - LOUD) if self.silent < _GAP_FRAMES else 0
            return
        self.silent = 0
        weight = LOUD if level > self.peak_db - rules.loud_db else QUIET
        self.evidence = min(self.evidence + weight, 2 * rules.evidence)

    def hear_model(self, level_db: float | None) -> None:
        """Take the level of the model's frame that was just made."""
        self.echoes.append(DEEPEST_DB if level_db is None else _bounded(level_db))
        del self.echoes[:-ECHO_FRAMES]


def _bounded(level_db: float) -> float:
    """A level that is no number is silence."""
    if math.isnan(level_db):
        return DEEPEST_DB
    return min(max(level_db, DEEPEST_DB), LOUDEST_DB)
