"""Remote speech recognition of one conversation: frames out, what was heard back with each.

Streams count the frames they were pushed from 0; conversations that were continued are further on,
so what a stream says about frames is moved by where the conversation was when it was opened.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from duologue.session.inputs import wordless
from duologue.stt.ports import FRAME_RATE, Heard, Link, Notice, RemoteStream


class RemoteHearing:
    """A `Listener` over a stream. A stream that raises is not asked again, and nobody is hurt."""

    def __init__(self, stream: RemoteStream, first_frame: int = 0) -> None:
        self._given = stream
        self._stream: RemoteStream | None = stream
        self._first_frame = first_frame
        self._pushed = 0
        self._wanted_from = 0
        """The stream's frame from which on words are wanted; 0 while all of them are."""
        self._untold: tuple[Notice, ...] = ()
        """That the stream is lost, until a frame is there to tell it with."""

    def __call__(self, frame: NDArray[np.float32]) -> Heard:
        if self._stream is None:
            return self._lost()
        try:
            self._stream.push(frame)
            self._pushed += 1
            heard = self._wanted(self._stream.take())
        except Exception as error:
            self._lose(error)
            return self._lost()
        if heard.transcribed_frame is None or not self._first_frame:
            return heard
        return replace(heard, transcribed_frame=heard.transcribed_frame + self._first_frame)

    def reset(self) -> None:
        """The conversation begins anew: words of the frames so far are not wanted any more."""
        self._wanted_from = self._pushed

    def flush(self) -> None:
        """Ask for the words of all audio so far: the model has just asked for knowledge."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except Exception as error:
            self._lose(error)

    async def aclose(self) -> None:
        """End the connection."""
        self._stream = None
        await self._given.aclose()

    def _lose(self, error: Exception) -> None:
        self._stream = None
        detail = f"speech recognition failed with {type(error).__name__}"
        self._untold = (Notice(Link.LOST, detail),)

    def _lost(self) -> Heard:
        """What is heard without a stream: nothing, the first time that it is lost."""
        notices, self._untold = self._untold, ()
        return Heard(notices=notices)

    def _wanted(self, heard: Heard) -> Heard:
        """The same without words of before the reset, by their times if they have any."""
        since, until = self._wanted_from, heard.transcribed_frame
        if not since:
            return heard
        all_new = until is not None and until >= since
        if all_new:
            self._wanted_from = 0  # what was said before has all come
        if len(heard.words) != len(heard.completed):
            return heard if all_new else wordless(heard)
        pairs = zip(heard.words, heard.completed, strict=True)
        kept = [(text, word) for text, word in pairs if word.start_s * FRAME_RATE > since - 0.5]
        return replace(
            heard, words=tuple(text for text, _ in kept), completed=tuple(word for _, word in kept)
        )
