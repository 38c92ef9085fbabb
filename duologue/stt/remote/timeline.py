"""Frames that wait to be sent or to be confirmed, and the service's clock against ours.

A conversation counts its own frames from 0. A connection begins at one of them, may miss some
(dropped while the service did not keep up) and has some more (silence to flush words out), so its
clock has to be translated. Pure bookkeeping, bounded, no sockets.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from duologue.stt.ports import FRAME_RATE
from duologue.stt.remote.wire import Pcm

MAX_BACKLOG = 100
"""Frames kept: 8 s. They wait to be sent, or to be sent again should the connection be lost."""
MAX_SPANS = 64


class Backlog:
    """The last frames of a conversation, until they are known to be transcribed."""

    def __init__(self, limit: int = MAX_BACKLOG) -> None:
        self._frames: deque[tuple[int, Pcm]] = deque()
        self._limit = limit
        self._next = 0
        self.pushed = 0
        """Frames pushed since the beginning."""
        self.dropped = 0
        """Frames let go while they waited to be sent."""

    def push(self, pcm: Pcm) -> None:
        """Keep a frame; when too many wait, the oldest is let go."""
        self._frames.append((self.pushed, pcm))
        self.pushed += 1
        if len(self._frames) > self._limit:
            number, _ = self._frames.popleft()
            if number >= self._next:
                self.dropped += 1
                self._next = number + 1

    def next_unsent(self) -> tuple[int, Pcm] | None:
        """Take the next frame to be sent; it stays until it is confirmed."""
        if self._next >= self.pushed or not self._frames:
            return None
        number, pcm = self._frames[self._next - self._frames[0][0]]
        self._next = number + 1
        return number, pcm

    @property
    def unsent(self) -> int:
        """Frames that wait to be sent."""
        return self.pushed - self._next

    def confirm(self, transcribed: int) -> None:
        """The words of all frames up to this one have come: they need not be sent again."""
        while self._frames and self._frames[0][0] <= min(transcribed, self._next - 1):
            self._frames.popleft()

    def rewind(self) -> int:
        """Send all unconfirmed frames once more; returns the first one's number."""
        self._next = self._frames[0][0] if self._frames else self.pushed
        return self._next


@dataclass
class _Span:
    """A run of the connection's frames."""

    start: int
    """First frame, as the connection counts."""
    frame: int
    """Frame of the conversation at that place."""
    silent: bool
    """Silence: the conversation stands still before `frame`."""


class Timeline:
    """Translates one connection's clock."""

    def __init__(self) -> None:
        self.sent = 0
        """Frames on this connection, silence included."""
        self._spans: list[_Span] = []

    def heard(self, frame: int) -> None:
        """The conversation's frame is sent next."""
        last = self._spans[-1] if self._spans else None
        if last is None or last.silent or last.frame + self.sent - last.start != frame:
            self._spans.append(_Span(self.sent, frame, silent=False))
            del self._spans[:-MAX_SPANS]
        self.sent += 1

    def silence(self, at: int, count: int) -> None:
        """`count` frames of silence lie behind the connection's first `at` frames."""
        if count <= 0 or not self._spans:
            return
        later = [span for span in self._spans if span.start >= at]
        earlier = [span for span in self._spans if span.start < at]
        stands, resumed = self.frame_before(at) + 1, self._frame_at(at)
        for span in later:
            span.start += count
        spans = [*earlier, _Span(at, stands, silent=True)]
        if at < self.sent and not (later and later[0].start == at + count):
            spans.append(_Span(at + count, resumed, silent=False))
        self._spans = (spans + later)[-MAX_SPANS:]
        self.sent += count

    def frame_before(self, count: int) -> int:
        """Last frame of the conversation among the connection's first `count`; -1 if none."""
        if count <= 0 or not self._spans:
            return self._spans[0].frame - 1 if self._spans else -1
        span = self._span(count - 1)
        return span.frame - 1 if span.silent else span.frame + max(0, count - 1 - span.start)

    def seconds(self, time_s: float) -> float:
        """The service's time as time of the conversation."""
        if not self._spans:
            return 0.0
        place = time_s * FRAME_RATE
        span = self._span(int(place))
        frame = float(span.frame) if span.silent else span.frame + max(0.0, place - span.start)
        return frame / FRAME_RATE

    def _frame_at(self, place: int) -> int:
        span = self._span(place)
        return span.frame if span.silent else span.frame + max(0, place - span.start)

    def _span(self, place: int) -> _Span:
        found = self._spans[0]
        for span in self._spans:
            if span.start > place:
                break
            found = span
        return found
