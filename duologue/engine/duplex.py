"""The loop itself: a frame of the user's audio in, a frame of the model's audio and text out.

encode -> language model -> decode, for a batch of slots, all of it on explicit state. Turns,
retrieval, queues and clocks are the business of those who call it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from duologue.errors import DuologueError
from duologue.mimi.codec import Mimi, MimiState
from duologue.moshi.generator import GeneratorState, StepOutput
from duologue.moshi.lm import MoshiLM
from duologue.nn.state import State


class MismatchError(DuologueError, ValueError):
    """A codec and a language model do not belong together."""


@dataclass
class DuplexState(State):
    """All that a batch of conversations is."""

    codec: MimiState
    lm: GeneratorState


@dataclass(frozen=True)
class DuplexOutput:
    """What one frame gives. Slots that are not `ready` have silence and no text."""

    pcm: Tensor
    """float32 [B, 1, frame_size]"""
    text: Tensor
    """int64 [B]: text token of the same frame, -2 where there is none."""
    ready: Tensor
    """bool [B]"""
    step: StepOutput
    """The language model's own output."""


class Duplex:
    """Codec and language model running in step over `batch_size` slots."""

    def __init__(self, codec: Mimi, lm: MoshiLM, batch_size: int = 1, **options: Any) -> None:
        """`options` are those of `duologue.moshi.Generator`.

        Raises:
            MismatchError: the codec cannot give or take the codes that the model uses.
        """
        self.codec, self.lm = codec, lm
        self.generator = lm.generator(batch_size, **options)
        needed = max(self.generator.given_q, self.generator.generated_q)
        available, bins = codec.config.quantizer.n_q, codec.config.quantizer.bins
        if needed > available:
            raise MismatchError(f"the model uses {needed} codebooks, the codec has {available}")
        if bins != lm.config.card:
            raise MismatchError(
                f"the model's codebooks have {lm.config.card} entries, the codec's {bins}"
            )
        self.state = DuplexState(codec.init_state(batch_size), self.generator.state)

    @property
    def speaks(self) -> bool:
        """Whether the model generates audio (a recogniser only writes)."""
        return self.generator.generated_q > 0

    def reset(self, mask: Tensor | None = None) -> None:
        """Start the conversations of `mask` [B] afresh; the others keep every bit."""
        self.state.codec.reset(mask)
        self.generator.reset(mask)

    def encode(
        self, pcm: Tensor, active: Tensor | None = None, *, num_codebooks: int = 1
    ) -> Tensor:
        """The user's frame as codes: [B, 1, frame_size] -> int64 [B, K, 1].

        K is what the model hears, or `num_codebooks` if that is more (for other listeners).
        """
        given = max(self.generator.given_q, num_codebooks)
        return self.codec.encode_step(pcm, self.state.codec, active, num_codebooks=given)

    def step(self, codes: Tensor, active: Tensor | None = None, **options: Any) -> DuplexOutput:
        """Answer a frame of the user's codes; options are those of `Generator.step`."""
        out = self.generator.step(codes, active, **options)
        if self.speaks:
            speech = out.audio.clamp(min=0)[..., None]
            pcm = self.codec.decode_step(speech, self.state.codec, out.ready)
            pcm = torch.where(out.ready[:, None, None], pcm, 0.0)
        else:
            shape = (self.generator.batch_size, 1, self.codec.frame_size)
            pcm = torch.zeros(shape, device=self.lm.device)
        return DuplexOutput(pcm, out.text, out.ready, out)
