"""Questions that lean on earlier ones: "and its capital?", "sorry, I meant Chile".

What a user has said comes apart into a *subject* (the words that name something) and what is asked
of it (the other words, if they have a sense, see `senses`). A turn that has only one of the two
takes the other from the turns before. The subject that a correction names replaces the old one,
also where it repeats it ("Chile, not Peru"). Turns that come apart in no such way are left alone,
and thanks ask for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from duologue.retrieval.knowledge.analysis import is_asking, is_generic, term_of, words_of
from duologue.retrieval.knowledge.senses import asks, senses_of
from duologue.retrieval.knowledge.wordlists import COURTESIES

MAX_EARLIER = 8
"""User turns that are read for what a question leans on."""
MAX_SUBJECT_WORDS = 4
"""Of a turn that names nothing but a subject."""
SURE = 0.5
EXPLAINED = 0.5

_LEANING = frozenset(
    """
        it its he she they them his her their this that these those there
        and also meant instead not same sorry wrong no said
    """.split()  # noqa: SIM905
)
_QUESTION_WORDS = frozenset("what which where when who whom whose how why".split())  # noqa: SIM905
_GOING_ON = _QUESTION_WORDS | frozenset("again and also same its his her their there".split())  # noqa: SIM905
_LEANING_PAIRS = frozenset({("what", "about"), ("how", "about")})
_ASKED_BACK = frozenset({("are", "you"), ("about", "you"), ("and", "you")})
_COURTEOUS = frozenset(term_of(word) for word in COURTESIES)


@dataclass(frozen=True, slots=True)
class Topic:
    """What was said so far: what it is about, and with which words something was asked of it."""

    subject: tuple[str, ...] = ()
    asking: tuple[str, ...] = ()


def leans(question: str) -> bool:
    """Whether a question says itself that it goes on from an earlier one."""
    words = words_of(question)
    pairs = pairwise(words)
    return not _LEANING.isdisjoint(words) or not _LEANING_PAIRS.isdisjoint(pairs)


def asks_nothing(turn: str) -> bool:
    """Whether a turn is thanks, praise or a question about who is asked: nothing to look up.

    A turn of stop words alone asks for something if it goes on from earlier ones ("and why").
    """
    words = words_of(turn)
    if not _COURTEOUS.issuperset(term for word in words if (term := term_of(word))):
        return False
    goes_on = not _GOING_ON.isdisjoint(word.partition("'")[0] for word in words)
    return not goes_on or not _ASKED_BACK.isdisjoint(pairwise(words))


def completed(question: str, earlier: Sequence[str]) -> tuple[str, str]:
    """A question with what it leaves out, and words that may be meant too; "" if it is whole.

    Args:
        earlier: the user's turns before, oldest first.
    """
    topic = Topic()
    for turn in earlier[-MAX_EARLIER:]:
        topic = _after(topic, turn)
    subject, asking = _parts(question)
    if asking and not subject and topic.subject:
        return " ".join((*asking, *topic.subject)), ""
    if not asking and topic.asking and 0 < len(subject) <= MAX_SUBJECT_WORDS:
        subject = _new(subject, topic.subject)
        before = [word for word in topic.subject if word not in subject]
        return " ".join((*topic.asking, *subject)), " ".join(before)
    return "", ""


def _after(topic: Topic, turn: str) -> Topic:
    """The topic when a turn was said."""
    if asks_nothing(turn):
        return topic
    subject, asking = _parts(turn)
    return Topic(_new(subject, topic.subject) or topic.subject, asking or topic.asking)


def _new(subject: tuple[str, ...], before: tuple[str, ...]) -> tuple[str, ...]:
    """Without what it repeats, unless it repeats it all."""
    return tuple(word for word in subject if word not in before) or subject


def _parts(turn: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a turn that name a subject, and the others if they ask for something."""
    words = words_of(turn)
    sense = next((sense for sense in senses_of(words) if sense.probability >= SURE), None)
    if sense and not _asks_for(words, sense.explained):
        sense = None
    explained = sense.explained if sense else (0.0,) * len(words)
    subject = [
        word
        for word, share in zip(words, explained, strict=True)
        if share < EXPLAINED
        and (term := term_of(word))
        and not is_generic(term)
        and not is_asking(term)
    ]
    names = [word for word in subject if not asks(word)] or (subject if not sense else [])
    asking = tuple(word for word in words if word not in names) if sense else ()
    return tuple(names), asking


def _asks_for(words: Sequence[str], explained: Sequence[float]) -> bool:
    """Whether there is a word that makes a question: not "no" and "I" alone."""
    return not _QUESTION_WORDS.isdisjoint(word.partition("'")[0] for word in words) or any(
        share >= EXPLAINED and (term := term_of(word)) and not is_asking(term)
        for word, share in zip(words, explained, strict=True)
    )
