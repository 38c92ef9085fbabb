"""Micro-kernels of the matrix product, written as LLVM code: a few rows times a few vectors.

A tile holds `rows x batch` sums in registers and walks along the columns once: each weight is read
from memory one time, widened to float32 once, and used for every vector of the batch. Each sum has
one order of additions (column block after column block, then a fixed tree), whatever the tile, so
a result's bits depend neither on the batch nor on where its row lies.

Here are the tiles for floats and the pieces that those for integers (`linear_integer`) share. Rows
may have any number of columns: loads past a row's end are masked, and the inputs' memory is zero up
to a whole block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from duologue.runtime.compile import LANES

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
VECTOR = ir.VectorType(F32, LANES)

BLOCK = 128
"""Columns that are treated at once; vectors are zero up to a multiple of it."""
GROUP = 32
"""Columns that share a scale, where rows are in groups."""
PREFETCH_BYTES = 512
"""How far ahead integer weights are asked for (measured: a tenth faster than not, or 2048)."""


class Kind(IntEnum):
    """How a matrix is held."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    INT8_ROWS = 3
    """int8, a float32 scale per row."""
    INT8_GROUPS = 4
    """int8, a float16 scale per 32 columns."""
    UINT8_GROUPS = 5
    """uint8, a float32 scale and offset per 32 columns."""
    INT4 = 6
    """Codes centred on 8, a float16 scale per 32 columns."""
    UINT4 = 7
    """Codes from 0 on, a float32 scale and offset per 32 columns."""


FLOATS = (Kind.FLOAT32, Kind.FLOAT16, Kind.BFLOAT16)
_STORED = {Kind.FLOAT32: F32, Kind.FLOAT16: F16, Kind.BFLOAT16: I16}


def make_tile(kind: Kind, rows: int, batch: int) -> Any:
    """Compiled-code function that computes `rows x batch` dot products with float weights."""
    return tile_of(lambda builder, args: _emit(builder, kind, rows, batch, args))


def tile_of(emit: Callable[[ir.IRBuilder, Sequence[ir.Value]], None]) -> Any:
    """A tile from what writes its code.

    Its arguments are whole numbers; addresses and strides count bytes.
        weights, weight_stride: first row, and distance between rows.
        scales, offsets, scale_stride: of integer weights; those of the first row.
        inputs, input_stride: the vectors.
        columns: width of the matrix.
        out, out_row, out_stride: where the results go, and distances between rows and vectors.
    """

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, weights, weight_stride, scales, offsets, scale_stride, inputs, input_stride,
        columns, out, out_row, out_stride,
    ):  # fmt: skip
        def write(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            emit(builder, args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), write

    return tile


def _emit(b: ir.IRBuilder, kind: Kind, rows: int, batch: int, args: Sequence[ir.Value]) -> None:
    weights, weight_stride, _, _, _, inputs, input_stride, columns, out, out_row, out_stride = args
    totals = [[variable(b, zeros(VECTOR)) for _ in range(batch)] for _ in range(rows)]
    stored, size = _STORED[kind], 4 if kind == Kind.FLOAT32 else 2

    def add(column: ir.Value, mask: Any) -> None:
        at = b.add(inputs, b.shl(column, i64(2)))
        given = [load(b, b.add(at, b.mul(input_stride, i64(n))), F32, LANES) for n in range(batch)]
        for r in range(rows):
            at = b.add(b.add(weights, b.mul(weight_stride, i64(r))), b.mul(column, i64(size)))
            weight = widen(b, load(b, at, stored, LANES, mask), kind)
            for total, x in zip(totals[r], given, strict=True):
                b.store(fused(b, weight, x, b.load(total)), total)

    whole = b.and_(columns, i64(-LANES))
    loop(b, i64(0), whole, i64(LANES), lambda column: add(column, None))
    left = b.sub(columns, whole)
    with b.if_then(b.icmp_signed(">", left, i64(0)), likely=False):
        add(whole, first_lanes(b, left, LANES))
    for r in range(rows):
        for n in range(batch):
            at = b.add(b.add(out, b.mul(out_stride, i64(n))), b.mul(out_row, i64(r)))
            value = sum_lanes(b, b.load(totals[r][n]))
            b.store(value, b.inttoptr(at, F32.as_pointer()))


# Pieces of code.


def loop(
    b: ir.IRBuilder, start: ir.Value, stop: ir.Value, step: ir.Value,
    body: Callable[[ir.Value], None],
) -> None:  # fmt: skip
    """`body(i)` for i from `start` in steps, while it is below `stop`."""
    before, head = b.block, b.append_basic_block("loop")
    inside, after = b.append_basic_block("body"), b.append_basic_block("done")
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(I64)
    index.add_incoming(start, before)
    b.cbranch(b.icmp_signed("<", index, stop), inside, after)
    b.position_at_end(inside)
    body(index)
    index.add_incoming(b.add(index, step), b.block)
    b.branch(head)
    b.position_at_end(after)


def variable(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Where a value that changes is kept (in a register, once the compiler is through)."""
    with b.goto_entry_block():
        slot = b.alloca(value.type)
    b.store(value, slot)
    return slot


def load(b: ir.IRBuilder, at: ir.Value, kind: Any, lanes: int, mask: Any = None) -> ir.Value:
    """A vector from an address; lanes that a mask leaves out are zero and not touched."""
    vector = ir.VectorType(kind, lanes)
    pointer = b.inttoptr(at, vector.as_pointer())
    align = 4 if kind in (F32, I32) else 2 if kind in (F16, I16) else 1
    if mask is None:
        loaded = b.load(pointer)
        loaded.align = align
        return loaded
    name = f"llvm.masked.load.v{lanes}{kind.intrinsic_name}.p0"
    function = declare(b, name, vector, [pointer.type, I32, mask.type, vector])
    return b.call(function, [pointer, ir.Constant(I32, align), mask, zeros(vector)])


def first_lanes(b: ir.IRBuilder, count: ir.Value, lanes: int) -> ir.Value:
    """Mask of the first `count` lanes; none if it is negative."""
    order = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return b.icmp_signed("<", order, splat(b, b.trunc(count, I32), lanes))


def prefetch(b: ir.IRBuilder, at: ir.Value) -> None:
    """Ask for what this row's reader comes to soon; with floats the processor does it best."""
    pointer = b.inttoptr(b.add(at, i64(PREFETCH_BYTES)), I8.as_pointer())
    function = declare(b, "llvm.prefetch.p0", ir.VoidType(), [pointer.type, I32, I32, I32])
    read, keep, data = (ir.Constant(I32, value) for value in (0, 3, 1))
    b.call(function, [pointer, read, keep, data])


def widen(b: ir.IRBuilder, raw: ir.Value, kind: Kind) -> ir.Value:
    """Stored floats, a vector or one, as float32."""
    lanes = getattr(raw.type, "count", None)

    def shaped(element: Any) -> Any:
        return element if lanes is None else ir.VectorType(element, lanes)

    if kind == Kind.FLOAT32:
        return raw
    if kind == Kind.FLOAT16:
        return b.fpext(raw, shaped(F32))
    shift = ir.Constant(shaped(I32), 16 if lanes is None else [16] * lanes)
    return b.bitcast(b.shl(b.zext(raw, shaped(I32)), shift), shaped(F32))


def fused(b: ir.IRBuilder, a: ir.Value, x: ir.Value, c: ir.Value) -> ir.Value:
    """a * x + c, rounded once."""
    lanes = getattr(a.type, "count", None)
    name = "llvm.fma.f32" if lanes is None else f"llvm.fma.v{lanes}f32"
    return b.call(declare(b, name, a.type, [a.type] * 3), [a, x, c])


def sum_lanes(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Sum of a vector's numbers: halves onto each other, a fixed tree."""
    width = LANES
    while width > 1:
        width //= 2
        low = chosen(b, vector, vector, range(width))
        vector = b.fadd(low, chosen(b, vector, vector, range(width, 2 * width)))
    return b.extract_element(vector, ir.Constant(I32, 0))


def chosen(b: ir.IRBuilder, one: ir.Value, other: ir.Value, order: Sequence[int]) -> ir.Value:
    """A vector of lanes of two, by number."""
    return b.shuffle_vector(one, other, ir.Constant(ir.VectorType(I32, len(order)), list(order)))


def splat(b: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector of one number."""
    vector = ir.VectorType(value.type, lanes)
    first = b.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    return chosen(b, first, first, [0] * lanes)


def zeros(kind: Any) -> ir.Constant:
    """Zero of a type."""
    return ir.Constant(kind, None)


def declare(b: ir.IRBuilder, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """One of the compiler's own functions."""
    known = b.module.globals.get(name)
    if known is not None:
        return known
    return ir.Function(b.module, ir.FunctionType(result, list(arguments)), name)


def i64(value: int) -> ir.Constant:
    """A constant whole number."""
    return ir.Constant(I64, value)
