"""Hearing a question again, a little slower and a little faster: other chances for its words.

A small recogniser errs at random: played at another speed, which moves pitch and formants too, a
voice is another voice, and other words go wrong. Where nothing was found for what was heard first,
what is heard then often finds it (`docs/retrieval.md` has figures). Conversations are not touched:
it has states of its own, and the recogniser's compiled parts take turns between threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from duologue.stt.front_end import MelFrontEnd
from duologue.stt.offline import transcribe
from duologue.stt.ports import LocalRecogniser
from duologue.stt.recogniser import Recogniser

SPEEDS = (0.96, 1.04, 1.08)
MAX_S = 12.0
"""Of a question, the last."""


class SecondHearing:
    """Hears recordings again with a recogniser. Any thread may ask; see `of` for who can be one."""

    def __init__(self, recogniser: Recogniser, speeds: Sequence[float] = SPEEDS) -> None:
        self._recogniser, self._speeds = recogniser, tuple(speeds)

    @classmethod
    def of(cls, recogniser: LocalRecogniser[Any] | None) -> Self | None:
        """One for a recogniser that hears sound itself, on a CPU; else None.

        Codes would have to be made again by a codec that is far slower, and on a GPU this would
        run between the frames of all conversations.
        """
        if not isinstance(recogniser, Recogniser) or recogniser.lm.device.type != "cpu":
            return None
        return cls(recogniser) if isinstance(recogniser.front_end, MelFrontEnd) else None

    @property
    def max_samples(self) -> int:
        """So much of a recording is heard."""
        return int(MAX_S * self._recogniser.sample_rate)

    def texts(self, pcm: NDArray[np.float32]) -> list[str]:
        """What the last `MAX_S` of a recording [T] at 24 kHz may say, one for each speed."""
        recorded = pcm[-self.max_samples :]
        if not len(recorded):
            return []
        played = [torch.from_numpy(_at_speed(recorded, speed)) for speed in self._speeds]
        heard = transcribe(
            self._recogniser, played, tail_frames=self._recogniser.flush_frames, chunk_frames=1
        )
        return [one.text for one in heard]


def _at_speed(pcm: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """The recording played so many times as fast, pitch and all."""
    places = np.arange(int(len(pcm) / speed)) * speed
    return np.interp(places, np.arange(len(pcm)), pcm).astype(np.float32)
