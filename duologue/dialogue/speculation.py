"""Looking things up before the model asks: when to begin, and when a guess is no longer one.

A speculative lookup uses the transcript as it stands once the user's words have not changed for a
few frames. It is adopted by the next trigger if the question is still the same when that
trigger's lookup would start, and thrown away as soon as the text changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from duologue.dialogue.checks import check_int, check_type
from duologue.dialogue.hedging import Attempt
from duologue.dialogue.ports import LookupContext
from duologue.dialogue.waiting import Listening


@dataclass(frozen=True)
class SpeculationRules:
    """When guesses are made.

    One begins after `stable_frames` frames without a new word and, where there are pause estimates,
    without the user's voice: words alone would make a guess of every gap between two of them. At
    most `limit` are made between two triggers (further pauses are not used), and each lives
    `lifetime_frames` frames unless adopted.
    """

    enabled: bool = False
    stable_frames: int = 3
    lifetime_frames: int = 50
    limit: int = 4

    def __post_init__(self) -> None:
        check_type(self, "enabled", bool)
        check_int(self, "stable_frames", 0, 1_000)
        check_int(self, "lifetime_frames", 1, 10_000)
        check_int(self, "limit", 1, 1_000)

    def may_begin(self, made: int, used_revision: int, listening: Listening, frame: int) -> bool:
        """Say whether the words heard so far are new and have settled."""
        last_heard = listening.last_word_frame
        if listening.has_estimate:
            last_heard = max(last_heard, listening.last_speech_frame)
        return (
            self.enabled
            and made < self.limit
            and listening.revision > used_revision
            and frame - last_heard >= self.stable_frames
        )


@dataclass
class Speculation:
    """A lookup without a trigger; `revision` is the state of the user's words it stands for."""

    attempt: Attempt
    context: LookupContext
    revision: int
