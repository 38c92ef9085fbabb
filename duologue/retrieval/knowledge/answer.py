"""Turn passages into one reference that can be spoken: the answer first, one or two sentences.

The sentence that tells most about the question is chosen by the same weighing of words that found
the passage, so a misheard word still points to it. A sentence that needs its predecessor ("It was
built in 1889.") brings it along, after the answer; a fragment brings its heading. Then everything
is spelled out and cut to the budget of frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duologue.retrieval.clauses import split_sentences
from duologue.retrieval.knowledge.analysis import term_of, words_of
from duologue.retrieval.knowledge.base import Hit
from duologue.retrieval.knowledge.passages import innermost
from duologue.retrieval.knowledge.segment import hash_term
from duologue.retrieval.protocol import Budget
from duologue.retrieval.speakable import speakable

MAX_SENTENCES = 2
SECOND_HIT_SHARE = 0.8
"""A second passage is quoted too if its score is at least this share of the first one's, and if it
tells what the first one does not."""
LEAST_TO_ADD = 1.0
"""So much, in what words tell (one to six each)."""
SECOND_SENTENCE_SHARE = 0.6
MIN_SENTENCE_WORDS = 3
LEAST_OF_A_HEADING = 0.2
"""What a heading must add to be spoken. A word tells one to six; likeness of words always tells
something, were it a ten-thousandth."""

_POINTS_BACK = frozenset(
    """
        it its he she his her they their them this that these those here there
    """.split()  # noqa: SIM905
)

Weights = Mapping[int, tuple[int, float]]
"""Term hash -> (which word of the question, how much it tells)."""


def speakable_answer(weights: Weights, hits: Sequence[Hit], budget: Budget) -> tuple[str, int]:
    """The reference and how many of the hits, from the first on, it quotes."""
    if not hits:
        return "", 0
    first, told = _best_sentences(weights, hits[0], MAX_SENTENCES)
    chosen = list(first)
    quoted = 1
    if len(hits) > 1 and len(chosen) < MAX_SENTENCES:
        second, also_told = _best_sentences(weights, hits[1], 1)
        close = hits[1].score >= SECOND_HIT_SHARE * hits[0].score
        known, more = (_told(weights, " ".join(part)) for part in (chosen, second))
        adds = _added(known, more) >= LEAST_TO_ADD
        if close and adds and also_told >= SECOND_HIT_SHARE * told:
            chosen += second
            quoted = 2
    spoken = [_finished(speakable(sentence)) for sentence in chosen]
    spoken = [sentence for sentence in spoken if sentence]
    for count in range(len(spoken), 0, -1):
        text = " ".join(spoken[:count])
        if budget.fits(text):
            return text, quoted if count == len(spoken) else 1
    return (budget.trim(spoken[0]), 1) if spoken else ("", 0)


def _best_sentences(weights: Weights, hit: Hit, limit: int) -> tuple[list[str], float]:
    """At most `limit` sentences of one passage, in an order to be spoken, and what they tell."""
    sentences = split_sentences(hit.text)
    told = [_told(weights, sentence) for sentence in sentences]
    values = [sum(words.values()) for words in told]
    best = max(range(len(sentences)), key=lambda i: (values[i], -i))
    chosen = [sentences[best]]
    if best > 0 and _points_back(sentences[best]) and limit > 1:
        return [sentences[best], sentences[best - 1]], values[best]
    heading = _needed_heading(weights, hit.heading, told[best])
    if heading or len(chosen[0].split()) < MIN_SENTENCE_WORDS:
        heading = heading or innermost(hit.heading)
        chosen[0] = f"{heading}: {_continued(chosen[0])}" if heading else chosen[0]
    if limit > 1 and len(sentences) > 1:
        others = [i for i in range(len(sentences)) if i != best]
        following = max(others, key=lambda i: (_added(told[best], told[i]), i == best + 1, -i))
        added = _added(told[best], told[following])
        if added >= SECOND_SENTENCE_SHARE * values[best] or (
            following == best + 1 and _points_back(sentences[following])
        ):
            chosen.append(sentences[following])
    return chosen, values[best]


def _told(weights: Weights, text: str) -> dict[int, float]:
    """For each word of the question, how much of it the text has."""
    told: dict[int, float] = {}
    for word in words_of(text):
        term = term_of(word)
        if term and (found := weights.get(hash_term(term))):
            slot, weight = found
            told[slot] = max(weight, told.get(slot, 0.0))
    return told


def _added(told: Mapping[int, float], more: Mapping[int, float]) -> float:
    return sum(max(0.0, weight - told.get(slot, 0.0)) for slot, weight in more.items())


def _points_back(sentence: str) -> bool:
    return next(iter(words_of(sentence)), "").partition("'")[0] in _POINTS_BACK


def _needed_heading(weights: Weights, heading: str, told: Mapping[int, float]) -> str:
    """The innermost heading that says what was asked and the sentence does not."""
    for part in reversed(heading.split(" / ")):
        added = _added(told, _told(weights, part))
        if part and not part.endswith("?") and added > LEAST_OF_A_HEADING:
            return part
    return ""


def _continued(sentence: str) -> str:
    """A sentence as it goes on after a colon."""
    for start in ("The ", "A ", "An ", "It ", "This ", "In ", "On ", "At "):
        if sentence.startswith(start):
            return start.lower() + sentence[len(start) :]
    return sentence


def _finished(sentence: str) -> str:
    return sentence if not sentence or sentence[-1] in ".?!" else f"{sentence}."
