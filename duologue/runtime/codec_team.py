"""Threads that run one program together.

A program's operations are short (microseconds), so threads meet at a barrier of their own rather
than start anew for each: a call wakes the helpers once, and all go through the whole program. There
is one team in a process; a caller who finds it at work runs alone, with the same result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

Part = Callable[[int, int], None]
"""Does the share of one thread: (rank, number of threads)."""


class Team:
    """Helpers that wait, asleep, for work. Threads are started when first needed."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._helpers: list[_Helper] = []
        self._process = os.getpid()

    def run(self, part: Part, size: int) -> None:
        """Have `part` done by up to `size` threads, the caller among them; returns when all are."""
        if size == 1 or not self._busy.acquire(blocking=False):
            part(0, 1)
            return
        try:
            if self._process != os.getpid():  # threads do not survive a fork
                self._helpers, self._process = [], os.getpid()
            while len(self._helpers) < size - 1:
                self._helpers.append(_Helper(len(self._helpers) + 1))
            helpers = self._helpers[: size - 1]
            for helper in helpers:
                helper.begin(part, size)
            part(0, size)
            for helper in helpers:
                helper.finish()
        finally:
            self._busy.release()


class _Helper:
    def __init__(self, rank: int) -> None:
        self._rank, self._size = rank, 0
        self._part: Part | None = None
        self._fault: BaseException | None = None
        self._work, self._done = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._serve, name=f"codec-{rank}", daemon=True).start()

    def begin(self, part: Part, size: int) -> None:
        self._part, self._size = part, size
        self._work.release()

    def finish(self) -> None:
        self._done.acquire()
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def _serve(self) -> None:
        while True:
            self._work.acquire()
            part, self._part = self._part, None
            assert part is not None
            try:
                part(self._rank, self._size)
            except BaseException as error:
                self._fault = error  # the caller raises it
            finally:
                self._done.release()


TEAM = Team()
"""The process's team."""
