"""How words sound, for the independent recogniser.

The words of the recogniser's own dictionary keep its pronunciations; every word also gets the one
that flite's lexicon and letter-to-sound rules give, because that is how wren's voice says it. For
invented names there is nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from duologue.evaluation.errors import EvaluationError
from duologue.synthesis.engines import flite

PHONES = frozenset(
    """
    AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W
    Y Z ZH
    """.split()  # noqa: SIM905
)
_RENAMED = {"AX": "AH"}
"""flite's phones that the recogniser has under another name."""
_AT_A_TIME = 200
_MOST_SAVED = 4

Pronunciation = tuple[str, ...]


class Lexicon:
    """Pronunciations of the words that it was told of."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._sounds: dict[str, tuple[Pronunciation, ...]] = {}
        self.unlisted: set[str] = set()
        """Words that only flite could say how to pronounce."""
        self.learn(words)

    def learn(self, words: Iterable[str]) -> None:
        """Take in more words."""
        wanted = sorted(set(words).difference(self._sounds))
        known = _dictionary()
        for word, spoken in zip(wanted, _by_flite(wanted), strict=True):
            listed = known.get(word, ())
            if not listed:
                self.unlisted.add(word)
            sounds = dict.fromkeys((*((spoken,) if spoken else ()), *listed))
            if sounds:
                self._sounds[word] = tuple(islice(sounds, _MOST_SAVED))

    def __contains__(self, word: str) -> bool:
        return word in self._sounds

    def __len__(self) -> int:
        return len(self._sounds)

    def same(self, one: str, other: str) -> bool:
        """Whether two words are one word, or can sound the same."""
        if one == other:
            return True
        mine, theirs = self._sounds.get(one, ()), self._sounds.get(other, ())
        return not set(mine).isdisjoint(theirs)

    def write(self, path: Path, words: Iterable[str]) -> None:
        """A dictionary file of some of the words."""
        lines = []
        for word in sorted(set(words)):
            for number, sounds in enumerate(self._sounds[word], 1):
                mark = "" if number == 1 else f"({number})"
                lines.append(f"{word}{mark} {' '.join(sounds)}\n")
        path.write_text("".join(lines), encoding="utf-8")


def _by_flite(words: list[str]) -> Iterator[Pronunciation]:
    for first in range(0, len(words), _AT_A_TIME):
        for word, phones in zip(
            words[first : first + _AT_A_TIME],
            flite.pronounce(words[first : first + _AT_A_TIME]),
            strict=True,
        ):
            sounds = tuple(_RENAMED.get(phone.upper(), phone.upper()) for phone in phones)
            if unknown := set(sounds) - PHONES:
                raise EvaluationError(
                    f"flite says {word!r} with the sound {min(unknown)}, which the recogniser "
                    "does not have; is it a voice of another language?"
                )
            yield sounds


@cache
def _dictionary() -> dict[str, tuple[Pronunciation, ...]]:
    from duologue.evaluation.recogniser import model_folder

    found: dict[str, list[Pronunciation]] = {}
    with (model_folder() / "cmudict-en-us.dict").open(encoding="utf-8") as file:
        for line in file:
            word, *sounds = line.split()
            if sounds:
                found.setdefault(word.partition("(")[0], []).append(tuple(sounds))
    return {word: tuple(sounds) for word, sounds in found.items()}
