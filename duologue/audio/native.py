"""The one place where the native library `sphn` (libopus and file decoders, in Rust) is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from duologue.audio.errors import AudioError


def sphn() -> Any:
    """The library, loaded on first use: it is large, and PCM doors and WAV files do without."""
    import sphn as library

    return library


def call(refuse: Callable[[str], AudioError], function: Any, *arguments: Any) -> Any:
    """Call native code; whatever it raises becomes the error that `refuse` makes of the reason.

    That includes panics, which arrive as exceptions that are no `Exception`s.
    """
    try:
        return function(*arguments)
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            # The library puts the full path before its reason; callers name the file themselves.
            raise refuse(str(error).rsplit('": ', 1)[-1]) from error
        raise
