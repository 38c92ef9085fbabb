"""When a conversation over a recording is over.

Published: at the end of the recording, or when more than so many silent text tokens in a row have
followed it. The better rules also wait for a lookup that is still open or whose rows are still
being added, since the model falls silent while it waits, and never longer than a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from duologue.dialogue import frames_within
from duologue.offline.settings import TalkSettings


@dataclass
class Stopping:
    """Told of each frame; `over` once no more are wanted."""

    question_frames: int
    """Frames of the recording."""
    settings: TalkSettings
    frames: int = 0
    silent: int = 0
    over: bool = False

    def __post_init__(self) -> None:
        self.over = self.question_frames == 0

    def step(self, *, is_silent: bool, is_busy: bool) -> None:
        """Count one frame of the model.

        Args:
            is_silent: whether it had a text token of silence.
            is_busy: whether a lookup is open or a reference is being added.
        """
        self.frames += 1
        tail = self.frames - self.question_frames
        self.silent = self.silent + 1 if is_silent and tail > 0 else 0
        self.over = tail >= 0 and self._is_over(tail, is_busy)

    def _is_over(self, tail: int, is_busy: bool) -> bool:
        settings = self.settings
        if settings.stop_at_end:
            return True
        if settings.tail_s is not None:
            return tail >= frames_within(settings.tail_s)
        if tail >= frames_within(settings.max_tail_s):
            return True
        waits = is_busy and not settings.counts_as_published
        return self.silent > settings.silence_frames and not waits
