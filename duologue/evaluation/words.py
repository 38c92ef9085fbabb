"""Words compared with words: error counts, and whether an answer was said.

Texts are compared as they are spoken: lower case, no signs. Two spellings that sound alike count as
the same word if the caller says so (`same`), because a recogniser cannot tell "two" from "to".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import eq

from duologue.synthesis.speaker import spoken_form

Same = Callable[[str, str], bool]
LONG_ANSWER_WORDS = 5
"""From here on, one word in so many of an answer may be wrong; shorter ones must be exact."""


@dataclass(frozen=True)
class Errors:
    """What it takes to turn one text into another."""

    substitutions: int
    deletions: int
    insertions: int
    words: int
    """Of the text that is right."""

    @property
    def count(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def spoken_words(text: str) -> tuple[str, ...]:
    """The words of a text as lexicons know them."""
    parts = text.replace("-", " ").replace("\u2019", "'").split()
    return tuple(word for word in map(spoken_form, parts) if word)


def errors(right: Sequence[str], heard: Sequence[str], same: Same = eq) -> Errors:
    """The fewest word errors between two texts."""
    # Each cell: (errors, substitutions, deletions, insertions).
    row = [(j, 0, 0, j) for j in range(len(heard) + 1)]
    for i, word in enumerate(right, 1):
        above, row = row, [(i, 0, i, 0)]
        for j, other in enumerate(heard, 1):
            wrong = not same(word, other)
            cost, subs, dels, ins = above[j - 1]
            best = (cost + wrong, subs + wrong, dels, ins)
            cost, subs, dels, ins = above[j]
            best = min(best, (cost + 1, subs, dels + 1, ins))
            cost, subs, dels, ins = row[j - 1]
            row.append(min(best, (cost + 1, subs, dels, ins + 1)))
    _, subs, dels, ins = row[-1]
    return Errors(subs, dels, ins, len(right))


def said(answer: Sequence[str], heard: Sequence[str], same: Same = eq) -> bool:
    """Whether an answer occurs in what was heard, its words in order and together.

    Answers of `LONG_ANSWER_WORDS` and more (a whole note, a list) may have one error in as many
    words.
    """
    if not answer:
        return False
    # The cheapest way to end a match at each place, beginning anywhere (Sellers 1980).
    row = [0] * (len(heard) + 1)
    for i, word in enumerate(answer, 1):
        above, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(above[j - 1] + (not same(word, other)), above[j] + 1, row[j - 1] + 1))
    return min(row) <= len(answer) // LONG_ANSWER_WORDS
