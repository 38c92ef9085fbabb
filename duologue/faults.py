"""What a log may hold of an exception that nobody expected."""

from __future__ import annotations

import traceback


def fault(error: BaseException) -> str:
    """Type and frames of an error, one a line; its message may quote what was said, or a key."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}\n{frames}"
