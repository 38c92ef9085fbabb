"""Find passages for a spoken question whose words may have been heard wrong.

A question is read as slots (`slots`). A passage's score is BM25 over slots; the best candidates are
then scored again, each slot counting only once, by how much of the question they cover, whether
they are about something else (`naming`), and how sure an answer they would be (`confidence`).
Everything runs in numpy over postings, within fixed bounds of work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from duologue.retrieval.knowledge.analysis import term_of, words_of
from duologue.retrieval.knowledge.confidence import confidence
from duologue.retrieval.knowledge.mending import Mender
from duologue.retrieval.knowledge.naming import Naming, is_foreign, naming
from duologue.retrieval.knowledge.passages import innermost
from duologue.retrieval.knowledge.segment import IMPACT_SCALE, Array, Segment, hash_term
from duologue.retrieval.knowledge.senses import tells_place
from duologue.retrieval.knowledge.slots import NAMED_SHARE, Reader, Slot, sense_rarity
from duologue.retrieval.knowledge.tuning import Tuning

MAX_POSTINGS = 600_000
"""Postings read for one question; the most common and least likely terms are skipped first."""
MAX_SENSE_POSTINGS = 4_000
"""The same for what a question is taken to ask for; beyond, only candidates are looked for."""
CANDIDATES = 48
TELLS_BELOW = 0.25
"""What a passage leaves untold at most if it is to be taken as telling what is asked for."""
LEAST_INFORMATION = 0.3
"""Of any word that was asked: in a small file the words of its subject are everywhere."""

NEIGHBOR_CANDIDATES = 10


@dataclass(frozen=True, slots=True)
class Match:
    """A passage found: which segment, which passage there, its score, and how well it fits.

    `coverage` in [0, 1], `evidence` and `absence` >= 0, `untold` in [0, 1] and `foreign` are what
    `confidence` is computed from.
    """

    segment: int
    passage: int
    score: float
    coverage: float
    evidence: float
    absence: float
    untold: float = 0.0
    foreign: bool = False

    @property
    def confidence(self) -> float:
        """Probability that this is the passage asked for."""
        return confidence(self.coverage, self.evidence, self.absence, self.untold, self.foreign)


@dataclass(frozen=True, slots=True)
class _Question:
    """What each slot of a question is worth; slots that nobody asked for are worth nothing.

    `information`: by rarity. `worth`: the same, words that tell little less; what ranks passages.
    `missed`: what a passage's lack of the word weighs, where the index has it. `untold`: what its
    lack of what is asked for weighs, where other passages tell that.
    """

    slots: Sequence[Slot]
    information: Array
    worth: Array
    missed: Array
    untold: Array
    subject: Array
    """1 for words that name what is asked about, where it is clear what is asked for."""
    naming: Naming
    slot_of: Mapping[int, int]
    """The slot of each term that was asked for."""


@dataclass(frozen=True, slots=True)
class _Postings:
    """The passages that one term of one slot occurs in."""

    slot: int
    passages: Array
    impacts: Array
    weight: float
    likeness: float


class Searcher:
    """Search over a fixed set of segments; safe to use from several threads."""

    def __init__(
        self,
        segments: Sequence[Segment],
        deleted: Sequence[Array | None],
        tuning: Tuning | None = None,
    ) -> None:
        self.segments = tuple(segments)
        self.tuning = tuning or Tuning()
        self._alive = [
            None if gone is None else ~gone[segment.passage_document]
            for segment, gone in zip(segments, deleted, strict=True)
        ]
        self.passages = sum(
            segment.passages if alive is None else int(alive.sum())
            for segment, alive in zip(segments, self._alive, strict=True)
        )
        self._reader = Reader(self.segments, self.tuning)
        self._latest: tuple[str, str, list[Slot]] = ("", "", [])
        """What the latest question was taken to mean: after a search its weights are asked for."""
        self._looked_up: tuple[frozenset[int], dict[int, float]] = (frozenset(), {})
        """Its terms, and how rare those are that the index has."""

    def search(self, question: str, limit: int, *, background: str = "") -> list[Match]:
        """The best passages, best first; `background` words count for less and never alone."""
        slots = self._slots(question, background)
        if not slots or limit < 1 or not self.passages:
            return []
        terms, rarities = self._look_up(slots)
        asked = self._weigh(slots, rarities)
        matches: list[Match] = []
        for number in range(len(self.segments)):
            lists, more = self._postings(number, slots, terms[number], rarities)
            matches += self._rank(number, lists, more, asked, limit)
        matches.sort(key=lambda match: (-match.score, match.segment, match.passage))
        return matches[:limit]

    def question_weights(self, question: str) -> dict[int, tuple[int, float]]:
        """Terms a question may mean, by hash: (which slot, likeness times rarity)."""
        slots = [slot for slot in self._slots(question, "") if slot.asked or slot.sense]
        terms, rarities = self._looked_up
        if not terms.issuperset(term for slot in slots for term, _ in slot.terms):
            _, rarities = self._look_up(slots)
        weights: dict[int, tuple[int, float]] = {}
        for index, slot in enumerate(slots):
            rarity = slot.weight * sense_rarity(slot, rarities) if slot.sense else 0.0
            for term_hash, likeness in slot.terms:
                weight = likeness * (rarity or rarities.get(term_hash, 0.0))
                if weight > weights.get(term_hash, (0, 0.0))[1]:
                    weights[term_hash] = (index, weight)
        return weights

    @cached_property
    def mender(self) -> Mender:
        """Reads questions anew that were heard wrong."""
        return Mender(self.segments, self._reader.knows)

    # -- from words to slots

    def _slots(self, question: str, background: str) -> list[Slot]:
        latest = self._latest
        if latest[:2] == (question, background):
            return latest[2]
        slots = self._reader.slots_of(question, background)
        self._latest = (question, background, slots)
        return slots

    def _words_in(self, number: int, passage: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Terms of a passage's innermost heading, and of its text, in order."""
        segment = self.segments[number]
        heading = innermost(segment.headings[int(segment.passage_heading[passage])])
        return _terms_of(heading), _terms_of(segment.texts[passage])

    # -- from slots to scores

    def _look_up(
        self, slots: Sequence[Slot]
    ) -> tuple[list[dict[int, tuple[int, int, int]]], dict[int, float]]:
        """Where each term's postings are, per segment, and its rarity over all segments."""
        hashes = list({term_hash for slot in slots for term_hash, _ in slot.terms})
        wanted = np.array(hashes, np.uint64)
        frequencies: dict[int, int] = {}
        spans: list[dict[int, tuple[int, int, int]]] = []
        for segment in self.segments:
            found: dict[int, tuple[int, int, int]] = {}
            if len(segment.term_hashes):
                where = np.searchsorted(segment.term_hashes, wanted)
                where[where == len(segment.term_hashes)] = 0
                present = segment.term_hashes[where] == wanted
                starts, ends = segment.posting_starts[where], segment.posting_starts[where + 1]
                for index in np.flatnonzero(present).tolist():
                    start, end = int(starts[index]), int(ends[index])
                    found[hashes[index]] = (int(where[index]), start, end)
                    frequencies[hashes[index]] = frequencies.get(hashes[index], 0) + end - start
            spans.append(found)
        rarities = {term: self._rarity(count) for term, count in frequencies.items()}
        self._looked_up = frozenset(hashes), rarities
        return spans, rarities

    def _rarity(self, frequency: int) -> float:
        """Inverse document frequency."""
        count = max(self.passages, frequency)
        return math.log(1.0 + (count - frequency + 0.5) / (frequency + 0.5))

    def _weigh(self, slots: Sequence[Slot], rarities: Mapping[int, float]) -> _Question:
        """What each slot is worth, given the rarity of every term that the index has."""
        known = np.array([slot.asked and slot.terms[0][0] in rarities for slot in slots])
        information = np.array(
            [
                max(LEAST_INFORMATION, rarities.get(slot.terms[0][0]) or self._rarity(1))
                if slot.asked
                else 0.0
                for slot in slots
            ]
        )
        generic = np.array([slot.telling for slot in slots])
        worth = information * generic
        missed = known * generic
        untold = np.zeros(len(slots))
        subject = np.zeros(len(slots), np.float32)
        for place, slot in enumerate(slots):
            if not slot.sense:
                continue
            parts, shares = list(slot.parts), np.array(slot.shares)
            if not subject.any():  # the likeliest sense comes first
                subject[:] = [one.asked and one.telling >= 1.0 for one in slots]
                subject[parts] *= shares < NAMED_SHARE
            untold[place] = slot.sense if shares.max(initial=0.0) >= NAMED_SHARE else 0.0
            rarity = sense_rarity(slot, rarities)
            if not (parts and rarity):
                continue
            # Words that ask for one thing together tell no more than that this is asked for.
            for amounts in (information, worth):
                whole = float((amounts[parts] * shares).sum())
                if whole > rarity:
                    amounts[parts] *= 1.0 - shares * slot.sense * (1.0 - rarity / whole)
            missed[parts] *= 1.0 - shares * slot.sense
            others = np.array(
                [other.telling < 1.0 and i not in parts for i, other in enumerate(slots)]
            )
            worth[others] *= 1.0 - self.tuning.small_talk * slot.sense
        rarest = self._rarity(1)
        single = {term for term, rarity in rarities.items() if rarity >= rarest}
        slot_of = {
            term: index for index, slot in enumerate(slots) if slot.asked for term, _ in slot.terms
        }
        return _Question(
            slots, information, worth, missed, untold, subject, naming(slots, single), slot_of
        )

    def _postings(
        self,
        number: int,
        slots: Sequence[Slot],
        spans: Mapping[int, tuple[int, int, int]],
        rarities: Mapping[int, float],
    ) -> tuple[list[_Postings], list[_Postings]]:
        """Postings of every term of every slot, the heaviest within the bound of work.

        First those to be read, then those of senses in which only candidates are looked for.
        """
        chosen: list[tuple[float, int, float, int, int]] = []
        for index, slot in enumerate(slots):
            rarity = sense_rarity(slot, rarities) if slot.sense else 0.0
            for term_hash, likeness in slot.terms:
                span = spans.get(term_hash)
                if span is not None:
                    weight = slot.weight * likeness * (rarity or rarities[term_hash])
                    chosen.append((weight, index, likeness, span[1], span[2]))
        chosen.sort(key=lambda item: -item[0])
        segment = self.segments[number]
        read: list[_Postings] = []
        looked_into: list[_Postings] = []
        room, sense_room = MAX_POSTINGS, MAX_SENSE_POSTINGS
        for weight, index, likeness, start, end in chosen:
            item = _Postings(
                index,
                segment.posting_passages[start:end],
                segment.posting_impacts[start:end],
                weight / IMPACT_SCALE,
                likeness,
            )
            if slots[index].sense and end - start > sense_room:
                looked_into.append(item)
            elif end - start <= room:
                room -= end - start
                sense_room -= end - start if slots[index].sense else 0
                read.append(item)
        return read, looked_into

    def _rank(
        self,
        number: int,
        lists: Sequence[_Postings],
        more: Sequence[_Postings],
        question: _Question,
        limit: int,
    ) -> list[Match]:
        """The best passages of one segment."""
        if not lists:
            return []
        slots, worth = question.slots, question.worth
        count = self.segments[number].passages
        passages = np.concatenate([item.passages for item in lists])
        weights = np.concatenate([item.impacts * np.float32(item.weight) for item in lists])
        scores = np.bincount(passages, weights, minlength=count).astype(np.float32)
        alive = self._alive[number]
        if alive is not None:
            scores *= alive
        top = _highest(scores, max(CANDIDATES, limit))
        if not len(top):
            return []

        # Which of the postings read above belong to a candidate, and as which column.
        column_of = np.full(count, -1, np.int16)
        column_of[top] = np.arange(len(top))
        columns = column_of[passages]
        hits = np.flatnonzero(columns >= 0)
        lengths = [len(item.passages) for item in lists]
        owner = np.searchsorted(np.cumsum(lengths), hits, side="right")
        rows = np.array([item.slot for item in lists])[owner]
        best = np.zeros((len(slots), len(top)), np.float32)
        covered = np.zeros((len(slots), len(top)), np.float32)
        likeness = np.array([item.likeness for item in lists], np.float32)[owner]
        np.maximum.at(best, (rows, columns[hits]), weights[hits])
        np.maximum.at(covered, (rows, columns[hits]), likeness)
        for item in more:
            at = np.minimum(np.searchsorted(item.passages, top), len(item.passages) - 1)
            here = np.flatnonzero(item.passages[at] == top)
            weighed = item.impacts[at[here]] * np.float32(item.weight)
            best[item.slot, here] = np.maximum(best[item.slot, here], weighed)
            covered[item.slot, here] = np.maximum(covered[item.slot, here], item.likeness)
        for index, slot in enumerate(slots):
            if slot.sense:
                continue
            for part in slot.parts:
                np.maximum(covered[part], covered[index], out=covered[part])
        covered **= 2
        for index, slot in enumerate(slots):
            if not (slot.sense and slot.parts):
                continue
            # What tells the sense stands for the words that ask for it, and each of them for it.
            parts, shares = list(slot.parts), np.array(slot.shares, np.float32)[:, None]
            said = covered[parts]
            told = np.sqrt(covered[index]) * (shares * np.float32(slot.sense))
            covered[parts] = np.maximum(said, told)
            np.maximum(covered[index], (said * shares).max(axis=0), out=covered[index])
        coverage = np.minimum(worth @ covered / worth.sum(), 1.0)
        evidence = question.information @ covered / math.log(1.0 + self.passages)
        absence = question.missed @ (1.0 - covered)
        final = best.sum(axis=0) * (1.0 - self.tuning.coverage_weight * (1.0 - coverage))
        # Where more of a question is found than one name, a word too many may ask for nothing.
        named = np.array([bool(terms) for terms in question.naming.names], np.float32)
        untold = question.untold @ (1.0 - covered)
        untold /= np.maximum(1.0, named @ covered) ** 2
        # A price is no answer to who asks for that of something else.
        subject = question.subject[:, None]
        strange = subject.any() & (covered.max(axis=0, where=subject > 0, initial=0.0) == 0.0)
        order = np.argsort(-final, kind="stable")[: max(limit, NEIGHBOR_CANDIDATES)]
        foreign = np.zeros(len(top), np.bool_)
        always = np.where([slot.always for slot in slots], question.untold, 0.0)
        may_be_untold = not np.array_equal(always, question.untold)
        for column in order.tolist():
            heading, text = self._words_in(number, int(top[column]))
            if may_be_untold and tells_place(self.segments[number].texts[int(top[column])]):
                untold[column] = always @ (1.0 - covered[:, column])
            gain = _neighbors(heading + text, question.slot_of, worth)
            final[column] += self.tuning.neighbor_weight * gain
            foreign[column] = strange[column] or is_foreign(
                heading, text, question.naming, tells=untold[column] < TELLS_BELOW
            )
        final *= 1.0 - self.tuning.foreign_loss * foreign
        found: list[Match] = []
        for i in order.tolist():
            match = Match(
                number,
                int(top[i]),
                0.0,
                coverage=float(coverage[i]),
                evidence=float(evidence[i]),
                absence=float(absence[i]),
                untold=float(untold[i]),
                foreign=bool(foreign[i]),
            )
            gain = 1.0 + self.tuning.confidence_weight * match.confidence
            found.append(replace(match, score=float(final[i]) * gain))
        found.sort(key=lambda match: -match.score)
        return found[:limit]


def _neighbors(words: Sequence[int], slot_of: Mapping[int, int], worth: Array) -> float:
    """Information of word pairs that stand next to each other in question and passage."""
    found: set[int] = set()
    total, before = 0.0, -2
    for term in words:
        index = slot_of.get(term, -2)
        if index == before + 1 and before not in found:
            found.add(before)
            total += min(worth[before], worth[index])
        before = index
    return total


@lru_cache(maxsize=1 << 12)
def _terms_of(text: str) -> tuple[int, ...]:
    """Terms of a text in order; a question that grows word by word meets the same passages."""
    return tuple(term for word in words_of(text) if (term := _hash_of_word(word)))


@lru_cache(maxsize=1 << 16)
def _hash_of_word(word: str) -> int:
    """Hash of a word's term, 0 for stop words."""
    term = term_of(word)
    return hash_term(term) if term else 0


def _highest(scores: Array, count: int) -> Array:
    """Positions of the `count` highest positive scores, ascending; of equal ones the first."""
    positive = scores[scores > 0]
    if len(positive) <= count:
        return np.flatnonzero(scores > 0)
    least = np.partition(positive, -count)[-count]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))
