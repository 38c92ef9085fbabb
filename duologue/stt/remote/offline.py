"""A whole recording through a service, as fast as the service takes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np

from duologue.stt.ports import FRAME_SIZE, SAMPLE_RATE, Transcription, Word
from duologue.stt.remote.settings import ServiceError
from duologue.stt.remote.stream import Service
from duologue.stt.remote.timeline import MAX_BACKLOG
from duologue.stt.remote.wire import Pcm
from duologue.stt.words import with_ends

AHEAD_FRAMES = MAX_BACKLOG * 3 // 4
"""Frames sent ahead of the words: more than any service's delay, and few enough that a lost
connection loses none of them."""
PATIENCE_S = 20.0
_POLL_S = 0.01


async def transcribe_remotely(
    service: Service,
    pcm: Pcm,
    on_frames: Callable[[int], None] | None = None,
    *,
    patience_s: float = PATIENCE_S,
) -> Transcription:
    """Transcribe float32 [T] at 24 kHz.

    Raises:
        ServiceError: nothing came for `patience_s`.
    """
    padded = np.pad(pcm, (0, -len(pcm) % FRAME_SIZE)).astype(np.float32)
    words: list[Word] = []
    progress, since, why = -1, time.monotonic(), "the service does not answer"
    async with await service.open() as stream:
        for number, frame in enumerate(padded.reshape(-1, FRAME_SIZE)):
            stream.push(frame)
            while True:
                heard = stream.take()
                words.extend(heard.completed)
                why = next((notice.detail for notice in heard.notices), why)
                done = -1 if heard.transcribed_frame is None else heard.transcribed_frame
                if done > progress:
                    progress, since = done, time.monotonic()
                if number - done < AHEAD_FRAMES:
                    break
                if time.monotonic() - since > patience_s:
                    raise ServiceError(f"speech recognition gave up: {why}")
                await asyncio.sleep(_POLL_S)
            if on_frames is not None:
                on_frames(1)
        last = await stream.finish(patience_s)
        words.extend(last.completed)
        if last.transcribed_frame != len(padded) // FRAME_SIZE - 1:
            why = next((notice.detail for notice in last.notices), why)
            raise ServiceError(f"speech recognition did not finish: {why}")
    duration_s = len(pcm) / SAMPLE_RATE
    return Transcription(tuple(with_ends(words, duration_s)), duration_s)
