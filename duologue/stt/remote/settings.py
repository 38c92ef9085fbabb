"""Which recognition service, from settings or the published environment variables.

STT_API_KEY   key of the service; Gradium needs one
STT_URL       address of the service; one that contains "gradium" speaks Gradium's protocol,
              any other is a moshi-server. Without it, Gradium's public endpoint is meant where
              Gradium is asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from duologue.errors import DuologueError
from duologue.stt.remote import gradium, kyutai
from duologue.stt.remote.link import LinkSettings
from duologue.stt.remote.stream import Service

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class ServiceError(DuologueError, ValueError):
    """Settings that name no service that could be reached."""


class Protocol(StrEnum):
    """What a service speaks."""

    GRADIUM = "gradium"
    KYUTAI = "kyutai"


@dataclass(frozen=True)
class ServiceSettings:
    """A recognition service."""

    protocol: Protocol
    url: str
    key: str = field(default="", repr=False)
    language: str = "en"
    """Gradium's hint."""
    delay_frames: int | None = None
    """How far words are behind the audio; the protocol's usual value when `None`."""
    vocabulary: tuple[str, ...] = ()
    """Words to lean towards, where the service can (Gradium's keywords)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _checked_url(self.url, self.protocol))
        if self.protocol is Protocol.GRADIUM and not self.key:
            raise ServiceError("Gradium needs a key: set STT_API_KEY")
        if not self.key.isascii() or not self.key.isprintable():
            raise ServiceError("STT_API_KEY: a key has printable ASCII characters only")
        if self.delay_frames is not None and not 1 <= self.delay_frames <= 100:
            raise ServiceError(f"delay_frames: {self.delay_frames} is not between 1 and 100")

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, gradium_stt: bool = False
    ) -> Self | None:
        """The service that the published variables name, `None` without one.

        Args:
            gradium_stt: Gradium was asked for (`--gradium-stt`).
        """
        key = environment.get("STT_API_KEY", "").strip()
        url = environment.get("STT_URL", "").strip()
        if gradium_stt:
            return cls(Protocol.GRADIUM, url if "gradium" in url else gradium.ENDPOINT, key)
        if not url:
            return None
        if "gradium" in url:
            return cls(Protocol.GRADIUM, url, key)
        return cls(Protocol.KYUTAI, url, key or kyutai.PUBLIC_KEY)


def connect_service(settings: ServiceSettings) -> Service:
    """The service, ready to open conversations; connects to nothing yet."""
    if settings.protocol is Protocol.GRADIUM:
        delay = settings.delay_frames or gradium.DELAY_FRAMES
        link = LinkSettings(settings.url, {gradium.KEY_HEADER: settings.key})
        return Service(
            link,
            lambda: gradium.GradiumWire(
                language=settings.language, delay_frames=delay, keywords=settings.vocabulary
            ),
        )
    delay = settings.delay_frames or kyutai.DELAY_FRAMES
    link = LinkSettings(settings.url, {kyutai.KEY_HEADER: settings.key})
    return Service(link, lambda: kyutai.KyutaiWire(delay_frames=delay))


def _checked_url(url: str, protocol: Protocol) -> str:
    """A websocket address; a bare host gets the protocol's usual path."""
    try:
        parts = urlsplit(url.strip())
        scheme, host, _ = _SCHEMES.get(parts.scheme), parts.hostname, parts.port
    except ValueError as error:
        raise ServiceError(f"STT_URL: not an address: {error}") from error
    if scheme is None or not host:
        raise ServiceError("STT_URL: an address starts with ws://, wss://, http:// or https://")
    if parts.username or parts.password:
        raise ServiceError("STT_URL: credentials do not belong into the address; set STT_API_KEY")
    usual = gradium.PATH if protocol is Protocol.GRADIUM else kyutai.PATH
    path = usual if parts.path in ("", "/") else parts.path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))
