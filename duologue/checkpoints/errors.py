"""What can be wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be read, found or understood; says which file, which tensor, and why."""
