"""Modules in a row, some with streaming state, some without."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from duologue.nn.modules import ModuleSequence
from duologue.nn.state import State


@dataclass
class SequenceState(State):
    """States of the members that have one, in order."""

    members: list[State] = field(default_factory=list)


class StreamingSequence(ModuleSequence[Any]):
    """Apply members one after another; those with `init_state` are streamed, others called."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__(members)
        self._stateful = [hasattr(member, "init_state") for member in self]

    def init_state(self, batch_size: int) -> SequenceState:
        pairs = zip(self, self._stateful, strict=True)
        return SequenceState(
            [member.init_state(batch_size) for member, stateful in pairs if stateful]
        )

    def forward(self, x: Tensor) -> Tensor:
        for member in self:
            x = member(x)
        return x

    def step(self, x: Tensor, state: SequenceState, active: Tensor | None = None) -> Tensor:
        states = iter(state.members)
        for member, stateful in zip(self, self._stateful, strict=True):
            x = member.step(x, next(states), active) if stateful else member(x)
        return x
