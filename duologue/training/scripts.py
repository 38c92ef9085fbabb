"""Dialogues that are only read: an endless supply of references to copy.

A reference that speaks of things the model has never met can only be answered by copying, and a
corpus of recordings has too few of them. Here every sequence is a dialogue written for it, with
word times but no sound: its audio rows are empty, so only the text row is learnt from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from duologue.synthesis.draw import Draw
from duologue.synthesis.mixer import cast_user, describe
from duologue.synthesis.silent import SilentSpeaker
from duologue.synthesis.splits import Split
from duologue.synthesis.timeline import lay_out
from duologue.synthesis.writer.dialogues import write_dialogue
from duologue.synthesis.writer.sentences import free_sentence
from duologue.training.data import generator_at
from duologue.training.encoded import Conversation
from duologue.training.exercises import ExerciseSampler
from duologue.training.lm_data import ZERO, CutSequence, DuplexSampler, LMBatch, SequenceConfig
from duologue.training.text_stream import Tokenizer


@dataclass(frozen=True)
class ScriptConfig:
    """How much is read, and when."""

    first_steps: int = 0
    """So many steps at the start of a run only read."""
    share: float = 0.0
    """Share of the later batches that are read."""
    batch: int = 24
    frames: int = 112
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
    ) -> None:
        self.config = replace(sequences, frames=config.frames)
        self.tokenizer, self.tokenizer_of_references = tokenizer, reference_tokenizer
        self.scripts, self.rows, self.frame_rate, self.split = config, rows, frame_rate, split
        self._speaker = SilentSpeaker()

    def sequence(self, position: int) -> CutSequence:
        """Sequence number `position`."""
        rng = generator_at(self.scripts.seed, position)
        while True:
            one = self._conversation(int(rng.integers(1 << 40)))
            lookups = one.facts["retrieval"]
            if lookups:
                chosen = lookups[rng.integers(len(lookups))]
                ahead = rng.integers(1, self.config.start_margin + 1)
                start = int(chosen["trigger_time"] * self.frame_rate) - int(ahead)
                return self.cut(one, max(0, start), rng)

    def _conversation(self, index: int) -> Conversation:
        dialogue = write_dialogue(self.scripts.seed, index, self.split)
        line = lay_out(dialogue, cast_user(dialogue), self._speaker)
        frames = int(np.ceil(line.seconds * self.frame_rate))
        codes = torch.full((self.rows, frames), ZERO, dtype=torch.int16)
        return Conversation(codes, describe(dialogue, line))


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
        batch: int,
        seed: int,
    ) -> None:
        self.recordings, self.scripts, self.exercises = recordings, scripts, exercises
        self.first = scripts.scripts.first_steps * batch
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
