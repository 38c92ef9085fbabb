"""Events on their way to a client: put by the tick thread, taken by the event loop, bounded.

A client that reads too slowly loses audio, the oldest first: a conversation is worth hearing as of
now. Everything else is kept in order; a client that lets even that pile up to the bound is dead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from duologue.dialogue import AudioFrame, Event, SessionEnded


class OutputQueue:
    """See the module."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._audio = 0
        self.dropped_frames = 0
        self.ended = False

    def __len__(self) -> int:
        return len(self._events)

    def put(self, events: Iterable[Event]) -> bool:
        """Add events; False when the reader has to be given up. `SessionEnded` always fits."""
        with self._lock:
            for event in events:
                self._events.append(event)
                self._audio += isinstance(event, AudioFrame)
                self.ended |= isinstance(event, SessionEnded)
            while len(self._events) > self._capacity and self._audio:
                self._drop_oldest_audio()
            return len(self._events) <= self._capacity

    def take(self) -> Event | None:
        """The next event, None when there is none now."""
        with self._lock:
            if not self._events:
                return None
            event = self._events.popleft()
            self._audio -= isinstance(event, AudioFrame)
            return event

    @property
    def finished(self) -> bool:
        """Whether everything, `SessionEnded` included, has been taken."""
        with self._lock:
            return self.ended and not self._events

    def save(self) -> list[Event]:
        """The waiting events, oldest first."""
        with self._lock:
            return list(self._events)

    def _drop_oldest_audio(self) -> None:
        index = next(i for i, event in enumerate(self._events) if isinstance(event, AudioFrame))
        del self._events[index]
        self._audio -= 1
        self.dropped_frames += 1
