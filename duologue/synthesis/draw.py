"""Random draws that depend on nothing but a key.

`Draw("dialogue", seed, index)` gives the same values on every machine, in every process and in
every Python version: it uses only `random.Random.random`, the one method whose sequence the
language promises to keep. `bucket` is the same idea for a single yes-or-no question about a text.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A stream of random values named by its key."""

    def __init__(self, *key: object) -> None:
        self.key = key
        self._random = random.Random("/".join(str(part) for part in key)).random

    def split(self, *more: object) -> Draw:
        """A stream of its own: drawing from it does not move this one."""
        return Draw(*self.key, *more)

    def unit(self) -> float:
        """A number in [0, 1)."""
        return self._random()

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both possible."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def choice(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """One key of `weights`, in proportion to its value."""
        point = self._random() * sum(weights.values())
        for item, weight in weights.items():
            point -= weight
            if point < 0:
                return item
        return next(reversed(list(weights)))

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        rest = list(items)
        return [rest.pop(int(self._random() * len(rest))) for _ in range(min(count, len(rest)))]

    def normal(self, mean: float, deviation: float) -> float:
        radius = math.sqrt(-2.0 * math.log(1.0 - self._random()))
        return mean + deviation * radius * math.cos(2.0 * math.pi * self._random())

    def seed(self) -> int:
        """A 32-bit seed for a generator of another kind."""
        return int(self._random() * 2**32)


def bucket(key: str, buckets: int = 100) -> int:
    """The bucket, in [0, buckets), that a text falls into for ever."""
    digest = hashlib.blake2s(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets
