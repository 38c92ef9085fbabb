"""What can stand between a client and a conversation; each message says what to do about it."""

from __future__ import annotations

import math

from duologue.errors import DuologueError


class ClientError(DuologueError):
    """The conversation cannot be had, or cannot go on."""


class ConnectionFailed(ClientError):
    """Nobody answers at this address, or not a server of conversations."""


class TlsFailed(ClientError):
    """The server could not prove who it is, so it was told nothing, not even the token."""


class Unauthorised(ClientError):
    """The server wants a token, or another one."""


class Refused(ClientError):
    """The server turned this client away; `status` and `code` are its own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class ServerFull(Refused):
    """No place now; `retry_after_s` is when the server expects one, None when it does not say."""

    def __init__(
        self, status: int, code: str, message: str, retry_after_s: float | None = None
    ) -> None:
        if retry_after_s is not None:
            message += f"; try again in {math.ceil(retry_after_s)} s"
        super().__init__(status, code, message)
        self.retry_after_s = retry_after_s


class ConnectionLost(ClientError):
    """A conversation that was going on broke, and could not be resumed."""


class ConversationOver(ClientError):
    """Something was sent after the end."""


class Unsupported(ClientError):
    """This server does not speak the additions that the request needs."""


class DeviceError(ClientError):
    """There is no usable microphone or loudspeaker."""
