"""What stands between the network's clock and a sound card's: two bounded buffers, and a hold.

Pure, no sound card: `devices` calls these from its audio thread, `terminal` from the event loop, so
the buffers have a lock. Neither ever waits.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from duologue.client.events import FRAME_SAMPLES, SAMPLE_RATE, Pcm
from duologue.client.levels import level_db

START_S = 0.16
"""Playing begins with so much in hand: two frames, for a network that is not punctual."""
MOST_S = 1.0
"""More than this is late speech: the oldest is dropped."""
WAITING_FRAMES = 12
"""Microphone audio that can wait for the network, 1 s; beyond it the oldest is dropped."""
QUIET_DB = -45.0
PAUSE_FRAMES = 4
MAX_HOLD_FRAMES = 50


class Playout:
    """Samples for the loudspeaker: silence until enough has come, and again after running dry."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: deque[Pcm] = deque()
        self._waiting = 0
        self._playing = False
        self.dropped_s = 0.0

    @property
    def waiting_s(self) -> float:
        return self._waiting / SAMPLE_RATE

    def push(self, pcm: Pcm) -> None:
        """Add samples [n]; the oldest go when there are too many."""
        with self._lock:
            self._pieces.append(pcm)
            self._waiting += len(pcm)
            while self._waiting > MOST_S * SAMPLE_RATE:
                gone = len(self._pieces.popleft())
                self._waiting -= gone
                self.dropped_s += gone / SAMPLE_RATE

    def pull(self, count: int) -> Pcm:
        """Exactly so many samples to play now."""
        out = np.zeros(count, np.float32)
        with self._lock:
            self._playing |= self._waiting >= START_S * SAMPLE_RATE
            at = 0
            while self._playing and at < count and self._pieces:
                piece = self._pieces.popleft()
                taken = piece[: count - at]
                out[at : at + len(taken)] = taken
                at += len(taken)
                if len(taken) < len(piece):
                    self._pieces.appendleft(piece[len(taken) :])
            self._waiting -= at
            self._playing &= self._waiting > 0
        return out

    def clear(self) -> None:
        """Silence now."""
        with self._lock:
            self._pieces.clear()
            self._waiting, self._playing = 0, False


class Capture:
    """Samples of the microphone as whole frames, the oldest dropped when nobody takes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: deque[Pcm] = deque()
        self._rest = np.zeros(0, np.float32)
        self.dropped_frames = 0

    def push(self, pcm: Pcm) -> bool:
        """Add samples [n]; whether a frame is complete now."""
        with self._lock:
            samples = np.concatenate([self._rest, pcm])
            whole = len(samples) // FRAME_SAMPLES
            for index in range(whole):
                frame = samples[index * FRAME_SAMPLES : (index + 1) * FRAME_SAMPLES]
                self._frames.append(frame)
            self._rest = samples[whole * FRAME_SAMPLES :]
            while len(self._frames) > WAITING_FRAMES:
                self._frames.popleft()
                self.dropped_frames += 1
            return whole > 0

    def take(self) -> Pcm | None:
        """The oldest whole frame, None when there is none."""
        with self._lock:
            return self._frames.popleft() if self._frames else None


class Hold:
    """Keeps the model quiet after it was interrupted, until it has paused, or for 4 s at most."""

    def __init__(self) -> None:
        self._left = self._quiet = 0

    @property
    def active(self) -> bool:
        return self._left > 0

    def begin(self) -> None:
        self._left, self._quiet = MAX_HOLD_FRAMES, 0

    def passes(self, pcm: Pcm) -> bool:
        """Whether these samples, the next frame or so, may be played."""
        if not self._left:
            return True
        frames = max(1, len(pcm) // FRAME_SAMPLES)
        self._quiet = self._quiet + frames if level_db(pcm) < QUIET_DB else 0
        self._left = 0 if self._quiet >= PAUSE_FRAMES else max(0, self._left - frames)
        return False
