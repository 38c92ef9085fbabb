"""Encoded conversations -> training sequences of the language models, the n-th a function of n.

A duplex sequence is 1 text row, the agent's codes, the user's codes, and references that arrive at
their frames; a transcription sequence is 1 delayed text row and the heard codes. Sequences begin at
the start of a recording or of a user's turn, so that no reply loses its reference; where there are
no turns, of a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.conditioning.provider import MAIN, OTHER
from duologue.training.data import DataError, PrefetchConfig, generator_at
from duologue.training.encoded import Conversation
from duologue.training.phones import PhoneSet
from duologue.training.text_stream import (
    RETRIEVAL,
    TextRow,
    Tokenizer,
    Word,
    place_retrieval,
    text_row,
)

ZERO = -1
_LAST_PIECES = 4
"""Frames that the last word of a recording may take to be written."""
_SLACK_S = 1e-6
"""Times that differ by less are equal."""


@dataclass(frozen=True)
class Reference:
    """What arrives at a frame of one item: tokens of a text, or nothing (`None`)."""

    item: int
    frame: int
    tokens: tuple[int, ...] | None


@dataclass(frozen=True)
class LMBatch:
    """Sequences of one length."""

    codes: Tensor
    """int64 [B, rows, T], text first; -1 where there is nothing."""
    references: tuple[Reference, ...]
    grounded: Tensor
    """bool [B, T]: text frames of replies that speak a reference."""
    quiet: Tensor
    """float32 [B, T]: seconds until the speaker is heard again, 0 while speaking."""
    aside: Tensor
    """int64 [B, T, n]: classes that help to learn what is heard and that a finished model does not
    name: the user's words (duplex; in dictation, phones of its own after them) or phones
    (transcription). -1 where nothing is known."""
    has_audio: bool = True
    """False where all rows but the text are empty."""
    exercise: str | None = None
    """Which of `exercises.Exercise` it is: only one thing is learnt from it."""
    spectra: Tensor | None = None
    """float32 [B, T * spectra per frame, bands]: what is heard, where it is not codes."""
    vectors: Tensor | None = None
    """float32 [B, T, dim]: what a recogniser made of the user."""
    first_speakers: tuple[str | None, ...] = ()
    """Who began each conversation, `MAIN` or `OTHER`, where it is known."""

    def to(self, device: torch.device) -> LMBatch:
        return replace(
            self,
            codes=self.codes.to(device),
            grounded=self.grounded.to(device),
            quiet=self.quiet.to(device),
            aside=self.aside.to(device),
            spectra=None if self.spectra is None else self.spectra.to(device),
            vectors=None if self.vectors is None else self.vectors.to(device),
        )


@dataclass(frozen=True)
class SequenceConfig(PrefetchConfig):
    """How sequences are cut and references are timed."""

    frames: int = 250
    start_margin: int = 12
    """A sequence begins up to so many frames before a turn."""
    resample_delay: float = 0.2
    """Share of references that arrive earlier than the recording was made for."""
    reference_dropout: float = 0.0
    """Share of references that are replaced by the learnt "nothing" vector. The corpus has failed
    lookups with fitting replies; dropping more teaches to speak facts that were not given."""
    words_wait: bool = False
    """A word waits for the pieces of the one before it, which it cuts short otherwise (as in the
    published fine-tuning)."""
    text_delay_s: float = 0.0
    """Transcription: how far the text lags behind the speech."""
    aside_delay_s: float = 0.0
    """How far the classes of `LMBatch.aside` lag behind the speech."""
    masked_codes: float = 0.0
    """Transcription: share of the heard codes that are blotted out, each for itself. Without it a
    small corpus is learnt by heart instead of listened to."""
    masked_spans: int = 0
    """Transcription: so many stretches of each sequence are blotted out whole."""
    span_frames: int = 4
    """Frames in the longest of them."""
    fewer_levels: float = 0.0
    """Transcription: share of sequences that hear only the first few codebooks."""


@dataclass
class CutSequence:
    codes: NDArray[np.int64]
    grounded: NDArray[np.bool_]
    quiet: NDArray[np.float32]
    aside: NDArray[np.int64]
    references: list[Reference] = field(default_factory=list)
    first_speaker: str | None = None
    spectra: NDArray[np.float32] | None = None
    vectors: NDArray[np.float32] | None = None


class SequenceSampler:
    """What duplex and transcription sequences have in common."""

    def __init__(
        self,
        conversations: Sequence[Conversation],
        config: SequenceConfig,
        tokenizer: Tokenizer,
        *,
        seed: int,
        frame_rate: float,
    ) -> None:
        if not conversations:
            raise DataError("there are no conversations to draw from")
        self.conversations, self.config, self.tokenizer = conversations, config, tokenizer
        self.seed, self.frame_rate = seed, frame_rate
        weights = np.array([max(1, one.frames) for one in conversations], dtype=np.float64)
        self._cumulative = np.cumsum(weights / weights.sum())

    def batch(self, position: int, size: int) -> LMBatch:
        """Sequences `position` to `position + size - 1`."""
        return collate([self.sequence(position + index) for index in range(size)])

    def sequence(self, position: int) -> CutSequence:
        """Sequence number `position`."""
        rng = generator_at(self.seed, position)
        chosen = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        one = self.conversations[min(chosen, len(self.conversations) - 1)]
        return self.cut(one, self._draw_start(one, rng), rng)

    def _draw_start(self, one: Conversation, rng: np.random.Generator) -> int:
        """A frame at which a sequence may begin, shortly before somebody speaks."""
        starts = self._starts(one)
        start = int(starts[rng.integers(len(starts))])
        if start:
            start = max(0, start - int(rng.integers(1, self.config.start_margin + 1)))
        return start

    def cut(
        self, one: Conversation, start: int, rng: np.random.Generator, *, blot: bool = True
    ) -> CutSequence:
        """The sequence of a conversation that begins at a frame; `blot` takes away some codes."""
        raise NotImplementedError

    def _starts(self, one: Conversation) -> list[int]:
        """Frames at which a sequence may begin."""
        last = one.frames - self.config.frames // 4
        if one.is_dialogue:
            turns = one.facts.get("turns") or ()
            times = [t["start"] for t in turns if t["speaker"] == OTHER]
        else:
            times = [begin for _, begin, _ in one.words(MAIN)]
        begins = [int(time * self.frame_rate) for time in times]
        return [0, *(frame for frame in begins if 0 < frame < last)]

    def _words(self, one: Conversation, speaker: str, start: int) -> list[Word]:
        """Words of a speaker that begin in the sequence, in its own time."""
        shift = start / self.frame_rate
        length = self.config.frames / self.frame_rate
        return [
            (text, begin - shift, end - shift)
            for text, begin, end in one.words(speaker)
            if 0 <= begin - shift < length
        ]

    def _row(self, words: Sequence[Word], delay_s: float = 0.0) -> TextRow:
        return text_row(
            words, self.config.frames, self.frame_rate, self.tokenizer,
            delay_s=delay_s, wait=self.config.words_wait,
        )  # fmt: skip

    def _padded(self, codes: Tensor, start: int) -> NDArray[np.int64]:
        part = codes[:, start : start + self.config.frames].numpy().astype(np.int64)
        missing = self.config.frames - part.shape[1]
        return np.pad(part, ((0, 0), (0, missing)), constant_values=ZERO)

    def _vectors(self, one: Conversation, start: int) -> NDArray[np.float32] | None:
        """What a recogniser made of the user from a frame on [frames, dim], if one has heard it."""
        if one.vectors is None:
            return None
        part = one.vectors[start : start + self.config.frames].float().numpy()
        return np.pad(part, ((0, self.config.frames - len(part)), (0, 0)))


class DuplexSampler(SequenceSampler):
    """Sequences of the duplex model."""

    def cut(
        self, one: Conversation, start: int, rng: np.random.Generator, *, blot: bool = True
    ) -> CutSequence:
        frames = self.config.frames
        words = self._words(one, MAIN, start)
        row = self._row(words)
        grounded = np.zeros(frames, dtype=np.bool_)
        references: list[Reference] = []
        for lookup in one.facts.get("retrieval") or ():
            self._add_lookup(lookup, start, row, words, grounded, references, rng)
        inside = max(0, min(frames, one.frames - start))
        row.tokens[inside:] = ZERO
        codes = np.concatenate([row.tokens[None], self._padded(one.codes, start)])
        quiet = np.zeros(frames, dtype=np.float32)
        heard = self._heard(one, start, inside)
        # A sequence from further on begins with a turn of the user's, whoever began the whole.
        begins = OTHER if start and one.first_speaker else one.first_speaker
        vectors = self._vectors(one, start)
        return CutSequence(codes, grounded, quiet, heard, references, begins, vectors=vectors)

    def _heard(self, one: Conversation, start: int, inside: int) -> NDArray[np.int64]:
        """The user's words as a text row [frames, 1], where there is a user to be heard."""
        frames = self.config.frames
        heard = np.full((frames, 1), ZERO, dtype=np.int64)
        if (one.codes[:, 0] != ZERO).any():
            words = self._words(one, OTHER, start)
            row = self._row(words, self.config.aside_delay_s)
            heard[:inside, 0] = row.tokens[:inside]
        return heard

    def _add_lookup(
        self,
        lookup: Mapping[str, Any],
        start: int,
        row: TextRow,
        words: Sequence[Word],
        grounded: NDArray[np.bool_],
        references: list[Reference],
        rng: np.random.Generator,
    ) -> None:
        """Trigger token, arrival and grounded frames of one lookup, where they lie inside."""
        rate, config = self.frame_rate, self.config
        first_word_s = lookup["trigger_time"] + 1 / rate - start / rate
        if first_word_s < 0:
            return
        trigger = place_retrieval(row, words, first_word_s, RETRIEVAL)
        if trigger is None or lookup.get("arrival_time") is None:
            return
        arrival = int(np.ceil(lookup["arrival_time"] * rate)) - start
        if arrival > trigger + 1 and rng.random() < config.resample_delay:
            arrival = int(rng.integers(trigger + 1, arrival + 1))
        dropped = rng.random() < config.reference_dropout
        if not trigger < arrival < config.frames:
            return
        found = lookup["outcome"] == "found" and not dropped
        tokens = tuple(self.tokenizer_of_references.encode(lookup["reference_text"]))
        references.append(Reference(0, arrival, tokens if found and tokens else None))
        if found and lookup.get("body_start") is not None:
            begin, end = (int(lookup[key] * rate) - start for key in ("body_start", "body_end"))
            grounded[max(0, begin) : max(0, end + 1)] = True

    tokenizer_of_references: Tokenizer

    def __init__(self, *args: Any, reference_tokenizer: Tokenizer, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tokenizer_of_references = reference_tokenizer


class TranscriptionSampler(SequenceSampler):
    """Sequences of the transcription model: what the user says, a while later, as text."""

    def __init__(
        self, *args: Any, phones: PhoneSet | None = None, phone_parts: int = 2, **options: Any
    ) -> None:
        """`phones` are told aside, in so many parts of each frame, where a corpus has them."""
        super().__init__(*args, **options)
        self.phones, self.phone_parts = phones, phone_parts

    def cut(
        self, one: Conversation, start: int, rng: np.random.Generator, *, blot: bool = True
    ) -> CutSequence:
        frames, config = self.config.frames, self.config
        speaker = OTHER if one.is_dialogue else MAIN
        words = self._words(one, speaker, start)
        row = self._row(words, config.text_delay_s)
        # The text is behind: the last words come when the sound is over.
        told = one.frames - start + math.ceil(config.text_delay_s * self.frame_rate) + _LAST_PIECES
        row.tokens[max(0, told) :] = ZERO
        heard = one.codes[one.codes.shape[0] // 2 :] if one.is_dialogue else one.codes
        codes = np.concatenate([row.tokens[None], self._padded(heard, start)])
        if blot:
            self._blot(codes[1:], rng)
        quiet = seconds_of_silence(words, frames, self.frame_rate)
        aside = self._phones(one, start)
        return CutSequence(codes, np.zeros(frames, dtype=np.bool_), quiet, aside)

    def _phones(self, one: Conversation, start: int) -> NDArray[np.int64]:
        """The phone that fills most of each part of each frame [frames, parts]."""
        frames, parts = self.config.frames, self.phone_parts
        spoken = one.facts.get("phones")
        if self.phones is None:
            return np.zeros((frames, 0), dtype=np.int64)
        classes = np.full((frames, parts), ZERO, dtype=np.int64)
        if spoken:
            begin_s = start / self.frame_rate - self.config.aside_delay_s
            classes[:] = self.phones.classes(spoken, begin_s, frames, parts, 1 / self.frame_rate)
            classes[max(0, one.frames - start) :] = ZERO
        return classes

    def _blot(self, codes: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Take away some of the codes [K, T], in place."""
        config, (levels, frames) = self.config, codes.shape
        if config.masked_codes:
            codes[rng.random(codes.shape) < config.masked_codes] = ZERO
        for _ in range(config.masked_spans):
            length = int(rng.integers(1, config.span_frames + 1))
            begin = int(rng.integers(0, max(1, frames - length)))
            codes[:, begin : begin + length] = ZERO
        if config.fewer_levels and rng.random() < config.fewer_levels:
            codes[int(rng.integers(1, levels + 1)) :] = ZERO


def _stacked(parts: Sequence[NDArray[np.float32] | None]) -> Tensor | None:
    """Parts of all sequences as one tensor, if they have them."""
    known = [part for part in parts if part is not None]
    return torch.from_numpy(np.stack(known)) if len(known) == len(parts) else None


def seconds_of_silence(
    words: Sequence[tuple[str, float, float]], frames: int, frame_rate: float
) -> NDArray[np.float32]:
    """For each frame, seconds from its end until the next word; 0 inside words.

    After the last word it is silent for ever, as far as the sequence can tell.
    """
    quiet = np.full(frames, np.inf, dtype=np.float32)
    begins, ends = np.arange(frames) / frame_rate + _SLACK_S, (np.arange(frames) + 1) / frame_rate
    for _, begin, end in reversed(words):
        before = ends <= begin
        quiet[before] = (begin - ends[before]).astype(np.float32)
        quiet[(ends > begin) & (begins < end)] = 0.0
    return quiet


def collate(sequences: Sequence[CutSequence]) -> LMBatch:
    """Sequences of one length -> a batch."""
    references = tuple(
        Reference(index, reference.frame, reference.tokens)
        for index, one in enumerate(sequences)
        for reference in one.references
    )
    codes = np.stack([one.codes for one in sequences])
    return LMBatch(
        torch.from_numpy(codes),
        references,
        torch.from_numpy(np.stack([one.grounded for one in sequences])),
        torch.from_numpy(np.stack([one.quiet for one in sequences])),
        torch.from_numpy(np.stack([one.aside for one in sequences])),
        has_audio=bool((codes[:, 1:] != ZERO).any()),
        spectra=_stacked([one.spectra for one in sequences]),
        vectors=_stacked([one.vectors for one in sequences]),
        first_speakers=tuple(one.first_speaker for one in sequences),
    )
