"""One websocket to a service: how it is opened, and what it is called when it breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)

MAX_MESSAGE_BYTES = 1 << 20
MAX_UNREAD_MESSAGES = 64
CLOSE_TIMEOUT_S = 1.0
PING_S = 5.0


@dataclass(frozen=True)
class LinkSettings:
    """Where a service is and how patient to be with it."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent to this host only: redirections are not followed."""
    open_timeout_s: float = 5.0
    """For the websocket, and once more for the service to be ready."""
    stall_s: float = 5.0
    """Without any answer to audio for so long, a service is taken for dead."""
    report_after_s: float = 0.5
    first_retry_s: float = 0.1
    max_retry_s: float = 5.0
    stable_s: float = 5.0
    """A connection that lasted so long lets the pauses start anew."""


class Lost(Exception):
    """The connection is of no further use; the message is for people and holds no secrets."""


class _SameOrigin(connect):
    """Keys must not follow a redirection: websockets would only strip standard headers."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@asynccontextmanager
async def connected(settings: LinkSettings) -> AsyncIterator[ClientConnection]:
    """An open websocket, closed at the end.

    Raises:
        Lost: it cannot be opened, or breaks while it is used.
    """
    try:
        async with _SameOrigin(
            settings.url, additional_headers=settings.headers, compression=None,
            open_timeout=settings.open_timeout_s, close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=PING_S, ping_timeout=settings.stall_s, max_size=MAX_MESSAGE_BYTES,
            max_queue=MAX_UNREAD_MESSAGES,
        ) as socket:  # fmt: skip
            try:
                yield socket
            finally:
                await socket.close()
    except ConnectionClosed as error:
        code = f" with code {error.rcvd.code}" if error.rcvd is not None else ""
        raise Lost(f"the service closed the connection{code}") from error
    except InvalidStatus as error:
        raise Lost(f"the service answered with status {error.response.status_code}") from error
    except InvalidURI as error:
        raise Lost("its address is not a websocket address") from error
    except InvalidHandshake as error:
        raise Lost("the service does not speak websocket") from error
    except TimeoutError as error:
        raise Lost(f"no connection within {settings.open_timeout_s:g} s") from error
    except (OSError, WebSocketException) as error:
        raise Lost(f"no connection ({type(error).__name__})") from error
