"""What a conversation has heard from a service, over all of its connections.

Events in the service's time become words in the conversation's. After a reconnection the audio
whose words had not come is sent again, so words may come twice: those that had been handed in
already are known again by their text and time. No sockets, no clock, no tasks; all bounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from duologue.stt.ports import Heard, Notice, Word
from duologue.stt.remote.link import Lost
from duologue.stt.remote.timeline import Backlog, Timeline
from duologue.stt.remote.wire import (
    Ended,
    Flushed,
    Pcm,
    Progress,
    Refused,
    Text,
    TextEnd,
    WireEvent,
)

MAX_PENDING = 1_000
"""Words that wait to be taken; beyond it the oldest are dropped."""
REPEAT_S = 0.4
"""After a reconnection, the same word within this time of one that had come is a repetition."""
REMEMBERED_WORDS = 16
COUNTED_SILENCE_FRAMES = 4
"""Fewer frames beyond a flush are audio that overtook its acknowledgement."""


class Hearing:
    """Frames on their way to a service, and words on their way back."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.words_dropped = 0
        self._timeline = Timeline()
        self._words: deque[str] = deque(maxlen=MAX_PENDING)
        self._completed: deque[Word] = deque(maxlen=MAX_PENDING)
        self._inactivity: float | None = None
        self._transcribed = -1
        self._processed = 0
        # The latest flush: its number, the frames before it, where this connection has it.
        self._asked = 0
        self._asked_after = 0
        self._asked_at: int | None = None
        self._asked_silence = 0
        self._answered = 0
        # Words at the edge of the last connection, to know them again.
        self._recent: deque[Word] = deque(maxlen=REMEMBERED_WORDS)
        self._repeated_until_s = -1.0

    @property
    def sent(self) -> int:
        """Frames sent on this connection."""
        return self._timeline.sent

    @property
    def flushed(self) -> bool:
        """Whether the latest flush has been answered."""
        return self._answered == self._asked

    def begin(self) -> None:
        """A connection begins: all that had no answer is to be sent again."""
        self._timeline = Timeline()
        self.backlog.rewind()
        self._processed = 0
        self._asked_at = None
        self._repeated_until_s = self._recent[-1].start_s if self._recent else -1.0

    def end(self) -> None:
        """The connection has ended; what it said of the present is out of date."""
        self._inactivity = None

    def ask(self) -> None:
        """Request a flush behind all frames so far; it takes an older request's place."""
        self._asked += 1
        self._asked_after = self.backlog.pushed
        self._asked_at = None

    def next_frame(self) -> Pcm | None:
        """The next frame to send now; none while nothing waits or a flush comes first."""
        due = not self.flushed and self._asked_at is None
        if due and self.backlog.pushed - self.backlog.unsent >= self._asked_after:
            return None
        item = self.backlog.next_unsent()
        if item is None:
            return None
        number, pcm = item
        self._timeline.heard(number)
        return pcm

    def next_flush(self) -> int | None:
        """Number of the flush to send now, once the frames before it are sent."""
        if self.flushed or self._asked_at is not None:
            return None
        self._asked_at = self._timeline.sent
        return self._asked

    def flush_sent(self, silence_frames: int) -> None:
        """So much silence was put into the audio by the flush."""
        self._asked_silence = silence_frames
        self._timeline.silence(self._timeline.sent, silence_frames)

    def understand(self, event: WireEvent) -> None:
        """Take what the service said.

        Raises:
            Lost: the service gives up.
        """
        match event:
            case Text(text, start_s):
                for word in text.split():
                    self._hand_in(Word(word, self._timeline.seconds(start_s)))
            case TextEnd(stop_s):
                self._end_word(self._timeline.seconds(stop_s))
            case Progress(transcribed, inactivity, processed):
                if inactivity is not None:
                    self._inactivity = inactivity
                if processed is not None:
                    self._processed = processed
                if transcribed is not None:
                    self._confirm(self._timeline.frame_before(transcribed))
            case Flushed(number):
                self._note_flushed(number)
            case Refused(detail):
                raise Lost(f"the service gave up: {detail}")
            case Ended():
                raise Lost("the service ended the session")

    def take(self, notices: tuple[Notice, ...] = ()) -> Heard:
        """What has come since the last call."""
        words, completed = tuple(self._words), tuple(self._completed)
        heard = Heard(words, self._inactivity, self._transcribed, completed, notices)
        self._words.clear()
        self._completed.clear()
        self._inactivity = None
        return heard

    def _hand_in(self, word: Word) -> None:
        if self._is_repeated(word):
            return
        self.words_dropped += len(self._words) == MAX_PENDING
        self._words.append(f" {word.text}")
        self._completed.append(word)
        self._recent.append(word)

    def _end_word(self, end_s: float) -> None:
        """Date the end of the last word, unless it has been taken."""
        if self._completed and self._completed[-1].end_s is None:
            last = self._completed[-1]
            self._completed[-1] = replace(last, end_s=max(last.start_s, end_s))

    def _is_repeated(self, word: Word) -> bool:
        """Whether the connection before had given this word already."""
        until_s = self._repeated_until_s
        if word.start_s > until_s + REPEAT_S:
            return False
        return word.start_s < until_s - REPEAT_S or any(
            known.text.casefold() == word.text.casefold()
            and abs(known.start_s - word.start_s) <= REPEAT_S
            for known in self._recent
        )

    def _note_flushed(self, number: int) -> None:
        if number != self._asked or self._asked_at is None or self.flushed:
            return
        # Some services count the silence with which they flush as audio.
        silence = self._processed - self._asked_at - self._asked_silence
        if silence >= COUNTED_SILENCE_FRAMES:
            self._timeline.silence(self._asked_at + self._asked_silence, silence)
        self._answered = number
        self._confirm(self._asked_after - 1)

    def _confirm(self, frame: int) -> None:
        self._transcribed = max(self._transcribed, min(frame, self.backlog.pushed - 1))
        self.backlog.confirm(self._transcribed)
