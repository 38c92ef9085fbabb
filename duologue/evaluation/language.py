"""A small n-gram language model from sentences, as the ARPA text that recognisers read.

Absolute discounting with back-off (Ney, Essen and Kneser 1994): with the sentences of a small world
it says what may be said there, and still lets any word follow any other at a price.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

ORDER = 3
_DISCOUNT = 0.6
_UNSEEN = 0.5
"""Added to the count of every word."""
_NEVER = -99.0
START, END = "<s>", "</s>"

Gram = tuple[str, ...]


def arpa(sentences: Sequence[Sequence[str]], order: int = ORDER) -> str:
    """The model of some sentences, each given as its words."""
    counts = _count(sentences, order)
    chances: list[dict[Gram, float]] = [_words(counts[0])]
    left: list[dict[Gram, float]] = []
    for longer in counts[1:]:
        higher, back_off = _discounted(longer, chances, left)
        chances.append(higher)
        left.append(back_off)
    lines = ["\\data\\", *(f"ngram {n}={len(part)}" for n, part in enumerate(chances, 1))]
    for n, part in enumerate(chances, 1):
        lines += ["", f"\\{n}-grams:"]
        weights = left[n - 1] if n < order else {}
        for gram in sorted(part):
            chance = _NEVER if gram == (START,) else math.log10(part[gram])
            line = f"{chance:.5f}\t{' '.join(gram)}"
            lines.append(f"{line}\t{math.log10(weights[gram]):.5f}" if gram in weights else line)
    return "\n".join([*lines, "", "\\end\\", ""])


def _count(sentences: Sequence[Sequence[str]], order: int) -> list[Counter[Gram]]:
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        if not sentence:
            continue
        marked = (START, *sentence, END)
        for n, counter in enumerate(counts, 1):
            counter.update(marked[i : i + n] for i in range(len(marked) - n + 1))
    return counts


def _words(counts: Counter[Gram]) -> dict[Gram, float]:
    total = sum(count + _UNSEEN for gram, count in counts.items() if gram != (START,))
    return {gram: (count + _UNSEEN) / total for gram, count in counts.items()}


def _discounted(
    counts: Counter[Gram], lower: list[dict[Gram, float]], left: list[dict[Gram, float]]
) -> tuple[dict[Gram, float], dict[Gram, float]]:
    """Chances of one order, and what each history leaves to the order below."""
    following: dict[Gram, dict[str, int]] = defaultdict(dict)
    for gram, count in counts.items():
        following[gram[:-1]][gram[-1]] = count
    chances: dict[Gram, float] = {}
    back_off: dict[Gram, float] = {}
    for history, words in following.items():
        total = sum(words.values())
        for word, count in words.items():
            chances[(*history, word)] = (count - _DISCOUNT) / total
        free = _DISCOUNT * len(words) / total
        taken = sum(_chance((*history[1:], word), lower, left) for word in words)
        back_off[history] = free / max(1.0 - taken, 1e-6)
    return chances, back_off


def _chance(gram: Gram, chances: list[dict[Gram, float]], left: list[dict[Gram, float]]) -> float:
    found = chances[len(gram) - 1].get(gram)
    if found is not None:
        return found
    return left[len(gram) - 2].get(gram[:-1], 1.0) * _chance(gram[1:], chances, left)
