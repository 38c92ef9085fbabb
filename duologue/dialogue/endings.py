"""What kind of an end a transcript has: a question that is complete, a statement, or neither.

Recognition of small models is poor, so this asks for little: the mark that it writes behind what
sounds complete to it, a last word that nobody ends with, and whether any sentence asks something.
English only; of other languages the marks are left.
"""

from __future__ import annotations

import re
from enum import Enum
from itertools import pairwise

MAX_CHARACTERS = 400
"""Only so much of a transcript's end is looked at."""
LEAST_WORDS = 3
"""Fewer are no question."""
_ASKED_WITHIN = 4
"""A sentence that asks says so with one of its first words."""
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+")
_SENTENCE = re.compile(r"[^.?!]+[.?!]*")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_OPEN_ENDS = _set(
    """
    a about an and are as at be because but by called can could do does for from had has have her
    his how i if in into is it its like my of on or our so some tell than that the their then these
    this those to was were what when where whether which who whose why will with would your
    ah eh em er erm hm hmm mm uh uhm um
    """
)
_ASKS = _set("how what what's when where where's which who who's whom whose why")
_INVERTS = _set("are can could did do does has have is may was were will would")
"""These ask as the first word that is no address."""
_REQUESTS = frozenset(
    [(verb, "me") for verb in ("explain", "give", "remind", "show", "tell")]
    + [("like", "to"), ("want", "to"), ("is", "it"), ("is", "there")]
    + [(verb, "i") for verb in ("can", "could", "do", "should", "would")]
    + [(verb, "you") for verb in ("can", "could", "do", "would")]
)
"""These ask as well, anywhere."""
_TELLS = frozenset(
    [("what", "a"), ("what", "an"), ("here", "is"), ("here's", "what"), ("that", "is")]
    + [("do", "not")]
    + [("that's", word) for word in ("how", "what", "when", "where", "why")]
)
"""Beginnings with a word that asks elsewhere: "what a day", "here is what happened", "do not"."""
_COMMANDS = _set("calculate check convert count explain find list look name repeat search turn")
"""These ask as the first word that is no address."""
_ADDRESSES = _set(
    "all hello hey hi listen now okay one please question right so the there well wren yes"
)
_LAST_SENTENCES = 2
_OF_THE_LISTENER = frozenset(
    [("are", "you"), ("you", "are"), ("you're", "a"), ("your", "name"), ("hear", "me")]
    + [("ask", "you"), ("it", "going"), ("love", "me")]
    + [("a", thing) for thing in ("joke", "poem", "song", "story")]
    + [("you", verb) for verb in ("called", "do", "doing", "feel", "help", "like", "love", "speak")]
)
_MAY = _set("can could will would")
_BEFORE_ORDERS = _ADDRESSES | _set("also just maybe perhaps please quickly")
_TELLING = _set(
    """
    add answer calculate check compare convert count define describe explain figure find get give
    help list look name read recall remember remind repeat say see show spell tell translate work
    """
)
"""Who is asked whether they can do anything else ("can you drive a car") is not to look it up."""
_DEEDS = _set(
    "book buy call cook dance draw drive guess help let let's make open order play sing write"
)
"""Who is told to do one of these, neither."""
_SHORT_WORDS = 8
"""A question about the listener has no more, nor has a courtesy."""
_COURTESIES = _set(
    "afternoon bye evening goodbye hello hey hi morning thank thanks welcome sorry great perfect"
)


class Ending(Enum):
    """How what has been heard ends."""

    UNKNOWN = "unknown"
    """Recognition is behind."""
    NOTHING = "nothing"
    """No word was recognised."""
    UNFINISHED = "unfinished"
    STATEMENT = "statement"
    RISING = "rising"
    """A question behind which the voice may have been up: people pause so within one."""
    QUESTION = "question"


def ending_of(text: str) -> Ending:
    """How a transcript ends in which all words so far are out."""
    text = text[-MAX_CHARACTERS:].strip()
    words = _WORD.findall(text.lower())
    if not words:
        return Ending.NOTHING
    if text[-1] not in ".?!" or words[-1] in _OPEN_ENDS:
        return Ending.UNFINISHED
    if len(words) < LEAST_WORDS or not any(map(_asks, _SENTENCE.findall(text))):
        return Ending.STATEMENT
    return Ending.RISING if text[-1] == "?" else Ending.QUESTION


def asks_at_the_end(text: str) -> bool:
    """Whether the words of one of the last sentences ask for something (a mark alone does not), or
    what may yet ask breaks off.

    Who tells a story asks on the way ("what a day it was, let me tell you"), and in one that is
    told at length a recogniser now and then hears a voice go up.
    """
    sentences = _SENTENCE.findall(text.strip())[-_LAST_SENTENCES:]
    # "My notes should have it, what do they say?"
    clauses = [part for one in sentences if one.endswith("?") for part in one.split(",")]
    if not sentences or any(map(_words_ask, [*sentences, *clauses])):
        return True
    return sentences[-1][-1] not in ".?!" and len(_WORD.findall(sentences[-1])) >= LEAST_WORDS


def is_small_talk(text: str) -> bool:
    """Whether all that is asked is about the listener ("who are you", "can you hear me") or for
    something to be done ("can you drive a car", "tell me a joke"), or where nothing is asked, what
    is said is a courtesy ("thanks a lot", "good morning") or an order ("let us play a game")."""
    asking = [one for one in _SENTENCE.findall(text[-MAX_CHARACTERS:]) if _asks(one)]
    if asking:
        return all(map(_is_of_the_listener, asking))
    words = _WORD.findall(text.lower())
    ordered = not _DEEDS.isdisjoint(_without(_BEFORE_ORDERS, words)[:1])
    return len(words) <= _SHORT_WORDS and (ordered or not _COURTESIES.isdisjoint(words))


def _is_of_the_listener(sentence: str) -> bool:
    words = _WORD.findall(sentence.lower())
    if len(words) > _SHORT_WORDS:
        return False
    return not _OF_THE_LISTENER.isdisjoint(pairwise(words)) or _is_errand(words)


def _is_errand(words: list[str]) -> bool:
    asked = _without(_BEFORE_ORDERS, words)
    return len(asked) > 2 and asked[0] in _MAY and asked[1] == "you" and asked[2] not in _TELLING


def _without(some: frozenset[str], words: list[str]) -> list[str]:
    return [word for word in words if word not in some]


def _asks(sentence: str) -> bool:
    return _words_ask(sentence) or (sentence.endswith("?") and bool(_WORD.search(sentence)))


def _words_ask(sentence: str) -> bool:
    words = _WORD.findall(sentence.lower())
    requests = not _REQUESTS.isdisjoint(pairwise(words))
    told = not _TELLS.isdisjoint(pairwise(words[: _ASKED_WITHIN + 1]))
    first = next(iter(_without(_ADDRESSES, words)), "")
    asks = first in _INVERTS or not _ASKS.isdisjoint(words[:_ASKED_WITHIN])
    return (asks and not told) or requests or first in _COMMANDS
