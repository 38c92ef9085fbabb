"""Messages of `/api/chat`: the first byte is the kind, the rest its payload. Bytes only.

The kinds 0 to 9 are the published ones (Moshi, MoshiRAG). `EVENT` is ours; it is never sent unless
the client asked for it. Decoding never fails: whatever is not a message that a server has to act on
becomes `Ignored` with the reason, as the published servers do.

Bounds: a client's JSON holds at most `MAX_JSON_BYTES`; longer is ignored.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

MAX_JSON_BYTES = 16 * 1024


class Kind(IntEnum):
    """The first byte of a message."""

    HANDSHAKE = 0
    AUDIO = 1
    TEXT = 2
    CONTROL = 3
    METADATA = 4
    ERROR = 5
    PING = 6
    COLOURED_TEXT = 7
    REFERENCE = 8
    COLOURED_REFERENCE = 9
    EVENT = 10


class Colour(IntEnum):
    """Colour ids that published clients map to speakers."""

    MODEL = 4
    USER = 10


@dataclass(frozen=True, slots=True)
class Audio:
    """A slice of the client's audio stream."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Metadata:
    """A JSON object from the client."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """A JSON object of kind `EVENT`, with its `type`."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that changes nothing; `reason` holds no byte of it."""

    reason: str


ClientMessage: TypeAlias = Audio | Metadata | Command | Ignored


_WITHOUT_EFFECT: Mapping[int, str] = {
    Kind.HANDSHAKE: "handshake",
    Kind.CONTROL: "control",
    Kind.PING: "ping",
}


def decode(message: bytes) -> ClientMessage:
    """Read a client's message; never raises."""
    if not message:
        return Ignored("empty message")
    kind, payload = message[0], message[1:]
    if kind == Kind.AUDIO:
        return Audio(payload)
    if kind == Kind.METADATA:
        values = _json_object(payload)
        return Ignored("malformed JSON") if values is None else Metadata(values)
    if kind == Kind.EVENT:
        values = _json_object(payload)
        name = values.get("type") if values else None
        if values is None or not isinstance(name, str):
            return Ignored("malformed command")
        return Command(name, values)
    return Ignored(_WITHOUT_EFFECT.get(kind, "unknown kind"))


def _json_object(payload: bytes) -> dict[str, Any] | None:
    if len(payload) > MAX_JSON_BYTES:
        return None
    try:
        values = json.loads(payload.decode())
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


SHORT_HANDSHAKE = bytes([Kind.HANDSHAKE])
"""The Python servers' form."""


def full_handshake(protocol_version: int = 0, model_version: int = 0) -> bytes:
    """The Rust server's form: two versions follow the kind."""
    return SHORT_HANDSHAKE + struct.pack("<II", protocol_version, model_version)


def audio(data: bytes) -> bytes:
    return bytes([Kind.AUDIO]) + data


def text(fragment: str) -> bytes:
    return bytes([Kind.TEXT]) + _encoded(fragment)


def metadata(values: Mapping[str, Any]) -> bytes:
    return bytes([Kind.METADATA]) + _json_bytes(values)


def error(message: str) -> bytes:
    return bytes([Kind.ERROR]) + _encoded(message)


def coloured_text(colour: Colour, fragment: str) -> bytes:
    return bytes([Kind.COLOURED_TEXT, colour]) + _encoded(fragment)


def coloured_reference(colour: Colour, fragment: str) -> bytes:
    return bytes([Kind.COLOURED_REFERENCE, colour]) + _encoded(fragment)


def event(values: Mapping[str, Any]) -> bytes:
    return bytes([Kind.EVENT]) + _json_bytes(values)


def _encoded(value: str) -> bytes:
    return value.encode("utf-8", "replace")


def _json_bytes(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _encoded(text)
