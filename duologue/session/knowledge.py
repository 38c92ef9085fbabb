"""Knowledge that single sessions bring along: read once, shared by all who name the same place."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from duologue.retrieval.compose import in_order
from duologue.retrieval.knowledge import KnowledgeBase, KnowledgeRetriever
from duologue.retrieval.protocol import Retriever
from duologue.retrieval.settings import open_knowledge

MAX_BASES = 16
"""Bases kept for the next session; the least recently used go."""


class KnowledgeShelf:
    """Opens knowledge bases and puts them before a session's retrievers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bases: OrderedDict[Path, KnowledgeBase] = OrderedDict()

    def retriever(self, path: Path) -> KnowledgeRetriever:
        """What answers from documents or an index at `path`; reads files. The caller closes it."""
        where = path.resolve()
        with self._lock:
            base = self._bases.pop(where, None) or open_knowledge([where])
            self._bases[where] = base
            while len(self._bases) > MAX_BASES:
                self._bases.popitem(last=False)
        return KnowledgeRetriever(base)


def first(knowledge: KnowledgeRetriever, other: Retriever | None) -> Retriever:
    """Ask the session's own knowledge, then whoever is asked otherwise."""
    return knowledge if other is None else in_order([knowledge, other], name="session")
