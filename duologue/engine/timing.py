"""How long steps take, and whether one more conversation would fit into them.

Pure arithmetic on durations; whoever measures has the clock.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable

from duologue.engine.api import FRAME_S, Admission, FrameTimes

RECENT = 512
"""Durations that quantiles are taken of: 41 s of steps."""
BOUNDS_S = (
    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.16,
    0.24, 0.32, 0.64, 1.28, 2.56,
)  # fmt: skip
FLUSH_SHARE = 0.5
"""Of a frame's time that recognition may take to catch up between two frames, if all sessions ask
for it at once."""
RETRY_AFTER_S = 10.0
"""What a refused client is told when nothing better is known."""


def quantile(durations: Iterable[float], q: float) -> float:
    """The smallest duration that at least a fraction `q` of all does not exceed; 0 for none."""
    ordered = sorted(durations)
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def is_quick(flush_s: float | None) -> bool:
    """Whether recognition that takes so long (`None`: there is none) may catch up while live."""
    return flush_s is not None and flush_s <= FLUSH_SHARE * FRAME_S


class DurationStats:
    """A distribution of durations: counts since the start, quantiles of the recent past."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._count, self._total_s, self._max_s = 0, 0.0, 0.0

    def observe(self, duration_s: float) -> None:
        self._recent.append(duration_s)
        self._counts[bisect.bisect_left(BOUNDS_S, duration_s)] += 1
        self._count += 1
        self._total_s += duration_s
        self._max_s = max(self._max_s, duration_s)

    def report(self) -> FrameTimes:
        """The figures as they are now."""
        recent = sorted(self._recent.copy())
        cumulative, total = [], 0
        for bound, count in zip((*BOUNDS_S, float("inf")), self._counts, strict=True):
            total += count
            cumulative.append((bound, total))
        return FrameTimes(
            count=self._count,
            total_s=self._total_s,
            p50_s=quantile(recent, 0.5),
            p95_s=quantile(recent, 0.95),
            p99_s=quantile(recent, 0.99),
            max_s=self._max_s,
            buckets=tuple(cumulative),
        )


class Capacity:
    """Expected time of a step, from the steps that were measured.

    A step with n conversations costs what measured ones cost, plus `marginal_s` for each that they
    had fewer (measured at the start, with one slot busy and with all). The expectation is the 95th
    percentile of the recent past, so that a passing hiccup neither opens nor closes the door.
    """

    def __init__(self, slots: int, budget_s: float = FRAME_S * 0.9) -> None:
        self.slots, self.budget_s = slots, budget_s
        self.marginal_s = 0.0
        self._measured: deque[tuple[int, float]] = deque(maxlen=RECENT // 2)

    def calibrate(self, one_s: float, all_s: float) -> None:
        """Take the times of a step with one slot busy, and with all."""
        if self.slots > 1:
            self.marginal_s = max(0.0, (all_s - one_s) / (self.slots - 1))
        self._measured.append((1, one_s))

    def observe(self, busy: int, step_s: float) -> None:
        """Take the time of a step that made a frame of `busy` conversations."""
        self._measured.append((busy, step_s))

    def expected_s(self, busy: int) -> float:
        """What a step with so many conversations is expected to take."""
        seen = self._measured.copy()
        return quantile((s + max(0, busy - n) * self.marginal_s for n, s in seen), 0.95)

    def admit(self, in_use: int) -> Admission:
        """Whether one more conversation beside `in_use` others would stay in the budget."""
        if in_use >= self.slots:
            return Admission(False, RETRY_AFTER_S, f"all {self.slots} slots are taken")
        expected_s = self.expected_s(in_use + 1)
        if in_use and expected_s > self.budget_s:
            return Admission(
                False,
                RETRY_AFTER_S,
                f"a frame of {in_use + 1} conversations would take {expected_s * 1000:.0f} ms of "
                f"{self.budget_s * 1000:.0f} ms",
            )
        return Admission(True)
