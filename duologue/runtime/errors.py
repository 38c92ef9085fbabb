"""What a runtime says when it cannot run a model."""

from __future__ import annotations

from duologue.errors import DuologueError


class Unsupported(Exception):
    """The compiled code does not know some part of a model; the message says which."""


class RuntimeUnavailable(DuologueError, RuntimeError):
    """The runtime that was asked for by name cannot run this model here."""
