"""A closed grammar as a graph of words: any number of asides, then one of the statements.

Statements share their beginnings, asides lead back to the start. A reader of the graph must choose
among the statements; there is no other way to account for speech.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

START, END = 0, 1

Words = Sequence[str]
Edge = tuple[int, int, float, str]
"""From, to, probability, word."""


@dataclass(frozen=True)
class Grammar:
    """A graph from `START` to `END`."""

    edges: tuple[Edge, ...]

    @property
    def words(self) -> frozenset[str]:
        return frozenset(word for *_, word in self.edges)


def choices(statements: Iterable[Words], asides: Iterable[Words]) -> Grammar:
    """The grammar of some statements, with asides before them or alone."""
    graph = _Graph()
    for aside in asides:
        graph.add(aside, (START, END))
    for statement in statements:
        graph.add(statement, (END,))
    leaving = Counter(source for source, _, _ in graph.edges)
    return Grammar(
        tuple((source, target, 1 / leaving[source], word) for source, target, word in graph.edges)
    )


class _Graph:
    def __init__(self) -> None:
        self.edges: dict[tuple[int, int, str], None] = {}
        self._nodes: dict[tuple[int, str], int] = {}

    def add(self, words: Words, ends: tuple[int, ...]) -> None:
        here = START
        for word in words[:-1]:
            there = self._nodes.setdefault((here, word), len(self._nodes) + 2)
            self.edges[here, there, word] = None
            here = there
        if words:
            for end in ends:
                self.edges[here, end, words[-1]] = None
