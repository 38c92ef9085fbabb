"""What every streaming module promises, checked for any module that is described as a `Case`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duologue.nn.state import State

SLOTS = 3


@dataclass(frozen=True)
class Case:
    """A streaming module over [B, ..., T, ...] whose time dimension is `time`."""

    init_state: Callable[[int], State]
    step: Callable[[Tensor, Any, Tensor | None], Tensor]
    forward: Callable[[Tensor], Tensor]
    sample: Callable[[int, int], Tensor]
    """(slots, units) -> input that lasts so many units"""
    unit: int = 1
    """Input length of one unit: the shortest chunk."""
    time: int = -1
    units: int = 12
    tolerance: float = 2e-5


def check_streaming_equals_offline(case: Case) -> None:
    x = case.sample(SLOTS, case.units)
    whole = case.forward(x)

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.integers(1, case.units), min_size=1, max_size=case.units))
    def at_any_chunking(lengths: list[int]) -> None:
        state, done, parts = case.init_state(SLOTS), 0, []
        for length in [*lengths, case.units]:
            length = min(length, case.units - done)
            if length:
                parts.append(case.step(_cut(case, x, done, length), state, None))
                done += length
        torch.testing.assert_close(
            torch.cat(parts, dim=case.time), whole, atol=case.tolerance, rtol=case.tolerance
        )

    at_any_chunking()


def check_batch_equals_singles(case: Case) -> None:
    x = case.sample(SLOTS, case.units)
    together = case.forward(x)
    state = case.init_state(SLOTS)
    streamed = case.step(x, state, None)
    for slot in range(SLOTS):
        one = x[slot : slot + 1]
        alone = case.step(one, case.init_state(1), None)
        for result in (together, streamed):
            torch.testing.assert_close(
                result[slot : slot + 1], alone, atol=case.tolerance, rtol=case.tolerance
            )


def check_inactive_slot_keeps_every_bit(case: Case) -> None:
    x = case.sample(SLOTS, 3)
    state = case.init_state(SLOTS)
    case.step(_cut(case, x, 0, 1), state, None)
    before = state.clone()
    active = torch.tensor([True, False, True])
    # Even a slot fed nonsense may not change while it is inactive.
    poisoned = _cut(case, x, 1, 1).clone()
    poisoned[1] = float("nan") if x.is_floating_point() else 1
    case.step(poisoned, state, active)
    assert_slots_equal(state, before, [1])
    remembers = any(tensor.numel() for tensor in state.tensors().values())
    assert not remembers or not _same(state.select([0]), before.select([0]))


def check_reset_leaves_the_others(case: Case) -> None:
    x = case.sample(SLOTS, 4)
    state = case.init_state(SLOTS)
    case.step(_cut(case, x, 0, 2), state, None)
    before = state.clone()
    state.reset(torch.tensor([False, True, False]))
    assert_slots_equal(state, before, [0, 2])
    assert _same(state.select([1]), case.init_state(SLOTS).select([1]))
    y = case.step(_cut(case, x, 2, 2), state, None)
    untouched = case.step(_cut(case, x, 2, 2), before, None)
    assert torch.equal(y[0], untouched[0])
    assert torch.equal(y[2], untouched[2])
    fresh = case.step(_cut(case, x, 2, 2), case.init_state(SLOTS), None)
    assert torch.equal(y[1], fresh[1])


def check_snapshot_continues(case: Case) -> None:
    x = case.sample(SLOTS, 5)
    state = case.init_state(SLOTS)
    case.step(_cut(case, x, 0, 3), state, None)
    restored = case.init_state(SLOTS)
    restored.load(state.save())
    rest = _cut(case, x, 3, 2)
    assert torch.equal(case.step(rest, state, None), case.step(rest, restored, None))
    assert _same(state, restored)


def check_random_interleavings(case: Case) -> None:
    """Each slot of a busy batch gives the bits it gives when the other slots stand still."""
    x = case.sample(SLOTS, case.units)
    move = st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS)
    reset = st.integers(0, SLOTS - 1)

    @settings(max_examples=10, deadline=None)
    @given(st.lists(move | reset, min_size=1, max_size=14))
    def schedule(events: list[list[bool] | int]) -> None:
        busy = _run(case, x, events, range(SLOTS))
        for slot in range(SLOTS):
            alone = _run(case, x, events, [slot])
            assert len(busy[slot]) == len(alone[slot])
            for mine, theirs in zip(busy[slot], alone[slot], strict=True):
                assert torch.equal(mine, theirs)

    schedule()


def _run(case: Case, x: Tensor, events: Any, present: Any) -> list[list[Tensor]]:
    """Play a schedule of moves and resets for the slots that are present."""
    present = set(present)
    state = case.init_state(SLOTS)
    heads, outputs = [0] * SLOTS, [[] for _ in range(SLOTS)]
    for event in events:
        if isinstance(event, int):
            if event in present:
                state.reset(torch.arange(SLOTS) == event)
            continue
        moving = [
            wants and slot in present and heads[slot] < case.units
            for slot, wants in enumerate(event)
        ]
        if not any(moving):
            continue
        chunk = torch.cat(
            [_cut(case, x[s : s + 1], min(heads[s], case.units - 1), 1) for s in range(SLOTS)]
        )
        y = case.step(chunk, state, torch.tensor(moving))
        for slot in range(SLOTS):
            if moving[slot]:
                outputs[slot].append(y[slot].clone())
                heads[slot] += 1
    return outputs


CHECKS = [
    check_streaming_equals_offline,
    check_batch_equals_singles,
    check_inactive_slot_keeps_every_bit,
    check_reset_leaves_the_others,
    check_snapshot_continues,
    check_random_interleavings,
]


def assert_slots_equal(one: State, other: State, slots: list[int]) -> None:
    mine, theirs = one.select(slots).tensors(), other.select(slots).tensors()
    for path, tensor in mine.items():
        assert torch.equal(tensor, theirs[path]), path


def _same(one: State, other: State) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return all(torch.equal(tensor, theirs[path]) for path, tensor in mine.items())


def _cut(case: Case, x: Tensor, start: int, length: int) -> Tensor:
    return x.narrow(case.time, start * case.unit, length * case.unit)
