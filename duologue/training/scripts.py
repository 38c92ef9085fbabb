"""Dialogues that are only read: an endless supply of references to copy.

A reference that speaks of things the model has never met can only be answered by copying, and a
corpus of recordings has too few of them. Here every sequence is a dialogue written for it, with
word times but no sound: its audio rows are empty, so only the text row is learnt from it.

A model that is told what a recogniser makes of the user is told so here too: vectors are drawn that
the recogniser made of the same pieces elsewhere, some of them of others, since it mishears. The
user's audio rows then say when the user is silent, and nothing else. So when to look something up
is learnt from any number of dialogues.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.conditioning.provider import OTHER
from duologue.synthesis.draw import Draw
from duologue.synthesis.mixer import cast_user, describe
from duologue.synthesis.script import Dialogue, Speaker
from duologue.synthesis.silent import SilentSpeaker
from duologue.synthesis.splits import Split
from duologue.synthesis.timeline import lay_out
from duologue.synthesis.writer.dialogues import write_dialogue
from duologue.synthesis.writer.sentences import free_sentence
from duologue.training.data import generator_at
from duologue.training.encoded import Conversation
from duologue.training.exercises import ExerciseSampler
from duologue.training.heard_pieces import HeardPieces
from duologue.training.lm_data import ZERO, CutSequence, DuplexSampler, LMBatch, SequenceConfig
from duologue.training.text_stream import PADDING, Tokenizer, Word, text_row

IDLE = ("small_talk", "off_topic", "greeting", "backchannel", "pause")
"""Classes of dialogues that sequences without a lookup are mostly taken from."""
_STILL = 0.7
"""Share of sequences in which a silent user is perfectly silent to the recogniser."""
_LATE_S = (0.6, 2.4)
"""After the user's last word, when a reply is late."""


@dataclass(frozen=True)
class ScriptConfig:
    """How much is read, and when."""

    first_steps: int = 0
    """So many steps at the start of a run only read."""
    share: float = 0.0
    """Share of the later batches that are read."""
    batch: int = 24
    frames: int = 112
    lookups: float = 1.0
    """Share of sequences around a lookup; the others begin where a user speaks, mostly in talk that
    asks for nothing."""
    misheard: float = 0.3
    """Most pieces of the user's that the recogniser of a sequence gets wrong."""
    late: float = 0.0
    """Share of the replies that come late, as they do where a floor policy waits until it is sure
    that the user has ended."""
    seed: int = 1_000_003
    """Scripts of other seeds than the recordings'."""


class ScriptSampler(DuplexSampler):
    """Sequences around one lookup each, the n-th a function of n."""

    def __init__(
        self,
        config: ScriptConfig,
        sequences: SequenceConfig,
        tokenizer: Tokenizer,
        *,
        reference_tokenizer: Tokenizer,
        rows: int,
        frame_rate: float,
        split: Split = "train",
        silence: Tensor | None = None,
        silent_vector: Tensor | None = None,
        pieces: HeardPieces | None = None,
    ) -> None:
        """
        Args:
            rows: audio rows, the user's last.
            silence: the column of codes [K] of a user who says nothing.
            silent_vector: what a recogniser makes of that, [dim].
            pieces: what it makes of what is said.
        """
        self.config = replace(sequences, frames=config.frames)
        self.tokenizer, self.tokenizer_of_references = tokenizer, reference_tokenizer
        self.scripts, self.rows, self.frame_rate, self.split = config, rows, frame_rate, split
        self._speaker = SilentSpeaker()
        self._silence = None if silence is None else silence.numpy().astype(np.int64)[:, None]
        self._silent_vector = None if silent_vector is None else silent_vector.numpy()
        self._pieces = pieces

    def batch(self, position: int, size: int) -> LMBatch:
        """What its audio rows say is not to be learnt."""
        return replace(super().batch(position, size), has_audio=False)

    def sequence(self, position: int) -> CutSequence:
        """Sequence number `position`."""
        rng = generator_at(self.scripts.seed, position)
        if rng.random() >= self.scripts.lookups:
            label = IDLE[rng.integers(len(IDLE))]
            one = self._conversation(int(rng.integers(1 << 40)), label)
            return self.cut(one, self._draw_start(one, rng), rng)
        while True:
            one = self._conversation(int(rng.integers(1 << 40)))
            lookups = one.facts["retrieval"]
            if lookups:
                chosen = lookups[rng.integers(len(lookups))]
                ahead = rng.integers(1, self.config.start_margin + 1)
                start = int(self._asked_s(one, chosen) * self.frame_rate) - int(ahead)
                return self.cut(one, max(0, start), rng)

    def _asked_s(self, one: Conversation, lookup: Mapping[str, Any]) -> float:
        """When the user began to say what is looked up: it is to be looked up for what was said."""
        latest_s = lookup["trigger_time"] + 1 / self.frame_rate
        begun = (
            turn["start"]
            for turn in one.facts["turns"]
            if turn["speaker"] == OTHER and turn["end"] <= latest_s
        )
        return max(begun, default=0.0)

    def cut(
        self, one: Conversation, start: int, rng: np.random.Generator, *, blot: bool = True
    ) -> CutSequence:
        sequence = super().cut(one, start, rng, blot=blot)
        if self._pieces is None:
            return sequence
        words = self._words(one, OTHER, start)
        # After a frame the recogniser knows what it writes in the next one.
        row = text_row(
            words, self.config.frames + 1, self.frame_rate, self.tokenizer,
            delay_s=self.config.aside_delay_s, wait=self.config.words_wait,
        )  # fmt: skip
        share = rng.uniform(0, self.scripts.misheard)
        tokens = self._pieces.misheard(row.tokens[1:], share, rng)
        sequence.vectors = self._pieces.draw(tokens, rng)
        quiet = self._is_quiet(words, len(tokens))
        if self._silent_vector is not None and rng.random() < _STILL:
            sequence.vectors[quiet & (tokens == PADDING)] = self._silent_vector
        if self._silence is not None:
            sequence.codes[-len(self._silence) :, quiet] = self._silence
        return sequence

    def _is_quiet(self, words: Sequence[Word], frames: int) -> NDArray[np.bool_]:
        """Frames [frames] in which the user says nothing."""
        quiet = np.ones(frames, dtype=np.bool_)
        for _, begin, end in words:
            quiet[int(begin * self.frame_rate) : int(np.ceil(end * self.frame_rate)) + 1] = False
        return quiet

    def _conversation(self, index: int, label: str | None = None) -> Conversation:
        dialogue = self._put_off(write_dialogue(self.scripts.seed, index, self.split, label), index)
        line = lay_out(dialogue, cast_user(dialogue), self._speaker)
        frames = int(np.ceil(line.seconds * self.frame_rate))
        codes = torch.full((self.rows, frames), ZERO, dtype=torch.int16)
        return Conversation(codes, describe(dialogue, line))

    def _put_off(self, dialogue: Dialogue, index: int) -> Dialogue:
        """The same with some replies late."""
        draw = Draw("late", self.scripts.seed, index)
        turns = [
            replace(turn, gap_s=draw.between(*_LATE_S))
            if turn.speaker is Speaker.WREN and draw.chance(self.scripts.late)
            else turn
            for turn in dialogue.turns
        ]
        return replace(dialogue, turns=tuple(turns))


def script_texts(count: int, seed: int = 1_000_003) -> Iterator[str]:
    """What is said and looked up in some dialogues of the training split, and free sentences."""
    for index in range(count):
        dialogue = write_dialogue(seed, index, "train")
        for turn in dialogue.turns:
            looked_up = turn.lookup.reference if turn.lookup else ""
            yield from (text for text in (turn.lead, turn.filler, turn.text, looked_up) if text)
        yield free_sentence(Draw("tokenizer", seed, index), "train")


class MixedSource:
    """Batches of dialogues, scripts and exercises; which it is depends on its position alone."""

    def __init__(
        self,
        recordings: DuplexSampler,
        scripts: ScriptSampler,
        exercises: Sequence[ExerciseSampler],
        *,
        positions: int,
        seed: int,
    ) -> None:
        """`positions` are those of an optimiser's step."""
        self.recordings, self.scripts, self.exercises = recordings, scripts, exercises
        self.first = scripts.scripts.first_steps * positions
        self.seed = seed

    @property
    def config(self) -> SequenceConfig:
        return self.recordings.config

    def batch(self, position: int, size: int) -> LMBatch:
        """Sequences of one kind for `size` positions."""
        of_scripts = self.scripts.scripts
        drawn = generator_at(~self.seed, position).random()
        if position < self.first or drawn < of_scripts.share:
            first = position // size * of_scripts.batch
            return self.scripts.batch(first, of_scripts.batch)
        shares = of_scripts.share
        for exercise in self.exercises:
            shares += exercise.amount.share
            if drawn < shares:
                count = exercise.amount.batch
                return exercise.batch(position // size * count, count)
        return self.recordings.batch(position, size)
