"""Bounds on what one client may take: sessions at a time, and how fast it is read.

A client that sends faster than its conversation goes is read more slowly, so that the network
holds it back; it is not cut off, and nothing of what it sent is lost here. Time is handed in.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from duologue.server.refusals import Refusal


class Pace:
    """A token bucket: `rate` units a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._level = burst
        self._at: float | None = None

    def delay(self, amount: float, now: float) -> float:
        """Count `amount` units at time `now`; returns how many seconds to wait before more."""
        if self._at is not None:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        self._level -= amount
        return max(0.0, -self._level / self._rate)


class ClientSessions:
    """How many sessions each client has; an IPv6 client is its /64 network."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def room(self, address: str) -> int:
        """How many more sessions a client may have."""
        return self._most - self._open[client_of(address)]

    @contextmanager
    def enter(self, address: str, *, comes_back: bool = False) -> Iterator[None]:
        """Hold one session of a client.

        Args:
            comes_back: to a session that it has already; a dead connection may still hold it too.

        Raises:
            Refusal: 429, it has as many as it may.
        """
        client = client_of(address)
        if not comes_back and self._open[client] >= self._most:
            raise Refusal(
                429,
                "sessions_per_client",
                f"this address has {self._most} sessions already; end one of them first",
                retry_after_s=5,
            )
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


def client_of(address: str) -> str:
    """What counts as one client."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
