"""How the threads that run one compiled function together meet between its phases.

Each thread of a team (`codec_team.TEAM`) calls the same function with its own rank; the function
divides the work by rank and calls `meet` where one needs what another has written. Waiting is
spinning, as phases last microseconds; after a while a waiting thread gives its core away, so that a
machine with other work slows down rather than stands still.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from duologue.runtime.compile import kernel

SPINS = 4000
"""Looks at the meeting point before the core is given away: some ten microseconds."""
YIELDS = 400
"""Times that it is given away before a thread sleeps between looks, so that the one it waits for
gets to run where others want all cores."""
NAP_US = 50
_LINE = 16
"""int64 numbers in two cache lines; arrivals and phases lie apart, as each wakes its readers."""
_I64 = ir.IntType(64)


def meeting_point() -> np.ndarray:
    """Memory that the members of a team meet at."""
    return np.zeros(2 * _LINE, dtype=np.int64)


def _pointer(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def _arrive(typing, address):  # type: ignore[no-untyped-def]
    """Add one; the number before."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        one = ir.Constant(_I64, 1)
        return builder.atomic_rmw("add", _pointer(builder, args[0]), one, "acq_rel")

    return types.int64(types.int64), emit


@intrinsic
def _look(typing, address):  # type: ignore[no-untyped-def]
    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), emit


@intrinsic
def _publish(typing, address, value):  # type: ignore[no-untyped-def]
    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


if hasattr(os, "sched_yield"):
    _give_way: Any = types.ExternalFunction("sched_yield", types.int32())
    _sleep: Any = types.ExternalFunction("usleep", types.int32(types.uint32))
else:

    @kernel
    def _give_way():  # type: ignore[no-untyped-def]
        return 0

    @kernel
    def _sleep(microseconds):  # type: ignore[no-untyped-def]
        return 0


@kernel
def meet(point, size):  # type: ignore[no-untyped-def]
    """Return once all `size` members have come here; what each wrote before, all see after."""
    if size == 1:
        return
    arrivals = np.int64(point.ctypes.data)
    phases = arrivals + 8 * _LINE
    phase = _look(phases)
    if _arrive(arrivals) == size - 1:
        _publish(arrivals, 0)
        _publish(phases, phase + 1)
        return
    spins = 0
    while _look(phases) == phase:
        spins += 1
        if spins > SPINS + YIELDS:
            _sleep(np.uint32(NAP_US))
        elif spins > SPINS:
            _give_way()
