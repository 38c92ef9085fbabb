"""What can go wrong while judging."""

from __future__ import annotations

from duologue.errors import DuologueError


class EvaluationError(DuologueError):
    """An evaluation cannot be made or gone on with; the message says what to do."""
