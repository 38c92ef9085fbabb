"""Exercises: sentences from which a duplex model learns one thing only, many times faster.

In a dialogue everybody is silent most of the time, and what is said is much the same.

- Dictation: wren's own recordings, read out to its text row. The text is given, the user is silent,
  and only sound is learnt: how any piece of text is spoken.
- Listening: users' recordings. wren is silent, and only the user's words are learnt, which a head
  names while the model is trained (`heard` among its losses): a model that knows what was said
  learns sooner when to look something up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from duologue.conditioning.provider import MAIN, OTHER
from duologue.training.encoded import Conversation
from duologue.training.lm_data import (
    ZERO,
    CutSequence,
    LMBatch,
    Reference,
    SequenceConfig,
    SequenceSampler,
)
from duologue.training.phones import PhoneSet
from duologue.training.text_stream import PADDING, Tokenizer

Exercise = Literal["dictation", "listening"]
CORPORA: dict[Exercise, str] = {"dictation": "wren", "listening": "users"}
"""The kind of corpus that an exercise takes its sentences from."""
_SEEDS: dict[Exercise, int] = {"dictation": 2_000_003, "listening": 3_000_017}
_BEFORE_S, _AFTER_S, _LEAST_S = 0.3, 0.5, 2.0
"""A user is silent from so long after a word to so long before the next, and for so long."""


@dataclass(frozen=True)
class ExerciseConfig:
    """How much of an exercise there is."""

    share: float = 0.0
    """Of all batches."""
    batch: int = 12
    frames: int = 100
    told: float = 0.0
    """Dictation: share of the sequences in which what is read out came as a reference before, as it
    does in conversations: its rows are added to the input of the frames that are spoken."""
    rooms: float = 0.0
    """Dictation: share of the sequences in which the user's channel is that of a recording, at a
    time when its user is silent; else there is nothing on it at all."""


@dataclass(frozen=True)
class Room:
    """A stretch of a user's channel on which nobody says a word."""

    codes: Tensor
    """int16 [K, F], a part of the recording's."""
    vectors: Tensor | None
    """float16 [F, dim], likewise: what a recogniser made of it."""


def rooms_of(conversations: Iterable[Conversation], frame_rate: float) -> list[Room]:
    """What is heard of users who are silent for two seconds or longer: noise, echoes, nothing."""
    rooms = []
    for one in conversations:
        silent = np.ones(one.frames, dtype=np.bool_)
        for _, begin, end in one.words(OTHER):
            first = max(0, int((begin - _BEFORE_S) * frame_rate))
            silent[first : math.ceil((end + _AFTER_S) * frame_rate)] = False
        edges = np.flatnonzero(np.diff(silent, prepend=False, append=False))
        for start, stop in edges.reshape(-1, 2):
            if stop - start >= _LEAST_S * frame_rate:
                user = one.codes[one.codes.shape[0] // 2 :, start:stop]
                rooms.append(Room(user, None if one.vectors is None else one.vectors[start:stop]))
    return rooms


@dataclass(frozen=True)
class SpokenPhones:
    """Which phones are told aside, and by how many frames the voice follows its text."""

    phones: PhoneSet
    parts: int
    delay_frames: int

    def classes(
        self, one: Conversation, start_s: float, frames: int, frame_rate: float
    ) -> NDArray[np.int64]:
        """The phones [frames, parts] of a recording from a time on, which may be negative."""
        spoken = one.facts.get("phones") or ()
        return self.phones.classes(spoken, start_s, frames, self.parts, 1 / frame_rate)


class ExerciseSampler(SequenceSampler):
    """Sequences of one exercise, the n-th a function of n."""

    def __init__(
        self,
        exercise: Exercise,
        conversations: Sequence[Conversation],
        amount: ExerciseConfig,
        sequences: SequenceConfig,
        tokenizer: Tokenizer,
        *,
        silence: Tensor,
        frame_rate: float,
        silent_vector: Tensor | None = None,
        hints: SpokenPhones | None = None,
        reference_tokenizer: Tokenizer | None = None,
        rooms: Sequence[Room] = (),
    ) -> None:
        """
        Args:
            silence: the column of codes [K] of a channel on which nothing is said.
            hints: phones that are told aside in dictation.
            reference_tokenizer: for what is told (`ExerciseConfig.told`).
            rooms: to draw from (`ExerciseConfig.rooms`).
            silent_vector: what a recogniser makes of it, [dim].
        """
        super().__init__(
            conversations, replace(sequences, frames=amount.frames), tokenizer,
            seed=_SEEDS[exercise], frame_rate=frame_rate,
        )  # fmt: skip
        self.exercise, self.amount, self.hints = exercise, amount, hints
        self._tokenizer_of_references, self._rooms = reference_tokenizer, rooms
        self._silence = silence.numpy().astype(np.int64)[:, None]
        self._silent_vector = None if silent_vector is None else silent_vector.numpy()[None]

    def batch(self, position: int, size: int) -> LMBatch:
        return replace(super().batch(position, size), exercise=self.exercise)

    def cut(
        self, one: Conversation, start: int, rng: np.random.Generator, *, blot: bool = True
    ) -> CutSequence:
        frames = self.config.frames
        # Nobody begins to speak in the first frame of a conversation.
        lead = 0 if start else int(rng.integers(1, self.config.start_margin + 1))
        later_s = lead / self.frame_rate
        words = [(text, a + later_s, b + later_s) for text, a, b in self._words(one, MAIN, start)]
        silence = self._silence.repeat(frames, axis=1)
        spoken = np.concatenate([silence[:, :lead], self._padded(one.codes, start)], axis=1)
        spoken = spoken[:, :frames]
        inside = max(0, min(frames, lead + one.frames - start))
        aside = np.full((frames, 1), ZERO, dtype=np.int64)
        if self.exercise == "dictation":
            text, own, user = self._row(words).tokens, spoken, silence
        else:
            text, own, user = np.full(frames, PADDING), silence, spoken
            # The words are behind: the last ones come when the sound is over.
            told = inside + math.ceil(self.config.aside_delay_s * self.frame_rate)
            aside[:told, 0] = self._row(words, self.config.aside_delay_s).tokens[:told]
        codes: NDArray[np.int64] = np.concatenate([text[None], own, user])
        codes[:, inside:] = ZERO
        nothing = np.zeros(frames, dtype=np.bool_)
        if self.exercise == "dictation" and self.hints is not None:
            first = start - lead - self.hints.delay_frames
            phones = self.hints.classes(one, first / self.frame_rate, frames, self.frame_rate)
            phones[inside:] = ZERO
            aside = np.concatenate([aside, phones], axis=1)
        vectors = self._heard_vectors(one, start, lead)
        cut = CutSequence(codes, nothing, nothing.astype(np.float32), aside, vectors=vectors)
        if self.exercise == "listening":
            return cut
        if self.amount.told and rng.random() < self.amount.told:
            cut.references.append(self._reference(one, start, int(rng.integers(0, lead + 1))))
            cut.first_speaker = OTHER  # somebody has asked for it
        if self.amount.rooms and rng.random() < self.amount.rooms:
            self._furnish(cut, inside, rng)
        return cut

    def _furnish(self, cut: CutSequence, inside: int, rng: np.random.Generator) -> None:
        """Put a room on the user's channel, from some moment of it to its end."""
        room = self._rooms[int(rng.integers(len(self._rooms)))]
        first = int(rng.integers(0, max(1, room.codes.shape[1] - inside + 1)))
        codes = room.codes[:, first : first + inside].numpy()
        cut.codes[-len(codes) :, : codes.shape[1]] = codes
        if cut.vectors is not None and room.vectors is not None:
            cut.vectors[: codes.shape[1]] = room.vectors[first : first + inside].numpy()

    def _reference(self, one: Conversation, start: int, frame: int) -> Reference:
        """What is read out from a frame of the recording on, arriving at one of the sequence."""
        assert self._tokenizer_of_references is not None, "needed for what is told"
        said = [text for text, begin, _ in one.words(MAIN) if begin >= start / self.frame_rate]
        tokens = self._tokenizer_of_references.encode(" ".join(said))
        return Reference(0, frame, tuple(tokens[: self.config.frames]) or None)

    def _heard_vectors(
        self, one: Conversation, start: int, lead: int
    ) -> NDArray[np.float32] | None:
        """What a recogniser makes of the user, who is silent in a dictation."""
        if self._silent_vector is None:
            return None
        frames = self.config.frames
        silence: NDArray[np.float32] = self._silent_vector.repeat(frames, axis=0)
        spoken = None if self.exercise == "dictation" else self._vectors(one, start)
        if spoken is None:
            return silence
        return np.concatenate([silence[:lead], spoken])[:frames]
