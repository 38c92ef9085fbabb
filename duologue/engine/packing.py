"""One slot's state as a flat dict of tensors, as small as what the slot has really seen.

Key/value rings are most of a state and mostly empty at the start of a conversation: only their
used part is packed. Unpacking into a fresh slot gives back every bit, in any slot of any batch of
the same model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from duologue.nn.cache import KVCache
from duologue.nn.state import State, StateError
from duologue.nn.transformer import TransformerState


def pack_slot(state: State, slot: int) -> dict[str, Tensor]:
    """The slot's tensors by dotted path, copied to the CPU, with one leading row group each."""
    used = dict(_ring_use(state, slot, state.slots))
    packed = {}
    for path, tensor in state.tensors().items():
        part = _rows(tensor, slot, state.slots)
        if path in used:
            part = part[:, :, : used[path]]
        packed[path] = part.detach().to("cpu", copy=True).contiguous()
    return packed


def unpack_slot(state: State, slot: int, packed: dict[str, Tensor]) -> None:
    """Make a slot what was packed; the others keep every bit.

    Raises:
        StateError: the tensors are not those of such a slot; nothing has been changed.
    """
    mine = state.tensors()
    rings = {path for path, _ in _ring_use(state, slot, state.slots)}
    _check_layout(mine, packed, rings, state.slots)
    for path, tensor in mine.items():
        target, source = _rows(tensor, slot, state.slots), packed[path].to(tensor.device)
        if path in rings:
            length = source.shape[2]
            target[:, :, :length] = source
            target[:, :, length:] = 0
        else:
            target.copy_(source)


def _rows(tensor: Tensor, slot: int, slots: int) -> Tensor:
    """View of the rows that belong to a slot."""
    rows = tensor.shape[0] // slots
    return tensor[slot * rows : (slot + 1) * rows]


def _ring_use(state: State, slot: int, slots: int, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Path of each key/value ring in the tree, and how many of its entries the slot uses."""
    for name, value in vars(state).items():
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, State):
                continue
            path = f"{prefix}{name}.{index}." if isinstance(value, list) else f"{prefix}{name}."
            yield from _ring_use(child, slot, slots, path)
    if isinstance(state, TransformerState):
        # Rows of a slot may have come unequally far: hypotheses that are none stand still.
        seen = int(_rows(state.offset, slot, slots).max())
        for index, layer in enumerate(state.layers):
            if isinstance(layer.cache, KVCache):
                used = min(seen, layer.cache.keys.shape[2])
                yield f"{prefix}layers.{index}.cache.keys", used
                yield f"{prefix}layers.{index}.cache.values", used


def _check_layout(
    mine: dict[str, Tensor], packed: dict[str, Tensor], rings: set[str], slots: int
) -> None:
    if strange := sorted(mine.keys() ^ packed.keys()):
        raise StateError(f"the packed slot and this model differ in {strange[0]}")
    for path, tensor in mine.items():
        wanted = torch.Size((tensor.shape[0] // slots, *tensor.shape[1:]))
        given = packed[path]
        fits = given.shape == wanted
        if path in rings and given.dim() == len(wanted):
            rest = (*given.shape[:2], *given.shape[3:])
            fits = rest == (*wanted[:2], *wanted[3:]) and given.shape[2] <= wanted[2]
        if not fits or given.dtype != tensor.dtype:
            raise StateError(
                f"the packed slot has {path} as {given.dtype} {tuple(given.shape)}, this model "
                f"needs {tensor.dtype} {tuple(wanted)}"
            )
