"""The ASGI application: routes, and the checks in front of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from duologue.server.access import Access, AccessMiddleware
from duologue.server.headers import RequestLog, SecurityHeaders
from duologue.server.lobby import Lobby
from duologue.server.refusals import Refusal, on_refusal
from duologue.server.routes import all_routes


def create_app(lobby: Lobby, token: str | None) -> Starlette:
    """The application of an open lobby, which is at `app.state.lobby`; the caller closes it."""
    settings = lobby.settings

    def on_refused(refusal: Refusal) -> None:
        lobby.metrics.refused.labels(refusal.code).inc()

    access = Access(token, origins=settings.allowed_origins, hosts=settings.allowed_hosts)
    middleware = [Middleware(RequestLog), Middleware(SecurityHeaders)]
    if settings.allowed_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type"],
            )
        )
    middleware.append(Middleware(AccessMiddleware, access=access, on_refused=on_refused))
    handlers: Mapping[Any, Any] = {Refusal: on_refusal, ClientDisconnect: _on_disconnect}
    app = Starlette(
        routes=all_routes(settings.static), middleware=middleware, exception_handlers=handlers
    )
    app.state.lobby = lobby
    return app


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """The client left in the middle of its upload; nobody reads this."""
    return Response(status_code=400)
