"""HTTP to one host, with secrets that stay there and answers that stay bounded.

A `Host` sends its headers (keys among them) to the origin it was made for and to no other:
redirects are followed only within that origin, at most `MAX_REDIRECTS`, and only where the method
is kept. Failures become `RetrievalError`s whose texts contain neither headers nor bodies.
Cancelling a request closes its connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from duologue.retrieval.protocol import (
    BackendMalformed,
    BackendRejected,
    BackendUnavailable,
    RetrievalTimeout,
)
from duologue.urls import checked_url

MAX_REDIRECTS = 3
MAX_BODY_BYTES = 4 << 20
MAX_CONNECTIONS = 64
CONNECT_TIMEOUT_S = 5.0
_OVERLOADED = frozenset({408, 425, 429})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Host:
    """Requests below one base URL. Close with `aclose`."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self._client = httpx.AsyncClient(
            headers={"User-Agent": "duologue", **(headers or {})},
            follow_redirects=False,
            transport=transport,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=30.0),
        )

    @property
    def origin(self) -> str:
        """Scheme, host and port; safe to show."""
        return "{}://{}:{}".format(*_origin(httpx.URL(self.base_url)))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def get(self, path: str, params: Mapping[str, str], deadline_s: float) -> bytes:
        """The body of a successful answer."""
        async with self.open("GET", path, deadline_s, params=params) as response:
            return await read_bounded(response)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        deadline_s: float,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> AsyncIterator[httpx.Response]:
        """A successful response whose body has not been read; leaving closes it."""
        url = httpx.URL(f"{self.base_url}/{path.lstrip('/')}", params=params or None)
        timeout = httpx.Timeout(deadline_s, connect=min(deadline_s, CONNECT_TIMEOUT_S))
        try:
            for _ in range(MAX_REDIRECTS + 1):
                request = self._client.build_request(method, url, json=json, timeout=timeout)
                response = await self._send(request)
                try:
                    if response.status_code in _REDIRECTS:
                        url = self._redirected(method, response)
                        continue
                    _check_status(response)
                    yield response
                    return
                finally:
                    await response.aclose()
            raise BackendRejected(f"{self.origin} redirects without end")
        except httpx.PoolTimeout as error:
            raise BackendUnavailable(f"too many requests to {self.origin} at once") from error
        except httpx.ConnectTimeout as error:
            raise BackendUnavailable(f"{self.origin} cannot be reached") from error
        except httpx.TimeoutException as error:
            raise RetrievalTimeout(f"{self.origin} does not answer") from error
        except httpx.ConnectError as error:
            raise BackendUnavailable(f"{self.origin} cannot be reached") from error
        except httpx.TransportError as error:
            raise BackendUnavailable(f"{self.origin} broke off the connection") from error
        except (httpx.DecodingError, httpx.InvalidURL) as error:
            raise BackendMalformed(f"{self.origin} answers nonsense") from error

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Send; once more where a kept connection turns out to have been closed meanwhile."""
        try:
            return await self._client.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            return await self._client.send(request, stream=True)

    def _redirected(self, method: str, response: httpx.Response) -> httpx.URL:
        try:
            target = response.url.join(response.headers.get("location", ""))
        except httpx.InvalidURL as error:
            raise BackendMalformed(f"{self.origin} redirects to nowhere") from error
        if _origin(target) != _origin(httpx.URL(self.base_url)):
            raise BackendRejected(f"{self.origin} redirects to another host; not followed")
        if method != "GET" and response.status_code not in (307, 308):
            raise BackendRejected(f"{self.origin} redirects a {method} as a GET; not followed")
        return target


async def read_bounded(response: httpx.Response, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body, BackendMalformed when it is longer than `limit`."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > limit:
            raise BackendMalformed(f"an answer of more than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    if status in _OVERLOADED or status >= 500:
        raise BackendUnavailable(f"HTTP {status}")
    raise BackendRejected(f"HTTP {status}")


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return (url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0))
