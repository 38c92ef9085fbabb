"""Names of a knowledge base, told to the recogniser that hears its users, also while they change.

A name that only the user's documents hold is heard better by a recogniser that leans towards it,
and what is heard wrong is not found. One worker reads the names whenever the knowledge has changed,
so neither a frame nor a lookup waits for it; changes that come together are read once.

Bounds: `MAX_NAMES` names, the most telling first; at most one reading is waiting.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from duologue.retrieval.knowledge import KnowledgeBase

logger = logging.getLogger(__name__)

MAX_NAMES = 2_000


class Leaning(Protocol):
    """What is told the names: a `LocalRecogniser`."""

    @property
    def leans(self) -> bool: ...

    def set_vocabulary(self, words: Iterable[str]) -> int: ...


class VocabularyFollower:
    """Keeps a recogniser's vocabulary that of a knowledge base, until it is closed."""

    def __init__(self, base: KnowledgeBase, recogniser: Leaning) -> None:
        self._base, self._recogniser = base, recogniser
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="vocabulary")
        self._lock = threading.Lock()
        self._waiting = self._closed = False
        tell_names(base, recogniser)
        base.listen(self._changed)

    def close(self) -> None:
        """Stop following; the recogniser keeps the names that it has."""
        with self._lock:
            self._closed = True
        self._base.unlisten(self._changed)
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _changed(self) -> None:
        """Called by whoever changes the base, in the thread that does it."""
        with self._lock:
            if self._waiting or self._closed:
                return
            self._waiting = True
            self._worker.submit(self._update)

    def _update(self) -> None:
        with self._lock:
            self._waiting = False
        try:
            tell_names(self._base, self._recogniser)
        except Exception as error:  # the names of before are better than none
            logger.error("names cannot be read from the documents: %s", type(error).__name__)


def tell_names(base: KnowledgeBase | None, recogniser: Leaning) -> int:
    """Have a recogniser lean towards the names of a knowledge base, of nothing else; returns how
    many they are, 0 for a recogniser that never leans.
    """
    if not recogniser.leans:
        return 0
    return recogniser.set_vocabulary(base.vocabulary(MAX_NAMES) if base is not None else ())
