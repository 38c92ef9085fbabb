"""Hearing a question again: at other speeds, and asking whether it may have been something else.

A small recogniser errs at random: played at another speed, which moves pitch and formants too, a
voice is another voice, and other words go wrong. And it writes one text only, though it may have
held another for nearly as likely: who knows what could have been meant, such as the names in a
knowledge base, can have each of them weighed in place of what was written (`likelihoods`; forced
decoding, as in the second pass of arXiv 1908.10992). `docs/retrieval.md` has figures.

Conversations are not touched: this has states of its own, and the recogniser's compiled parts take
turns between threads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.checkpoints.tokenizer import WORD_START
from duologue.stt.front_end import MelFrontEnd
from duologue.stt.offline import frames_of, recognise
from duologue.stt.ports import LocalRecogniser
from duologue.stt.recogniser import Recogniser, RecogniserState

SPEEDS = (1.0, 0.96, 1.04, 1.08)
MAX_S = 12.0
"""Of a question, the last."""
MAX_GUESSES = 16
"""Weighed for one text; the others are held for unlikely."""
MAX_ROWS = 16
"""Weighed in one step: the recogniser is not kept from conversations for long."""
UNLIKELY = -25.0
"""Log-likelihood at which weighing a guess is given up."""


class Guess(Protocol):
    """What may have been said in place of the words `first` to `last` (inclusive) of a text, of
    those that spaces part.
    """

    @property
    def name(self) -> str: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...


class Likelihood(NamedTuple):
    """How well a guess fits the sound: natural logarithms."""

    guessed: float
    """Of its pieces, one after the other from where its first word was written; at least
    `UNLIKELY`."""
    pieces: int
    written: float
    """Of all that was written until the word after it."""


@dataclass(frozen=True)
class Hearing:
    """A recording as it was heard, in several ways."""

    texts: tuple[str, ...]
    encoded: Tensor
    """[ways, dim, frames]"""
    tokens: Tensor
    """int64 [ways, frames]"""
    begins: tuple[tuple[int, ...], ...]
    """For each way, the frames in which its words begin to be written, and where it ends."""


class SecondHearing:
    """Hears recordings again with a recogniser. Any thread may ask; see `of` for who can be one."""

    def __init__(self, recogniser: Recogniser, speeds: Sequence[float] = SPEEDS) -> None:
        self._recogniser, self._speeds = recogniser, tuple(speeds)

    @classmethod
    def of(cls, recogniser: LocalRecogniser[Any] | None) -> Self | None:
        """One for a recogniser that hears sound itself, on a CPU; else None.

        Codes would have to be made again by a codec that is far slower, and on a GPU this would
        run between the frames of all conversations.
        """
        if not isinstance(recogniser, Recogniser) or recogniser.lm.device.type != "cpu":
            return None
        return cls(recogniser) if isinstance(recogniser.front_end, MelFrontEnd) else None

    @property
    def max_samples(self) -> int:
        """So much of a recording is heard."""
        return int(MAX_S * self._recogniser.sample_rate)

    @torch.no_grad()
    def hear(self, pcm: NDArray[np.float32]) -> Hearing:
        """The last `MAX_S` of a recording [T] at 24 kHz, one way for each speed."""
        recogniser, recorded = self._recogniser, pcm[-self.max_samples :]
        played = [torch.from_numpy(_at_speed(recorded, speed)) for speed in self._speeds]
        frames = frames_of(recogniser, played, recogniser.flush_frames)
        chunks = [*recognise(recogniser, played, frames, 1)]
        encoded, drawn = zip(*chunks, strict=True)
        # With a beam, what is written in a frame comes out later.
        wait = recogniser.wait_frames
        tokens = torch.cat(drawn, dim=1)[:, wait:]
        frames = [count - wait for count in frames]
        written = [
            self._words(row[:count]) for row, count in zip(tokens.tolist(), frames, strict=True)
        ]
        return Hearing(
            tuple(" ".join(words) for words, _ in written),
            torch.cat(encoded, dim=-1)[..., : max(frames)],
            # Nothing was drawn where a recording had ended already.
            tokens.clamp(min=0),
            tuple((*begins, count) for (_, begins), count in zip(written, frames, strict=True)),
        )

    @torch.no_grad()
    def likelihoods(
        self, hearing: Hearing, guesses: Sequence[Sequence[Guess]]
    ) -> list[list[Likelihood]]:
        """How likely guesses are, for each way of hearing those about its text."""
        wanted: defaultdict[int, list[_Forced]] = defaultdict(list)
        weighed = [[_Weighed(guess) for guess in some] for some in guesses]
        last = 0
        for way, (some, begins) in enumerate(zip(weighed, hearing.begins, strict=True)):
            for one in some[:MAX_GUESSES]:
                begin, one.end = begins[one.guess.first], begins[one.guess.last + 1]
                one.begin, last = begin, max(last, one.end)
                wanted[begin] += [_Forced(way, one, pieces) for pieces in self._spelt(one.guess)]
        state = self._recogniser.init_state(len(hearing.texts), encodes=False, searches=False)
        written = [torch.zeros(len(hearing.texts))]
        for frame in range(last):
            for first in range(0, len(wanted.get(frame, ())), MAX_ROWS):
                self._weigh(wanted[frame][first : first + MAX_ROWS], hearing, frame, state)
            token = hearing.tokens[:, frame]
            likely = self._recogniser.follow(hearing.encoded[..., frame, None], state, token)
            written.append(written[-1] + likely.gather(1, token[:, None])[:, 0])
        return [
            [one.likelihood(float(written[one.end][way] - written[one.begin][way])) for one in some]
            for way, some in enumerate(weighed)
        ]

    def _weigh(
        self, some: list[_Forced], hearing: Hearing, frame: int, state: RecogniserState
    ) -> None:
        """Go on from a state with the pieces of each guess instead, while any is likely."""
        fork = state.select([one.way for one in some])
        for place in range(max(len(one.pieces) for one in some)):
            at = frame + place
            going = [
                number
                for number, one in enumerate(some)
                if place < len(one.pieces) and one.sum > UNLIKELY and at < hearing.tokens.shape[1]
            ]
            if not going:
                break
            # Copying states costs too, and every number of rows has room of its own.
            if len(going) <= len(some) // 2:
                some, fork = [some[number] for number in going], fork.select(going)
                going = [*range(len(some))]
            tokens = torch.tensor([one.pieces[min(place, len(one.pieces) - 1)] for one in some])
            heard = hearing.encoded[:, :, at][[one.way for one in some]][..., None]
            likely = self._recogniser.follow(heard, fork, tokens).gather(1, tokens[:, None])
            gained = likely[:, 0].tolist()
            for number in going:
                one = some[number]
                one.add(gained[number], last=place + 1 == len(one.pieces))

    def _words(self, tokens: Sequence[int]) -> tuple[list[str], list[int]]:
        """What tokens say, and in which of them each word begins."""
        recogniser = self._recogniser
        assembler, silent = recogniser.assembler(), recogniser.silent_tokens
        words: list[str] = []
        begins: list[int] = []
        begin = 0
        for frame, token in enumerate([*tokens, None]):
            # Rare words begin with a bare mark, before there is anything to be read.
            if token is not None and token not in silent and self._marks(token):
                begin = frame
            heard = assembler.finish() if token is None else assembler.push(token)
            for piece in heard.words:
                if piece.startswith(" "):
                    words.append("")
                    begins.append(begin)
                words[-1] += piece.strip()
        return words, begins

    def _marks(self, token: int) -> bool:
        return self._recogniser.tokenizer.piece(token).startswith(WORD_START)

    def _spelt(self, guess: Guess) -> set[tuple[int, ...]]:
        """The pieces of a name, in capitals and without."""
        spellings = (guess.name, guess.name.lower(), guess.name.title())
        return {tuple(self._recogniser.tokenizer.encode(one)) for one in spellings}


@dataclass
class _Weighed:
    """A guess, and the best that was found for it."""

    guess: Guess
    begin: int = 0
    end: int = 0
    sum: float = UNLIKELY
    pieces: int = 1

    def likelihood(self, written: float) -> Likelihood:
        return Likelihood(self.sum, self.pieces, written)


@dataclass
class _Forced:
    """Pieces that are being weighed."""

    way: int
    of: _Weighed
    pieces: tuple[int, ...]
    sum: float = 0.0

    def add(self, gained: float, *, last: bool) -> None:
        """Take the next piece's log-likelihood; the last one may make it the best spelling."""
        self.sum += gained
        if last and self.sum > self.of.sum:
            self.of.sum, self.of.pieces = self.sum, len(self.pieces)


def _at_speed(pcm: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """The recording played so many times as fast, pitch and all."""
    if speed == 1.0 or not len(pcm):
        return pcm
    places = np.arange(int(len(pcm) / speed)) * speed
    return np.interp(places, np.arange(len(pcm)), pcm).astype(np.float32)
