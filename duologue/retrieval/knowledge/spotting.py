"""Names in a question that was heard wrong: which of those that are known sound like part of it.

A recogniser writes a name that it does not know by its sound, also across words: "the capital of
Kasobo" (Kosovo), "who lives next orterr moritania" (Mauritania). Here each name is aligned with the
sounds of the whole question, to begin and end anywhere, at least cost (`pronunciation`); words may
be cut through, at a price. All names are aligned at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duologue.retrieval.knowledge.pronunciation import EXCHANGED, LOST, sounds_of

MAX_SOUNDS = 24
"""Longer names, and further sounds of a name, are left out."""
MAX_HEARD = 120
"""Of a question's sounds, the last."""
CUT = 0.5
"""Cost of beginning or ending inside a word."""
_FAR = 1e9


@dataclass(frozen=True, slots=True)
class Spotted:
    """A name that may be meant by the words `first` to `last` (inclusive) of a question.

    `whole`: what it costs to miss the whole name; `distance`: cost of hearing it so, as a share of
    that.
    """

    name: str
    whole: float
    distance: float
    first: int
    last: int


class Spotter:
    """Finds a fixed set of names.

    Args:
        names: as they are to be given back; those without sounds are left out.
    """

    def __init__(self, names: Sequence[str]) -> None:
        read = [(name, sounds_of(name.lower())) for name in dict.fromkeys(names)]
        read = [(name, sounds) for name, sounds in read if 0 < len(sounds) <= MAX_SOUNDS]
        self.names = tuple(name for name, _ in read)
        self._lengths = np.array([len(sounds) for _, sounds in read], np.intp)
        width = int(self._lengths.max(initial=1))
        # By place in the name first, so that each is one row of memory.
        self._sounds = np.zeros((width, len(read)), np.intp)
        for number, (_, sounds) in enumerate(read):
            self._sounds[: len(sounds), number] = sounds
        inside = np.arange(width)[:, None] < self._lengths
        self._lost = np.where(inside, LOST[self._sounds], 0.0).astype(np.float32)
        self._whole = self._lost.sum(axis=0)

    def spot(self, words: Sequence[str], limit: int) -> list[Spotted]:
        """The names that are nearest to some part of a question, nearest first.

        Args:
            words: of the question, lower case.
        """
        heard, owner, begins = _heard(words)
        if not len(heard) or not self.names:
            return []
        distances, starts, ends = self._align(heard, begins)
        chosen = np.argsort(distances, kind="stable")[:limit].tolist()
        return [
            Spotted(
                self.names[i],
                whole=float(self._whole[i]),
                distance=float(distances[i]),
                first=int(owner[starts[i]]),
                last=int(owner[ends[i]]),
            )
            for i in chosen
            if ends[i] >= starts[i]
        ]

    def _align(
        self, heard: NDArray[np.intp], begins: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]:
        """For each name its least distance, and the first and last sound of that part."""
        width, count = self._sounds.shape
        names = np.arange(count)
        costs = np.zeros((width + 1, count), np.float32)
        np.cumsum(self._lost, axis=0, out=costs[1:])
        starts = np.zeros((width + 1, count), np.intp)
        best = np.full(count, _FAR, np.float32)
        best_start, best_end = np.zeros(count, np.intp), np.full(count, -1, np.intp)
        exchanged, lost = EXCHANGED.astype(np.float32), LOST.astype(np.float32)
        for place, sound in enumerate(heard.tolist()):
            at_end = place + 1 == len(heard) or bool(begins[place + 1])
            new, new_starts = np.empty_like(costs), np.empty_like(starts)
            new[0], new_starts[0] = 0.0 if at_end else CUT, place + 1
            changed = costs[:-1] + exchanged[sound][self._sounds]
            extra = costs[1:] + lost[sound]
            taken = changed <= extra
            new[1:] = np.where(taken, changed, extra)
            new_starts[1:] = np.where(taken, starts[:-1], starts[1:])
            for row in range(1, width + 1):
                missed = new[row - 1] + self._lost[row - 1]
                fewer = missed < new[row]
                np.copyto(new[row], missed, where=fewer)
                np.copyto(new_starts[row], new_starts[row - 1], where=fewer)
            costs, starts = new, new_starts
            total = costs[self._lengths, names] + np.float32(0.0 if at_end else CUT)
            better = total < best
            np.copyto(best, total, where=better)
            np.copyto(best_start, starts[self._lengths, names], where=better)
            best_end[better] = place
        return best / self._whole, best_start, best_end


def _heard(
    words: Sequence[str],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """The sounds of a question, the word of each, and whether that begins with it."""
    sounds = [(sound, number, not k) for number, word in enumerate(words)
              for k, sound in enumerate(sounds_of(word))][-MAX_HEARD:]  # fmt: skip
    heard, owner, begins = zip(*sounds, strict=True) if sounds else ((), (), ())
    return np.array(heard, np.intp), np.array(owner, np.intp), np.array(begins, np.bool_)
