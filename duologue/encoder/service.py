"""The encoder service: `/health`, `/spec` and `/embed` as published, and `/metrics`.

Whatever the published service answers is answered with the same bytes; beyond it there are bounds,
and an answer at each of them: 413 for a body or text that is too long, 408 for a body that does not
come, 503 when too many texts wait, 504 at the deadline, 401 without the key if one is set. A caller
that hangs up withdraws its text. Texts are never logged.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from duologue.encoder.metrics import EncoderMetrics
from duologue.encoder.ports import (
    EncoderBusy,
    EncoderError,
    EncoderTimeout,
    RowEncoder,
    TextRefused,
)
from duologue.encoder.wire import BLOB_TYPE, HEALTH, ServiceSpec, pack_rows

logger = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Counted when nobody waits for the answer any more; never sent."""
_STATUS = {TextRefused: 413, EncoderBusy: 503, EncoderTimeout: 504}


@dataclass(frozen=True)
class ServiceLimits:
    """Bounds of one request."""

    body_bytes: int = 64 << 10
    """Room for the longest text with every character escaped as `\\uXXXX` twice."""
    body_s: float = 5.0
    """Time for the body to come."""
    encode_s: float = 10.0
    """Time for a text to be encoded, waiting included."""


def create_app(
    encoder: RowEncoder,
    spec: ServiceSpec,
    *,
    limits: ServiceLimits | None = None,
    metrics: EncoderMetrics | None = None,
    api_key: str | None = None,
) -> Starlette:
    """The service over an encoder, which it closes when it ends.

    With `api_key`, everything but `/health` wants it as a bearer token.
    """
    service = _Service(encoder, spec, limits or ServiceLimits(), metrics or EncoderMetrics())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await encoder.aclose()

    async def guard(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")  # as it was sent
        if api_key and not hmac.compare_digest(given, f"Bearer {api_key}".encode()):
            raise HTTPException(401, "wrong or no key", {"WWW-Authenticate": "Bearer"})

    async def health(_: Request) -> Response:
        return JSONResponse(HEALTH)

    async def describe(request: Request) -> Response:
        await guard(request)
        return JSONResponse(spec.to_dict())

    async def metrics_page(request: Request) -> Response:
        await guard(request)
        page = generate_latest(service.metrics.registry)
        return Response(page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def embed(request: Request) -> Response:
        await guard(request)
        return await service.embed(request)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/spec", describe),
            Route("/embed", embed, methods=["POST"]),
            Route("/metrics", metrics_page),
        ],
        exception_handlers={HTTPException: _refused},
        lifespan=lifespan,
    )


@dataclass(frozen=True)
class _Service:
    encoder: RowEncoder
    spec: ServiceSpec
    limits: ServiceLimits
    metrics: EncoderMetrics

    async def embed(self, request: Request) -> Response:
        begin = time.perf_counter()
        status = 500
        try:
            text = _text_of(await self._body(request))
            response = await self._encoded(request, text)
            status = response.status_code
            return response
        except HTTPException as error:
            status = error.status_code
            raise
        except ClientDisconnect:
            status = CLIENT_GONE
            return Response(status_code=CLIENT_GONE)
        finally:
            self.metrics.requests.labels(str(status)).inc()
            self.metrics.request_seconds.observe(time.perf_counter() - begin)

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self.limits.body_bytes:
                        raise HTTPException(
                            413, f"the body is longer than {self.limits.body_bytes} bytes"
                        )
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        return bytes(body)

    async def _encoded(self, request: Request, text: str) -> Response:
        encoding = asyncio.ensure_future(self.encoder.encode(text, self.limits.encode_s))
        leaving = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({encoding, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not encoding.done():
                raise ClientDisconnect
            blob = await asyncio.to_thread(pack_rows, encoding.result())
            return Response(blob, media_type=BLOB_TYPE)
        except EncoderError as error:
            raise _as_http(error) from error
        finally:
            for task in (encoding, leaving):
                task.cancel()
            await asyncio.gather(encoding, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    """Return when the client hangs up; its body has been read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _text_of(body: bytes) -> str:
    """The text of a request; what is wrong with it in the form that validation errors have."""
    if not body:
        raise _invalid("missing", ["body"], "Field required", None)
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise _invalid("json_invalid", ["body"], "JSON decode error", None) from None
    if not isinstance(values, dict):
        raise _invalid("model_type", ["body"], "Input should be a JSON object", None)
    text = values.get("text", "")
    if not isinstance(text, str):
        raise _invalid("string_type", ["body", "text"], "Input should be a valid string", text)
    return text.encode("utf-8", "replace").decode()  # a lone surrogate is no character


def _invalid(kind: str, where: list[str], message: str, given: Any) -> HTTPException:
    return _InvalidBody([{"type": kind, "loc": where, "msg": message, "input": given}])


class _InvalidBody(HTTPException):
    """422, whose `detail` is a list."""

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        super().__init__(422, "the body is not what is expected")
        self.problems = problems


def _as_http(error: EncoderError) -> HTTPException:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    if status == 500:
        logger.error("a text could not be encoded: %s", error)
    return HTTPException(status, str(error), {"Retry-After": "1"} if status == 503 else None)


async def _refused(_: Request, error: Exception) -> Response:
    """Every refusal as JSON with `detail`, as the published service has it."""
    assert isinstance(error, HTTPException)
    detail = error.problems if isinstance(error, _InvalidBody) else error.detail
    return JSONResponse({"detail": detail}, error.status_code, error.headers)
