"""English as it is written: the usage examples of WordNet, for training only.

Sentences of grammars are soon known by heart. With voices that it had learnt from, a recogniser got
5 % of the words of such sentences wrong and 25 % of those of other phrasings; what it lacked was
English. WordNet (Princeton, free to use) shows how its words are used in 48,000 short examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from duologue.synthesis.draw import Draw
from duologue.synthesis.engines.program import MissingProgramError
from duologue.synthesis.splits import HELD_OUT_ENTITIES
from duologue.synthesis.world import capitalise
from duologue.synthesis.writer.words import REJECTED

FOLDER = Path("/usr/share/wordnet")
_PARTS = ("noun", "verb", "adj", "adv")
_LENGTHS = (3, 14)
"""Words of an example."""
_EXAMPLE = re.compile(r'"([^"]+)"')
_PLAIN = re.compile(r"[A-Za-z][A-Za-z' ,;-]*[A-Za-z][.?!]?")
_SPELT = re.compile(r"\b(?:[A-Z]{2,}|[a-z]*[bcdfghjklmnpqrstvwxz]{6,}[a-z]*)\b")
"""Abbreviations, and what is no word."""


def english_sentence(draw: Draw) -> str:
    """One example, as a sentence; needs the package `wordnet-base`."""
    text = draw.choice(examples())
    return capitalise(text) if text[-1] in ".?!" else f"{capitalise(text)}."


@cache
def lemmas(part: str) -> frozenset[str]:
    """The single words, in small letters, that WordNet has as a `noun`, `verb`, `adj` or `adv`.

    Raises:
        MissingProgramError: WordNet is not installed.
    """
    lines = _lines(f"index.{part}")
    return frozenset(word for line in lines if (word := line.partition(" ")[0]).isalpha())


@cache
def examples() -> tuple[str, ...]:
    """All that can be read out, each once, in the order of the files.

    Raises:
        MissingProgramError: WordNet is not installed.
    """
    held_out = {name.lower() for names in HELD_OUT_ENTITIES.values() for name in names}
    secret = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(held_out))) + r")\b")
    return tuple(
        text
        for text in dict.fromkeys(_quoted())
        if _LENGTHS[0] <= len(text.split()) <= _LENGTHS[1]
        and _PLAIN.fullmatch(text)
        and not _SPELT.search(text)
        and not REJECTED.search(text.lower())
        and not secret.search(text.lower())
    )


def _quoted() -> Iterator[str]:
    for part in _PARTS:
        for line in _lines(f"data.{part}"):
            _, _, gloss = line.partition(" | ")
            for text in _EXAMPLE.findall(gloss):
                yield text.strip().replace(" -- ", ", ").replace("`", "'")


def _lines(name: str) -> list[str]:
    """A file's lines without its licence."""
    if not FOLDER.is_dir():
        raise MissingProgramError("WordNet is needed for English: apt-get install wordnet-base")
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith(" ")]
