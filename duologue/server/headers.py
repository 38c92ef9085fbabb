"""Headers of every response, and one log line for every request. Plain ASGI, no buffering.

The page may load and talk to nothing but this server, has no inline scripts or styles, uses of the
devices only the microphone, and is shown in nobody's frame. It is isolated from other origins.
"""

from __future__ import annotations

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
}
QUIET_PATHS = frozenset({"/health", "/ready", "/metrics", "/api/health", "/api/availability"})
"""Asked by machines every few seconds; logged at debug level."""


class SecurityHeaders:
    """Adds `SECURITY_HEADERS` to HTTP responses and to refused websockets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class RequestLog:
    """One line for each request: method, path without its query, status, time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
            fields = {
                "method": scope.get("method", "WEBSOCKET"),
                "path": scope["path"][:200],
                "status": status,
                "ms": round((time.perf_counter() - begun) * 1000, 1),
                "client": (scope.get("client") or ("unknown",))[0],
            }
            logger.log(level, "request", extra={"fields": fields})
