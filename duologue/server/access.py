"""Who may come in: the token, where the page came from, and what the server was called.

- With a token, `/api`, `/v1` and `/metrics` need it; a few paths that tell nothing do not
  (`PUBLIC_PATHS`), and neither does the page, which asks for it.
- A request that a browser sends for a page (it has an `Origin`) must come from this server's own
  page or from an origin that was allowed: browsers let any page open a websocket anywhere.
- A `Host` that is more than a name and a port is refused: it could be read as part of a path.
- Without a token, the server answers only to names that a foreign page cannot take on: addresses,
  `localhost`, and those that were allowed. Otherwise a page could point its own name at us and be
  "the same origin" (DNS rebinding).

A token is compared in constant time and appears in no log and no error. Clients show it as
`Authorization: Bearer`, as the password of `Authorization: Basic`, as the `kyutai-api-key` header,
or as the query parameter `token`, `auth_id` or `worker_auth_id` (browsers cannot set headers on a
websocket).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from duologue.server.refusals import Refusal, send_refusal

PROTECTED_PREFIXES = ("/api", "/v1", "/metrics")
PUBLIC_PATHS = frozenset({"/api/health", "/api/availability"})
TOKEN_PARAMETERS = ("token", "auth_id", "worker_auth_id")
MIN_TOKEN_CHARACTERS = 16

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


def new_token() -> str:
    """A token with 192 random bits."""
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """The rules; see the module.

    Args:
        origins: further origins (`https://host[:port]`), or `*` for all.
        hosts: further names of this server that are answered without a token, or `*` for all.
    """

    def __init__(
        self, token: str | None, *, origins: Iterable[str] = (), hosts: Iterable[str] = ()
    ) -> None:
        self._digest = None if token is None else _digest(token)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._hosts = frozenset(host.lower() for host in hosts)

    @property
    def needs_token(self) -> bool:
        return self._digest is not None

    def check(self, connection: HTTPConnection) -> None:
        """Raises Refusal: 403 for a foreign name or origin, 401 for a missing or wrong token."""
        self._check_host(connection)
        # As it is routed. The URL's path is not that: it is put together with the client's `Host`.
        path: str = connection.scope["path"]
        if not path.startswith(PROTECTED_PREFIXES):
            return
        self._check_origin(connection)
        if self._digest is None or path in PUBLIC_PATHS:
            return
        if not any(
            hmac.compare_digest(_digest(given), self._digest) for given in _shown(connection)
        ):
            raise Refusal(
                401,
                "token",
                "this server needs its token: `Authorization: Bearer TOKEN` or `?token=TOKEN`",
                headers={"www-authenticate": 'Bearer realm="duologue"'},
            )

    def _check_host(self, connection: HTTPConnection) -> None:
        host = connection.headers.get("host", "")
        if not _is_plain(host):
            raise Refusal(403, "host", "the Host header is no name and port")
        if self._digest is not None or "*" in self._hosts:
            return
        name = urlsplit(f"//{host}").hostname or ""
        if name in self._hosts or is_loopback(name) or _is_address(name):
            return
        raise Refusal(
            403,
            "host",
            "without a token this server answers only to its address or `localhost`; "
            "start it with --allowed-hosts NAME or with a token",
        )

    def _check_origin(self, connection: HTTPConnection) -> None:
        origin = connection.headers.get("origin")
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return
        place = _place(origin)
        if place and place == _place(f"http://{connection.headers.get('host', '')}"):
            return
        raise Refusal(
            403,
            "origin",
            "this server does not take requests from other sites' pages; "
            "start it with --allowed-origins to permit one",
        )


class AccessMiddleware:
    """Applies the rules before anything else sees a request or accepts a websocket."""

    def __init__(self, app: ASGIApp, access: Access, on_refused: Callable[[Refusal], None]) -> None:
        self._app, self._access, self._on_refused = app, access, on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self._access.check(HTTPConnection(scope))
            except Refusal as refusal:
                self._on_refused(refusal)
                await send_refusal(refusal, scope, receive, send)
                return
        await self._app(scope, receive, send)


def _digest(token: str) -> bytes:
    """Equal lengths for the comparison, whatever is shown."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _shown(connection: HTTPConnection) -> Iterator[str]:
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip()
    elif scheme.lower() == "basic":
        with suppress(binascii.Error, UnicodeDecodeError):
            yield base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    if key := connection.headers.get("kyutai-api-key"):
        yield key
    for name in TOKEN_PARAMETERS:
        if given := connection.query_params.get(name):
            yield given


def _is_plain(host: str) -> bool:
    """Whether it is nothing but a name, or an address, and perhaps a port."""
    if any(character in "/?#@\\ " for character in host):
        return False
    try:
        urlsplit(f"//{host}")
    except ValueError:
        return False  # half an IPv6 address
    return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _place(origin: str) -> tuple[str, str] | None:
    """Host and port of an origin, the scheme's default port left out; None when it has none."""
    try:
        parts = urlsplit(origin.lower())
        port = str(parts.port or "")
    except ValueError:
        return None
    if not parts.hostname:
        return None
    return parts.hostname, "" if port in ("80", "443") else port
