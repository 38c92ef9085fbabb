"""The one base of errors whose message is meant for the user."""

from __future__ import annotations


class DuologueError(Exception):
    """Something the user can understand and mend; doors show its message, not its trace."""
