"""Drawing a token in compiled code: the rule of `duologue.moshi.sampling`, one slot at a time."""

from __future__ import annotations

import math

import numpy as np

from duologue.runtime.compile import kernel

_GOLDEN = 0x9E3779B1
_MASK = 0xFFFFFFFF


@kernel
def _mix(x):  # type: ignore[no-untyped-def]
    """As `sampling._mix`, on uint32."""
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel
def draw(logits, temperature, top_k, seed, frame, stream, room):  # type: ignore[no-untyped-def]
    """One token of one slot.

    Args:
        logits: float32 [card].
        stream: 0 for text, 1 + k for codebook k.
        room: float32 [>= card], overwritten.
    """
    card = logits.shape[0]
    if temperature <= 0:
        return best(logits)
    kept = card if top_k <= 0 else min(top_k, card)
    if kept == 1:
        return best(logits)
    low = np.float32(-np.inf)
    ties = card
    if kept < card:
        low = _largest(logits, kept, room)
        above = 0
        for i in range(card):
            above += logits[i] > low
        ties = kept - above
    key = _mix(_mix(np.uint32(seed & _MASK)) ^ np.uint32((seed >> 32) & _MASK))
    key = _mix(_mix(key ^ np.uint32(frame & _MASK)) ^ np.uint32((stream * _GOLDEN) & _MASK))
    token, highest = 0, np.float32(-np.inf)
    for i in range(card):
        value = logits[i]
        if value < low:
            continue
        if value == low:
            if ties == 0:
                continue
            ties -= 1
        bits = _mix(_mix(key ^ np.uint32(i)) ^ np.uint32(0x85EBCA6B))
        uniform = (np.float32(bits >> np.uint32(8)) + np.float32(0.5)) * np.float32(2.0**-24)
        uniform = min(uniform, np.float32(1 - 2.0**-24))
        noise = -np.float32(math.log(np.float32(-np.float32(math.log(uniform)))))
        score = value / temperature + noise
        if score > highest:
            token, highest = i, score
    return token


@kernel
def pool(logits, first, favoured, by, out):  # type: ignore[no-untyped-def]
    """`sampling.pooled` for one slot: logits [card] into `out` [>= card]."""
    card = logits.shape[0]
    for i in range(card):
        out[i] = logits[i]
    if first <= 0 or first >= card:
        return
    token, most = first, np.float32(-np.inf)
    for i in range(first, card):
        weight = logits[i] + by if i == favoured else logits[i]
        if weight > most:
            token, most = i, weight
    total = np.float32(0)
    for i in range(first, card):
        total += np.float32(math.exp(logits[i] - logits[token]))
        out[i] = np.float32(-np.inf)
    out[token] = logits[token] + np.float32(math.log(total))


@kernel
def best(logits):  # type: ignore[no-untyped-def]
    """The most likely token, the first of equals."""
    token = 0
    for i in range(1, logits.shape[0]):
        if logits[i] > logits[token]:
            token = i
    return token


@kernel
def _largest(values, count, room):  # type: ignore[no-untyped-def]
    """The `count`-th largest value (quickselect)."""
    size = values.shape[0]
    for i in range(size):
        room[i] = values[i]
    low, high, target = 0, size - 1, count - 1
    while low < high:
        pivot = room[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while room[i] > pivot:
                i += 1
            while room[j] < pivot:
                j -= 1
            if i <= j:
                room[i], room[j] = room[j], room[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return room[target]
