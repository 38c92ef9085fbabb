"""The thread that owns the model: it runs what it is handed, and the conductor in between.

Whatever is submitted runs on that thread, in order, so nothing of the model or of a conversation
needs a lock. The event loop is told of news by one callback at a time, however much there is.

A step that hangs cannot be ended from outside. It is seen (`stalled`), and nobody waits for it
longer than `STALL_S`; the thread is a daemon, so the process can end without it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from duologue.engine.api import EngineError
from duologue.faults import fault
from duologue.session.conductor import Conductor

logger = logging.getLogger(__name__)

T = TypeVar("T")
STALL_S = 10.0
"""What the thread does at a time takes milliseconds, at worst a second on a machine with other
work. Compiling takes longer, but the model is warmed up before anybody is let in. After this long
every client has lost its patience, and whoever restarts the process may do so."""
BREATH_S = 0.01
"""Rest after a turn that failed, so that a fault that stays does not spin."""


class TickThread:
    """See the module. `on_news` and `clock` are called from the thread."""

    def __init__(
        self, conductor: Conductor, on_news: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._conductor, self._on_news, self._clock = conductor, on_news, clock
        self._busy_since_s: float | None = None
        """When it began what it does now; None while it waits for something to do."""
        self._work: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="duologue-tick", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def stalled(self) -> bool:
        """Whether it has been at one thing for too long; any thread may ask."""
        since_s = self._busy_since_s
        return since_s is not None and self._clock() - since_s > STALL_S

    def stop(self) -> None:
        """Finish what was submitted, then end; waits for it, but not for a step that hangs."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STALL_S)
        if self._thread.is_alive():
            logger.error("the model's thread hangs; it is left behind")
            return
        while self._work:  # handed in while the thread was ending
            self._work.popleft()()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run something on the thread; what it raises is logged. Without effect after the end."""

        def run() -> None:
            try:
                function(*arguments)
            except Exception as error:
                logger.error("%s failed: %s", function.__name__, type(error).__name__)

        self._work.append(run)
        self._wake.set()

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run something on the thread and have its result.

        Raises:
            EngineError: the thread has ended, or was never started.
        """
        if not self._thread.is_alive():
            raise EngineError("the engine does not run")
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._work.append(run)
        self._wake.set()
        return future

    def _run(self) -> None:
        while True:
            self._wake.clear()
            while self._work:
                self._busy_since_s = self._clock()
                self._work.popleft()()
            self._tell()
            if self._stopping:
                return
            self._busy_since_s = self._clock()
            wait_s = self._turn()
            self._tell()
            self._busy_since_s = None
            if wait_s != 0.0:
                self._wake.wait(wait_s)

    def _turn(self) -> float | None:
        try:
            return self._conductor.turn()
        except Exception as error:
            logger.error("the engine's turn failed with %s", fault(error))
            return BREATH_S

    def _tell(self) -> None:
        if self._conductor.has_news:
            self._on_news()
