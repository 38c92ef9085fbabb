"""HTTP connections on which nothing is asked end.

uvicorn counts connections against its limit and waits for ever for the first request: a few hundred
clients that connect and say nothing would lock everybody out, health checks too.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 10.0
"""How long it may take from the connection, or from an answer, to the head of the next request."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1, whose patience with a client that asks for nothing is bounded."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._asked():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._asked():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _asked(self) -> bool:
        """Whether a request is being answered, or the connection has become a websocket's."""
        answering = self.cycle is not None and not self.cycle.response_complete
        return answering or self not in self.connections

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(REQUEST_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
