"""Which indexed terms a word may be that was heard or written wrong: what looks or sounds like it.

Looks: shared trigrams of letters. Sound: keys (`phonetics`) at most one edit apart. Nothing here
knows what a question is about.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from duologue.retrieval.knowledge.analysis import grams_of
from duologue.retrieval.knowledge.phonetics import sound_codes, sound_key
from duologue.retrieval.knowledge.segment import Array, Segment

MAX_LIKENESSES = 12
"""Terms that one word may stand for, besides itself."""
SAME_SOUND = 1.0
ONE_SOUND_MORE = 0.75
ONE_SOUND_OTHER = 0.65
MAX_SAME_SOUND = 64
SPELLING_SHARE = 0.5
"""How much of the likeness of words that sound alike depends on their spelling."""
_CACHE_WORDS = 8_192


Likenesses = tuple[tuple[int, float], ...]
"""Term hashes with how alike each is, most alike first."""


class Likeness:
    """Likenesses over a fixed set of segments, remembered by word.

    Args:
        letter_threshold: least share of common trigrams.
    """

    def __init__(self, segments: Sequence[Segment], letter_threshold: float) -> None:
        self._segments = segments
        self._letter_threshold = letter_threshold
        self._likenesses: OrderedDict[str, Likenesses] = OrderedDict()

    def alike(self, word: str) -> Likenesses:
        """Terms that look or sound like a word, with likeness in (0, 1]."""
        return self._remembered(word, word, self._alike_in)

    def joined(self, word: str) -> Likenesses:
        """Terms that sound exactly like words said as one."""
        return self._remembered(f"+{word}", word, _same_sound)

    def _remembered(
        self, key: str, word: str, find: Callable[[Segment, str], tuple[Array, Array]]
    ) -> Likenesses:
        """The best of all segments, at most `MAX_LIKENESSES`; found once per word."""
        cached = self._likenesses.get(key)
        if cached is not None:
            return cached
        best: dict[int, float] = {}
        for segment in self._segments:
            terms, likeness = find(segment, word)
            for term, value in zip(
                segment.term_hashes[terms].tolist(), likeness.tolist(), strict=True
            ):
                best[term] = max(value, best.get(term, 0.0))
        ranked = tuple(sorted(best.items(), key=lambda item: -item[1])[:MAX_LIKENESSES])
        self._likenesses[key] = ranked
        if len(self._likenesses) > _CACHE_WORDS:
            self._likenesses.popitem(last=False)
        return ranked

    def _alike_in(self, segment: Segment, word: str) -> tuple[Array, Array]:
        """Term numbers and likenesses, at most twice `MAX_LIKENESSES` of the best."""
        heard, sounding = _by_sound(segment, word)
        seen, looking = _by_letters(segment, word)
        # Of the many words that sound alike, those also spelled alike come first.
        if len(seen):
            where = np.minimum(np.searchsorted(seen, heard), len(seen) - 1)
            spelled = np.where(seen[where] == heard, looking[where], 0.0)
            sounding = sounding * (1.0 - SPELLING_SHARE + SPELLING_SHARE * spelled)
        threshold = self._letter_threshold
        close = looking >= threshold
        looking = 0.3 + 0.7 * (looking[close] - threshold) / (1.0 - threshold)
        terms = np.concatenate([heard, seen[close]])
        likeness = np.concatenate([sounding, looking])
        if len(terms) > 2 * MAX_LIKENESSES:  # a term may be in both halves
            top = np.argpartition(-likeness, 2 * MAX_LIKENESSES)[: 2 * MAX_LIKENESSES]
            terms, likeness = terms[top], likeness[top]
        return terms, likeness


def _by_letters(segment: Segment, word: str) -> tuple[Array, Array]:
    """Terms sharing letter trigrams with a word, ascending, and the share they share (Dice)."""
    grams = grams_of(word)
    starts = segment.gram_starts
    owners = np.concatenate([segment.gram_terms[starts[gram] : starts[gram + 1]] for gram in grams])
    if not len(owners):
        return owners, np.zeros(0)
    owners.sort()
    ends = np.append(np.flatnonzero(owners[1:] != owners[:-1]), len(owners) - 1)
    shared = np.diff(ends, prepend=-1)
    enough = shared >= 2
    terms, shared = owners[ends[enough]], shared[enough]
    return terms, 2.0 * shared / (len(grams) + segment.gram_counts[terms].astype(np.float64))


def _same_sound(segment: Segment, word: str) -> tuple[Array, Array]:
    """Terms whose sound key is exactly a word's, nearer the more they are spelled alike."""
    key = sound_key(word)
    if len(key) < 3:
        return np.zeros(0, np.uint32), np.zeros(0)
    code = np.uint64(sound_codes(key, shortened=False)[0])
    start, end = np.searchsorted(segment.sound_codes, [code, code + np.uint64(1)])
    terms = segment.sound_terms[start : min(end, start + MAX_SAME_SOUND)]
    grams = set(grams_of(word))
    likeness = np.full(len(terms), SAME_SOUND)
    for index, term in enumerate(terms.tolist()):
        others = grams_of(segment.term_words[term])
        dice = 2 * len(grams.intersection(others)) / (len(grams) + len(others))
        likeness[index] *= 1.0 - SPELLING_SHARE + SPELLING_SHARE * dice
    return terms, likeness


def _by_sound(segment: Segment, word: str) -> tuple[Array, Array]:
    """Terms whose sound key is at most one edit from a word's, ascending, and how near."""
    key = sound_key(word)
    if len(key) < 2:
        return np.zeros(0, np.uint32), np.zeros(0)
    own = np.array(sound_codes(key), np.uint64)
    # The lowest bit of a code tells a whole key from a shortened one; both meet both.
    wanted = np.concatenate([own, own ^ np.uint64(1)])
    near = np.array([SAME_SOUND] + [ONE_SOUND_OTHER] * (len(own) - 1) + [ONE_SOUND_MORE] * len(own))
    starts = np.searchsorted(segment.sound_codes, wanted)
    ends = np.searchsorted(segment.sound_codes, wanted, side="right")
    order = np.argsort(-near, kind="stable")
    spans = [segment.sound_terms[starts[i] : ends[i]] for i in order]
    found = np.concatenate(spans)
    nearness = np.repeat(near[order], [len(span) for span in spans])
    terms, first = np.unique(found, return_index=True)  # the first is the nearest
    return terms, nearness[first]
