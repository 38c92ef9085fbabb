"""HTTP routes: health, metrics, what is served, documents, feedback, and the page."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from duologue import __version__
from duologue.engine.api import FRAME_S
from duologue.server.lobby import Lobby
from duologue.server.protocols.kyutai.query import AudioFormat, Dialect
from duologue.server.protocols.kyutai.route import chat
from duologue.server.refusals import Refusal

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "static"
MAX_JSON_BYTES = 64 * 1024
FEEDBACK_S = 15.0
NO_STORE = {"cache-control": "no-store"}
NO_PAGE = "The server runs. Its page is not built: see web/README.md.\n"


def all_routes(page: Path | None = None) -> list[BaseRoute]:
    """The routes, the page from its own folder or from `page`."""
    folder = page or PAGE
    routes: list[BaseRoute] = [
        WebSocketRoute("/api/chat", chat),
        Route("/api/health", published_health),
        Route("/api/availability", availability),
        Route("/api/models", models),
        Route("/api/knowledge", list_documents),
        Route("/api/knowledge", add_document, methods=["POST"]),
        Route("/api/knowledge/search", search_documents, methods=["POST"]),
        Route("/api/knowledge/{identity}", remove_document, methods=["DELETE"]),
        Route("/api/session_feedback", feedback, methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
    ]
    if (folder / "index.html").is_file():
        routes.append(Mount("/", Page(directory=folder, html=True)))
    else:
        routes.append(Route("/", no_page))
    return routes


class Page(StaticFiles):
    """The built page: files with a hash in their names are kept for good, others asked for anew."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            raise Refusal(404, "path", "there is no such websocket")
        await super().__call__(scope, receive, send)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        hashed = scope["path"].startswith("/assets/")
        response.headers["cache-control"] = (
            "public, max-age=31536000, immutable" if hashed else "no-cache"
        )
        return response


def _lobby(request: Request) -> Lobby:
    lobby: Lobby = request.app.state.lobby
    return lobby


async def no_page(request: Request) -> Response:
    return PlainTextResponse(NO_PAGE)


async def published_health(request: Request) -> Response:
    """As published: the process answers."""
    return JSONResponse({"status": "ok"}, headers=NO_STORE)


async def health(request: Request) -> Response:
    """200 while the engine makes frames: restart the process otherwise."""
    healthy = _lobby(request).engine.stats().healthy
    status = "ok" if healthy else "the engine has stopped"
    return JSONResponse({"status": status}, 200 if healthy else 503, NO_STORE)


async def ready(request: Request) -> Response:
    """200 when sessions can be sent here; a full server is ready, a stopping one is not."""
    stats = _lobby(request).engine.stats()
    status = "draining" if stats.draining else "ok" if stats.healthy else "the engine has stopped"
    return JSONResponse({"status": status}, 200 if status == "ok" else 503, NO_STORE)


async def metrics(request: Request) -> Response:
    media_type = "text/plain; version=0.0.4; charset=utf-8"
    return Response(_lobby(request).metrics.render(), 200, NO_STORE, media_type)


async def availability(request: Request) -> Response:
    """Whether one more conversation would be taken; browsers cannot see why a websocket failed."""
    return JSONResponse(_lobby(request).availability(), headers=NO_STORE)


async def models(request: Request) -> Response:
    """What is served, and what a client may choose."""
    lobby = _lobby(request)
    settings, model = lobby.settings, lobby.model
    backends = lobby.engine.backends
    return JSONResponse(
        {
            "version": __version__,
            "models": [
                {
                    "id": model.name,
                    "current": True,
                    "takes_references": model.takes_references,
                    "takes_prompts": model.takes_prompts,
                    "sampling": {
                        "text": asdict(model.defaults.text),
                        "audio": asdict(model.defaults.audio),
                    },
                },
                *({"id": name, "current": False, "url": url} for name, url in settings.choices),
            ],
            "voices": [{"id": name} for name in lobby.voices],
            "retrieval_backends": [{"id": name} for name in backends],
            "retrieval_backend_default": backends[0],
            "frame_ms": round(FRAME_S * 1000),
            "audio": [kind.value for kind in AudioFormat],
            "dialects": [dialect.value for dialect in Dialect],
            "limits": {
                "message_bytes": settings.message_bytes,
                "idle_s": settings.idle_s,
                "session_s": settings.session_s,
                "resume_s": settings.resume_s,
                "sessions": settings.sessions,
            },
        },
        headers=NO_STORE,
    )


# Documents.


async def list_documents(request: Request) -> Response:
    store = _lobby(request).knowledge
    body = {
        "documents": store.entries(),
        "passages": store.base.passages,
        "persistent": store.persistent,
        "limits": store.limits(),
    }
    return JSONResponse(body, headers=NO_STORE)


async def add_document(request: Request) -> Response:
    """The body is the file, `?name=` its name."""
    store = _lobby(request).knowledge
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > store.upload_bytes:
        raise Refusal(413, "size", f"at most {store.upload_bytes} bytes are taken")
    entry, is_new = await store.add(request.query_params.get("name", ""), request.stream())
    return JSONResponse(entry, 201 if is_new else 200, NO_STORE)


async def remove_document(request: Request) -> Response:
    await _lobby(request).knowledge.remove(request.path_params["identity"])
    return Response(status_code=204, headers=NO_STORE)


async def search_documents(request: Request) -> Response:
    """A POST, so that questions are in no URL and no log."""
    asked = await _json_body(request)
    query, count = asked.get("query"), asked.get("k", 5)
    if not isinstance(query, str) or not isinstance(count, int):
        raise Refusal(400, "body", "expected {query: string, k?: number}")
    hits = await _lobby(request).knowledge.search(query, count)
    return JSONResponse({"hits": hits}, headers=NO_STORE)


# Feedback, as published.


async def feedback(request: Request) -> Response:
    """Hand a session's feedback on to the configured webhook, unchanged."""
    url = _lobby(request).settings.feedback_url
    body = await _body(request)
    if not url:
        return Response(status_code=202)
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return Response(status_code=400)
    try:
        async with httpx.AsyncClient(timeout=FEEDBACK_S) as client:
            answer = await client.post(
                url, content=body, headers={"content-type": "application/json"}
            )
    except httpx.HTTPError as error:
        logger.warning("feedback failed", extra={"fields": {"error": type(error).__name__}})
        return Response(status_code=502)
    return Response(status_code=204 if answer.is_success else 502)


async def _body(request: Request) -> bytes:
    """At most `MAX_JSON_BYTES` of a request's body."""
    body = bytearray()
    chunks: AsyncIterator[bytes] = request.stream()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise Refusal(413, "size", f"at most {MAX_JSON_BYTES} bytes are taken")
    return bytes(body)


async def _json_body(request: Request) -> dict[str, Any]:
    try:
        values = json.loads(await _body(request))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise Refusal(400, "body", "expected a JSON object")
    return values
