"""The sound of what a user asked last, for who wants to hear it again.

Kept on the model's thread as frames come, bounded; a lookup's question is set apart when the lookup
begins, and may then be asked for from any thread. None of it is written down anywhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from duologue.retrieval.protocol import Guess, HearAgain, HeardAgain, Likelihood
from duologue.stt.second_hearing import Hearing, SecondHearing

P = ParamSpec("P")
T = TypeVar("T")

MAX_QUESTIONS = 4
"""Lookups whose question is kept; the oldest is dropped for another."""
LEAD_FRAMES = 8
"""Before the turn began, as the dialogue brain saw it: recognition is a little behind."""


class Questions:
    """One conversation's. With `keeps=0` nothing is kept.

    Args:
        keeps: frames, the last ones.
    """

    def __init__(self, keeps: int) -> None:
        self._recent: deque[NDArray[np.float32]] = deque(maxlen=keeps)
        self._turn = 0
        """Frames since the user's turn began."""
        self._asked: dict[int, NDArray[np.float32]] = {}

    def hear(self, pcm: NDArray[np.float32]) -> None:
        """Take a frame of the user's."""
        if self._recent.maxlen:
            self._recent.append(np.array(pcm, np.float32))
            self._turn += 1

    def begin_turn(self, frames_ago: int) -> None:
        """The user has taken the floor."""
        self._turn = frames_ago + LEAD_FRAMES

    def begin_lookup(self, lookup: int) -> None:
        """Set apart what was asked."""
        if not self._recent:
            return
        frames = list(self._recent)[-max(1, self._turn) :]
        while len(self._asked) >= MAX_QUESTIONS:
            del self._asked[next(iter(self._asked))]
        self._asked[lookup] = np.concatenate(frames)

    def of_lookup(self, lookup: int) -> NDArray[np.float32] | None:
        """What was asked when a lookup began, float32 [T]; None if it is not known any more."""
        return self._asked.get(lookup)

    def forget(self) -> None:
        """Begin anew."""
        self._recent.clear()
        self._asked.clear()
        self._turn = 0


class Rehearing:
    """Hears the questions of all conversations again, one at a time, on a thread of its own."""

    def __init__(self, hearing: SecondHearing | None) -> None:
        self._hearing = hearing
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="second-hearing")

    def keeps(self, frame_size: int) -> int:
        """Frames that a conversation keeps for this."""
        return 0 if self._hearing is None else self._hearing.max_samples // frame_size

    def of(self, questions: Questions, lookup: int) -> HearAgain | None:
        """How a lookup's question is heard again; None if nobody can."""
        hearing, question = self._hearing, questions.of_lookup(lookup)
        if hearing is None or question is None:
            return None

        async def hear_again() -> HeardAgain:
            return _Heard(hearing, await self._run(hearing.hear, question), self._run)

        return hear_again

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))

    def close(self) -> None:
        """Stop the thread; what waits for it is cancelled."""
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Heard:
    """A question that was heard again, to be asked more of."""

    by: SecondHearing
    hearing: Hearing
    run: Callable[..., Awaitable[Any]]

    @property
    def texts(self) -> Sequence[str]:
        return self.hearing.texts

    async def likelihoods(
        self, guesses: Sequence[Sequence[Guess]]
    ) -> Sequence[Sequence[Likelihood]]:
        likely: Sequence[Sequence[Likelihood]]
        likely = await self.run(self.by.likelihoods, self.hearing, guesses)
        return likely
