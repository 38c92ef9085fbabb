"""What can be wrong with a checkpoint."""

from __future__ import annotations

from duologue.errors import DuologueError


class CheckpointError(DuologueError, ValueError):
    """A checkpoint cannot be read, found or understood; says which file, which tensor, and why."""
