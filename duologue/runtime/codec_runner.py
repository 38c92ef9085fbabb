"""Running a program on a tree of states: addresses, and how many threads are worth waking."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.nn.state import State
from duologue.runtime import codec_kernels as k
from duologue.runtime.codec_pack import aligned
from duologue.runtime.codec_program import Program
from duologue.runtime.codec_team import TEAM
from duologue.runtime.threads import meeting_point

MAX_THREADS = 16
MACS_PER_THREAD = 24_000_000
"""Work that makes waking one more thread worth while."""


def takes(tensor: Tensor) -> bool:
    """Whether programs run on an input: on the CPU, float32 or codes, not empty."""
    plain = tensor.dtype in (torch.float32, torch.int64)
    return plain and tensor.device.type == "cpu" and tensor.numel() > 0


@dataclass
class Loaded:
    """A program ready to run."""

    program: Program
    table: NDArray[np.int64]

    @classmethod
    def of(cls, program: Program) -> Loaded:
        return cls(program, program.finish())


class Runner:
    """Runs programs, one at a time."""

    def __init__(self) -> None:
        self._states: dict[int, tuple[Any, list[Tensor], NDArray[np.int64]]] = {}
        self._scratch = aligned((MAX_THREADS, k.SCRATCH_BYTES // 4))
        self._point = meeting_point()

    def run(
        self, loaded: Loaded, state: State, source: Tensor, out: Tensor, active: Tensor | None
    ) -> None:
        """Advance the active slots of a state; inputs and results are by slot, too."""
        slots = source.shape[0]
        chosen = np.arange(slots) if active is None else np.flatnonzero(active.numpy())
        if not len(chosen):
            return
        memory = self._addresses(state)
        memory[0], memory[1] = source.data_ptr(), out.data_ptr()
        table, point = loaded.table, self._point
        scratch = self._scratch.ctypes.data
        worth = 1 + loaded.program.macs * len(chosen) // MACS_PER_THREAD
        size = max(1, min(torch.get_num_threads(), worth, MAX_THREADS))

        def part(rank: int, size: int) -> None:
            k.run(table, memory, chosen, rank, size, point, scratch)

        TEAM.run(part, size)

    def _addresses(self, state: State) -> NDArray[np.int64]:
        """Addresses of a state's tensors, worked out once for each state."""
        known = self._states.get(id(state))
        if known is not None and known[0]() is state:
            return known[2]
        tensors = list(state.tensors().values())
        if not all(t.is_contiguous() and t.device.type == "cpu" for t in tensors):
            raise ValueError("states must lie on the CPU, contiguous")
        memory = np.array([0, 0, *(t.data_ptr() for t in tensors)], np.int64)
        name, states = id(state), self._states
        watch = weakref.ref(state, lambda _: states.pop(name, None))
        self._states[name] = (watch, tensors, memory)
        return memory
