"""From the text tokens of a recogniser to words with times, and to how far the words have come.

The rules of delayed-streams recognition (arXiv 2509.08753; the published interleaver): the text
row is `delay_s` behind the audio; a word's pieces begin in the frame in which the word begins, one
a frame; token 0 stands in the frame before a word, the padding token wherever there is nothing to
say. A column of text without a piece therefore proves that all words which began up to a delay ago
are out, and that is what `transcribed_frame` reports. (The published server dates a word by its
token 0, 80 ms earlier than here.)

Everything is counted in columns of text. They run in step with the audio except where silence was
put in to flush the words out, which takes no time of the conversation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from duologue.errors import DuologueError
from duologue.stt.ports import FRAME_RATE, Heard, Word

END_OF_PADDING = 0
PADDING = 3
CONTROL_TOKENS = (0, 1, 2)
"""Ids that are never text, beside the model's padding token."""
INACTIVITY_FROM = 12
"""Pause estimates of so many first frames are not given out (published)."""
MAX_WORD_CHARACTERS = 200
"""A longer word is cut in two."""
_ROUNDING = 1e-6
"""Of a frame: 0.56 s are seven frames, whatever the product of the two numbers is."""
LONGEST_WORD_S = 1.0
"""What the end of a word is taken to be when nothing follows it (published)."""


class PieceStream(Protocol):
    """Text pieces of one stream, token by token."""

    def push(self, token: int) -> str: ...

    def flush(self) -> str: ...


class PieceTokenizer(Protocol):
    """What assembling needs of a tokenizer (`checkpoints.tokenizer.TextTokenizer`)."""

    def byte(self, token: int) -> int | None: ...

    def stream(self) -> PieceStream: ...


class AssemblerStateError(DuologueError, ValueError):
    """A saved assembler is not one of this recogniser."""


@dataclass
class AssemblerState:
    """All that assembling remembers; `recent` is one longer than the delay."""

    recent: list[int]
    """Frame of audio that each of the last columns belongs to, oldest first."""
    frame: int = -1
    """Last frame of audio that was heard."""
    transcribed: int = -1
    open_text: str | None = None
    """Text of the word that pieces are still coming for."""
    open_start_s: float = 0.0
    gap: bool = False
    """A single padding token has come since the open word's last piece."""
    partial: list[int] = field(default_factory=list)
    """Byte tokens of a character that is not complete."""


def frames_behind(delay_s: float, frame_rate: float) -> int:
    """Columns of text by which words come after the audio: the first whole number not below."""
    return math.ceil(delay_s * frame_rate - _ROUNDING)


class WordAssembler:
    """Words of one conversation. Push one token for each step of the recogniser."""

    def __init__(
        self,
        tokenizer: PieceTokenizer,
        *,
        delay_s: float,
        frame_rate: float = FRAME_RATE,
        padding: int = PADDING,
    ) -> None:
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._frame_rate = frame_rate
        self._silent = {*CONTROL_TOKENS, padding}
        delay = delay_s * frame_rate
        self._delay_columns = frames_behind(delay_s, frame_rate)
        self._early = self._delay_columns - delay
        # Column 0 was drawn before any audio; the first push is column 1, for frame 0.
        self._state = AssemblerState(list(range(-self._delay_columns, 1)))

    @property
    def frames(self) -> int:
        """Frames of audio pushed so far."""
        return self._state.frame + 1

    def push(self, token: int, inactivity: float | None = None) -> Heard:
        """Take what a step drew for the next frame of audio; NaN is no estimate."""
        self._state.frame += 1
        heard = self._column(token)
        known = inactivity is not None and math.isfinite(inactivity)
        if not known or self._state.frame < INACTIVITY_FROM:
            return heard
        assert inactivity is not None
        return replace(heard, inactivity=min(1.0, max(0.0, inactivity)))

    def push_silence(self, token: int) -> Heard:
        """Take what a step drew for silence that is no part of the conversation (a flush)."""
        # The column before it turns out to be followed by silence, not by the next frame.
        self._state.recent[-1] = self._state.frame
        return self._column(token)

    def finish(self) -> Heard:
        """The audio has ended and been flushed: complete the open word."""
        words = self._piece(self._flush_bytes())
        completed = self._complete()
        self._state.transcribed = max(self._state.transcribed, self._state.frame)
        return Heard(words, None, self._state.transcribed, completed)

    def save(self) -> dict[str, Any]:
        """Everything it remembers, as plain JSON values."""
        return asdict(self._state)

    def load(self, saved: Mapping[str, Any]) -> None:
        """Continue from what `save` gave.

        Raises:
            AssemblerStateError: it does not fit this recogniser.
        """
        try:
            state = AssemblerState(**saved)
            fits = len(state.recent) == len(self._state.recent)
        except TypeError as error:
            raise AssemblerStateError(f"not a saved word assembler: {error}") from error
        if not fits:
            raise AssemblerStateError("the saved word assembler is of a recogniser of other delay")
        state = replace(state, recent=list(state.recent), partial=list(state.partial))
        self._state, self._stream = state, self._tokenizer.stream()
        for token in state.partial:
            self._stream.push(token)

    def _column(self, token: int) -> Heard:
        state = self._state
        state.recent.append(state.frame + 1)
        state.recent.pop(0)
        if token in self._silent:
            words = self._piece(self._flush_bytes())
            completed = self._silence(token)
            state.transcribed = max(state.transcribed, min(state.recent[0], state.frame))
            return Heard(words, None, state.transcribed, completed)
        words, completed = self._text(token)
        return Heard(words, None, state.transcribed, completed)

    def _silence(self, token: int) -> tuple[Word, ...]:
        """A column without text. One padding token inside a word is taken for hesitation."""
        state = self._state
        if state.open_text is None:
            return ()
        if token != END_OF_PADDING and not state.gap:
            state.gap = True
            return ()
        return self._complete()

    def _text(self, token: int) -> tuple[tuple[str, ...], tuple[Word, ...]]:
        state = self._state
        words: tuple[str, ...] = ()
        if self._tokenizer.byte(token) is None:
            words = self._piece(self._flush_bytes())
        else:
            state.partial.append(token)
        text = self._stream.push(token)
        if not text:
            return words, ()
        state.partial.clear()
        completed: tuple[Word, ...] = ()
        if text[:1].isspace() or len(state.open_text or "") + len(text) > MAX_WORD_CHARACTERS:
            completed = self._complete()
        if state.open_text is None:
            self._open()
        return words + self._piece(text), completed

    def _piece(self, text: str) -> tuple[str, ...]:
        """Add text to the open word, or open one with it; returns it as it is handed in."""
        state = self._state
        text = "".join(character for character in text.strip() if character.isprintable())
        if not text:
            return ()
        if state.open_text is None:
            self._open()
        first = not state.open_text
        state.open_text = f"{state.open_text or ''}{text}"
        state.gap = False
        return (f" {text}" if first else text,)

    def _open(self) -> None:
        """A word begins in this column; its text may begin later, behind a bare word mark."""
        state = self._state
        state.open_text, state.gap = "", False
        state.open_start_s = max(0.0, (state.recent[0] + self._early) / self._frame_rate)

    def _complete(self) -> tuple[Word, ...]:
        state = self._state
        text, state.open_text, state.gap = state.open_text, None, False
        return (Word(text, state.open_start_s),) if text else ()

    def _flush_bytes(self) -> str:
        self._state.partial.clear()
        return self._stream.flush()


def with_ends(words: Sequence[Word], duration_s: float | None = None) -> list[Word]:
    """Give each word an end: the next one's start, but no later than `LONGEST_WORD_S` on.

    The text stream says where words begin, not where they end, so an end before a pause is an
    upper bound. Ends that are known stay. Nothing ends after `duration_s`.
    """
    ended = []
    for index, word in enumerate(words):
        limit = math.inf if duration_s is None else max(duration_s, word.start_s)
        if index + 1 < len(words):
            limit = min(limit, max(words[index + 1].start_s, word.start_s))
        end = word.start_s + LONGEST_WORD_S if word.end_s is None else word.end_s
        ended.append(replace(word, end_s=min(end, limit)))
    return ended
