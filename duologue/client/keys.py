"""Single keys from the terminal, and the terminal back as it was, whatever happens in between.

Ctrl-C stays what it is everywhere. Without a terminal on standard input there are no keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_READ_BYTES = 64
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|O.|.)?")
"""What arrows and function keys send; they are no letters."""


@contextmanager
def keys(on_key: Callable[[str], None], file_descriptor: int | None = None) -> Iterator[None]:
    """Call `on_key` on the event loop for each key pressed, without echo and without Enter."""
    descriptor = sys.stdin.fileno() if file_descriptor is None else file_descriptor
    try:
        import termios
        import tty
    except ImportError:  # Windows: Ctrl-C ends the conversation
        yield
        return
    if not os.isatty(descriptor):
        yield
        return
    loop = asyncio.get_running_loop()

    def read() -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(descriptor, MAX_READ_BYTES)
        if not data:  # the terminal was closed
            loop.remove_reader(descriptor)
        for key in ESCAPES.sub("", data.decode("utf-8", "ignore")):
            on_key(key.lower())

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        loop.add_reader(descriptor, read)
        yield
    finally:
        loop.remove_reader(descriptor)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
