"""Several hypotheses of what is being said, and the best of them a moment later.

A recogniser that takes the likeliest piece in every frame cannot take back a word that the next one
belies. Here each slot has `width` hypotheses that are heard side by side. Two that have written the
same text are one (the likelier stays), so they differ in words rather than in when a word was
written. In a frame the best hypothesis's token of `wait` frames ago is given out; those that
had another one there are dropped, so that what was given out stays a beginning of all that are left
(beam search with a fixed lag; it gave out what the Viterbi algorithm would if the best hypotheses
agree on the past, as they nearly always do).

Everything is tensors of fixed shapes on the device, whose contents no step waits for. What it is
worth is in `docs/stt.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from duologue.errors import DuologueError
from duologue.nn.state import State, assign_active, tensor_field

KEY = "beam"
"""Entry of `stt_config`: how many hypotheses are followed (`BeamConfig`); without it one is."""
MAX_WIDTH = 64
MAX_WAIT = 64
_NEVER = -1e30
"""Score of a row that is no hypothesis (finite, so that nothing becomes NaN)."""
_ALIVE = -1e20
_MULTIPLIER = 6364136223846793005
"""Of the running hash of a text; Knuth's, modulo 2^64."""


class BeamError(DuologueError, ValueError):
    """A beam's description makes no sense."""


@dataclass(frozen=True)
class BeamConfig:
    """How many hypotheses a slot has, and for how long they stay open."""

    width: int = 4
    wait: int = 4
    """Frames by which text comes later than the model writes it."""
    candidates: int = 4
    """Likeliest tokens with which each hypothesis may go on."""
    margin: float = 2.0
    """Hypotheses that are so much less likely than the best are dropped: natural logarithms."""

    def __post_init__(self) -> None:
        margin = self.margin
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < 1e9:
            raise BeamError(f"beam: margin {margin!r} is not a positive number")
        for name, most in (("width", MAX_WIDTH), ("wait", MAX_WAIT), ("candidates", MAX_WIDTH)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise BeamError(f"beam: {name} {value!r} is not a whole number from 1 to {most}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a configuration file's block.

        Raises:
            BeamError: names what is wrong.
        """
        if not isinstance(values, Mapping):
            raise BeamError(f"beam: {values!r} is not a table")
        if unknown := values.keys() - {item.name for item in fields(cls)}:
            raise BeamError(f"beam: {sorted(unknown)[0]!r} is no entry")
        return cls(**values)


@dataclass
class BeamState(State):
    """What is known of each slot's hypotheses, the likeliest first."""

    scores: Tensor = tensor_field(0)
    """float32 [B, width]: log-likelihood beside the best one's."""
    texts: Tensor = tensor_field(0)
    """int64 [B, width]: a hash of all pieces that it has written."""
    recent: Tensor = tensor_field(0)
    """int64 [B, width, wait]: its tokens that have not been given out, oldest first."""


class Advance(NamedTuple):
    """What a step makes of the hypotheses."""

    parents: Tensor
    """int64 [B, width]: the row that each one goes on from."""
    tokens: Tensor
    """int64 [B, width]: with what it goes on."""
    text: Tensor
    """int64 [B]: what is given out."""


class Beam:
    """Goes on with the hypotheses of all slots."""

    def __init__(self, config: BeamConfig, silent: frozenset[int], padding: int) -> None:
        """
        Args:
            silent: tokens that are no text.
            padding: the one that stands for nothing.
        """
        self.config = config
        self._silent, self._padding = sorted(silent), padding

    def fresh(self, slots: int, device: torch.device | str = "cpu") -> BeamState:
        """Slots with one hypothesis, that nothing was said."""
        width, wait = self.config.width, self.config.wait
        state = BeamState(
            torch.full((slots, width), _NEVER, device=device),
            torch.zeros(slots, width, dtype=torch.int64, device=device),
            torch.full((slots, width, wait), self._padding, device=device),
        )
        state.scores[:, 0] = 0.0
        return state

    def advance(self, gains: Tensor, state: BeamState, active: Tensor | None) -> Advance:
        """Take a step.

        Args:
            gains: float32 [B * width, classes], log-probability of each token in each row.
        """
        slots, width = state.scores.shape
        number = min(self.config.candidates, gains.shape[-1])
        gained, tokens = gains.view(slots, width, -1).topk(number, dim=-1)
        totals = (state.scores[..., None] + gained).flatten(1).nan_to_num(_NEVER, neginf=_NEVER)
        tokens = tokens.flatten(1)
        silent = torch.zeros_like(tokens, dtype=torch.bool)
        for token in self._silent:
            silent |= tokens == token
        before = state.texts.repeat_interleave(number, 1)
        texts = torch.where(silent, before, before * _MULTIPLIER + tokens + 1)
        totals, order = totals.sort(dim=1, descending=True, stable=True)
        texts, tokens = texts.gather(1, order), tokens.gather(1, order)
        # Whoever has written the same as a likelier one is that one.
        same = (texts[:, :, None] == texts[:, None, :]).tril(-1).any(-1)
        totals = totals.masked_fill(same, _NEVER)
        totals, kept = totals.topk(width, dim=1)
        tokens, texts = tokens.gather(1, kept), texts.gather(1, kept)
        parents = order.gather(1, kept) // number
        recent = state.recent.gather(1, parents[..., None].expand_as(state.recent))
        oldest = recent[..., 0]
        text = oldest[:, 0]
        alive = (oldest == text[:, None]) & (totals > totals[:, :1] - self.config.margin)
        # The best one lives on even where numbers are none, and with it the slot.
        alive[:, 0] = True
        # A row that is none stays where it is: nothing is to be copied for it.
        own = torch.arange(width, device=parents.device).expand_as(parents)
        parents = torch.where(alive, parents, own)
        scores = torch.where(alive, totals - totals[:, :1], _NEVER)
        recent = torch.cat([recent[..., 1:], tokens[..., None]], dim=-1)
        if active is not None:
            parents = torch.where(active[:, None], parents, own)
        assign_active(state.scores, scores, active)
        assign_active(state.texts, texts, active)
        assign_active(state.recent, recent, active)
        return Advance(parents, tokens, text)

    def rows(self, state: BeamState, active: Tensor | None) -> Tensor:
        """Which rows [B * width] are hypotheses of active slots."""
        alive = state.scores > _ALIVE
        return (alive if active is None else alive & active[:, None]).flatten()

    def settle(self, state: BeamState, active: Tensor | None) -> list[Tensor]:
        """Decide for the best hypotheses: the tokens [B] that they still owe, oldest first."""
        owed = [*state.recent[:, 0].clone().unbind(-1)]
        fresh = self.fresh(len(state.scores), state.scores.device)
        assign_active(state.scores, fresh.scores, active)
        assign_active(state.recent, fresh.recent, active)
        return owed


def reorder(state: State, parents: Tensor) -> None:
    """Let the rows of each slot go on from other rows of it: `parents` int64 [B, width]."""
    slots, width = parents.shape
    first = torch.arange(slots, device=parents.device)[:, None] * width
    source = (first + parents).flatten()
    if source.device.type != "cpu":
        for tensor in state.tensors().values():
            tensor.copy_(tensor.index_select(0, source))
        return
    moved = (source != torch.arange(len(source))).nonzero().flatten()
    if not len(moved):
        return
    source = source[moved]
    for tensor in state.tensors().values():
        tensor.index_copy_(0, moved, tensor.index_select(0, source))
