"""A reference encoder behind HTTP: ours or the published service, over pooled connections.

The key, if there is one, goes to the URL's host alone (redirects are not followed). A connection
kept open that the service has closed meanwhile is replaced once, within the same deadline. Answers
are bounded and checked before a row of them can reach a model.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from torch import Tensor

from duologue.encoder.ports import (
    EncoderBusy,
    EncoderMalformed,
    EncoderTimeout,
    EncoderUnavailable,
    TextRefused,
    check_text,
)
from duologue.encoder.wire import max_blob_bytes, unpack_rows
from duologue.urls import checked_url

MAX_CONNECTIONS = 32
MAX_SPEC_BYTES = 64 << 10
KEEP_OPEN_S = 60.0
_REFUSED = frozenset({400, 413, 422})
_DENIED = frozenset({401, 403})


class RemoteEncoder:
    """A `RowEncoder` at a base URL (without `/embed`). Close with `aclose`."""

    def __init__(self, url: str, *, dim: int | None = None, api_key: str | None = None) -> None:
        try:
            self.url = checked_url(url)
        except ValueError as error:
            raise EncoderUnavailable(f"reference encoder: {error}") from error
        self._dim = dim
        self._client = httpx.AsyncClient(
            headers={b"User-Agent": b"duologue"}
            | ({b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}),
            follow_redirects=False,
            timeout=None,  # the deadline of each call bounds all of it
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEP_OPEN_S,
            ),
        )

    @property
    def dim(self) -> int | None:
        return self._dim

    async def encode(self, text: str, deadline_s: float) -> Tensor:
        """See `RowEncoder.encode`."""
        check_text(text)
        limit = max_blob_bytes(self._dim)
        blob = await self._ask("POST", "/embed", deadline_s, limit, json={"text": text})
        rows = unpack_rows(blob, self._dim)
        self._dim = rows.shape[1]
        return rows

    async def conditioner_name(self, deadline_s: float) -> str:
        """Ask the service which conditioner it serves; also tells whether it is there."""
        body = await self._ask("GET", "/spec", deadline_s, MAX_SPEC_BYTES)
        try:
            name = json.loads(body)["conditioner_name"]
        except (ValueError, TypeError, KeyError) as error:
            raise EncoderMalformed(f"{self.url}/spec is not that of an encoder service") from error
        return str(name)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _ask(
        self, method: str, path: str, deadline_s: float, limit: int, **content: Any
    ) -> bytes:
        """Body of a successful answer; every failure as an `EncoderError`."""
        if self._client.is_closed:
            raise EncoderUnavailable("the connection to the encoder service was closed")
        try:
            async with asyncio.timeout(deadline_s):
                try:
                    return await self._send(method, path, limit, content)
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    return await self._send(method, path, limit, content)
        except TimeoutError:
            raise EncoderTimeout(f"no answer from {self.url} within {deadline_s:.3g} s") from None
        except httpx.ConnectError as error:
            raise EncoderUnavailable(
                f"no encoder service at {self.url}; start one with `duologue encoder serve`"
            ) from error
        except httpx.TransportError as error:
            raise EncoderUnavailable(f"{self.url} broke off the connection") from error
        except (httpx.DecodingError, httpx.InvalidURL) as error:
            raise EncoderMalformed(f"{self.url} answers nonsense") from error

    async def _send(self, method: str, path: str, limit: int, content: dict[str, Any]) -> bytes:
        async with self._client.stream(method, self.url + path, **content) as response:
            self._check_status(response.status_code)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > limit:
                    raise EncoderMalformed(f"{self.url} answers with more than {limit} bytes")
            return bytes(body)

    def _check_status(self, status: int) -> None:
        if status == 200:
            return
        if status in _REFUSED:
            raise TextRefused(f"{self.url} does not take this text (HTTP {status})")
        if status in _DENIED:
            raise EncoderUnavailable(
                f"{self.url} wants another key (HTTP {status}): set REFERENCE_ENCODER_API_KEY"
            )
        if status in (429, 503):
            raise EncoderBusy(f"{self.url} has too much to do (HTTP {status})")
        raise EncoderUnavailable(f"{self.url} failed (HTTP {status})")
