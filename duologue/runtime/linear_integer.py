"""Micro-kernels of the matrix product for integer weights: whole numbers times whole numbers.

Widening each weight to a float costs more than to read it. So the vector is rounded once instead,
to 16 bits: each block of `BLOCK` columns gets a scale, its largest magnitude becomes 32767, sums
over a block are exact in 32 bits (at most 128 codes of 8 bits times 32767). Only then scales are
applied, in float32. Rounding moves a vector by about 3e-5 of its size, less than half of what
float16 would; the test of the kernels has the same in four lines of torch.

What each thread lays out for itself (`make_arrange`) is a record of `RECORD_BYTES` for each block,
as long as the block's floats:

    int16 [BLOCK]     the numbers, in the order in which their weights come out of memory
    int32 [16]        the sums of 8 neighbours each, times -8
    float32           the block's scale

8-bit codes come as they lie. 4-bit codes lie four in each 16-bit word, little end first, and are
taken out by shifting the whole vector: so the numbers lie in four planes for each vector of words,
every fourth column in the same one. Sums of codes that are centred on 8, but count from 0, begin at
the record's; and what an offset common to a group's codes contributes is -1/8 of those.

A row may end anywhere (with groups, after a whole one): loads past its end are masked. Each sum has
one order of additions, so bits depend neither on the batch nor on where a row lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from duologue.runtime.compile import LANES
from duologue.runtime.linear_tiles import (
    BLOCK,
    F16,
    F32,
    GROUP,
    I8,
    I16,
    I32,
    VECTOR,
    Kind,
    chosen,
    declare,
    first_lanes,
    fused,
    i64,
    load,
    loop,
    prefetch,
    splat,
    sum_lanes,
    tile_of,
    variable,
    zeros,
)

RECORD_BYTES = 4 * BLOCK
"""Of one block of a vector: as much as its floats take, of which a part is used."""
LARGEST = 32767.0
SMALLEST = 1e-30
"""Blocks without a larger number count as zero."""
_SUMS_AT, _SCALE_AT = 2 * BLOCK, 2 * BLOCK + 64
_STEP = 2 * LANES
"""16-bit numbers in a vector."""
_PLANES = 4
"""4-bit codes in a 16-bit word."""
_CENTRE = -8
_SUMMED = 8
"""Columns that share one of a record's sums."""
_EIGHT_BITS = (Kind.INT8_ROWS, Kind.INT8_GROUPS, Kind.UINT8_GROUPS)
_OFFSETS = (Kind.UINT8_GROUPS, Kind.UINT4)
_PAIRS = ir.VectorType(I32, LANES)
_HALVES = ir.VectorType(I16, _STEP)


def make_arrange(planes: bool) -> Any:
    """Compiled-code function that writes the records of one vector.

    Its arguments are whole numbers: the address of float32 [padded columns], zero past its end; the
    number of columns; where the records go. A block that holds a number that is not finite gets a
    scale that is not, and so do all sums that it is part of.
    """

    @intrinsic
    def arrange(typing, x, columns, out):  # type: ignore[no-untyped-def]
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
            x, columns, out = args

            def one(column: ir.Value) -> None:
                at = b.shl(column, i64(2))
                _record(b, b.add(x, at), b.add(out, at), planes)

            loop(b, i64(0), columns, i64(BLOCK), one)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), emit

    return arrange


def _record(b: ir.IRBuilder, x: ir.Value, out: ir.Value, planes: bool) -> None:
    given = [load(b, b.add(x, i64(4 * at)), F32, LANES) for at in range(0, BLOCK, LANES)]
    sizes = [b.call(declare(b, f"llvm.fabs.v{LANES}f32", VECTOR, [VECTOR]), [v]) for v in given]
    largest, total = sizes[0], sizes[0]
    for one in sizes[1:]:
        largest = _greater(b, one, largest)
        total = b.fadd(total, one)
    width = LANES
    while width > 1:
        width //= 2
        low, high = (
            chosen(b, largest, largest, range(start, start + width)) for start in (0, width)
        )
        largest = _greater(b, low, high)
    peak = b.extract_element(largest, ir.Constant(I32, 0))
    none = b.fcmp_ordered("<", peak, ir.Constant(F32, SMALLEST))
    inverse = b.select(none, ir.Constant(F32, 0.0), b.fdiv(ir.Constant(F32, LARGEST), peak))
    scale = b.select(none, ir.Constant(F32, 0.0), b.fdiv(peak, ir.Constant(F32, LARGEST)))
    # Zero, unless some number is not finite: then the scale must not be, either.
    trace = b.fmul(sum_lanes(b, total), ir.Constant(F32, 0.0))
    b.store(b.fadd(scale, trace), b.inttoptr(b.add(out, i64(_SCALE_AT)), F32.as_pointer()))
    whole = [_rounded(b, b.fmul(v, splat(b, inverse, LANES))) for v in given]
    plain = [_join(b, pair) for pair in zip(whole[::2], whole[1::2], strict=True)]
    centre = ir.Constant(_HALVES, [_CENTRE] * _STEP)
    for start in range(0, len(plain), _PLANES):
        four = _planes(b, plain[start : start + _PLANES])
        sums = zeros(_PAIRS)
        for plane in four:
            sums = _products(b, plane, centre, sums)
        at = b.add(out, i64(_SUMS_AT + start // _PLANES * LANES * 4))
        _put(b, sums, at, 4)
        for number, vector in enumerate(four if planes else plain[start : start + _PLANES]):
            _put(b, vector, b.add(out, i64((start + number) * _STEP * 2)), 2)


def _planes(b: ir.IRBuilder, four: Sequence[ir.Value]) -> list[ir.Value]:
    """Every fourth number of four vectors, from the first, second, third and fourth on."""
    low, high = _join(b, four[:2]), _join(b, four[2:])
    return [chosen(b, low, high, [_PLANES * j + p for j in range(_STEP)]) for p in range(_PLANES)]


def make_integer_tile(kind: Kind, rows: int, batch: int) -> Any:
    """As `linear_tiles.make_tile`, for integer weights; `inputs` are the records of the vectors."""
    return tile_of(lambda builder, args: _Emitter(builder, kind, rows, batch, args).run())


class _Emitter:
    """Writes one tile's code."""

    def __init__(
        self, builder: ir.IRBuilder, kind: Kind, rows: int, batch: int, args: Sequence[Any]
    ) -> None:
        self.b, self.kind = builder, kind
        self.rows, self.batch = range(rows), range(batch)
        (
            self.weights, self.weight_stride, self.scales, self.offsets, self.scale_stride,
            self.inputs, self.input_stride, self.columns, self.out, self.out_row, self.out_stride,
        ) = args  # fmt: skip

    def run(self) -> None:
        b = self.b
        self.totals = [[variable(self.b, zeros(VECTOR)) for _ in self.batch] for _ in self.rows]
        whole = b.and_(self.columns, i64(-BLOCK))
        loop(b, i64(0), whole, i64(BLOCK), lambda column: self._block(column, None))
        left = b.sub(self.columns, whole)
        with b.if_then(b.icmp_signed(">", left, i64(0)), likely=False):
            self._block(whole, left)
        for r in self.rows:
            for n in self.batch:
                self._store(r, n)

    def _block(self, column: ir.Value, left: Any) -> None:
        """Add what `BLOCK` columns contribute, or those that are left of a row."""
        b = self.b
        codes = [self._codes(r, column, left) for r in self.rows]
        scales = [self._groups(self.scales, r, column, left) for r in self.rows]
        offsets = [
            self._groups(self.offsets, r, column, left) if self.kind in _OFFSETS else None
            for r in self.rows
        ]
        for n in self.batch:
            record = b.add(self.inputs, b.mul(self.input_stride, i64(n)))
            record = b.add(record, b.shl(column, i64(2)))
            scale = b.load(b.inttoptr(b.add(record, i64(_SCALE_AT)), F32.as_pointer()))
            given = [load(b, b.add(record, i64(2 * at)), I16, _STEP) for at in _steps()]
            for r in self.rows:
                if self.kind == Kind.INT8_ROWS:
                    self._add_rows(r, n, codes[r], given, scale)
                elif self.kind in _EIGHT_BITS:
                    self._add_groups8(r, n, codes[r], given, scale, scales[r])
                else:
                    self._add_groups4(r, n, codes[r], given, scale, scales[r], record)
                if offsets[r] is not None:
                    self._add_offsets(r, n, scale, offsets[r], record)

    def _add_rows(self, r: int, n: int, codes: Any, given: Any, scale: ir.Value) -> None:
        found = zeros(_PAIRS)
        for weights, x in zip(codes, given, strict=True):
            found = _products(self.b, weights, x, found)
        self._add(r, n, found, splat(self.b, scale, LANES))

    def _add_groups8(
        self, r: int, n: int, codes: Any, given: Any, scale: ir.Value, scales: ir.Value
    ) -> None:
        by_group = self.b.fmul(scales, splat(self.b, scale, BLOCK // GROUP))
        for group in range(BLOCK // GROUP):
            found = zeros(_PAIRS)
            for step in range(group * GROUP // _STEP, (group + 1) * GROUP // _STEP):
                found = _products(self.b, codes[step], given[step], found)
            self._add(r, n, found, chosen(self.b, by_group, by_group, [group] * LANES))

    def _add_groups4(
        self, r: int, n: int, codes: Any, given: Any, scale: ir.Value, scales: ir.Value,
        record: ir.Value,
    ) -> None:  # fmt: skip
        b = self.b
        by_group = b.fmul(scales, splat(b, scale, BLOCK // GROUP))
        for vector in range(_vectors()):
            found = self._sums(record, vector) if self.kind == Kind.INT4 else zeros(_PAIRS)
            for plane in range(_PLANES):
                step = vector * _PLANES + plane
                found = _products(b, codes[step], given[step], found)
            self._add(r, n, found, chosen(b, by_group, by_group, _lane_groups(vector)))

    def _add_offsets(
        self, r: int, n: int, scale: ir.Value, offsets: ir.Value, record: ir.Value
    ) -> None:
        b = self.b
        share = b.fmul(scale, ir.Constant(F32, 1 / _CENTRE))
        by_group = b.fmul(offsets, splat(b, share, BLOCK // GROUP))
        for vector in range(_vectors()):
            sums = self._sums(record, vector)
            self._add(r, n, sums, chosen(b, by_group, by_group, _lane_groups(vector)))

    def _add(self, r: int, n: int, found: ir.Value, scale: ir.Value) -> None:
        """total += found * scale"""
        total, number = self.totals[r][n], self.b.sitofp(found, VECTOR)
        self.b.store(fused(self.b, number, scale, self.b.load(total)), total)

    def _codes(self, row: int, column: ir.Value, left: Any) -> list[ir.Value]:
        """A block's codes as 16-bit numbers, in the order of the record's; zeros past the end."""
        b = self.b
        start = b.add(self.weights, b.mul(self.weight_stride, i64(row)))
        found = []
        if self.kind in _EIGHT_BITS:
            start = b.add(start, column)
            self._ahead(start, left, BLOCK)
            for at in _steps():
                mask = None if left is None else first_lanes(b, b.sub(left, i64(at)), _STEP)
                raw = load(b, b.add(start, i64(at)), I8, _STEP, mask)
                widen = b.zext if self.kind == Kind.UINT8_GROUPS else b.sext
                found.append(widen(raw, _HALVES))
            return found
        start = b.add(start, b.lshr(column, i64(1)))
        self._ahead(start, left, BLOCK // 2)
        for vector in range(_vectors()):
            at, mask = vector * 4 * LANES, None
            if left is not None:
                mask = first_lanes(b, b.sub(b.lshr(left, i64(3)), i64(vector * LANES)), LANES)
            words = b.bitcast(load(b, b.add(start, i64(at)), I32, LANES, mask), _HALVES)
            for plane in range(_PLANES):
                moved = b.lshr(words, ir.Constant(_HALVES, [4 * plane] * _STEP))
                found.append(b.and_(moved, ir.Constant(_HALVES, [15] * _STEP)))
        return found

    def _groups(self, base: ir.Value, row: int, column: ir.Value, left: Any) -> Any:
        """The scales (or offsets) of a block's groups as float32; none with a scale per row."""
        if self.kind == Kind.INT8_ROWS:
            return None
        b, groups = self.b, BLOCK // GROUP
        kind = F16 if self.kind in (Kind.INT4, Kind.INT8_GROUPS) else F32
        at = b.add(base, b.mul(self.scale_stride, i64(row)))
        at = b.add(at, b.mul(b.udiv(column, i64(GROUP)), i64(2 if kind == F16 else 4)))
        mask = None if left is None else first_lanes(b, b.udiv(left, i64(GROUP)), groups)
        values = load(b, at, kind, groups, mask)
        return b.fpext(values, ir.VectorType(F32, groups)) if kind == F16 else values

    def _sums(self, record: ir.Value, vector: int) -> ir.Value:
        at = self.b.add(record, i64(_SUMS_AT + vector * LANES * 4))
        return load(self.b, at, I32, LANES)

    def _ahead(self, start: ir.Value, left: Any, size: int) -> None:
        if left is None:
            for line in range(0, size, 64):
                prefetch(self.b, self.b.add(start, i64(line)))

    def _store(self, row: int, n: int) -> None:
        b = self.b
        value = sum_lanes(b, b.load(self.totals[row][n]))
        if self.kind == Kind.INT8_ROWS:
            at = b.add(self.scales, b.mul(self.scale_stride, i64(row)))
            value = b.fmul(value, b.load(b.inttoptr(at, F32.as_pointer())))
        at = b.add(self.out, b.mul(self.out_stride, i64(n)))
        at = b.add(at, b.mul(self.out_row, i64(row)))
        b.store(value, b.inttoptr(at, F32.as_pointer()))


def _steps() -> range:
    """Where a block's vectors of 16-bit numbers begin."""
    return range(0, BLOCK, _STEP)


def _vectors() -> int:
    """Vectors of 4-bit codes in a block, which are also those of a record's sums."""
    return BLOCK // (_SUMMED * LANES)


def _lane_groups(vector: int) -> list[int]:
    """The group of each lane of such a vector."""
    return [(vector * LANES + lane) * _SUMMED // GROUP for lane in range(LANES)]


def _products(b: ir.IRBuilder, a: ir.Value, x: ir.Value, start: ir.Value) -> ir.Value:
    """start[i] + a[2 i] * x[2 i] + a[2 i + 1] * x[2 i + 1], 16-bit numbers and 32-bit sums.

    Written out: the compiler has one instruction for it on every processor that has one.
    """
    wide = ir.VectorType(I32, _STEP)
    product = b.mul(b.sext(a, wide), b.sext(x, wide))
    even, odd = (chosen(b, product, product, list(range(first, _STEP, 2))) for first in (0, 1))
    return b.add(b.add(even, odd), start)


def _rounded(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """To the nearest whole number, as 16 bits."""
    nearest = b.call(declare(b, f"llvm.rint.v{LANES}f32", VECTOR, [VECTOR]), [x])
    return b.trunc(b.fptosi(nearest, _PAIRS), ir.VectorType(I16, LANES))


def _greater(b: ir.IRBuilder, a: ir.Value, c: ir.Value) -> ir.Value:
    return b.select(b.fcmp_ordered(">", a, c), a, c)


def _join(b: ir.IRBuilder, two: Sequence[ir.Value]) -> ir.Value:
    return chosen(b, two[0], two[1], list(range(2 * two[0].type.count)))


def _put(b: ir.IRBuilder, vector: ir.Value, at: ir.Value, align: int) -> None:
    stored = b.store(vector, b.inttoptr(at, vector.type.as_pointer()))
    stored.align = align
