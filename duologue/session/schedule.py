"""When a step is made, and of whom: the one place that knows how sessions share the clock.

A step makes one frame of every session in it. It is due

- as soon as every talking session has a frame waiting (nobody is left to wait for), or
- at once, when the talking sessions could be served one by one in half a frame's time, or
- 80 ms after the last step, with those who have one; the others stand still and wait.

So one client is served without delay, many are gathered into one step per 80 ms, and a client that
is late or silent holds up nobody. A session with two or more frames waiting gets extra steps while
there is time left before the next step is due (`LatePolicy.CATCH_UP`), or loses all but the newest
`late_frames` (`LatePolicy.DROP`).

Pure arithmetic on what it is shown; times are seconds of any one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from duologue.engine.api import FRAME_S, LatePolicy

TALKING_S = 2 * FRAME_S
"""A session that had a step so lately is expected to have its next frame soon."""


class Frames(Protocol):
    """Frames that wait, as `InputQueue` has them."""

    @property
    def first_arrived_s(self) -> float: ...

    def __len__(self) -> int: ...

    def drop_to(self, count: int) -> int: ...


class Talker(Protocol):
    """A session as it is looked at here."""

    @property
    def input(self) -> Frames: ...

    @property
    def last_step_s(self) -> float | None: ...


T = TypeVar("T", bound=Talker)


@dataclass(frozen=True)
class Choice(Generic[T]):
    """Whom to step now (nobody: wait until `due_s`, if there is one)."""

    seats: Sequence[T] = ()
    due_s: float | None = None


@dataclass
class Schedule:
    """See the module. `expected_s` tells how long a step of so many sessions takes."""

    expected_s: Callable[[int], float]
    late: LatePolicy = LatePolicy.CATCH_UP
    late_frames: int = 3
    last_step_s: float = float("-inf")
    last_start_s: float = float("-inf")

    def choose(self, listening: Sequence[T], now: float) -> Choice[T]:
        """Decide about a step."""
        if self.late is LatePolicy.DROP:
            for seat in listening:
                seat.input.drop_to(self.late_frames)
        waiting = [seat for seat in listening if len(seat.input)]
        if not waiting:
            return Choice()
        due_s = self._due_s(listening, waiting, now)
        if now >= due_s:
            return Choice(waiting, due_s)
        behind = [seat for seat in waiting if len(seat.input) > 1]
        may_catch_up = behind and self.late is LatePolicy.CATCH_UP
        if may_catch_up and now + self.expected_s(len(behind)) <= due_s:
            return Choice(behind, now)
        return Choice(due_s=due_s)

    def has_time_for_start(self, listening: Sequence[Talker], now: float) -> bool:
        """Whether a step of somebody's start may be made although others talk.

        It may when it is over before their next step is due, and in any case once per frame.
        """
        talking = any(_talks(seat, now) for seat in listening)
        in_time = now + self.expected_s(1) <= self.last_step_s + FRAME_S
        return not talking or in_time or now - self.last_start_s >= FRAME_S

    def _due_s(self, listening: Sequence[T], waiting: Sequence[T], now: float) -> float:
        arrivals = [seat.input.first_arrived_s for seat in waiting]
        awaited = sum(_talks(seat, now) for seat in listening if not len(seat.input))
        if not awaited:
            return max(arrivals)
        if (awaited + len(waiting)) * self.expected_s(1) <= FRAME_S / 2:
            return min(arrivals)
        return max(self.last_step_s + FRAME_S, min(arrivals))


def _talks(seat: Talker, now: float) -> bool:
    return seat.last_step_s is not None and now - seat.last_step_s < TALKING_S
