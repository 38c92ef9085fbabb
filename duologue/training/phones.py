"""Phone labels -> how much of each part of a codec frame each phone fills.

These targets teach the first codebook what is said (Moshi distils a self-supervised model for
that; a corpus made by a synthesizer comes with the truth).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SILENCE = "pau"
UNKNOWN = -1
_SILENCES = {"", "pau", "sil", "sp", "h#", "#", "_", "_:", "ssil", "brth"}

Phone = tuple[str, float, float]
"""Symbol, start and end in seconds."""


def normalize_symbol(symbol: str) -> str:
    """One spelling for silence, no stress marks."""
    plain = symbol.strip().rstrip("0123456789").lower()
    return SILENCE if plain in _SILENCES else plain


@dataclass(frozen=True)
class PhoneHints:
    """Phones that are learnt beside all else, where a corpus knows them; never shipped."""

    weight: float = 0.0
    parts_per_frame: int = 2
    phones: tuple[str, ...] = ()
    """The phones that count; all of the corpus's when empty. Silence is always one."""

    def choose(self, labels: Iterable[Sequence[Phone] | None]) -> PhoneSet:
        """The phones that count in a corpus with these labels."""
        return PhoneSet.listing(self.phones) if self.phones else PhoneSet.of(labels)


@dataclass(frozen=True)
class PhoneSet:
    """The phones of a corpus, silence first."""

    symbols: tuple[str, ...]
    index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {symbol: i for i, symbol in enumerate(self.symbols)})

    @classmethod
    def of(cls, labels: Iterable[Sequence[Phone] | None]) -> PhoneSet:
        """All phones that occur in some labels."""
        found = {normalize_symbol(phone[0]) for phones in labels for phone in phones or ()}
        return cls((SILENCE, *sorted(found - {SILENCE})))

    @classmethod
    def listing(cls, symbols: Iterable[str]) -> PhoneSet:
        """Given phones, in order, silence added in front."""
        plain = dict.fromkeys(normalize_symbol(symbol) for symbol in symbols)
        return cls((SILENCE, *(symbol for symbol in plain if symbol != SILENCE)))

    def __len__(self) -> int:
        return len(self.symbols)

    def targets(
        self, phones: Sequence[Phone], start_s: float, parts: int, part_s: float
    ) -> NDArray[np.float32]:
        """Share [parts, phones] of each phone in consecutive parts.

        Time without a label is silence; a part that is mostly filled by phones that are not in the
        set is all zeros, which means that nothing is known.
        """
        shares = np.zeros((parts, len(self) + 1), dtype=np.float32)
        for symbol, begin, end in phones:
            first = max(0, int((begin - start_s) / part_s))
            last = min(parts, int(np.ceil((end - start_s) / part_s)))
            column = self.index.get(normalize_symbol(symbol), len(self))
            for part in range(first, last):
                left = start_s + part * part_s
                overlap = min(end, left + part_s) - max(begin, left)
                shares[part, column] += max(0.0, overlap) / part_s
        shares[:, 0] += np.maximum(0.0, 1.0 - shares.sum(axis=1))
        known, unknown = shares[:, :-1], shares[:, -1:]
        total = np.maximum(known.sum(axis=1, keepdims=True), 1e-6)
        return np.where(unknown > 0.5, 0.0, known / total).astype(np.float32)

    def classes(
        self, phones: Sequence[Phone], start_s: float, frames: int, parts: int, frame_s: float
    ) -> NDArray[np.int64]:
        """The phone that fills most of each part of each frame [frames, parts]; -1 if unknown."""
        shares = self.targets(phones, start_s, frames * parts, frame_s / parts)
        known = np.where(shares.any(axis=1), shares.argmax(axis=1), UNKNOWN)
        return known.reshape(frames, parts)
