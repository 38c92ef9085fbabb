"""What the words of a question may stand for in an index: its *slots*.

Each word is one: the indexed terms it may stand for, with weights. The term itself weighs 1; terms
that look or sound like it (`likeness`) or mean the same weigh less, and much less when the word
itself is known. Words said in two that are one in the index ("bug any" for "begonia"), or the
reverse, make slots of their own, and so does what the question asks for as a whole (`senses`), in
the words that tell it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from duologue.retrieval.knowledge.analysis import (
    is_asking,
    is_fuzzy,
    is_generic,
    question_words,
    sounds_like_filler,
    synonyms_of,
    term_of,
    words_of,
)
from duologue.retrieval.knowledge.confidence import ASKING_WORTH, GENERIC_WORTH
from duologue.retrieval.knowledge.likeness import Likeness
from duologue.retrieval.knowledge.segment import Segment, hash_term
from duologue.retrieval.knowledge.senses import MUTUAL, PLACES, chats, senses_of
from duologue.retrieval.knowledge.tuning import Tuning

MAX_QUESTION_WORDS = 32
MAX_BACKGROUND_WORDS = 24
MAX_JOINED_CHARS = 18
CHATTER_SHARE = 0.7
"""Of a word that questions have, but not for this sense and no passage: it goes with the asking."""
NAMED_SHARE = 0.3
UNNAMED_SURENESS = 0.5
"""Of a sense that only stop words ask for: "where is", "how many"."""
SURELY_TOLD = 0.8
"""Words that tell a sense this surely say how rare it is."""
BACKGROUND_WEIGHT = 0.3
SYNONYM_LIKENESS = 0.88


@dataclass(frozen=True, slots=True)
class Slot:
    """One word of the question: terms by hash with the likeness of each, and its weight.

    The first term of an asked word is its own; `telling` is how much it says about what is asked.
    `parts` are the slots of the words that this slot reads as one word (or of the word that it
    reads as two): a passage that has it covers those too. The slot of a sense has a sureness
    `sense` above 0, and `shares`: how much of each part serves to ask for it; `mutual` is one that
    things have of each other, `always` one that is always told by its terms. `follows`: its word
    was said right after that of the slot before.
    """

    terms: tuple[tuple[int, float], ...]
    weight: float = 1.0
    asked: bool = False
    telling: float = 1.0
    parts: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    sense: float = 0.0
    mutual: bool = False
    always: bool = True
    follows: bool = False


class Reader:
    """Reads questions as slots, over a fixed set of segments."""

    def __init__(self, segments: Sequence[Segment], tuning: Tuning) -> None:
        self._segments = segments
        self._tuning = tuning
        self._likeness = Likeness(segments, tuning.letter_threshold)

    def slots_of(self, question: str, background: str) -> list[Slot]:
        """The slots of a question, those of its own words first; none if it has no word."""
        words = question_words(question)[-MAX_QUESTION_WORDS:]
        slots: list[Slot] = []
        slot_of: dict[str, int] = {}
        before = ""
        for word in words:
            term = term_of(word)
            if term and term not in slot_of:
                slot_of[term] = len(slots)
                terms = self._terms_for(word, term)
                telling = self._telling(word, term)
                slots.append(Slot(terms, asked=True, telling=telling, follows=bool(before)))
            before = term
        if self._tuning.fuzzy:
            slots += self._joined_slots(words, slot_of)
            slots += self._parted_slots(words, slot_of)
        if not slots:
            return []
        if self._tuning.sense_weight:
            slots += self._sense_slots(words, slot_of, slots)
        for word in words_of(background)[-MAX_BACKGROUND_WORDS:]:
            term = term_of(word)
            if term and term not in slot_of:
                slot_of[term] = len(slots)
                slots.append(Slot(((hash_term(term), 1.0),), BACKGROUND_WEIGHT))
        return slots

    def _telling(self, word: str, term: str) -> float:
        """How much a word says about what a question is about, other things being equal."""
        known = self.knows(term)
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
        if not self._tuning.fuzzy or not is_fuzzy(word):
            return ((exact, 1.0),)
        meant = {hash_term(other): SYNONYM_LIKENESS for other in synonyms_of(term)}
        factor = self._tuning.likeness_weight
        if any(segment.find_term(exact) >= 0 for segment in self._segments):
            factor *= self._tuning.known_word_factor
        alike = tuple(
            (found, factor * likeness)
            for found, likeness in self._likeness.alike(word)
            if found != exact and found not in meant
        )
        return ((exact, 1.0), *meant.items(), *alike)

    def _joined_slots(self, words: Sequence[str], slot_of: Mapping[str, int]) -> list[Slot]:
        """Two or three neighbours that may be one word: "bug any a"."""
        slots: list[Slot] = []
        for count in (2, 3):
            for start in range(len(words) - count + 1):
                said = words[start : start + count]
                joined = "".join(said)
                if not 5 <= len(joined) <= MAX_JOINED_CHARS or not is_fuzzy(joined):
                    continue
                terms = [term_of(word) for word in said]
                likely = {
                    found: likeness * self._tuning.joined_weight
                    for found, likeness in self._likeness.joined(joined)
                    if likeness >= self._tuning.joined_threshold
                }
                whole = term_of(joined)
                if self.knows(whole):
                    likely[hash_term(whole)] = 1.0
                for term in terms:
                    likely.pop(hash_term(term), None)
                if likely:
                    parts = tuple({slot_of[term] for term in terms if term in slot_of})
                    slots.append(Slot(tuple(likely.items()), parts=parts))
        return slots

    def _parted_slots(self, words: Sequence[str], slot_of: Mapping[str, int]) -> list[Slot]:
        """One unknown word that is two known ones: "nightrider"."""
        slots: list[Slot] = []
        for word in words:
            whole = term_of(word)
            if whole not in slot_of or not 7 <= len(word) <= MAX_JOINED_CHARS:
                continue
            if not is_fuzzy(word) or self.knows(whole):
                continue
            for cut in range(3, len(word) - 2):
                parts = [term_of(word[:cut]), term_of(word[cut:])]
                if all(map(self.knows, parts)):
                    likely = ((hash_term(part), 0.8) for part in parts)
                    slots += [Slot((pair,), parts=(slot_of[whole],)) for pair in likely]
                    break
        return slots

    def _sense_slots(
        self, words: Sequence[str], slot_of: Mapping[str, int], slots: list[Slot]
    ) -> list[Slot]:
        """What the words ask for together, in the words of documents that tell it."""
        found: list[Slot] = []
        for sense in senses_of(words):
            terms = tuple((hash_term(term), sure) for term, sure in sense.told)
            shares: dict[int, float] = {}
            for word, share in zip(words, sense.explained, strict=True):
                term = term_of(word)
                index = slot_of.get(term)
                if index is None:
                    continue
                if share < CHATTER_SHARE and not self.knows(term) and chats(word, sense.name):
                    share = CHATTER_SHARE
                if share > 0.0:
                    shares[index] = max(share, shares.get(index, 0.0))
            named = any(share >= NAMED_SHARE for share in shares.values())
            sureness = sense.probability * (1.0 if named else UNNAMED_SURENESS)
            found.append(
                Slot(
                    terms,
                    self._tuning.sense_weight * sureness,
                    parts=tuple(shares),
                    shares=tuple(shares.values()),
                    sense=sureness,
                    mutual=sense.name in MUTUAL,
                    always=sense.name not in PLACES,
                )
            )
            told = {term for term, _ in terms}
            less = 1.0 - self._tuning.small_talk * sureness
            for index in set(slot_of.values()):
                slot = slots[index]
                if slot.telling < 1.0 and slot.terms[0][0] not in told:
                    slots[index] = replace(slot, weight=slot.weight * less)
        return found

    def knows(self, term: str) -> bool:
        """Whether the index has a term."""
        if not term:
            return False
        wanted = hash_term(term)
        return any(segment.find_term(wanted) >= 0 for segment in self._segments)


def sense_rarity(slot: Slot, rarities: Mapping[int, float]) -> float:
    """How rare it is that a passage tells what is asked for; 0 if none does."""
    return min(
        (rarities[term] for term, sure in slot.terms if sure >= SURELY_TOLD and term in rarities),
        default=0.0,
    )
