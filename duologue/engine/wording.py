"""How a slot's text is steered beside its sampling: how much is said, and how often again.

As published servers do it, on text logits before a token is drawn:

- repetition penalty p over the last n tokens that say something: a logit among them is divided by
  p if it is positive, else multiplied by p;
- pad multiplier m: the probability of silence, as it is after temperature, is multiplied by e^m,
  so m > 0 talks less. (Of no effect on greedy slots, which draw no probabilities.)

What a slot said is part of its state: it is packed, reset and replayed with the rest. Slots that
are not steered keep every bit, whoever else is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from duologue.engine.api import MAX_REPETITION_CONTEXT, Wording
from duologue.moshi.generator import StepHooks
from duologue.nn.state import KEEP, State, assign_active, tensor_field

NOTHING = -1


@dataclass
class WordingState(State):
    """Settings of each slot, which a reset leaves alone, and what it said."""

    pad_mult: Tensor = tensor_field(KEEP)
    """[B]"""
    penalty: Tensor = tensor_field(KEEP)
    """[B]"""
    context: Tensor = tensor_field(KEEP)
    """[B] int64: tokens that the penalty looks back at; 0 for none."""
    recent: Tensor = tensor_field(NOTHING)
    """[B, MAX_REPETITION_CONTEXT] int64: tokens that said something, the newest first."""


class Steering:
    """The hooks of a bank's steps; `state` holds all that they know."""

    def __init__(
        self, slots: int, padding: int, silent: Iterable[int], device: torch.device
    ) -> None:
        """`padding` is the token of silence; those that say nothing are `silent`."""
        self._padding = padding
        self._silent = torch.tensor(sorted(silent), device=device)
        self._ages = torch.arange(MAX_REPETITION_CONTEXT, device=device)
        self.state = WordingState(
            pad_mult=torch.zeros(slots, device=device),
            penalty=torch.ones(slots, device=device),
            context=torch.zeros(slots, dtype=torch.int64, device=device),
            recent=torch.full((slots, MAX_REPETITION_CONTEXT), NOTHING, device=device),
        )
        self._steers = False

    def configure(self, mask: Tensor, wording: Wording) -> None:
        """Steer the slots of `mask` [B] in this way from now on."""
        penalised = wording.repetition_penalty != 1.0
        self.state.pad_mult.masked_fill_(mask, wording.pad_mult)
        self.state.penalty.masked_fill_(mask, wording.repetition_penalty)
        self.state.context.masked_fill_(mask, wording.repetition_context if penalised else 0)
        self.refresh()

    def refresh(self) -> None:
        """Re-read what must be known on the host; call after loading a state from outside."""
        state = self.state
        self._steers = bool((state.pad_mult != 0).any() | (state.context > 0).any())

    def hooks(
        self, active: Tensor, temperature: Tensor, *, always: bool = False
    ) -> StepHooks | None:
        """For a step of the slots `active` [B] at `temperature` [B]; None if none is steered.

        With `always`, hooks that do nothing then: the same work whoever is there.
        """
        if not (self._steers or always):
            return None
        return StepHooks(
            on_text_logits=lambda logits: self._bend(logits, temperature),
            on_text=lambda text: self._note(text, active),
        )

    def _bend(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """[B, classes] -> the same, as they are to be drawn from."""
        state, classes = self.state, logits.shape[-1]
        counts = (self._ages < state.context[:, None]) & (state.recent != NOTHING)
        said = torch.zeros(len(logits), classes + 1, dtype=torch.bool, device=logits.device)
        said.scatter_(1, torch.where(counts, state.recent, classes), True)
        penalty = state.penalty[:, None].to(logits.dtype)
        penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
        bent = torch.where(said[:, :classes], penalised, logits)
        bent[:, self._padding] += (state.pad_mult * temperature).to(logits.dtype)
        return bent

    def _note(self, text: Tensor, active: Tensor) -> Tensor:
        """Remember what was drawn, int64 [B], of the active slots that are penalised."""
        recent = self.state.recent
        speaks = active & (self.state.context > 0) & ~torch.isin(text, self._silent)
        longer = torch.cat([text[:, None], recent[:, :-1]], dim=1)
        assign_active(recent, longer, speaks)
        return text
