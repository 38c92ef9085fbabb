"""Dictation: wren's own recordings, read out to its text row, from which only sound is learnt.

In a dialogue wren is silent most of the time, and what it says is much the same. How any piece of
text sounds is learnt several times faster from sentences alone. They are no answers to anybody, so
their text is given and not predicted, and the user is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from duologue.mimi.codec import Mimi
from duologue.training.encoded import MAIN, Conversation
from duologue.training.lm_data import ZERO, CutSequence, SequenceConfig, SequenceSampler
from duologue.training.text_stream import Tokenizer

KIND = "wren"
"""Corpora of this kind are dictated."""
_SILENCE_S = 4.0
"""A codec has come to rest after so long."""


@dataclass(frozen=True)
class DictationConfig:
    """How much is dictated."""

    share: float = 0.0
    """Share of all batches."""
    batch: int = 12
    frames: int = 100
    seed: int = 2_000_003


class DictationSampler(SequenceSampler):
    """Sequences in which wren reads out and the user is silent, the n-th a function of n."""

    def __init__(
        self,
        conversations: Sequence[Conversation],
        dictation: DictationConfig,
        sequences: SequenceConfig,
        tokenizer: Tokenizer,
        *,
        silence: Tensor,
        frame_rate: float,
    ) -> None:
        """`silence` is the column of codes [K] of a channel on which nothing is said."""
        super().__init__(
            conversations, replace(sequences, frames=dictation.frames), tokenizer,
            seed=dictation.seed, frame_rate=frame_rate,
        )  # fmt: skip
        self._silence = silence.numpy().astype(np.int64)[:, None]

    def cut(
        self, one: Conversation, start: int, rng: np.random.Generator, *, blot: bool = True
    ) -> CutSequence:
        frames, levels = self.config.frames, one.codes.shape[0]
        # Nobody begins to speak in the first frame of a conversation.
        lead = 0 if start else int(rng.integers(1, self.config.start_margin + 1))
        words = self._words(one, MAIN, start)
        later_s = lead / self.frame_rate
        row = self._row([(text, begin + later_s, end + later_s) for text, begin, end in words])
        own = np.concatenate(
            [self._silence.repeat(lead, axis=1), self._padded(one.codes, start)], axis=1
        )[:, :frames]
        inside = max(0, min(frames, lead + one.frames - start))
        codes = np.concatenate([row.tokens[None], own, self._silence.repeat(frames, axis=1)])
        codes[:, inside:] = ZERO
        assert codes.shape[0] == 1 + 2 * levels
        nothing = np.zeros(frames, dtype=np.bool_)
        quiet, aside = nothing.astype(np.float32), np.full((frames, 1), ZERO, dtype=np.int64)
        return CutSequence(codes, nothing, quiet, aside)


@torch.no_grad()
def silent_column(codec: Mimi) -> Tensor:
    """Codes [K] of silence, once the codec has come to rest."""
    samples = int(_SILENCE_S * codec.frame_rate) * codec.frame_size
    device = next(codec.parameters()).device
    return codec.encode(torch.zeros(1, 1, samples, device=device))[0, :, -1].cpu()
