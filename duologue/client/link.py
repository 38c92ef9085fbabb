"""One websocket to a server: its address, its proof of identity, and what refusals are called.

The token travels as a header: addresses end up in logs. It is sent to this host only, for
redirections are not followed, and never before the server has proven who it is.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.http11 import Response

from duologue.client.errors import (
    ClientError,
    ConnectionFailed,
    Refused,
    ServerFull,
    TlsFailed,
    Unauthorised,
)
from duologue.dialogue.transcript import spoken_line

MAX_MESSAGE_BYTES = 1 << 20
MAX_UNREAD_MESSAGES = 64
MAX_REASON_CHARACTERS = 300
CLOSE_TIMEOUT_S = 2.0
PING_S = 10.0
"""A peer that answers no ping for so long is taken for lost."""
CHAT_PATH = "/api/chat"
SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
NO_ADDRESS = "a server's address looks like http://localhost:8998"


@dataclass(frozen=True)
class Address:
    """Where a server is, and how to know that it is the right one."""

    url: str
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    """Certificates to trust, in PEM, instead of the system's."""
    fingerprint: str | None = None
    """SHA-256 of the server's certificate; as `duologue serve --tls self-signed` prints it."""

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        fingerprint: str | None = None,
    ) -> Address:
        """Read what people write: `localhost:8998`, a page's address with its token, `wss://...`.

        `http` addresses are a server's root, `/api/chat` is added; `ws` addresses with a path are
        taken as they are.
        """
        try:
            parts = urlsplit(url.strip() if "://" in url else f"http://{url.strip()}")
            named = bool(parts.hostname) and parts.port != 0
            (parts.hostname or "").encode("idna")  # as the look-up of its name does
        except ValueError:
            raise ConnectionFailed(NO_ADDRESS) from None
        if parts.scheme not in SCHEMES or not named or "@" in parts.netloc:
            raise ConnectionFailed(NO_ADDRESS)
        path = parts.path.rstrip("/")
        if not path.endswith(CHAT_PATH) and (parts.scheme.startswith("http") or not path):
            path += CHAT_PATH
        query = dict(parse_qsl(parts.query))
        token = token or query.pop("token", None)
        address = (SCHEMES[parts.scheme], parts.netloc, path, urlencode(query), "")
        return cls(urlunsplit(address), token, ca, fingerprint)

    @property
    def shown(self) -> str:
        """The address without its parameters, which may hold secrets."""
        parts = urlsplit(self.url)
        return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"

    def with_parameters(self, parameters: Mapping[str, object]) -> str:
        """The URL with parameters, given ones winning over those already in it."""
        parts = urlsplit(self.url)
        query = {**dict(parse_qsl(parts.query)), **parameters}
        return urlunsplit(parts._replace(query=urlencode(query)))


async def open_link(
    address: Address, parameters: Mapping[str, object], timeout_s: float
) -> ClientConnection:
    """An open websocket; the caller closes it.

    Raises:
        ClientError: of the kind that says what to do.
    """
    where, host = address.shown, urlsplit(address.url).hostname or ""
    try:
        return await _SameOrigin(
            address.with_parameters(parameters), ssl=_tls_context(address),
            additional_headers=_headers(address.token), compression=None,
            proxy=None if _is_loopback(host) else True, open_timeout=timeout_s,
            close_timeout=CLOSE_TIMEOUT_S, ping_interval=PING_S, ping_timeout=PING_S,
            max_size=MAX_MESSAGE_BYTES, max_queue=MAX_UNREAD_MESSAGES,
        )  # fmt: skip
    except InvalidStatus as error:
        raise _refusal(error.response, where) from None
    except ssl.SSLError as error:
        raise _tls_failure(error, where) from None
    except TimeoutError:
        raise ConnectionFailed(f"{where} did not answer within {timeout_s:g} s") from None
    except (InvalidURI, UnicodeError):
        raise ConnectionFailed(NO_ADDRESS) from None
    except (InvalidHandshake, EOFError):
        raise ConnectionFailed(
            f"{where} does not speak websocket; a server with TLS needs https://"
        ) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConnectionFailed(
            f"{where} cannot be reached ({reason}); is the server running?"
        ) from None
    except WebSocketException as error:
        raise ConnectionFailed(f"{where}: {type(error).__name__}") from None


class _SameOrigin(connect):
    """The token must not follow a redirection."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _headers(token: str | None) -> dict[str, str]:
    """Under our name and under that of Kyutai's services."""
    return {"Authorization": f"Bearer {token}", "kyutai-api-key": token} if token else {}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# TLS


def _tls_context(address: Address) -> ssl.SSLContext | None:
    if not address.url.startswith("wss:"):
        if address.ca or address.fingerprint:
            raise TlsFailed("a certificate can only be checked at an https:// address")
        return None
    if address.fingerprint:
        return _pinned_context(address.fingerprint)
    try:
        return ssl.create_default_context(cafile=address.ca)
    except (OSError, ssl.SSLError):
        raise TlsFailed(f"{address.ca}: holds no certificates in PEM that can be read") from None


def _pinned_context(fingerprint: str) -> ssl.SSLContext:
    """A context that accepts one certificate, whoever signed it, within the handshake itself."""
    wanted = fingerprint.replace(":", "").replace(" ", "").lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise TlsFailed("a fingerprint is the SHA-256 of a certificate: 64 hexadecimal digits")

    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            found = hashlib.sha256(self.getpeercert(binary_form=True) or b"").hexdigest()
            if found != wanted:
                raise ssl.SSLCertVerificationError("the fingerprint is another one")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.sslobject_class = Pinned
    return context


def _tls_failure(error: ssl.SSLError, where: str) -> TlsFailed:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "verify_message", "") or error.args[0]
        return TlsFailed(
            f"{where}: its certificate was not accepted ({reason}); trust it by --ca or "
            "--fingerprint if it is the right one"
        )
    return TlsFailed(f"{where} does not speak TLS as expected; a server without it needs http://")


# Refusals


def _refusal(response: Response, where: str) -> ClientError:
    status, told = response.status_code, _told(response.body)
    code = str(told.get("code", ""))[:40]
    message = spoken_line(str(told.get("message", "")))[:MAX_REASON_CHARACTERS]
    if status == 401:
        return Unauthorised(f"{where} wants a token; set DUOLOGUE_TOKEN to the server's")
    if status in (429, 503):
        return ServerFull(
            status, code, message or f"{where} has no place now", _retry_after(response, told)
        )
    if status == 404:
        return ConnectionFailed(f"{where} is there, but no server of conversations")
    return Refused(status, code, message or f"{where} refused with status {status}")


def _told(body: bytes | bytearray | None) -> dict[str, Any]:
    try:
        told = json.loads(bytes(body or b"{}"))["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _retry_after(response: Response, told: Mapping[str, Any]) -> float | None:
    precise = told.get("retry_after_s")
    if isinstance(precise, int | float) and 0 <= precise < 86_400:
        return float(precise)
    header = response.headers.get("Retry-After", "")
    return float(header) if header.isdecimal() and len(header) < 6 else None
