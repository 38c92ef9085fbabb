"""Micro-kernels of the matrix product, written as LLVM code: a few rows times a few vectors.

A tile holds `rows x batch` sums in registers and walks along the columns once: each weight is read
from memory one time, widened to float32 once, and used for every vector of the batch. Each sum has
one order of additions (column block after column block, then a fixed tree), whatever the tile, so
a result's bits depend neither on the batch nor on where its row lies.

Integer weights take part as they are:

* 8 bit: code -> float32, times the row's scale at the end, or each group's scale after the group.
* 4 bit: 8 codes in each 32-bit word, little end first. Code n is shifted into the mantissa of
  16.0, which makes 16 + n without a conversion; the 16 (24, if codes are centred on 8) is taken off
  again by starting each block's sum at -16 (-24) times the sum of its inputs. A word's codes are 8
  neighbouring columns, so `arrange` lays the inputs out to match.

Rows may have any number of columns: loads past a row's end are masked, and the inputs' memory is
zero up to a whole block.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from duologue.runtime.compile import LANES

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
VECTOR = ir.VectorType(F32, LANES)

PLANES = 8
"""4-bit codes in a word."""
GROUP4 = 32
"""Columns that share a scale, with 4 bits."""
BLOCK4 = PLANES * LANES
"""Columns of a block, with 4 bits."""
PREFETCH_BYTES = 512
"""How far ahead integer weights are asked for (measured: a tenth faster than not, or 2048)."""
SIXTEEN = 0x41800000
"""16.0 as bits; its mantissa counts in units of one from bit 19 on."""


class Kind(IntEnum):
    """How a matrix is held."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    INT8_ROWS = 3
    """int8, a float32 scale per row."""
    INT8_GROUPS = 4
    """int8, a float16 scale per group."""
    UINT8_GROUPS = 5
    """uint8, a float32 scale and offset per group."""
    INT4 = 6
    """Codes centred on 8, a float16 scale per 32 columns."""
    UINT4 = 7
    """Codes from 0 on, a float32 scale and offset per 32 columns."""


GROUPED8 = (Kind.INT8_GROUPS, Kind.UINT8_GROUPS)
GROUPED4 = (Kind.INT4, Kind.UINT4)
_STORED = {Kind.FLOAT32: F32, Kind.FLOAT16: F16, Kind.BFLOAT16: I16}


def make_tile(kind: Kind, rows: int, batch: int) -> Any:
    """Compiled-code function that computes `rows x batch` dot products.

    Its arguments are whole numbers; addresses and strides count bytes.
        weights, weight_stride: first row, and distance between rows.
        scales, offsets, scale_stride: those of the first row (of groups; per row for INT8_ROWS).
        inputs, sums, input_stride: float32 vectors; with 4 bits as `arrange` lays them out, with
            the sum of each word's inputs in `sums` (same stride).
        columns, group: width of the matrix, and columns per scale.
        out, out_row, out_stride: where the results go, and distances between rows and vectors.
    """

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, weights, weight_stride, scales, offsets, scale_stride, inputs, sums, input_stride,
        columns, group, out, out_row, out_stride,
    ):  # fmt: skip
        signature = types.void(*[types.int64] * 13)

        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            _Emitter(builder, kind, rows, batch, args).run()
            return context.get_dummy_value()

        return signature, emit

    return tile


class _Emitter:
    """Writes one tile's code."""

    def __init__(
        self, builder: ir.IRBuilder, kind: Kind, rows: int, batch: int, args: list[Any]
    ) -> None:
        self.b, self.kind = builder, kind
        self.rows, self.batch = range(rows), range(batch)
        (
            self.weights, self.weight_stride, self.scales, self.offsets, self.scale_stride,
            self.inputs, self.sums, self.input_stride, self.columns, self.group, self.out,
            self.out_row, self.out_stride,
        ) = args  # fmt: skip

    def run(self) -> None:
        totals = [[self._variable(_zeros()) for _ in self.batch] for _ in self.rows]
        if self.kind in GROUPED4:
            self._blocks(BLOCK4, lambda c, rest: self._add_block4(totals, c, rest))
        elif self.kind in GROUPED8:
            self._groups8(totals)
        else:
            self._blocks(LANES, lambda c, rest: self._add_block(totals, c, rest))
        for r in self.rows:
            for n in self.batch:
                self._store(r, n, self.b.load(totals[r][n]))

    # Loops

    def _blocks(self, width: int, body: Any) -> None:
        """`body(first column, None)` for whole blocks; `body(column, columns left)` at the end."""
        whole = self.b.and_(self.columns, _i64(-width))
        self._loop(_i64(0), whole, _i64(width), lambda c: body(c, None))
        left = self.b.sub(self.columns, whole)
        with self.b.if_then(self.b.icmp_signed(">", left, _i64(0)), likely=False):
            body(whole, left)

    def _loop(self, start: ir.Value, stop: ir.Value, step: ir.Value, body: Any) -> None:
        b = self.b
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

    # One block of columns

    def _add_block(self, totals: list[list[Any]], column: ir.Value, left: Any) -> None:
        given = [self._input(self.inputs, n, column) for n in self.batch]
        for r in self.rows:
            weight = self._weights(r, column, left)
            for n in self.batch:
                self._fma(totals[r][n], weight, given[n])

    def _groups8(self, totals: list[list[Any]]) -> None:
        def one_group(start: ir.Value) -> None:
            parts = [[self._variable(_zeros()) for _ in self.batch] for _ in self.rows]
            given = [self._variable(_zeros()) for _ in self.batch]

            def body(column: ir.Value) -> None:
                self._add_block(parts, column, None)
                if self.kind == Kind.UINT8_GROUPS:
                    for n in self.batch:
                        x = self._input(self.inputs, n, column)
                        self.b.store(self.b.fadd(self.b.load(given[n]), x), given[n])

            self._loop(start, self.b.add(start, self.group), _i64(LANES), body)
            index = self.b.udiv(start, self.group)
            for r in self.rows:
                scale = self._splat(self._scale(self.scales, r, index))
                for n in self.batch:
                    self._fma(totals[r][n], scale, self.b.load(parts[r][n]))
                if self.kind == Kind.UINT8_GROUPS:
                    offset = self._splat(self._scale(self.offsets, r, index))
                    for n in self.batch:
                        self._fma(totals[r][n], offset, self.b.load(given[n]))

        self._loop(_i64(0), self.columns, self.group, one_group)

    def _add_block4(self, totals: list[list[Any]], column: ir.Value, left: Any) -> None:
        b = self.b
        mask = None if left is None else self._mask(b.udiv(left, _i64(PLANES)), LANES)
        centre = -24.0 if self.kind == Kind.INT4 else -16.0
        start = b.udiv(column, _i64(PLANES))
        sums = [self._input(self.sums, n, start) for n in self.batch]
        parts = [[b.fmul(one, _splat_constant(centre)) for one in sums] for _ in self.rows]
        words = [self._words(r, column, mask) for r in self.rows]
        for plane in range(PLANES):
            at = b.add(column, _i64(plane * LANES))
            given = [self._input(self.inputs, n, at) for n in self.batch]
            for r in self.rows:
                weight = self._plane(words[r], plane)
                for n in self.batch:
                    parts[r][n] = self._fused(weight, given[n], parts[r][n])
        for r in self.rows:
            scale = self._group_scales(self.scales, r, column, left)
            for n in self.batch:
                self._fma(totals[r][n], scale, parts[r][n])
            if self.kind == Kind.UINT4:
                offset = self._group_scales(self.offsets, r, column, left)
                for n in self.batch:
                    self._fma(totals[r][n], offset, sums[n])

    # Loads

    def _weights(self, row: int, column: ir.Value, left: Any) -> ir.Value:
        """`LANES` weights of a row as float32, zeros past its end."""
        stored = _STORED.get(self.kind, I8)
        size = {F32: 4, F16: 2, I16: 2}.get(stored, 1)
        at = self.b.add(self._row(row), self.b.mul(column, _i64(size)))
        mask = None if left is None else self._mask(left, LANES)
        if mask is None:
            self._prefetch(at)
        raw = self._load(at, stored, LANES, mask)
        return widen(self.b, raw, self.kind)

    def _words(self, row: int, column: ir.Value, mask: Any) -> ir.Value:
        at = self.b.add(self._row(row), self.b.lshr(column, _i64(1)))
        if mask is None:
            self._prefetch(at)
        return self._load(at, I32, LANES, mask)

    def _plane(self, words: ir.Value, plane: int) -> ir.Value:
        """16 + code of one of the eight codes in each word."""
        shift = 19 - 4 * plane
        move = self.b.shl if shift >= 0 else self.b.lshr
        moved = move(words, _splat_integer(abs(shift)))
        bits = self.b.or_(self.b.and_(moved, _splat_integer(15 << 19)), _splat_integer(SIXTEEN))
        return self.b.bitcast(bits, VECTOR)

    def _row(self, row: int) -> ir.Value:
        return self.b.add(self.weights, self.b.mul(self.weight_stride, _i64(row)))

    def _input(self, base: ir.Value, n: int, index: ir.Value) -> ir.Value:
        at = self.b.add(base, self.b.mul(self.input_stride, _i64(n)))
        return self._load(self.b.add(at, self.b.shl(index, _i64(2))), F32, LANES, None)

    def _scale(self, base: ir.Value, row: int, index: ir.Value) -> ir.Value:
        """One scale as float32."""
        half = self.kind == Kind.INT8_GROUPS
        at = self.b.add(base, self.b.mul(self.scale_stride, _i64(row)))
        at = self.b.add(at, self.b.mul(index, _i64(2 if half else 4)))
        value = self.b.load(self.b.inttoptr(at, (F16 if half else F32).as_pointer()))
        return self.b.fpext(value, F32) if half else value

    def _group_scales(self, base: ir.Value, row: int, column: ir.Value, left: Any) -> ir.Value:
        """Scales of a block's groups, each repeated over its words."""
        half, groups = self.kind == Kind.INT4, BLOCK4 // GROUP4
        at = self.b.add(base, self.b.mul(self.scale_stride, _i64(row)))
        index = self.b.udiv(column, _i64(GROUP4))
        at = self.b.add(at, self.b.mul(index, _i64(2 if half else 4)))
        mask = None if left is None else self._mask(self.b.udiv(left, _i64(GROUP4)), groups)
        values = self._load(at, F16 if half else F32, groups, mask)
        if half:
            values = self.b.fpext(values, ir.VectorType(F32, groups))
        lanes = [lane * PLANES // GROUP4 for lane in range(LANES)]
        order = ir.Constant(ir.VectorType(I32, LANES), lanes)
        return self.b.shuffle_vector(values, values, order)

    def _load(self, at: ir.Value, kind: Any, lanes: int, mask: Any) -> ir.Value:
        vector = ir.VectorType(kind, lanes)
        pointer = self.b.inttoptr(at, vector.as_pointer())
        align = 4 if kind in (F32, I32) else 2 if kind in (F16, I16) else 1
        if mask is None:
            loaded = self.b.load(pointer)
            loaded.align = align
            return loaded
        name = f"llvm.masked.load.v{lanes}{kind.intrinsic_name}.p0"
        shape = ir.FunctionType(vector, [pointer.type, I32, mask.type, vector])
        function = _declare(self.b, name, shape)
        zeros = ir.Constant(vector, None)
        return self.b.call(function, [pointer, ir.Constant(I32, align), mask, zeros])

    def _mask(self, count: ir.Value, lanes: int) -> ir.Value:
        """True for the first `count` lanes."""
        order = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        limit = _splat(self.b, self.b.trunc(count, I32), lanes)
        return self.b.icmp_signed("<", order, limit)

    def _prefetch(self, at: ir.Value) -> None:
        """Ask for what this row's reader comes to soon; with floats the processor does it best."""
        if self.kind in _STORED:
            return
        pointer = self.b.inttoptr(self.b.add(at, _i64(PREFETCH_BYTES)), I8.as_pointer())
        shape = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = _declare(self.b, "llvm.prefetch.p0", shape)
        read, keep, data = (ir.Constant(I32, value) for value in (0, 3, 1))
        self.b.call(function, [pointer, read, keep, data])

    # Arithmetic

    def _fma(self, total: ir.Value, a: ir.Value, x: ir.Value) -> None:
        self.b.store(self._fused(a, x, self.b.load(total)), total)

    def _fused(self, a: ir.Value, x: ir.Value, c: ir.Value) -> ir.Value:
        return fused(self.b, a, x, c)

    def _splat(self, value: ir.Value) -> ir.Value:
        return _splat(self.b, value, LANES)

    def _variable(self, value: ir.Value) -> ir.Value:
        with self.b.goto_entry_block():
            slot = self.b.alloca(value.type)
        self.b.store(value, slot)
        return slot

    def _store(self, row: int, n: int, total: ir.Value) -> None:
        value = sum_lanes(self.b, total)
        if self.kind == Kind.INT8_ROWS:
            value = self.b.fmul(value, self._scale(self.scales, row, _i64(0)))
        at = self.b.add(self.out, self.b.mul(self.out_stride, _i64(n)))
        at = self.b.add(at, self.b.mul(self.out_row, _i64(row)))
        pointer = self.b.inttoptr(at, F32.as_pointer())
        self.b.store(value, pointer)


def widen(b: ir.IRBuilder, raw: ir.Value, kind: Kind) -> ir.Value:
    """Stored numbers, a vector or one, as float32."""
    lanes = getattr(raw.type, "count", None)

    def shaped(element: Any) -> Any:
        return element if lanes is None else ir.VectorType(element, lanes)

    if kind == Kind.FLOAT32:
        return raw
    if kind == Kind.FLOAT16:
        return b.fpext(raw, shaped(F32))
    if kind == Kind.BFLOAT16:
        shift = ir.Constant(shaped(I32), 16 if lanes is None else [16] * lanes)
        return b.bitcast(b.shl(b.zext(raw, shaped(I32)), shift), shaped(F32))
    if kind == Kind.UINT8_GROUPS:
        return b.uitofp(b.zext(raw, shaped(I32)), shaped(F32))
    return b.sitofp(b.sext(raw, shaped(I32)), shaped(F32))


def fused(b: ir.IRBuilder, a: ir.Value, x: ir.Value, c: ir.Value) -> ir.Value:
    """a * x + c, rounded once."""
    lanes = getattr(a.type, "count", None)
    name = "llvm.fma.f32" if lanes is None else f"llvm.fma.v{lanes}f32"
    return b.call(_declare(b, name, ir.FunctionType(a.type, [a.type] * 3)), [a, x, c])


def sum_lanes(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Sum of a vector's numbers: halves onto each other, a fixed tree."""
    width = LANES
    while width > 1:
        width //= 2
        order = ir.VectorType(I32, width)
        low = b.shuffle_vector(vector, vector, ir.Constant(order, list(range(width))))
        high = b.shuffle_vector(vector, vector, ir.Constant(order, list(range(width, 2 * width))))
        vector = b.fadd(low, high)
    return b.extract_element(vector, ir.Constant(I32, 0))


def _declare(b: ir.IRBuilder, name: str, shape: ir.FunctionType) -> Any:
    known = b.module.globals.get(name)
    return ir.Function(b.module, shape, name) if known is None else known


def _splat(b: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    vector = ir.VectorType(value.type, lanes)
    first = b.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return b.shuffle_vector(first, first, zeros)


def _zeros() -> ir.Constant:
    return _splat_constant(0.0)


def _splat_constant(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [ir.Constant(F32, value)] * LANES)


def _splat_integer(value: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, LANES), [value] * LANES)


def _i64(value: int) -> ir.Constant:
    return ir.Constant(I64, value)
