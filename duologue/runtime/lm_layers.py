"""One transformer layer for the next position of each slot, shared by a team of threads.

The same code serves the temporal stack, whose cache is the conversation's state, and the depth
stack, whose cache lasts for one frame. Each matrix product is divided by rows and attention by
heads, so every number has one writer; the members meet after each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from duologue.runtime.compile import LANES, lean
from duologue.runtime.linear import padded, project, share
from duologue.runtime.lm_arithmetic import (
    call_attend,
    copy,
    gelu,
    normalize,
    rotate,
    store,
    swish_times,
)
from duologue.runtime.threads import meet

NO_ROTATION, PAIRS, HALVES = 0, 1, 2
IN_PROJ, OUT_PROJ, FEED_IN, FEED_OUT = range(4)


class Stack(NamedTuple):
    """Shape and small weights of a stack of layers."""

    layers: int
    dim: int
    kv_heads: int
    group: int
    """Query heads for each key/value head."""
    head_dim: int
    hidden: int
    gated: int
    rotation: int
    norm: int
    eps: np.float32
    maps: np.ndarray
    """int64 [weight sets, layers, 4]: numbers of a layer's matrices."""
    gains: np.ndarray
    """float32 [layers, 2, dim]: of both norms."""
    biases: np.ndarray
    scales: np.ndarray
    """float32 [layers, 2, dim]: layer scales."""
    frequencies: np.ndarray
    """float64 [head_dim / 2]"""


class Cache(NamedTuple):
    """Where keys and values lie, and which of them each row of the batch reads."""

    addresses: np.ndarray
    """int64 [layers, 2]: keys and values of slot 0."""
    attend: int
    """Address of the code for it."""
    kind: int
    capacity: int
    slots: np.ndarray
    """int64 [batch]: the slot of each row."""
    write: np.ndarray
    """int64 [batch]: ring index of the new position."""
    filled: np.ndarray
    """int64 [batch]: positions to read, the new one included."""


class Room(NamedTuple):
    """Memory that a stack works in. Vectors are zero past their end (`linear.padded`)."""

    x: np.ndarray
    """float32 [B, dim]: the residual stream."""
    qkv: np.ndarray
    attended: np.ndarray
    projected: np.ndarray
    gates: np.ndarray
    hidden: np.ndarray
    normed: np.ndarray
    """float32 [threads, B, dim]; this and what follows each thread has for itself."""
    arranged: np.ndarray
    """As `normed`, for `linear.project`."""
    query: np.ndarray
    """float32 [threads, head_dim]"""
    key: np.ndarray
    scores: np.ndarray
    """float32 [threads, capacity]"""
    cos: np.ndarray
    """float32 [threads, B, head_dim / 2]"""
    sin: np.ndarray


def aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros that begin on a cache line (a load over two lines costs twice)."""
    return torch.zeros(shape).numpy()


def make_room(stack: Stack, batch: int, threads: int, capacity: int) -> Room:
    """Working memory for a batch."""

    def zeros(*shape: int) -> np.ndarray:
        return aligned_zeros(shape)

    dim, hidden = padded(stack.dim), padded(stack.hidden)
    heads = stack.kv_heads * stack.group
    widest = max(dim, hidden)
    head_dim = -(-stack.head_dim // LANES) * LANES
    half = max(stack.head_dim // 2, 1)
    return Room(
        x=zeros(batch, dim),
        qkv=zeros(batch, (heads + 2 * stack.kv_heads) * stack.head_dim),
        attended=zeros(batch, dim),
        projected=zeros(batch, dim),
        gates=zeros(batch, stack.hidden * (2 if stack.gated else 1)),
        hidden=zeros(batch, hidden),
        normed=zeros(threads, batch, dim),
        arranged=zeros(threads, batch, widest),
        query=zeros(threads, head_dim),
        key=zeros(threads, head_dim),
        scores=zeros(threads, capacity),
        cos=zeros(threads, batch, half),
        sin=zeros(threads, batch, half),
    )


@lean
def set_rotation(stack, positions, slots, room, rank):  # type: ignore[no-untyped-def]
    """Cosines and sines of each row's position, angles formed in float64."""
    if stack.rotation == NO_ROTATION:
        return
    for n in range(slots.shape[0]):
        for i in range(stack.frequencies.shape[0]):
            angle = positions[slots[n]] * stack.frequencies[i]
            room.cos[rank, n, i] = np.float32(np.cos(angle))
            room.sin[rank, n, i] = np.float32(np.sin(angle))


@lean
def run_layers(stack, weight_set, matrices, room, cache, batch, point, rank, size):  # type: ignore[no-untyped-def]
    """All layers on `room.x`; every thread has met the others after the last."""
    for number in range(stack.layers):
        maps = stack.maps[weight_set, number]
        _normalize(stack, number, 0, room, batch, rank)
        normed, arranged = room.normed[rank], room.arranged[rank]
        begin, end = share(room.qkv.shape[1], rank, size)
        project(matrices[maps[IN_PROJ]], normed, batch, room.qkv, begin, end, arranged)
        meet(point, size)
        _attend_heads(stack, number, room, cache, batch, rank, size)
        meet(point, size)
        begin, end = share(stack.dim, rank, size)
        matrix = matrices[maps[OUT_PROJ]]
        project(matrix, room.attended, batch, room.projected, begin, end, arranged)
        _add(room, stack.scales[number, 0], batch, begin, end)
        meet(point, size)
        _normalize(stack, number, 1, room, batch, rank)
        _feed_in(stack, matrices[maps[FEED_IN]], room, batch, rank, size)
        meet(point, size)
        matrix = matrices[maps[FEED_OUT]]
        project(matrix, room.hidden, batch, room.projected, begin, end, arranged)
        _add(room, stack.scales[number, 1], batch, begin, end)
        meet(point, size)


@lean
def _normalize(stack, number, which, room, batch, rank):  # type: ignore[no-untyped-def]
    """Each thread norms for itself: cheaper than to wait for another."""
    gain, bias = stack.gains[number, which], stack.biases[number, which]
    for n in range(batch):
        normalize(
            room.x[n, : stack.dim], gain, bias, stack.norm, stack.eps,
            room.normed[rank, n, : stack.dim],
        )  # fmt: skip


@lean
def _add(room, scale, batch, begin, end):  # type: ignore[no-untyped-def]
    for n in range(batch):
        for i in range(begin, end):
            room.x[n, i] += scale[i] * room.projected[n, i]


@lean
def _feed_in(stack, matrix, room, batch, rank, size):  # type: ignore[no-untyped-def]
    """First map and activation of the feed-forward block, this thread's share of hidden units."""
    hidden = stack.hidden
    begin, end = share(hidden, rank, size)
    normed, arranged = room.normed[rank], room.arranged[rank]
    project(matrix, normed, batch, room.gates, begin, end, arranged)
    if stack.gated:
        project(matrix, normed, batch, room.gates, hidden + begin, hidden + end, arranged)
    for n in range(batch):
        gates, out = room.gates[n], room.hidden[n, begin:end]
        if stack.gated:
            swish_times(gates[begin:end], gates[hidden + begin : hidden + end], out)
        else:
            gelu(gates[begin:end], out)


@lean
def _attend_heads(stack, number, room, cache, batch, rank, size):  # type: ignore[no-untyped-def]
    """Cache the new keys and values, and attend: every `size`-th head of the batch."""
    dim = stack.head_dim
    head_bytes = cache.capacity * dim * (4 if cache.kind == 0 else 2)
    row_bytes = dim * (4 if cache.kind == 0 else 2)
    heads = stack.kv_heads * stack.group
    query, key = room.query[rank], room.key[rank]
    for unit in range(rank, batch * stack.kv_heads, size):
        n, head = unit // stack.kv_heads, unit % stack.kv_heads
        at = (cache.slots[n] * stack.kv_heads + head) * head_bytes
        keys, values = cache.addresses[number, 0] + at, cache.addresses[number, 1] + at
        new = cache.write[n] * row_bytes
        qkv, cos, sin = room.qkv[n], room.cos[rank, n], room.sin[rank, n]
        first = (heads + head) * dim
        _turn(stack, qkv[first : first + dim], cos, sin, key[:dim])
        store(key[:dim], keys + new, cache.kind)
        first += stack.kv_heads * dim
        store(qkv[first : first + dim], values + new, cache.kind)
        for member in range(stack.group):
            first = (head * stack.group + member) * dim
            _turn(stack, qkv[first : first + dim], cos, sin, query[:dim])
            out = room.attended[n, first : first + dim]
            call_attend(
                cache.attend, np.int64(query.ctypes.data), keys, values,
                np.int64(cache.filled[n]), np.int64(dim), np.int64(room.scores[rank].ctypes.data),
                np.int64(out.ctypes.data),
            )  # fmt: skip


@lean
def _turn(stack, x, cos, sin, out):  # type: ignore[no-untyped-def]
    if stack.rotation == NO_ROTATION:
        copy(x, out)
    else:
        rotate(x, cos, sin, stack.rotation == HALVES, out)
