"""Figures with 95 % confidence intervals: Wilson's for shares, the bootstrap for everything else.

Every interval treats one conversation as one draw. Resampling uses a fixed seed, so the same
verdicts always give the same report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z = 1.959964
"""Of a two-sided 95 % interval."""
RESAMPLES = 2000
_BLOCK = 2**22
"""Numbers drawn at a time."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, its interval and from how many cases it comes; all None without any."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        value, low, high = (
            None if part is None else part * factor for part in (self.value, self.low, self.high)
        )
        return Estimate(value, low, high, self.n)


NOTHING = Estimate(None, None, None, 0)


def share(hits: Iterable[bool]) -> Estimate:
    """The share of hits, with Wilson's interval."""
    found = list(hits)
    n = len(found)
    if not n:
        return NOTHING
    p = sum(found) / n
    spread = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    centre, scale = p + _Z**2 / (2 * n), 1 + _Z**2 / n
    return Estimate(p, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale), n)


def mean(values: Iterable[float]) -> Estimate:
    """The mean."""
    return _bootstrap(_column(values), lambda drawn: drawn[..., 0].mean(axis=1))


def quantile(values: Iterable[float], q: float) -> Estimate:
    """A quantile; 0.5 is the median."""
    return _bootstrap(_column(values), lambda drawn: np.quantile(drawn[..., 0], q, axis=1))


def ratio(pairs: Iterable[tuple[float, float]]) -> Estimate:
    """Sum of the first over sum of the second: word errors over words, of whole conversations."""

    def divide(drawn: Floats) -> Floats:
        sums = drawn.sum(axis=1)
        return sums[:, 0] / np.maximum(sums[:, 1], 1.0)

    rows = np.array(list(pairs), dtype=np.float64).reshape(-1, 2)
    return _bootstrap(rows, divide) if rows[:, 1].sum() > 0 else NOTHING


def difference_of_ratios(rows: Iterable[tuple[float, float, float]]) -> Estimate:
    """Sum of (first - second) over sum of the third: what decoding adds to a word error rate."""
    return ratio((first - second, words) for first, second, words in rows)


def _column(values: Iterable[float]) -> Floats:
    return np.array(list(values), dtype=np.float64).reshape(-1, 1)


def _bootstrap(rows: Floats, figure: Callable[[Floats], Floats]) -> Estimate:
    """`figure` takes draws [resamples, n, columns] to [resamples]."""
    n = len(rows)
    if not n:
        return NOTHING
    random = np.random.default_rng(0)
    step = max(1, _BLOCK // n)
    found: list[Floats] = []
    for first in range(0, RESAMPLES, step):
        picks = random.integers(n, size=(min(step, RESAMPLES - first), n))
        found.append(figure(rows[picks]))
    low, high = np.quantile(np.concatenate(found), (0.025, 0.975))
    return Estimate(float(figure(rows[None])[0]), float(low), float(high), n)


def percentile(values: Sequence[float], q: float) -> float | None:
    """A plain quantile, None of nothing."""
    return float(np.quantile(values, q)) if values else None
