"""The user's audio on its way to the model: any chunks in, whole frames out, bounded.

One side pushes (the event loop), the other takes (the tick thread). Beyond `capacity` waiting
frames the oldest are dropped, so that what is heard is never far behind; what speech recognition
had made of a dropped frame goes to the next one. Recognition hears and counts all frames, the
conversation only those that are taken, so what it says of frames is moved by the dropped ones.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from duologue.stt.ports import Heard

Samples = NDArray[np.float32]
Listener = Callable[[Samples], Heard]
"""Remote recognition: hears a frame, says what has come from the service since the last one."""


@dataclass(frozen=True)
class QueuedFrame:
    """A whole frame and when its last sample came."""

    pcm: Samples
    arrived_s: float
    heard: Heard | None = None


class InputQueue:
    """See the module. `on_frame` is told when a frame is complete."""

    def __init__(
        self, frame_size: int, capacity: int, on_frame: Callable[[], None] = lambda: None
    ) -> None:
        self._frame_size, self._capacity, self._on_frame = frame_size, capacity, on_frame
        self._lock = threading.Lock()
        self._frames: deque[QueuedFrame] = deque()
        self._partial = np.zeros(0, np.float32)
        self._orphan: Heard | None = None
        self.listener: Listener | None = None
        self.dropped_frames = 0
        self._dropped_heard = 0
        """Dropped frames that the listener has counted."""
        self.closed = False
        self.last_push_s: float | None = None

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def first_arrived_s(self) -> float:
        """When the oldest waiting frame was complete; the queue must not be empty."""
        return self._frames[0].arrived_s

    def push(self, pcm: Samples, now_s: float) -> int:
        """Take samples [n]; returns how many were dropped, these or older ones."""
        _check_shape(pcm)
        if self.closed:
            return len(pcm)
        size, room = self._frame_size, self._frame_size * (self._capacity + 1)
        skipped = max(0, len(pcm) - room)
        pcm = playable(pcm[skipped:])
        with self._lock:
            self.last_push_s = now_s
            if skipped:
                # What was begun before a gap that long is of no use.
                skipped += len(self._partial)
                self._partial = self._partial[:0]
                self.dropped_frames += round(skipped / size)
            samples = np.concatenate([self._partial, pcm])
            whole = len(samples) // size
            self._partial = samples[whole * size :]
            for frame in samples[: whole * size].reshape(whole, size):
                heard = self.listener(frame) if self.listener else None
                self._frames.append(QueuedFrame(frame, now_s, heard))
            dropped = self._drop_to(self._capacity)
        if whole:
            self._on_frame()
        return skipped + dropped * size

    def listen(self, listener: Listener) -> None:
        """Have recognition hear all frames from now on, first those that wait already."""
        with self._lock:
            self.listener = listener
            heard = [replace(frame, heard=listener(frame.pcm)) for frame in self._frames]
            self._frames = deque(heard)

    def forget_words(self) -> None:
        """The conversation begins anew: what has been recognised is not of it any more."""
        with self._lock:
            self._orphan = self._orphan and wordless(self._orphan)
            self._frames = deque(
                replace(frame, heard=frame.heard and wordless(frame.heard))
                for frame in self._frames
            )

    def take(self) -> QueuedFrame:
        """The oldest waiting frame, with what dropped ones before it were recognised as."""
        with self._lock:
            frame = self._frames.popleft()
            heard = merge_heard(self._orphan, frame.heard)
            self._orphan = None
            if heard is not None and heard.transcribed_frame is not None:
                # Not before: frames that this one was heard after may be dropped while it waits.
                taken = max(-1, heard.transcribed_frame - self._dropped_heard)
                heard = replace(heard, transcribed_frame=taken)
            return replace(frame, heard=heard)

    def drop_to(self, count: int) -> int:
        """Leave at most `count` frames waiting; returns how many were dropped."""
        with self._lock:
            return self._drop_to(count)

    def save(self) -> Samples:
        """All waiting samples, incomplete frame included."""
        with self._lock:
            return np.concatenate([*(frame.pcm for frame in self._frames), self._partial])

    def load(self, samples: Samples, now_s: float) -> None:
        """Continue from `save`."""
        self.push(samples, now_s)

    def close(self) -> None:
        """Take nothing any more, and forget what waits."""
        with self._lock:
            self.closed = True
            self._frames.clear()

    def _drop_to(self, count: int) -> int:
        dropped = 0
        while len(self._frames) > count:
            heard = self._frames.popleft().heard
            if heard is not None:
                self._dropped_heard += 1
                self._orphan = merge_heard(self._orphan, heard)
            dropped += 1
        self.dropped_frames += dropped
        return dropped


def playable(pcm: Samples) -> Samples:
    """float32 [n] in [-1, 1]; samples that are not finite become silence.

    Raises:
        ValueError: it is of another shape.
    """
    pcm = np.asarray(pcm, np.float32)
    _check_shape(pcm)
    if not np.isfinite(pcm).all():
        pcm = np.nan_to_num(pcm, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(pcm, -1.0, 1.0)


def wordless(heard: Heard) -> Heard:
    """The same without words."""
    return replace(heard, words=(), completed=())


def merge_heard(first: Heard | None, second: Heard | None) -> Heard | None:
    """What was recognised in two frames, as one: all words, the newer estimates."""
    if first is None or second is None:
        return first or second
    return Heard(
        first.words + second.words,
        first.inactivity if second.inactivity is None else second.inactivity,
        first.transcribed_frame if second.transcribed_frame is None else second.transcribed_frame,
        first.completed + second.completed,
        first.notices + second.notices,
    )


def _check_shape(pcm: Samples) -> None:
    if pcm.ndim != 1:
        raise ValueError(f"audio is samples [n], not {list(pcm.shape)}")
