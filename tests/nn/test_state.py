from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from duologue.nn.state import KEEP, State, StateError, assign_active, tensor_field


@dataclass
class Leaf(State):
    counts: Tensor = tensor_field(-2)
    seeds: Tensor = tensor_field(KEEP)


@dataclass
class Tree(State):
    wide: Tensor = tensor_field(0)
    """Two rows per slot."""
    leaves: list[Leaf] = None  # type: ignore[assignment]
    absent: Tensor | None = tensor_field(0, default=None)


def tree(slots: int = 3) -> Tree:
    def leaf() -> Leaf:
        return Leaf(torch.arange(slots), torch.arange(slots) + 10)

    return Tree(torch.arange(2.0 * slots)[:, None] + 1, [leaf(), leaf()])


def test_reset_restores_declared_values_of_the_chosen_slots() -> None:
    state = tree()
    state.reset(torch.tensor([False, True, False]))
    assert state.wide[:, 0].tolist() == [1, 2, 0, 0, 5, 6]
    assert state.leaves[1].counts.tolist() == [0, -2, 2]
    assert state.leaves[1].seeds.tolist() == [10, 11, 12]
    state.reset()
    assert state.wide.abs().sum() == 0


def test_select_and_assign_are_inverse() -> None:
    state = tree()
    picked = state.select([2, 0])
    assert picked.slots == 2
    assert picked.wide[:, 0].tolist() == [5, 6, 1, 2]
    picked.wide += 100
    state.assign([2, 0], picked)
    assert state.wide[:, 0].tolist() == [101, 102, 3, 4, 105, 106]


def test_clone_shares_nothing() -> None:
    state = tree()
    copy = state.clone()
    state.reset()
    assert copy.wide[:, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_save_and_load_round_trip() -> None:
    state, other = tree(), tree()
    other.reset()
    other.load(state.save())
    assert all(torch.equal(t, other.tensors()[path]) for path, t in state.tensors().items())


@pytest.mark.parametrize("blob", [b"", b"nonsense", b"\xff" * 64, tree().save()[:-3]])
def test_a_broken_snapshot_is_an_error(blob: bytes) -> None:
    with pytest.raises(StateError, match="not a saved"):
        tree().load(blob)


def test_a_snapshot_of_another_tree_is_an_error_that_names_the_tensor() -> None:
    state = tree()
    state.leaves.pop()
    with pytest.raises(StateError, match=r"leaves\.1\.counts"):
        tree().load(state.save())
    with pytest.raises(StateError, match=r"leaves\.1\.counts"):
        state.load(tree().save())
    with pytest.raises(StateError, match="wide"):
        tree(4).load(tree(3).save())


def test_assign_active_writes_active_slots_only() -> None:
    target = torch.zeros(4, 2)
    assign_active(target, torch.ones(4, 2), torch.tensor([True, False]))
    assert target.sum(dim=1).tolist() == [2, 2, 0, 0]
