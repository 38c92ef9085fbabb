"""Ring key/value cache in which every query finds all `context` keys it may see.

The ring holds `context + chunk - 1` positions, so writing a chunk of that length never overwrites
a key that its first query still needs. (The reference's ring holds `context`: there, a chunk of n
positions costs its first query n - 1 keys once the ring is full.)

Where a slot stands in its ring is the same for all layers, so a stack works it out once per step
(`plan_step`) and hands the plan to each layer. Two plans give the same result. On CPU each slot is
served on its own and reads only what it has cached: cheap at the start of a conversation, free for
inactive slots, and independent of its neighbours to the bit. Elsewhere all slots are served in one
call over the whole ring under a mask: fixed shapes, no synchronisation, capturable in a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from duologue.nn.state import State, tensor_field


@dataclass
class KVCache(State):
    """Keys and values of one attention layer, [B, branches * H, capacity, D] each.

    `branches` rows of one slot (classifier-free guidance runs two) lie along the head dimension.
    """

    keys: Tensor = tensor_field(0)
    values: Tensor = tensor_field(0)


@dataclass(frozen=True)
class SlotPlan:
    """One active slot: where its chunk is written, how much of the ring it reads."""

    slot: int
    write: Tensor
    """[T] ring indices of the chunk."""
    filled: int
    """Ring entries in use after the write; all lie below this index."""
    mask: Tensor | None
    """[T, filled] bool, true where a query may look; `None` if everywhere."""


@dataclass(frozen=True)
class SlotwisePlan:
    """Serve the active slots one after another (CPU)."""

    slots: list[SlotPlan]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
        """[rows, H, T, D] queries against cache plus chunk; writes the chunk into the cache."""
        heads = k.shape[1]
        keys = _rows(cache.keys, heads)
        values = _rows(cache.values, heads)
        branches = keys.shape[0] // cache.keys.shape[0]
        out = torch.zeros_like(q)
        for plan in self.slots:
            rows = slice(plan.slot * branches, (plan.slot + 1) * branches)
            keys[rows].index_copy_(2, plan.write, k[rows])
            values[rows].index_copy_(2, plan.write, v[rows])
            out[rows] = _attention(
                q[rows], keys[rows, :, : plan.filled], values[rows, :, : plan.filled], plan.mask
            )
        return out


@dataclass(frozen=True)
class MaskedPlan:
    """Serve all slots in one call over the whole ring (accelerators)."""

    write: Tensor
    """[B, T] ring indices of the chunk."""
    mask: Tensor
    """[B, 1, T, capacity] bool, true where a query may look."""
    active: Tensor | None
    """[B] bool."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
        """As `SlotwisePlan.attend`; outputs of inactive slots mean nothing."""
        heads = k.shape[1]
        keys = _rows(cache.keys, heads)
        values = _rows(cache.values, heads)
        branches = keys.shape[0] // cache.keys.shape[0]
        write, mask, active = self.write, self.mask, self.active
        if branches != 1:
            write, mask = (t.repeat_interleave(branches, 0) for t in (write, mask))
            active = active if active is None else active.repeat_interleave(branches, 0)
        index = write[:, None, :, None].expand(-1, heads, -1, k.shape[-1])
        for ring, chunk in ((keys, k), (values, v)):
            if active is not None:
                old = ring.gather(2, index)
                chunk = torch.where(active[:, None, None, None], chunk.to(ring.dtype), old)
            ring.scatter_(2, index, chunk)
        return _attention(q, keys, values, mask)


CachePlan = SlotwisePlan | MaskedPlan


def plan_step(
    offset: Tensor,
    length: int,
    capacity: int,
    context: int,
    active: Tensor | None,
    *,
    slotwise: bool | None = None,
) -> CachePlan:
    """Plan the next `length` positions of slots that have seen `offset` [B] positions.

    Args:
        slotwise: which plan to make; `None` chooses by the device.
    """
    if length > capacity - context + 1:
        raise ValueError(f"a chunk of {length} exceeds the cache's chunk {capacity - context + 1}")
    if slotwise is None:
        slotwise = offset.device.type == "cpu"
    if slotwise:
        return _plan_slotwise(offset, length, capacity, context, active)
    query = offset[:, None] + torch.arange(length, device=offset.device)
    last = query[:, -1:]
    ring = torch.arange(capacity, device=offset.device)
    key = last - torch.remainder(last - ring, capacity)
    return MaskedPlan(query % capacity, _visible(query, key, context)[:, None], active)


def _plan_slotwise(
    offset: Tensor, length: int, capacity: int, context: int, active: Tensor | None
) -> SlotwisePlan:
    flags = [True] * offset.shape[0] if active is None else active.tolist()
    plans = []
    for slot, start in enumerate(offset.tolist()):
        if not flags[slot]:
            continue
        query = torch.arange(start, start + length)
        end = start + length
        filled = min(end, capacity)
        mask = None
        if length > 1 or end > context:
            ring = torch.arange(filled)
            key = end - 1 - torch.remainder(end - 1 - ring, capacity)
            mask = _visible(query, key, context)
        plans.append(SlotPlan(slot, query % capacity, filled, mask))
    return SlotwisePlan(plans)


def _visible(query: Tensor, key: Tensor, context: int) -> Tensor:
    """May a query position [..., T] look at a key position [..., S]? -> bool [..., T, S]."""
    distance = query[..., :, None] - key[..., None, :]
    return (distance >= 0) & (distance < context) & (key >= 0)[..., None, :]


def _rows(cache: Tensor, heads: int) -> Tensor:
    """View [B, branches * H, S, D] as [B * branches, H, S, D]."""
    return cache.view(-1, heads, *cache.shape[2:])


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask, enable_gqa=grouped
    )
