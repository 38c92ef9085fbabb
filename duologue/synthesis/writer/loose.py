"""Loose words, names and scraps: in no order, so that only listening, or reading, gets them right.

What is written by grammars repeats itself, and a small recogniser learns the sentences by heart:
with voices that it knew it got 0.88 of the pieces of what it had been trained on, and 0.68 of the
pieces of held-out sentences. Later, in the same voices, it missed 4 of 100 of the commonest words
in sentences such as it knew and 12 of 100 in others: so scraps of those sentences are sewn together
anew. A voice learns names last: an answer has one, in a carrier that never changes.
"""

from __future__ import annotations

import re
from functools import cache

from duologue.synthesis.draw import Draw
from duologue.synthesis.numbers import join_list
from duologue.synthesis.splits import HELD_OUT_ENTITIES
from duologue.synthesis.world import bundled_fact_book, capitalise
from duologue.synthesis.writer.facts import entities, invented_subject
from duologue.synthesis.writer.lines import world_line
from duologue.synthesis.writer.sentences import free_sentence
from duologue.synthesis.writer.talk import lower_first
from duologue.synthesis.writer.words import REJECTED

_KNOWN = 15_000
"""Words, the most frequent first."""
_FREQUENT = 300
_USUAL = 3000
"""Another third of all loose words are among so many."""
_LENGTHS = (4, 9)
_SCRAPS = (3, 6)
_SCRAP_WORDS = (1, 4)
_NAMES = (3, 6)
_NAMED = ("capital", "currency", "language")
"""Relations whose values are names."""
_SPOKEN = re.compile(r"(?=.*[aeiouy])[a-z]{2,14}")


def loose_words(draw: Draw) -> str:
    """One line; needs the extra `train`."""
    return capitalise(" ".join(_loose(draw) for _ in range(draw.integer(*_LENGTHS)))) + "."


def patchwork(draw: Draw) -> str:
    """A few words each of sentences that training has, with names and loose words between them."""
    scraps = [_scrap(draw) for _ in range(draw.integer(*_SCRAPS))]
    return capitalise(" ".join(scraps)) + draw.choice((".", ".", "?"))


def _scrap(draw: Draw) -> str:
    match draw.weighted({"name": 0.2, "loose": 0.15, "sentence": 0.65}):
        case "name":
            return a_name(draw)
        case "loose":
            return _loose(draw)
    line = free_sentence(draw, "train") if draw.chance(0.3) else world_line(draw, "train")
    words = lower_first(line).split()
    count = min(len(words), draw.integer(*_SCRAP_WORDS))
    start = draw.integer(0, len(words) - count)
    return " ".join(words[start : start + count]).rstrip(",.?!")


def _loose(draw: Draw) -> str:
    words = usual_words()
    place = draw.weighted({(0, _FREQUENT): 0.35, (_FREQUENT, _USUAL): 0.35, (_USUAL, None): 0.3})
    return draw.choice(words[slice(*place)])


def loose_names(draw: Draw) -> str:
    """A list of names that training may have: half of them invented, the others real."""
    return capitalise(join_list([a_name(draw) for _ in range(draw.integer(*_NAMES))])) + "."


def a_name(draw: Draw) -> str:
    """A name that training may have, invented or real."""
    if draw.chance(0.5):
        return invented_subject(draw, "train", draw.choice(("country", "element"))).name
    return _real_name(draw)


def _real_name(draw: Draw) -> str:
    """An entity of the fact book, or what it says of one."""
    entity = draw.choice(entities("train"))
    named = [value for key, value in entity.values.items() if key in _NAMED]
    return draw.choice((entity.spoken, *named))


@cache
def usual_words() -> tuple[str, ...]:
    """Words that can be read out, the most frequent first.

    None are names: those are the fact book's, or held out.
    """
    try:
        from wordfreq import top_n_list
    except ImportError:
        raise ImportError(
            "a list of English words is needed: pip install 'duologue[train]'"
        ) from None
    names = _names()
    return tuple(
        word
        for word in top_n_list("en", _KNOWN)
        if _SPOKEN.fullmatch(word) and not REJECTED.search(word) and word not in names
    )


def _names() -> set[str]:
    """What the fact book writes with a capital letter, and all held-out entities."""
    book = bundled_fact_book()
    held_out = {name for names in HELD_OUT_ENTITIES.values() for name in names}
    texts = [text for one in book.countries + book.elements for text in one.values.values()]
    texts += [one.name for one in book.countries + book.elements]
    capitals = {word for text in texts for word in re.findall(r"\b[A-Z]\w+", text)}
    return {word.lower() for word in capitals | held_out}
