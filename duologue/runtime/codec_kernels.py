"""The codec's operations on plain memory, and the loop that runs a table of them.

A program (see `codec_program`) is a table of int64: one operation a row, its kind, addresses,
strides and sizes in the columns below. `run` executes it without returning to Python, alone or as
one of several threads that share every operation's rows or columns and meet at a barrier after it.
Scratch is laid out by the number of an active slot (0, 1, ...), states by the slot itself; inactive
slots are not looked at. No operation allocates. A slot's numbers do not depend on the others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from duologue.runtime.compile import LANES, entry, inlined, kernel, loose
from duologue.runtime.conv_finish import (
    BEGIN,
    ELU,
    OLD,
    OUT,
    RAW,
    ROW,
    TABLE_BYTES,
    finish_tile,
)
from duologue.runtime.conv_tile import (
    MAX_ROWS,
    doubles,
    flags,
    floats,
    longs,
    power_of_two,
    tile_product,
    truncate,
)
from duologue.runtime.threads import meet

# Kinds of operation (column 0). Column 1 says whether threads meet after it.
(
    LOAD, STORE, CONTEXT_IN, CONTEXT_OUT, PRODUCT, FINISH, NORM, ROTATION, ATTENTION, ADVANCE,
    REPLICATE, PICK, LOOKUP, UPSAMPLE, ENERGY, LOGARITHM, RMS_NORM,
) = range(17)  # fmt: skip
COLUMNS = 26
SCRATCH_BYTES = 8192
"""Of each thread: a tile and the addresses of its rows."""
ROWS_TO_SPLIT = 64
"""Products of at least so many rows a thread are shared by rows, others by columns."""
NEAR_WEIGHTS_BYTES, NEAR_ROWS_BYTES = 2**19, 2**17
"""Of a product's weights, and of its rows beside them: what a core's own cache holds."""

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_SMALLEST, _HALF, _ZERO, _ONE = np.float32(-87.0), np.float32(0.5), np.float32(0), np.float32(1)
# exp(r) on |r| <= ln(2) / 2: 1 + r + r^2 times this, fitted for the least largest relative error.
_E2, _E3, _E4, _E5, _E6 = (
    np.float32(c) for c in (0.49999997, 0.16666472, 0.041667648, 0.0083669, 0.00137984)
)


@inlined
def _exp(x: Any) -> Any:
    """e^x for x <= 0 (and NaN), to about one part in 10^7; below -87 it stays at e^-87."""
    x = _SMALLEST if x < _SMALLEST else x
    n = truncate(x * _LOG2_E - _HALF)
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    tail = _E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))
    return (_ONE + (r + r * r * tail)) * power_of_two(n)


@kernel
def _share(total: int, rank: int, size: int, unit: int) -> tuple[int, int]:
    """This thread's part of `total` things, in whole units."""
    units = (total + unit - 1) // unit
    first, last = units * rank // size * unit, units * (rank + 1) // size * unit
    return first, min(last, total)


@kernel
def _product(op: Any, count: int, rank: int, size: int, scratch: int) -> None:
    """Rows times packed weights, plus bias, plus residual; stored as is, activated, or both.

    Columns: 2 x, 3 its slot stride, 4 row stride, 5 rows a slot, 6 depth, 7 columns, 8 weights,
    9 vectors, 10 half, 11 bias, 12 raw out, 13/14 strides, 15 residual, 16/17 strides,
    18 activation, 19 activated out, 20/21 strides, 22 what a slot's first row starts from instead
    of the bias, 23 its stride. An address of 0 means none; strides in bytes.
    """
    rows, depth, columns, vectors, half = op[5], op[6], op[7], op[9], op[10]
    width = vectors * LANES
    block_bytes = depth * width * (2 if half else 4)
    total = count * rows
    blocks = (columns + width - 1) // width
    first_row, last_row, first_block, last_block = 0, total, 0, blocks
    if total >= ROWS_TO_SPLIT * size or blocks < size:
        first_row, last_row = _share(total, rank, size, MAX_ROWS)
    else:
        first_block, last_block = _share(blocks, rank, size, 1)
    table, tile = longs(scratch), scratch + TABLE_BYTES
    # Where all weights stay in a core's cache, so many rows are taken through all blocks at a time
    # as stay there, too.
    near = max(total, 1)
    if (last_block - first_block) * block_bytes <= NEAR_WEIGHTS_BYTES:
        near = max(NEAR_ROWS_BYTES // op[4], MAX_ROWS) // MAX_ROWS * MAX_ROWS
    for chunk in range(first_row, last_row, near):
        for block in range(first_block, last_block):
            start = block * width
            used, offset = min(width, columns - start), start * 4
            weights = op[8] + block * block_bytes
            row, end, slot = chunk, min(chunk + near, last_row), chunk // rows
            at = row - slot * rows
            while row < end:
                taken = min(MAX_ROWS, end - row)
                for i in range(taken):
                    table[ROW + i] = op[2] + slot * op[3] + at * op[4]
                    begin = op[22] + slot * op[23] if op[22] and at == 0 else op[11]
                    table[BEGIN + i] = begin + offset
                    old = op[15] + slot * op[16] + at * op[17] + offset
                    raw = op[12] + slot * op[13] + at * op[14] + offset
                    table[OLD + i], table[RAW + i] = old if op[15] else 0, raw if op[12] else 0
                    table[OUT + i] = op[19] + slot * op[20] + at * op[21] + offset
                    at += 1
                    if at == rows:
                        slot, at = slot + 1, 0
                tile_product(scratch, taken, weights, depth, vectors, half, tile)
                finish_tile(scratch, taken, vectors, used, op[18], tile)
                row += taken


@kernel
def _load(op: Any, memory: Any, slots: Any) -> None:
    """Samples of each active slot into the first window. 2 memory, 3 samples, 4 out, 5 stride."""
    for i in range(len(slots)):
        source = floats(memory[op[2]] + slots[i] * op[3] * 4)
        out = floats(op[4] + i * op[5])
        for t in range(op[3]):
            out[t] = source[t]


@kernel
def _store(op: Any, memory: Any, slots: Any) -> None:
    """The reverse of `_load`."""
    for i in range(len(slots)):
        source = floats(op[4] + i * op[5])
        out = floats(memory[op[2]] + slots[i] * op[3] * 4)
        for t in range(op[3]):
            out[t] = source[t]


@kernel
def _context(op: Any, memory: Any, slots: Any, inwards: bool) -> None:
    """What a convolution keeps between steps: state [C, n] to or from rows [n, C].

    Columns: 2 memory, 3 channels, 4 n, 5 first row, 6 slot stride.
    """
    channels, length = op[3], op[4]
    for i in range(len(slots)):
        state = floats(memory[op[2]] + slots[i] * channels * length * 4)
        window = floats(op[5] + i * op[6])
        if inwards:
            for t in range(length):
                for c in range(channels):
                    window[t * channels + c] = state[c * length + t]
        else:
            for c in range(channels):
                for t in range(length):
                    state[c * length + t] = window[t * channels + c]


@kernel
def _finish(op: Any, count: int, rank: int, size: int, scratch: int) -> None:
    """Bias and activation of a transposed convolution's rows.

    Columns: 2 rows a slot, 3 channels, 4 rows, 5 slot stride, 6 bias, 7 activated out, 8 its slot
    stride.
    """
    rows, channels, table = op[2], op[3], longs(scratch)
    first, last = _share(count * rows, rank, size, 1)
    vectors = (channels + LANES - 1) // LANES
    for r in range(first, last):
        i = r // rows
        at = (r - i * rows) * channels * 4
        table[OLD], table[RAW] = op[6], op[4] + i * op[5] + at
        table[OUT] = op[7] + i * op[8] + at
        finish_tile(scratch, 1, vectors, channels, ELU, table[RAW])


@loose
def _norm(op: Any, count: int, rank: int, size: int) -> None:
    """Layer norm of rows. 2 in, 3 out, 4 rows a slot, 5 width, 6 gain, 7 bias."""
    width = op[5]
    first, last = _share(count * op[4], rank, size, 1)
    gain, bias = floats(op[6]), floats(op[7])
    for r in range(first, last):
        x, out = floats(op[2] + r * width * 4), floats(op[3] + r * width * 4)
        mean = _ZERO
        for c in range(width):
            mean += x[c]
        mean /= np.float32(width)
        spread = _ZERO
        for c in range(width):
            spread += (x[c] - mean) * (x[c] - mean)
        scale = _ONE / np.float32(math.sqrt(spread / np.float32(width) + np.float32(1e-5)))
        for c in range(width):
            out[c] = (x[c] - mean) * scale * gain[c] + bias[c]


@kernel
def _rotation(op: Any, memory: Any, slots: Any) -> None:
    """Cosines and sines of the step's positions. 2 memory of offsets, 3 rows, 4 pairs, 5 out,
    6 frequencies (float64)."""
    rows, pairs = op[3], op[4]
    frequencies = doubles(op[6])
    offsets = longs(memory[op[2]])
    for i in range(len(slots)):
        for t in range(rows):
            position = np.float64(offsets[slots[i]] + t)
            out = floats(op[5] + (i * rows + t) * pairs * 8)
            for d in range(pairs):
                angle = position * frequencies[d]
                out[2 * d] = np.float32(math.cos(angle))
                out[2 * d + 1] = np.float32(math.sin(angle))


@loose
def _attention(op: Any, memory: Any, slots: Any, rank: int, size: int) -> None:
    """Rotate, remember and attend, position by position, one head of one slot at a time.

    Going position by position, a ring of `context` entries holds all that is needed, however many
    positions come at once. Columns: 2 [q; k; v] rows, 3 out rows, 4 rows a slot, 5 heads,
    6 head width, 7 memory of keys, 8 of values, 9 of offsets, 10 ring length, 11 context,
    12 rotation, 13 scores (float32 [slots * heads, context]).
    """
    rows, heads, width, ring, context = op[4], op[5], op[6], op[10], op[11]
    dim = heads * width
    offsets = longs(memory[op[9]])
    first, last = _share(len(slots) * heads, rank, size, 1)
    scale = _ONE / np.float32(math.sqrt(np.float32(width)))
    for item in range(first, last):
        i = item // heads
        head = item - i * heads
        place = (slots[i] * heads + head) * ring * width * 4
        keys, values = memory[op[7]] + place, memory[op[8]] + place
        scores = floats(op[13] + item * context * 4)
        for t in range(rows):
            now = offsets[slots[i]] + t
            row = op[2] + ((i * rows + t) * 3 * dim + head * width) * 4
            q, k, v = floats(row), floats(row + dim * 4), floats(row + 2 * dim * 4)
            turn = floats(op[12] + (i * rows + t) * width * 4)
            entry = now % ring
            new_key = floats(keys + entry * width * 4)
            new_value = floats(values + entry * width * 4)
            for d in range(width // 2):
                cos, sin = turn[2 * d], turn[2 * d + 1]
                real, imag = q[2 * d], q[2 * d + 1]
                q[2 * d] = (real * cos - imag * sin) * scale
                q[2 * d + 1] = (real * sin + imag * cos) * scale
                real, imag = k[2 * d], k[2 * d + 1]
                new_key[2 * d] = real * cos - imag * sin
                new_key[2 * d + 1] = real * sin + imag * cos
            for d in range(width):
                new_value[d] = v[d]
            seen = min(now + 1, context)
            oldest = (now + 1 - seen) % ring
            at = oldest
            largest = np.float32(-np.inf)
            for s in range(seen):
                key = floats(keys + at * width * 4)
                score = _ZERO
                for d in range(width):
                    score += q[d] * key[d]
                scores[s] = score
                largest = max(largest, score)
                at = at + 1 if at + 1 < ring else 0
            total = _ZERO
            for s in range(seen):
                scores[s] = _exp(scores[s] - largest)
                total += scores[s]
            out = floats(op[3] + ((i * rows + t) * dim + head * width) * 4)
            for d in range(width):
                out[d] = _ZERO
            at = oldest
            for s in range(seen):
                value = floats(values + at * width * 4)
                share = scores[s]
                for d in range(width):
                    out[d] += share * value[d]
                at = at + 1 if at + 1 < ring else 0
            inverse = _ONE / total
            for d in range(width):
                out[d] *= inverse


@kernel
def _advance(op: Any, memory: Any, slots: Any) -> None:
    """Count positions. 2 memory of offsets, 3 how many."""
    offsets = longs(memory[op[2]])
    for i in range(len(slots)):
        offsets[slots[i]] += op[3]


@kernel
def _replicate(op: Any, memory: Any, slots: Any) -> None:
    """At a slot's start, its context is its first row repeated.

    Columns: 2 memory of "nothing has come", 3 channels, 4 context rows, 5 window, 6 slot stride.
    """
    fresh = flags(memory[op[2]])
    for i in range(len(slots)):
        if fresh[slots[i]]:
            window = floats(op[5] + i * op[6])
            for t in range(op[4]):
                for c in range(op[3]):
                    window[t * op[3] + c] = window[op[4] * op[3] + c]
            fresh[slots[i]] = 0


@kernel
def _pick(op: Any, memory: Any, slots: Any, rank: int, size: int) -> None:
    """The best of a level's scores is the code; what it stands for is taken off the residual.

    Columns: 2 scores, 3 rows a slot, 4 bins, 5 residual, 6 width, 7 table, 8 memory of the codes,
    9 level, 10 levels.
    """
    rows, bins, width, levels = op[3], op[4], op[6], op[10]
    first, last = _share(len(slots) * rows, rank, size, 1)
    for r in range(first, last):
        scores, residual = floats(op[2] + r * bins * 4), floats(op[5] + r * width * 4)
        best = 0
        highest = scores[0]
        for b in range(1, bins):
            if scores[b] > highest:
                highest = scores[b]
                best = b
        centroid = floats(op[7] + best * width * 4)
        for c in range(width):
            residual[c] -= centroid[c]
        i = r // rows
        codes = longs(memory[op[8]])
        codes[(slots[i] * levels + op[9]) * rows + r - i * rows] = best


@kernel
def _lookup(op: Any, memory: Any, slots: Any) -> None:
    """Sum of the centroids of some levels. 2 memory of the codes, 3 first level, 4 number,
    5 levels in all, 6 rows a slot, 7 width, 8 address of a table of tables, 9 out."""
    tables = longs(op[8])
    codes = longs(memory[op[2]])
    rows, width = op[6], op[7]
    for i in range(len(slots)):
        for t in range(rows):
            out = floats(op[9] + (i * rows + t) * width * 4)
            for c in range(width):
                out[c] = _ZERO
            for level in range(op[3], op[3] + op[4]):
                code = codes[(slots[i] * op[5] + level) * rows + t]
                centroid = floats(tables[level - op[3]] + code * width * 4)
                for c in range(width):
                    out[c] += centroid[c]


@kernel
def _upsample(op: Any, memory: Any, slots: Any) -> None:
    """The transposed convolution of each channel on its own, twice as long as its stride.

    Columns: 2 memory of the rest, 3 channels, 4 stride, 5 rows, 6 in, 7 out, 8 weights [2 S, C].
    """
    channels, stride, rows = op[3], op[4], op[5]
    for i in range(len(slots)):
        kept = floats(memory[op[2]] + slots[i] * channels * stride * 4)
        for t in range(rows):
            x = floats(op[6] + (i * rows + t) * channels * 4)
            for j in range(stride):
                out = floats(op[7] + ((i * rows + t) * stride + j) * channels * 4)
                now = floats(op[8] + j * channels * 4)
                later = floats(op[8] + (stride + j) * channels * 4)
                for c in range(channels):
                    out[c] = x[c] * now[c] + kept[c * stride + j]
                for c in range(channels):
                    kept[c * stride + j] = x[c] * later[c]


@kernel
def _energy(op: Any, count: int, rank: int, size: int) -> None:
    """Squares of complex numbers. 2 in [rows, 2 bins], real parts first, 3 out, 4 rows, 5 bins."""
    bins = op[5]
    first, last = _share(count * op[4], rank, size, 1)
    for r in range(first, last):
        real, out = floats(op[2] + r * bins * 8), floats(op[3] + r * bins * 4)
        imaginary = floats(op[2] + r * bins * 8 + bins * 4)
        for f in range(bins):
            out[f] = real[f] * real[f] + imaginary[f] * imaginary[f]


@kernel
def _logarithm(op: Any, count: int, rank: int, size: int) -> None:
    """(log(x + floor) - mean) / scale. 2 in, 3 out, 4 its slot stride, 5 rows a slot, 6 width,
    7 floor, mean and scale (float32)."""
    rows, width, numbers = op[5], op[6], floats(op[7])
    first, last = _share(count * rows, rank, size, 1)
    for r in range(first, last):
        i = r // rows
        x, out = (
            floats(op[2] + r * width * 4),
            floats(op[3] + i * op[4] + (r - i * rows) * width * 4),
        )
        for c in range(width):
            out[c] = (np.float32(math.log(x[c] + numbers[0])) - numbers[1]) / numbers[2]


@loose
def _rms_norm(op: Any, memory: Any, slots: Any, rank: int, size: int) -> None:
    """Root-mean-square norm of rows, put out as columns. 2 in, 3 rows a slot, 4 width, 5 gain,
    6 epsilon (float32), 7 memory of the output [slots, width, rows]."""
    rows, width, gain, eps = op[3], op[4], floats(op[5]), floats(op[6])[0]
    first, last = _share(len(slots) * rows, rank, size, 1)
    for r in range(first, last):
        i = r // rows
        x = floats(op[2] + r * width * 4)
        out = floats(memory[op[7]] + (slots[i] * width * rows + r - i * rows) * 4)
        square = _ZERO
        for c in range(width):
            square += x[c] * x[c]
        scale = _ONE / np.float32(math.sqrt(square / np.float32(width) + eps))
        for c in range(width):
            out[c * rows] = x[c] * (gain[c] * scale)


@entry
def run(ops: Any, memory: Any, slots: Any, rank: int, size: int, point: Any, scratch: int) -> None:
    """Execute a program for the given slots, as thread `rank` of `size`.

    Args:
        memory: int64, addresses of states, input and output, by the numbers that the table uses.
        point: where the threads meet.
        scratch: address of `SCRATCH_BYTES` for each thread.
    """
    mine = scratch + rank * SCRATCH_BYTES
    for index in range(len(ops)):
        op = ops[index]
        kind = op[0]
        if kind == PRODUCT:
            _product(op, len(slots), rank, size, mine)
        elif kind == FINISH:
            _finish(op, len(slots), rank, size, mine)
        elif kind == NORM:
            _norm(op, len(slots), rank, size)
        elif kind == ATTENTION:
            _attention(op, memory, slots, rank, size)
        elif kind == ENERGY:
            _energy(op, len(slots), rank, size)
        elif kind == LOGARITHM:
            _logarithm(op, len(slots), rank, size)
        elif kind == RMS_NORM:
            _rms_norm(op, memory, slots, rank, size)
        elif kind == PICK:
            _pick(op, memory, slots, rank, size)
        elif index % size == rank:
            # Small ones are done by one thread, neighbours in the table by different ones.
            if kind == LOAD:
                _load(op, memory, slots)
            elif kind == STORE:
                _store(op, memory, slots)
            elif kind == CONTEXT_IN:
                _context(op, memory, slots, True)
            elif kind == CONTEXT_OUT:
                _context(op, memory, slots, False)
            elif kind == ROTATION:
                _rotation(op, memory, slots)
            elif kind == ADVANCE:
                _advance(op, memory, slots)
            elif kind == REPLICATE:
                _replicate(op, memory, slots)
            elif kind == LOOKUP:
                _lookup(op, memory, slots)
            elif kind == UPSAMPLE:
                _upsample(op, memory, slots)
        if op[1]:
            meet(point, size)
