"""Remote speech recognition of one conversation: frames out, what was heard back with each.

Streams count the frames they were pushed from 0; conversations that were continued are further on,
so what a stream says about frames is moved by where the conversation was when it was opened.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from duologue.stt.ports import Heard, Link, Notice, RemoteStream


class RemoteHearing:
    """A `Listener` over a stream. A stream that raises is not asked again, and nobody is hurt."""

    def __init__(self, stream: RemoteStream, first_frame: int = 0) -> None:
        self._given = stream
        self._stream: RemoteStream | None = stream
        self._first_frame = first_frame

    def __call__(self, frame: NDArray[np.float32]) -> Heard:
        if self._stream is None:
            return Heard()
        try:
            self._stream.push(frame)
            heard = self._stream.take()
        except Exception as error:
            detail = f"speech recognition failed with {type(error).__name__}"
            self._stream = None
            return Heard(notices=(Notice(Link.LOST, detail),))
        if heard.transcribed_frame is None or not self._first_frame:
            return heard
        return replace(heard, transcribed_frame=heard.transcribed_frame + self._first_frame)

    def flush(self) -> None:
        """Ask for the words of all audio so far: the model has just asked for knowledge."""
        if self._stream is not None:
            self._stream.flush()

    async def aclose(self) -> None:
        """End the connection."""
        self._stream = None
        await self._given.aclose()
