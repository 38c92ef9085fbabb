"""When, after a trigger, the question may be looked up.

The model often triggers while speech recognition is still behind the end of the question. The
published rule (MoshiRAG reference, trigger path) waits a fixed number of steps, of which the
first is the trigger's own frame. The better rule waits only until recognition has caught up with
the last frame in which the user was heard speaking, and never longer than the fixed wait.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from duologue.dialogue.checks import check_int, check_type


class WaitRule(Enum):
    """Wait the fixed number of steps, or until recognition has caught up with the question."""

    FIXED = "fixed"
    CAUGHT_UP = "caught_up"


LONGEST_STEPS = 20
"""Frames that are waited for a recogniser's last word unless somebody asked for more."""


@dataclass(frozen=True)
class WaitRules:
    """The wait between trigger and lookup.

    `steps` frames at most, the trigger's own included, so 0 and 1 both mean no wait. For
    recognisers that do not say how far they are, words are taken to be `stt_delay_frames` behind
    the audio.
    """

    rule: WaitRule = WaitRule.FIXED
    steps: int = 12
    stt_delay_frames: int = 6

    def __post_init__(self) -> None:
        check_type(self, "rule", WaitRule)
        check_int(self, "steps", 0, 1_000)
        check_int(self, "stt_delay_frames", 0, 1_000)

    def behind(self, stt_delay_frames: int) -> WaitRules:
        """The same for a recogniser that is so far behind: who waits until it has caught up waits
        long enough for its last word, where that comes within `LONGEST_STEPS`.
        """
        steps = self.steps
        if self.rule is WaitRule.CAUGHT_UP and steps <= stt_delay_frames < LONGEST_STEPS:
            steps = stt_delay_frames + 1
        return replace(self, steps=steps, stt_delay_frames=stt_delay_frames)

    def is_over(self, trigger_frame: int, frame: int, listening: Listening) -> bool:
        """Say whether the lookup may start at the end of `frame`."""
        if frame - trigger_frame >= self.steps - 1:
            return True
        if self.rule is WaitRule.FIXED:
            return False
        return listening.transcribed_frame >= listening.question_end(trigger_frame)


@dataclass
class Listening:
    """How far recognition has come and when the user last spoke.

    `revision` counts recognised words that are more than white space, so equal revisions mean
    equal text.
    """

    transcribed_frame: int = -1
    last_speech_frame: int = -1
    last_word_frame: int = -1
    has_estimate: bool = False
    revision: int = 0

    def question_end(self, trigger_frame: int) -> int:
        """Return the last frame of the question; without pause estimates, the trigger's frame."""
        return self.last_speech_frame if self.has_estimate else trigger_frame

    def update(
        self, frame: int, transcribed_frame: int, user_speaks: bool | None, new_words: int
    ) -> None:
        """Take one frame; `user_speaks` is None when there is no estimate in it."""
        self.transcribed_frame = max(self.transcribed_frame, min(transcribed_frame, frame))
        if user_speaks is not None:
            self.has_estimate = True
            if user_speaks:
                self.last_speech_frame = frame
        if new_words:
            self.revision += new_words
            self.last_word_frame = frame
