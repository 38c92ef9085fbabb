"""Recognition by a service, done before the conversation and handed in frame by frame.

A service takes as long as it takes, which must not decide what is said. So the whole recording is
recognised first; each word is then heard `WORD_DELAY_FRAMES` after it began, as a local recogniser
would have it. Services tell words, and a conversation needs pauses too: the user is taken to be
silent wherever no word is near.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from duologue.stt.ports import FRAME_RATE, Heard, Word

WORD_DELAY_FRAMES = 6
"""Published delay of recognition: half a second."""
GAP_FRAMES = 6
"""Silence between words that is no pause."""
_SPEAKING, _SILENT = 0.05, 0.95


def heard_ahead(words: Sequence[Word], frames: int) -> list[Heard]:
    """What is heard in each of `frames` frames of a recording, and until its last word is told."""
    arriving: defaultdict[int, list[Word]] = defaultdict(list)
    speaking = [False] * (frames + WORD_DELAY_FRAMES)
    for word in words:
        first = int(word.start_s * FRAME_RATE)
        end_s = word.start_s if word.end_s is None else word.end_s
        last = max(first, int(end_s * FRAME_RATE))
        arriving[min(first, frames - 1) + WORD_DELAY_FRAMES].append(word)
        for frame in range(first, min(last + 1, frames)):
            speaking[frame] = True
    _close_gaps(speaking)
    return [
        Heard(
            words=tuple(f" {word.text}" for word in arriving[frame]),
            inactivity=_SPEAKING if speaking[frame] else _SILENT,
            transcribed_frame=max(-1, frame - WORD_DELAY_FRAMES),
            completed=tuple(arriving[frame]),
        )
        for frame in range(frames + WORD_DELAY_FRAMES)
    ]


def _close_gaps(speaking: list[bool]) -> None:
    last = None
    for frame, speaks in enumerate(speaking):
        if not speaks:
            continue
        if last is not None and frame - last <= GAP_FRAMES:
            speaking[last:frame] = [True] * (frame - last)
        last = frame
