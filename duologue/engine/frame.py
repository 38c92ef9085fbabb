"""One frame of all slots as a function of one vector: all that the device does in a tick.

`BankFrame.advance` is encode, recognise, answer and decode in a row; `open` is the step that a
fresh slot makes before it has heard anything. Both keep the contract of `duologue.runtime.graph`,
so that an accelerator may record them once and replay them: they read their input and the state
tree, write the state in place, and never ask the device for a value. What they take from Python is
`baked`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from duologue.audio.levels import power_gate
from duologue.engine.duplex import Duplex, DuplexOutput, DuplexState
from duologue.engine.model import LoadedModel
from duologue.engine.wording import Steering, WordingState
from duologue.moshi.config import UNGENERATED
from duologue.nn.state import State

if TYPE_CHECKING:
    from duologue.moshi.generator import StepHooks
    from duologue.stt.ports import LocalRecogniser

CONTROLS = 7
"""Numbers of each slot behind the samples in what `advance` takes: whether it is present, held,
muted and barred from lookups, its urge, the piece that it favours and how much."""
COLUMNS = 6
"""Numbers behind the samples in a row of what `advance` gives: ready, text, sampled text, sane,
recognised text and inactivity."""


@dataclass
class BankState(State):
    """All that the slots remember."""

    duplex: DuplexState
    wording: WordingState
    stt: State | None = None


class BankFrame:
    """The models, and the state of `slots` conversations with them."""

    def __init__(
        self,
        model: LoadedModel,
        slots: int,
        gate_db: float | None,
        recogniser: LocalRecogniser[Any] | None,
    ) -> None:
        self.slots, self.gate_db, self.recogniser = slots, gate_db, recogniser
        self.frame_size = model.codec.frame_size
        self.duplex = Duplex(model.codec, model.lm, slots)
        self.shares_codes = recogniser is not None and recogniser.hears_codes_of(model.codec)
        stt = recogniser.init_state(slots, encodes=not self.shares_codes) if recogniser else None
        self._padding = padding = model.lm.config.existing_text_padding_id
        self.silence = torch.zeros(
            self.duplex.generator.generated_q, dtype=torch.int64, device=model.device
        )
        """int64 [generated]: the model's codes when it says nothing, from `learn_silence` on."""
        self._knows_silence = False
        self.steering = Steering(slots, padding, model.silent_tokens, model.device)
        self.state = BankState(self.duplex.state, self.steering.state, stt)
        wanted = model.lm.config.heard_dim
        self.tells_model = (
            wanted is not None and recogniser is not None and recogniser.dim == wanted
        )
        self.steers_all = False
        """Have all slots pass through steering, which leaves those that are not steered as they
        are; a recorded frame does, so that it fits whoever comes."""

    @property
    def samples(self) -> int:
        """Samples of all slots; in the input they come first, then `CONTROLS` numbers a slot."""
        return self.slots * self.frame_size

    @property
    def size(self) -> int:
        """Numbers in the input of `advance`."""
        return self.samples + CONTROLS * self.slots

    def learn_silence(self) -> None:
        """Work out `silence`, once; before the first step in which somebody is muted."""
        if not self._knows_silence:
            self.silence.copy_(self.duplex.codec.silent_column()[: len(self.silence)])
            self._knows_silence = True

    def baked(self) -> Hashable:
        """What a recording of this holds that is no tensor of fixed address: equal while it fits.

        The width of the sort that sampling needs, and the recogniser's vocabulary. (The gate and
        whether a recogniser listens never change.)
        """
        heard = None if self.recogniser is None else self.recogniser.baked
        return self.duplex.generator.known_settings, heard

    @torch.no_grad()
    def advance(self, inputs: Tensor) -> Tensor:
        """Advance the slots that have a frame of the user's audio by one frame.

        Args:
            inputs: float32 [slots * frame_size + CONTROLS * slots]: samples slot by slot, then for
                each slot 1 if it has a frame and 0 if it stands still, then likewise whether it is
                held, muted and barred from lookups, then its urge, the piece that it favours and
                how much (`duologue.engine.api.Steer`).
        Returns:
            float32 [slots, frame_size + COLUMNS], and behind it what the recogniser told the model
            if it did; rows of slots that stand still mean nothing.
        """
        pcm = inputs[: self.samples].view(self.slots, 1, self.frame_size)
        controls = inputs[self.samples :].view(CONTROLS, self.slots)
        present, held, muted, barred, urge, favoured, favour = controls
        active, muted = present != 0, muted != 0
        gated = pcm
        if self.gate_db is not None:
            gated = power_gate(pcm, self.gate_db, frame_size=self.frame_size)
        books = self.recogniser.num_codebooks if self.recogniser and self.shares_codes else 1
        codes = self.duplex.encode(gated, active, num_codebooks=books)
        heard = self._recognise(pcm, codes, active)
        # Always given, also where nobody is steered: a recorded frame must fit whoever comes.
        text = torch.where(muted | (held != 0), self._padding, UNGENERATED)
        audio = torch.where(muted[:, None], self.silence, UNGENERATED)
        out = self.duplex.step(
            codes,
            active,
            text=text,
            audio=audio,
            urge=urge,
            barred=barred != 0,
            favoured=favoured.long(),
            favour=favour,
            hooks=self.hooks(active),
        )
        return _joined(out, heard)

    @torch.no_grad()
    def open(self, inputs: Tensor) -> Tensor:
        """The first step of fresh slots, which hears nothing and says nothing.

        Args:
            inputs: float32 [slots], 1 for each slot that makes it.
        Returns:
            float32 [slots]: the text token that was drawn.
        """
        active = inputs != 0
        out = self.duplex.generator.step(None, active, hooks=self.hooks(active))
        return out.sampled_text.float()

    def hooks(self, active: Tensor) -> StepHooks | None:
        """Steering of a step of the slots `active` [B]."""
        temperature = self.duplex.generator.state.text_sampling.temperature
        return self.steering.hooks(active, temperature, always=self.steers_all)

    def _recognise(
        self, pcm: Tensor, codes: Tensor, active: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Text token and inactivity of each slot, [B] each, and what the model is told [B, dim];
        recognisers of audio hear all of it."""
        if self.recogniser is None:
            nothing = torch.full((self.slots,), math.nan, device=pcm.device)
            return nothing, nothing, None
        source = codes if self.shares_codes else pcm
        drawn = self.recogniser.step(source, self.state.stt, active)
        if not self.tells_model:
            return drawn.text.float(), drawn.inactivity, None
        self.duplex.generator.hear(drawn.vector, active)
        return drawn.text.float(), drawn.inactivity, drawn.vector.float()


def _joined(out: DuplexOutput, heard: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    """Everything in one matrix, so that one copy takes it to the host."""
    pcm = out.pcm[:, 0].float()
    sane = out.step.text_logits.isfinite().all(-1) & pcm.isfinite().all(-1)
    # Token ids are far below 2^24, so float32 holds them exactly.
    numbers = torch.stack(
        [
            out.ready.float(), out.text.float(), out.step.sampled_text.float(), sane.float(),
            heard[0], heard[1],
        ],
        dim=1,
    )  # fmt: skip
    told = [] if heard[2] is None else [heard[2]]
    return torch.cat([pcm, numbers, *told], dim=1)
