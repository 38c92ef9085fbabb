"""Streaming state as a plain tree of tensors, one row (or a fixed number of rows) per slot.

Every stateful module creates its state (`init_state`), receives it with each step, and keeps none
of it. This file holds what can be done to *any* such tree: reset some slots, pick slots, copy,
write to bytes and read back. It knows no module.

A tree is a dataclass deriving from `State`. Its fields are tensors, other `State`s, lists of
`State`s, or `None`. The first dimension of each tensor is the slot dimension; a tensor may hold
several consecutive rows per slot. What a fresh slot contains is declared with the field
(`tensor_field(fill=...)`), so `reset` needs nothing but the tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Self

import safetensors.torch
import torch
from torch import Tensor

from duologue.errors import DuologueError

KEEP = "keep"
"""Fill value of fields that a reset leaves alone (settings of a slot rather than its history)."""


class StateError(DuologueError, ValueError):
    """A saved state does not fit the tree it is loaded into."""


def tensor_field(fill: float | bool | str = 0, *, default: Any = MISSING) -> Any:
    """Declare a tensor of a state tree and the value that a fresh slot has everywhere in it."""
    if default is MISSING:
        return field(metadata={"fill": fill})
    return field(default=default, metadata={"fill": fill})


def over_rows(mask: Tensor, like: Tensor) -> Tensor:
    """Shape a slot mask [B] so that it broadcasts over `like` [B * rows_per_slot, ...]."""
    rows = like.shape[0] // mask.shape[0]
    if rows != 1:
        mask = mask.repeat_interleave(rows)
    return mask.view(-1, *([1] * (like.dim() - 1)))


def assign_active(target: Tensor, value: Tensor, active: Tensor | None) -> None:
    """Write `value` into `target` in place, for active slots only; others keep every bit."""
    if active is None:
        target.copy_(value)
    else:
        torch.where(over_rows(active, target), value.to(target.dtype), target, out=target)


@dataclass
class State:
    """Base of all state trees. `slots` counts the conversations that the tree holds."""

    @property
    def slots(self) -> int:
        """Number of slots, read off the tensor that has the fewest rows."""
        return min(tensor.shape[0] for _, tensor, _ in self._walk())

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Tensor, Any]]:
        for item in fields(self):
            value = getattr(self, item.name)
            path = f"{prefix}{item.name}"
            if isinstance(value, Tensor):
                yield path, value, item.metadata.get("fill", 0)
            elif isinstance(value, State):
                yield from value._walk(f"{path}.")
            elif isinstance(value, list):
                for index, child in enumerate(value):
                    yield from child._walk(f"{path}.{index}.")

    def _map(self, function: Any) -> Self:
        changes: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = function(value)
            elif isinstance(value, State):
                changes[item.name] = value._map(function)
            elif isinstance(value, list):
                changes[item.name] = [child._map(function) for child in value]
        return replace(self, **changes)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by dotted path (views, not copies)."""
        return {path: tensor for path, tensor, _ in self._walk()}

    def reset(self, mask: Tensor | None = None) -> None:
        """Make the slots of `mask` [B] (all, when `None`) as new; the others keep every bit."""
        for _, tensor, fill in self._walk():
            if isinstance(fill, str):
                continue
            if mask is None:
                tensor.fill_(fill)
            else:
                tensor.masked_fill_(over_rows(mask.to(tensor.device), tensor), fill)

    def select(self, slots: Sequence[int] | Tensor) -> Self:
        """Copy the given slots, in the given order, into a tree of their own."""
        count = self.slots
        index = torch.as_tensor(slots, dtype=torch.int64)

        def pick(tensor: Tensor) -> Tensor:
            rows = tensor.shape[0] // count
            at = index.to(tensor.device)
            if rows != 1:
                at = (at[:, None] * rows + torch.arange(rows, device=at.device)).flatten()
            return tensor.index_select(0, at)

        return self._map(pick)

    def assign(self, slots: Sequence[int] | Tensor, other: Self) -> None:
        """Overwrite the given slots with the slots of `other`, the inverse of `select`."""
        count = self.slots
        index = torch.as_tensor(slots, dtype=torch.int64)
        mine, theirs = self.tensors(), other.tensors()
        _check_same_layout(mine, theirs, rows_differ=True)
        for path, tensor in mine.items():
            rows = tensor.shape[0] // count
            at = index.to(tensor.device)
            if rows != 1:
                at = (at[:, None] * rows + torch.arange(rows, device=at.device)).flatten()
            tensor.index_copy_(0, at, theirs[path].to(tensor.device))

    def clone(self) -> Self:
        """Deep copy on the same device."""
        return self._map(lambda tensor: tensor.clone())

    def to(self, device: torch.device | str) -> Self:
        """Copy of the tree on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def save(self) -> bytes:
        """All tensors as one safetensors blob."""
        flat = {path: tensor.contiguous().cpu() for path, tensor in self.tensors().items()}
        return safetensors.torch.save(flat, metadata={"duologue_state": json.dumps(1)})

    def load(self, blob: bytes) -> None:
        """Restore what `save` wrote into this tree, in place.

        Raises:
            StateError: the blob is not a saved state, or not one of a tree like this.
        """
        try:
            saved = safetensors.torch.load(blob)
        except Exception as error:
            raise StateError(f"not a saved streaming state: {error}") from error
        mine = self.tensors()
        _check_same_layout(mine, saved, rows_differ=False)
        for path, tensor in mine.items():
            tensor.copy_(saved[path])


def _check_same_layout(
    mine: dict[str, Tensor], other: dict[str, Tensor], *, rows_differ: bool
) -> None:
    if missing := sorted(mine.keys() - other.keys()):
        raise StateError(f"saved state lacks {missing[0]} ({len(missing)} tensors in all)")
    if extra := sorted(other.keys() - mine.keys()):
        raise StateError(f"saved state has an unknown tensor {extra[0]} ({len(extra)} in all)")
    first = 1 if rows_differ else 0
    for path, tensor in mine.items():
        theirs = other[path]
        if tensor.shape[first:] != theirs.shape[first:] or tensor.dtype != theirs.dtype:
            raise StateError(
                f"saved state has {path} as {theirs.dtype} {tuple(theirs.shape)}, "
                f"expected {tensor.dtype} {tuple(tensor.shape)}"
            )
