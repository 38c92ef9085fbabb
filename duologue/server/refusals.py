"""How a request is turned away: one type for HTTP and for websockets that are not yet accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from duologue.errors import DuologueError


class Refusal(DuologueError):
    """Why a request is turned away; `code` is for programs, the message for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer, with `Retry-After` in whole seconds where waiting helps."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        headers = {"cache-control": "no-store", **self.headers}
        if self.status == 413:
            headers["connection"] = "close"  # whatever else comes is not read
        if self.retry_after_s is not None:
            error["retry_after_s"] = round(self.retry_after_s, 3)
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return JSONResponse({"error": error}, self.status, headers)


async def send_refusal(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or a websocket's opening request before it is accepted."""
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(refusal.response())
    else:
        await refusal.response()(scope, receive, send)


async def on_refusal(connection: HTTPConnection, refusal: Exception) -> Response | None:
    """Starlette's exception handler for both kinds of connection."""
    assert isinstance(refusal, Refusal)
    if isinstance(connection, WebSocket):
        await connection.send_denial_response(refusal.response())
        return None
    assert isinstance(connection, Request)
    return refusal.response()
