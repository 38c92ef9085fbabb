"""What can be wrong with audio that came from outside."""

from __future__ import annotations

from duologue.errors import DuologueError


class AudioError(DuologueError, ValueError):
    """Audio cannot be used; says which file or array, what is wrong with it, and what to do."""


class OpusError(AudioError):
    """Bytes from a peer are not the Opus stream that they should be, or exceed a stated bound."""


class OggError(OpusError):
    """The Ogg pages around an Opus stream are malformed."""
