"""A circuit breaker: a back end that keeps failing is left alone for a while.

Closed: calls pass. After `threshold` failures in a row it opens: calls are refused. When its time
is over it is half open: one call passes as a probe, and its end closes the breaker or opens it
again for twice as long, up to `max_open_s`.
"""

from __future__ import annotations

import time
from enum import StrEnum

from duologue.retrieval.protocol import BackendUnavailable, Clock

MOST_OF_DEADLINE = 0.8


class BreakerState(StrEnum):
    """See the module."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Ask `enter` before a call, then report exactly one of `succeeded`, `failed`, `cancelled`."""

    def __init__(
        self,
        name: str,
        *,
        threshold: int = 3,
        open_s: float = 10.0,
        max_open_s: float = 120.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._name = name
        self._threshold = threshold
        self._first_open_s = open_s
        self._max_open_s = max_open_s
        self._clock = clock
        self._failures = 0
        self._open_s = open_s
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> BreakerState:
        if self._open_until is None:
            return BreakerState.CLOSED
        if self._clock() < self._open_until:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    def enter(self) -> None:
        """Raises BackendUnavailable while calls are refused."""
        state = self.state
        if state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and self._probing):
            raise BackendUnavailable(f"{self._name} failed {self._failures} times; left alone")
        self._probing = state is BreakerState.HALF_OPEN

    def succeeded(self) -> None:
        self._failures = 0
        self._open_until = None
        self._open_s = self._first_open_s
        self._probing = False

    def failed(self) -> None:
        self._failures += 1
        if self._probing:
            self._open_s = min(2 * self._open_s, self._max_open_s)
        if self._probing or self._failures >= self._threshold:
            self._open_until = self._clock() + self._open_s
        self._probing = False

    def cancelled(self, elapsed_s: float, deadline_s: float) -> None:
        """The call was cancelled: a failure if its time was used up, else it tells nothing."""
        if elapsed_s >= MOST_OF_DEADLINE * deadline_s:
            self.failed()
        else:
            self._probing = False
