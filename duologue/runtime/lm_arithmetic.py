"""Norms, activations, rotation and attention of the language models, in compiled code.

All activations are float32, whatever the weights' type. A function treats one slot's vector, so
what it computes cannot depend on the other slots.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from duologue.runtime.compile import LANES, address_of, inlined, kernel, loose, make_call, variant
from duologue.runtime.linear import make_rows
from duologue.runtime.linear_tiles import F16, F32, I16, I32, Kind, fused, widen

F32_KIND, F16_KIND, BF16_KIND = int(Kind.FLOAT32), int(Kind.FLOAT16), int(Kind.BFLOAT16)
LAYER_NORM, RMS_NORM = 0, 1


@intrinsic
def float_from_bits(typing, bits):  # type: ignore[no-untyped-def]
    """The float32 that 32 bits stand for."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], F32)

    return types.float32(types.int32), emit


def _make_read(kind: Kind) -> Any:
    stored = {Kind.FLOAT32: F32, Kind.FLOAT16: F16, Kind.BFLOAT16: I16}[kind]

    @intrinsic
    def read(typing, address):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            loaded = builder.load(builder.inttoptr(args[0], stored.as_pointer()))
            return widen(builder, loaded, kind)

        return types.float32(types.int64), emit

    return read


def _make_write(kind: Kind) -> Any:
    """Store a float32, rounded to the nearest number of the type, ties to even."""

    @intrinsic
    def write(typing, address, value):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            at, number = args
            if kind == Kind.FLOAT32:
                stored = number
            elif kind == Kind.FLOAT16:
                stored = builder.fptrunc(number, F16)
            else:
                bits = builder.bitcast(number, I32)
                odd = builder.and_(builder.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
                half = builder.add(odd, ir.Constant(I32, 0x7FFF))
                rounded = builder.add(bits, half)
                stored = builder.trunc(builder.lshr(rounded, ir.Constant(I32, 16)), I16)
            builder.store(stored, builder.inttoptr(at, stored.type.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.int64, types.float32), emit

    return write


_read_float32, _read_float16, _read_bfloat16 = (
    _make_read(kind) for kind in (Kind.FLOAT32, Kind.FLOAT16, Kind.BFLOAT16)
)
_write_float32, _write_float16, _write_bfloat16 = (
    _make_write(kind) for kind in (Kind.FLOAT32, Kind.FLOAT16, Kind.BFLOAT16)
)


@inlined
def add_stored(x, begin, end, address, kind):  # type: ignore[no-untyped-def]
    """x[begin:end] += the stored vector's."""
    if kind == F32_KIND:
        for i in range(begin, end):
            x[i] += _read_float32(address + 4 * i)
    elif kind == F16_KIND:
        for i in range(begin, end):
            x[i] += _read_float16(address + 2 * i)
    else:
        for i in range(begin, end):
            x[i] += _read_bfloat16(address + 2 * i)


@inlined
def store(x, address, kind):  # type: ignore[no-untyped-def]
    """Write a vector in the given type."""
    if kind == F32_KIND:
        for i in range(x.shape[0]):
            _write_float32(address + 4 * i, x[i])
    elif kind == F16_KIND:
        for i in range(x.shape[0]):
            _write_float16(address + 2 * i, x[i])
    else:
        for i in range(x.shape[0]):
            _write_bfloat16(address + 2 * i, x[i])


@inlined
def exponential(x):  # type: ignore[no-untyped-def]
    """e ** x for x <= 88, to 2 units in the last place; 0 below -87.

    Cody-Waite reduction to |r| <= ln 2 / 2 and a polynomial of degree 6; the power of two goes
    into the exponent's bits. It is branch-free, so loops over it become vector code.
    """
    x = max(x, np.float32(-87.33654))
    n = np.float32(np.floor(x * np.float32(1.44269504) + np.float32(0.5)))
    r = x - n * np.float32(0.693359375)
    r = r + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * (r * r) + r + np.float32(1.0)
    return p * float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@loose
def copy(x, out):  # type: ignore[no-untyped-def]
    """out = x"""
    for i in range(out.shape[0]):
        out[i] = x[i]


@loose
def normalize(x, gain, bias, kind, eps, out):  # type: ignore[no-untyped-def]
    """out = norm(x) * gain + bias over the whole of `x`."""
    dim = x.shape[0]
    mean = np.float32(0.0)
    if kind == LAYER_NORM:
        for i in range(dim):
            mean += x[i]
        mean /= np.float32(dim)
    square = np.float32(0.0)
    for i in range(dim):
        square += (x[i] - mean) * (x[i] - mean)
    scale = np.float32(1.0) / np.sqrt(square / np.float32(dim) + eps)
    for i in range(dim):
        out[i] = (x[i] - mean) * (gain[i] * scale) + bias[i]


@loose
def swish_times(gate, value, out):  # type: ignore[no-untyped-def]
    """out = silu(gate) * value"""
    one = np.float32(1.0)
    for i in range(out.shape[0]):
        out[i] = gate[i] / (one + exponential(min(-gate[i], np.float32(88.0)))) * value[i]


@kernel
def gelu(x, out):  # type: ignore[no-untyped-def]
    """The exact GELU."""
    for i in range(out.shape[0]):
        out[i] = np.float32(x[i] * 0.5 * (1.0 + math.erf(x[i] * 0.7071067811865476)))


@kernel
def rotate(x, cos, sin, halves, out):  # type: ignore[no-untyped-def]
    """Rotary embedding of one head; pairs (i, i + D/2) if `halves`, else (2i, 2i + 1)."""
    half = x.shape[0] // 2
    for i in range(half):
        a, b = (i, i + half) if halves else (2 * i, 2 * i + 1)
        real, imag = x[a], x[b]
        out[a] = real * cos[i] - imag * sin[i]
        out[b] = real * sin[i] + imag * cos[i]


def _make_mix(kind: Kind, vectors: int) -> Any:
    """out[lanes] = sum over j of weights[j] * values[j, lanes], for a few vectors of columns."""
    stored, size = {
        Kind.FLOAT32: (F32, 4), Kind.FLOAT16: (F16, 2), Kind.BFLOAT16: (I16, 2),
    }[kind]  # fmt: skip
    i64 = ir.IntType(64)

    @intrinsic
    def mix(typing, weights, values, stride, count, out):  # type: ignore[no-untyped-def]
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            weights, values, stride, count, out = args
            wide, narrow = ir.VectorType(F32, LANES), ir.VectorType(stored, LANES)
            zeros = ir.Constant(wide, None)
            before, head = b.block, b.append_basic_block("mix")
            inside, after = b.append_basic_block("row"), b.append_basic_block("mixed")
            b.branch(head)
            b.position_at_end(head)
            index = b.phi(i64)
            index.add_incoming(ir.Constant(i64, 0), before)
            sums = [b.phi(wide) for _ in range(vectors)]
            for one in sums:
                one.add_incoming(zeros, before)
            b.cbranch(b.icmp_signed("<", index, count), inside, after)
            b.position_at_end(inside)
            at = b.add(weights, b.shl(index, ir.Constant(i64, 2)))
            weight = b.load(b.inttoptr(at, F32.as_pointer()))
            first = b.insert_element(ir.Constant(wide, ir.Undefined), weight, ir.Constant(I32, 0))
            lanes = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
            weight = b.shuffle_vector(first, first, lanes)
            row = b.add(values, b.mul(index, stride))
            for number, one in enumerate(sums):
                place = b.add(row, ir.Constant(i64, number * LANES * size))
                loaded = b.load(b.inttoptr(place, narrow.as_pointer()))
                loaded.align = size
                one.add_incoming(fused(b, weight, widen(b, loaded, kind), one), inside)
            index.add_incoming(b.add(index, ir.Constant(i64, 1)), inside)
            b.branch(head)
            b.position_at_end(after)
            for number, one in enumerate(sums):
                place = b.add(out, ir.Constant(i64, number * LANES * 4))
                stored_sum = b.store(one, b.inttoptr(place, wide.as_pointer()))
                stored_sum.align = 4
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), emit

    return mix


@loose
def soften(scores, count, scale):  # type: ignore[no-untyped-def]
    """Softmax of the first `count` scores times `scale`, in place."""
    largest = scores[0]
    for i in range(1, count):
        largest = max(largest, scores[i])
    total = np.float32(0.0)
    for i in range(count):
        scores[i] = exponential((scores[i] - largest) * scale)
        total += scores[i]
    inverse = np.float32(1.0) / total
    for i in range(count):
        scores[i] *= inverse


def _make_attend(kind: Kind) -> Any:
    """One head of one slot: the arguments of `attend` in lm_layers, all addresses and counts."""
    four, one, rows = _make_mix(kind, 4), _make_mix(kind, 1), make_rows(kind)
    size = 4 if kind == Kind.FLOAT32 else 2
    read = _make_read(kind)

    def attend(q, keys, values, filled, dim, scores, out):  # type: ignore[no-untyped-def]
        stride = dim * size
        rows(keys, stride, 0, 0, 0, q, 0, dim, scores, 0, 1, 0, filled)
        weights = carray(_pointer(scores), (filled,))
        soften(weights, filled, np.float32(1.0 / math.sqrt(dim)))
        column = 0
        while column + 4 * LANES <= dim:
            four(scores, values + column * size, stride, filled, out + column * 4)
            column += 4 * LANES
        while column + LANES <= dim:
            one(scores, values + column * size, stride, filled, out + column * 4)
            column += LANES
        for i in range(column, dim):
            total = np.float32(0.0)
            for j in range(filled):
                total += weights[j] * read(values + j * stride + i * size)
            _write_float32(out + 4 * i, total)

    return variant(attend, f"attend_{kind.name.lower()}")


@intrinsic
def _pointer(typing, address):  # type: ignore[no-untyped-def]
    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], F32.as_pointer())

    return types.CPointer(types.float32)(types.int64), emit


_float32, _float16, _bfloat16 = (
    _make_attend(kind) for kind in (Kind.FLOAT32, Kind.FLOAT16, Kind.BFLOAT16)
)


def _attend_float32(a, b, c, d, e, f, g):  # type: ignore[no-untyped-def]
    _float32(a, b, c, d, e, f, g)


def _attend_float16(a, b, c, d, e, f, g):  # type: ignore[no-untyped-def]
    _float16(a, b, c, d, e, f, g)


def _attend_bfloat16(a, b, c, d, e, f, g):  # type: ignore[no-untyped-def]
    _bfloat16(a, b, c, d, e, f, g)


_ATTEND = {F32_KIND: _attend_float32, F16_KIND: _attend_float16, BF16_KIND: _attend_bfloat16}
call_attend = make_call(7)


@functools.cache
def attend_address(kind: int) -> int:
    """Where attention over a cache of that kind is, for `call_attend`."""
    return address_of(types.void(*[types.int64] * 7), _ATTEND[kind])
