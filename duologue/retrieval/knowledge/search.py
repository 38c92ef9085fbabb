"""Find passages for a spoken question whose words may have been heard wrong.

Each word of the question becomes a *slot*: the indexed terms it may stand for, with weights. The
term itself weighs 1; terms that look like it (shared trigrams of letters), sound like it (sound
keys at most one edit apart) or mean the same weigh less, and much less when the word itself is
known. Words said in two that are one in the index ("bug any" for "begonia"), or the reverse, make
slots of their own, and so does what the question asks for as a whole (`senses`), in the words that
tell it. A passage's score is BM25 over slots; the best candidates are then scored again, each slot
counting only once, by how much of the question they cover, whether they are about something else,
and how sure an answer they would be. Everything runs in numpy over postings, within fixed bounds of
work.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from duologue.retrieval.knowledge.analysis import (
    grams_of,
    is_asking,
    is_fuzzy,
    is_generic,
    question_words,
    sounds_like_filler,
    synonyms_of,
    term_of,
    words_of,
)
from duologue.retrieval.knowledge.confidence import ASKING_WORTH, GENERIC_WORTH, confidence
from duologue.retrieval.knowledge.phonetics import sound_codes, sound_key
from duologue.retrieval.knowledge.segment import (
    IMPACT_SCALE,
    Array,
    Segment,
    hash_term,
)
from duologue.retrieval.knowledge.senses import asks, senses_of

MAX_QUESTION_WORDS = 32
MAX_BACKGROUND_WORDS = 24
MAX_LIKENESSES = 12
"""Terms that one word may stand for, besides itself."""
MAX_POSTINGS = 600_000
"""Postings read for one question; the most common and least likely terms are skipped first."""
MAX_SENSE_POSTINGS = 4_000
"""The same for what a question is taken to ask for; beyond, only candidates are looked for."""
CANDIDATES = 48
MAX_JOINED_CHARS = 18
TOUCHING = 0.5
"""Likeness from which a word of a heading is one that was asked about."""
CHATTER_SHARE = 0.7
"""Of a word that questions have, but not for this sense and no passage: it goes with the asking."""
NAMED_SHARE = 0.3
UNNAMED_SURENESS = 0.5
"""Of a sense that only stop words ask for: "where is", "how many"."""
SURELY_TOLD = 0.8
"""Words that tell a sense this surely say how rare it is."""
BACKGROUND_WEIGHT = 0.3
LEAST_INFORMATION = 0.3
"""Of any word that was asked: in a small file the words of its subject are everywhere."""

SAME_SOUND = 1.0
ONE_SOUND_MORE = 0.75
ONE_SOUND_OTHER = 0.65
MAX_SAME_SOUND = 64
SPELLING_SHARE = 0.5
"""How much of the likeness of words that sound alike depends on their spelling."""
SYNONYM_LIKENESS = 0.85
NEIGHBOR_CANDIDATES = 10
_CACHE_WORDS = 8_192


Likenesses = tuple[tuple[int, float], ...]
"""Term hashes with how alike each is, most alike first."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Knobs of the matcher. Recall on the benchmark is flat around the defaults.

    `fuzzy` switches likeness on. `letter_threshold`: least share of common trigrams. The weights
    say how much a word counts that only looks or sounds alike (`likeness_weight`, times
    `known_word_factor` when the index has the word as it was said) or that is read as one with its
    neighbours (`joined_weight`, from `joined_threshold` on). `coverage_weight`: what a passage
    loses for the part of the question it lacks. `neighbor_weight`: what it gains for words that
    stand next to each other in both. `sense_weight`: how much telling what is asked for counts
    beside having the words, 0 switches senses off; `small_talk`: what words that say little lose
    where it is clear what is asked for; `foreign_loss`: what a passage loses that is about another
    subject; `confidence_weight`: what it gains for how sure an answer it would be.
    """

    fuzzy: bool = True
    letter_threshold: float = 0.34
    likeness_weight: float = 0.85
    known_word_factor: float = 0.3
    joined_threshold: float = 0.55
    joined_weight: float = 0.6
    coverage_weight: float = 0.3
    neighbor_weight: float = 0.5
    sense_weight: float = 0.8
    small_talk: float = 0.6
    foreign_loss: float = 0.15
    confidence_weight: float = 1.0


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
class _Slot:
    """One word of the question: terms by hash with the likeness of each, and its weight.

    The first term of an asked word is its own; `telling` is how much it says about what is asked.
    `parts` are the slots of the words that this slot reads as one word (or of the word that it
    reads as two): a passage that has it covers those too. The slot of a sense has a sureness
    `sense` above 0, and `shares`: how much of each part serves to ask for it.
    """

    terms: tuple[tuple[int, float], ...]
    weight: float = 1.0
    asked: bool = False
    telling: float = 1.0
    parts: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    sense: float = 0.0


@dataclass(frozen=True, slots=True)
class _Question:
    """What each slot of a question is worth; slots that nobody asked for are worth nothing.

    `information`: by rarity. `worth`: the same, words that tell little less; what ranks passages.
    `missed`: what a passage's lack of the word weighs, where the index has it. `untold`: what its
    lack of what is asked for weighs, where other passages tell that.
    """

    slots: Sequence[_Slot]
    information: Array
    worth: Array
    missed: Array
    untold: Array


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
        self._likenesses: OrderedDict[str, Likenesses] = OrderedDict()
        self._latest: tuple[str, str, list[_Slot]] = ("", "", [])
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
            rarity = slot.weight * _sense_rarity(slot, rarities) if slot.sense else 0.0
            for term_hash, likeness in slot.terms:
                weight = likeness * (rarity or rarities.get(term_hash, 0.0))
                if weight > weights.get(term_hash, (0, 0.0))[1]:
                    weights[term_hash] = (index, weight)
        return weights

    # -- from words to slots

    def _slots(self, question: str, background: str) -> list[_Slot]:
        latest = self._latest
        if latest[:2] == (question, background):
            return latest[2]
        slots = self._slots_of(question, background)
        self._latest = (question, background, slots)
        return slots

    def _slots_of(self, question: str, background: str) -> list[_Slot]:
        words = question_words(question)[-MAX_QUESTION_WORDS:]
        slots: list[_Slot] = []
        slot_of: dict[str, int] = {}
        for word in words:
            term = term_of(word)
            if term and term not in slot_of:
                slot_of[term] = len(slots)
                terms = self._terms_for(word, term)
                slots.append(_Slot(terms, asked=True, telling=self._telling(word, term)))
        if self.tuning.fuzzy:
            slots += self._joined_slots(words, slot_of)
            slots += self._parted_slots(words, slot_of)
        if not slots:
            return []
        if self.tuning.sense_weight:
            slots += self._sense_slots(words, slot_of, slots)
        for word in words_of(background)[-MAX_BACKGROUND_WORDS:]:
            term = term_of(word)
            if term and term not in slot_of:
                slot_of[term] = len(slots)
                slots.append(_Slot(((hash_term(term), 1.0),), BACKGROUND_WEIGHT))
        return slots

    def _telling(self, word: str, term: str) -> float:
        """How much a word says about what a question is about, other things being equal."""
        known = self._knows(term)
        if not known and is_asking(term):
            return ASKING_WORTH
        generic = (
            is_generic(term)
            or is_asking(term)
            or word == "one"  # "which one is it" is no number
            or (not known and sounds_like_filler(word))
        )
        return GENERIC_WORTH if generic else 1.0

    def _terms_for(self, word: str, term: str) -> tuple[tuple[int, float], ...]:
        exact = hash_term(term)
        if not self.tuning.fuzzy or not is_fuzzy(word):
            return ((exact, 1.0),)
        meant = {hash_term(other): SYNONYM_LIKENESS for other in synonyms_of(term)}
        factor = self.tuning.likeness_weight
        if any(segment.find_term(exact) >= 0 for segment in self.segments):
            factor *= self.tuning.known_word_factor
        alike = tuple(
            (found, factor * likeness)
            for found, likeness in self._alike(word)
            if found != exact and found not in meant
        )
        return ((exact, 1.0), *meant.items(), *alike)

    def _joined_slots(self, words: Sequence[str], slot_of: Mapping[str, int]) -> list[_Slot]:
        """Two or three neighbours that may be one word: "bug any a"."""
        slots: list[_Slot] = []
        for count in (2, 3):
            for start in range(len(words) - count + 1):
                said = words[start : start + count]
                joined = "".join(said)
                if not 5 <= len(joined) <= MAX_JOINED_CHARS or not is_fuzzy(joined):
                    continue
                terms = [term_of(word) for word in said]
                likely = {
                    found: likeness * self.tuning.joined_weight
                    for found, likeness in self._alike_joined(joined)
                    if likeness >= self.tuning.joined_threshold
                }
                whole = term_of(joined)
                if self._knows(whole):
                    likely[hash_term(whole)] = 1.0
                for term in terms:
                    likely.pop(hash_term(term), None)
                if likely:
                    parts = tuple({slot_of[term] for term in terms if term in slot_of})
                    slots.append(_Slot(tuple(likely.items()), parts=parts))
        return slots

    def _parted_slots(self, words: Sequence[str], slot_of: Mapping[str, int]) -> list[_Slot]:
        """One unknown word that is two known ones: "nightrider"."""
        slots: list[_Slot] = []
        for word in words:
            whole = term_of(word)
            if whole not in slot_of or not 7 <= len(word) <= MAX_JOINED_CHARS:
                continue
            if not is_fuzzy(word) or self._knows(whole):
                continue
            for cut in range(3, len(word) - 2):
                parts = [term_of(word[:cut]), term_of(word[cut:])]
                if all(map(self._knows, parts)):
                    likely = ((hash_term(part), 0.8) for part in parts)
                    slots += [_Slot((pair,), parts=(slot_of[whole],)) for pair in likely]
                    break
        return slots

    def _sense_slots(
        self, words: Sequence[str], slot_of: Mapping[str, int], slots: list[_Slot]
    ) -> list[_Slot]:
        """What the words ask for together, in the words of documents that tell it."""
        found: list[_Slot] = []
        for sense in senses_of(words):
            terms = tuple((hash_term(term), sure) for term, sure in sense.told)
            shares: dict[int, float] = {}
            for word, share in zip(words, sense.explained, strict=True):
                term = term_of(word)
                index = slot_of.get(term)
                if index is None:
                    continue
                if share < CHATTER_SHARE and asks(word) and not self._knows(term):
                    share = CHATTER_SHARE
                if share > 0.0:
                    shares[index] = max(share, shares.get(index, 0.0))
            named = any(share >= NAMED_SHARE for share in shares.values())
            sureness = sense.probability * (1.0 if named else UNNAMED_SURENESS)
            found.append(
                _Slot(
                    terms,
                    self.tuning.sense_weight * sureness,
                    parts=tuple(shares),
                    shares=tuple(shares.values()),
                    sense=sureness,
                )
            )
            told = {term for term, _ in terms}
            less = 1.0 - self.tuning.small_talk * sureness
            for index in set(slot_of.values()):
                slot = slots[index]
                if slot.telling < 1.0 and slot.terms[0][0] not in told:
                    slots[index] = replace(slot, weight=slot.weight * less)
        return found

    def _knows(self, term: str) -> bool:
        if not term:
            return False
        wanted = hash_term(term)
        return any(segment.find_term(wanted) >= 0 for segment in self.segments)

    def _alike(self, word: str) -> Likenesses:
        """Terms that look or sound like a word, with likeness in (0, 1]."""
        return self._remembered(word, word, self._alike_in)

    def _alike_joined(self, word: str) -> Likenesses:
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
        for segment in self.segments:
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
        threshold = self.tuning.letter_threshold
        close = looking >= threshold
        looking = 0.3 + 0.7 * (looking[close] - threshold) / (1.0 - threshold)
        terms = np.concatenate([heard, seen[close]])
        likeness = np.concatenate([sounding, looking])
        if len(terms) > 2 * MAX_LIKENESSES:  # a term may be in both halves
            top = np.argpartition(-likeness, 2 * MAX_LIKENESSES)[: 2 * MAX_LIKENESSES]
            terms, likeness = terms[top], likeness[top]
        return terms, likeness

    def _words_in(self, number: int, passage: int) -> tuple[list[int], list[int]]:
        """Terms of a passage's innermost heading, and of its text, in order."""
        segment = self.segments[number]
        heading = segment.headings[int(segment.passage_heading[passage])].rpartition(" / ")[2]
        heading_terms = [term for word in words_of(heading) if (term := _hash_of_word(word))]
        text = segment.texts[passage]
        return heading_terms, [term for word in words_of(text) if (term := _hash_of_word(word))]

    # -- from slots to scores

    def _look_up(
        self, slots: Sequence[_Slot]
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

    def _weigh(self, slots: Sequence[_Slot], rarities: Mapping[int, float]) -> _Question:
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
        for place, slot in enumerate(slots):
            rarity = _sense_rarity(slot, rarities) if slot.parts and slot.sense else 0.0
            if not rarity:
                continue
            # Words that ask for one thing together tell no more than that this is asked for.
            parts, shares = list(slot.parts), np.array(slot.shares)
            for amounts in (information, worth):
                whole = float((amounts[parts] * shares).sum())
                if whole > rarity:
                    amounts[parts] *= 1.0 - shares * slot.sense * (1.0 - rarity / whole)
            missed[parts] *= 1.0 - shares * slot.sense
            untold[place] = slot.sense if shares.max() >= NAMED_SHARE else 0.0
            others = np.array(
                [other.telling < 1.0 and i not in parts for i, other in enumerate(slots)]
            )
            worth[others] *= 1.0 - self.tuning.small_talk * slot.sense
        return _Question(slots, information, worth, missed, untold)

    def _postings(
        self,
        number: int,
        slots: Sequence[_Slot],
        spans: Mapping[int, tuple[int, int, int]],
        rarities: Mapping[int, float],
    ) -> tuple[list[_Postings], list[_Postings]]:
        """Postings of every term of every slot, the heaviest within the bound of work.

        First those to be read, then those of senses in which only candidates are looked for.
        """
        chosen: list[tuple[float, int, float, int, int]] = []
        for index, slot in enumerate(slots):
            rarity = _sense_rarity(slot, rarities) if slot.sense else 0.0
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
            for part, share in zip(slot.parts, slot.shares, strict=False):
                told = np.sqrt(covered[index]) * np.float32(share * slot.sense)
                said = covered[part] * np.float32(share)
                np.maximum(covered[part], told, out=covered[part])
                np.maximum(covered[index], said, out=covered[index])
        coverage = np.minimum(worth @ covered / worth.sum(), 1.0)
        evidence = question.information @ covered / math.log(1.0 + self.passages)
        absence = question.missed @ (1.0 - covered)
        final = best.sum(axis=0) * (1.0 - self.tuning.coverage_weight * (1.0 - coverage))
        untold = question.untold @ (1.0 - covered)
        order = np.argsort(-final, kind="stable")[: max(limit, NEIGHBOR_CANDIDATES)]
        foreign = np.zeros(len(top))
        if self.tuning.neighbor_weight:
            slot_of = {
                term: index
                for index, slot in enumerate(slots)
                if slot.asked
                for term, _ in slot.terms
            }
            touching = {
                term
                for slot in slots
                if slot.asked or slot.sense
                for term, likeness in slot.terms
                if likeness >= TOUCHING
            }
            for column in order.tolist():
                heading, text = self._words_in(number, int(top[column]))
                final[column] += self.tuning.neighbor_weight * _neighbors(
                    heading + text, slot_of, worth
                )
                foreign[column] = _is_foreign(heading, text, touching)
            final *= 1.0 - self.tuning.foreign_loss * foreign
        found: list[Match] = []
        for i in order.tolist():
            fits = (coverage[i], evidence[i], absence[i], untold[i])
            match = Match(number, int(top[i]), 0.0, *map(float, fits), bool(foreign[i]))
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


def _is_foreign(heading: Sequence[int], text: Sequence[int], touching: Set[int]) -> bool:
    """Whether a passage names its own subject, and that is not what was asked about."""
    return bool(heading) and touching.isdisjoint(heading) and set(heading).issubset(text)


def _sense_rarity(slot: _Slot, rarities: Mapping[int, float]) -> float:
    """How rare it is that a passage tells what is asked for; 0 if none does."""
    return min(
        (rarities[term] for term, sure in slot.terms if sure >= SURELY_TOLD and term in rarities),
        default=0.0,
    )


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
