"""What happens to a tile of sums: a residual is added; it is stored as it is, activated, or both.

Written in LLVM's own instructions, like the tile itself, because the rows of a tile are short: a
loop whose length and neighbours the compiler does not know spends more on finding out than on the
work. Numbers are treated one for one, so nothing here depends on which rows share a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from duologue.runtime.compile import LANES
from duologue.runtime.conv_tile import MAX_ROWS, intrinsic

NO_ACTIVATION, ELU, GELU, SILU = range(4)
ROW, BEGIN, OLD, RAW, OUT = (kind * MAX_ROWS for kind in range(5))
"""Where the addresses of a tile's rows stand in its table: the inputs, what sums start from, the
residual, and where to store sums as they are and activated (0 for none, in all rows)."""
TABLE_BYTES = 8 * 5 * MAX_ROWS

_I1, _I32, _I64, _F32 = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR, _WHOLE = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_MASK = ir.VectorType(_I1, LANES)

# exp(r) on |r| <= ln(2) / 2: 1 + r + r^2 times this, fitted for the least largest relative error.
_EXP = (0.49999997, 0.16666472, 0.041667648, 0.0083669, 0.00137984)
# erfc(z) = exp(-z^2) P(t) with t = 1 / (1 + 0.3 z), z >= 0; P fitted likewise, without a constant.
_ERFC_STEP = 0.3
_ERFC = (
    0.16919069, 0.17067635, 0.14857794, 0.21411078, -0.092955567, 0.54551899, -0.51053262,
    0.48478910, -0.12937570,
)  # fmt: skip


@intrinsic
def finish_tile(
    context: Any, table: Any, count: Any, vectors: Any, used: Any, activation: Any, tile: Any
) -> Any:
    """Add, activate and store the rows of a tile.

    Args (all int64):
        table: address of the addresses of its rows.
        count, vectors, used: rows, vectors of a row, and columns of them that there are.
        tile: address of the sums, float32 [count, vectors * LANES].
    """

    def generate(ctx: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_function(builder.module), args)
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def _function(module: Any) -> Any:
    name = "duologue_finish_tile"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 6), name)
    function.linkage = "internal"
    # See `tile_product`: its constants are to take no register from that loop.
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    table, count, vectors, used, activation, tile = function.args
    choice = b.switch(activation, function.append_basic_block("other"))
    ir.IRBuilder(choice.default).ret_void()
    for kind in (NO_ACTIVATION, *_FUNCTIONS):
        block = function.append_basic_block(f"activation_{kind}")
        choice.add_case(_I64(kind), block)
        _Rows(ir.IRBuilder(block), kind, table, count, vectors, used, tile).run()
    return function


class _Rows:
    """Writes the loop over a tile's vectors, for one activation."""

    def __init__(self, b: Any, kind: int, *args: Any) -> None:
        self.b, self.kind = b, kind
        self.table, self.count, self.vectors, self.used, self.tile = args

    def run(self) -> None:
        b = self.b
        partial = b.icmp_signed("<", self.used, b.mul(self.vectors, _I64(LANES)))
        with b.if_else(partial) as (rest, whole):
            with rest:
                self._loops(masked=True)
            with whole:
                self._loops(masked=False)
        b.ret_void()

    def _loops(self, masked: bool) -> None:
        b = self.b
        with cgutils.for_range(b, self.count, intp=_I64) as rows:
            starts = [self._address(kind, rows.index) for kind in (OLD, RAW, OUT)]
            with cgutils.for_range(b, self.vectors, intp=_I64) as columns:
                first = b.mul(columns.index, _I64(LANES))
                at = b.add(b.mul(b.mul(rows.index, self.vectors), _I64(LANES)), first)
                mask = self._mask(b.sub(self.used, first)) if masked else None
                self._vector(b.add(self.tile, b.shl(at, _I64(2))), first, starts, mask)

    def _address(self, kind: int, row: Any) -> Any:
        place = self.b.add(self.table, self.b.shl(self.b.add(row, _I64(kind)), _I64(3)))
        return self.b.load(self.b.inttoptr(place, _I64.as_pointer()))

    def _mask(self, left: Any) -> Any:
        b = self.b
        limit = splat(b, b.trunc(left, _I32))
        return b.icmp_signed("<", ir.Constant(_WHOLE, list(range(LANES))), limit)

    def _vector(self, at: Any, first: Any, starts: Sequence[Any], mask: Any) -> None:
        b = self.b
        old, raw, out = (b.add(start, b.shl(first, _I64(2))) for start in starts)
        place = cgutils.alloca_once(b, _VECTOR)
        b.store(b.load(b.inttoptr(at, _VECTOR.as_pointer()), align=4), place)
        with b.if_then(b.icmp_signed("!=", starts[0], _I64(0))):
            b.store(b.fadd(b.load(place), self._load(old, mask)), place)
        with b.if_then(b.icmp_signed("!=", starts[1], _I64(0))):
            self._store(b.load(place), raw, mask)
        if self.kind != NO_ACTIVATION:
            self._store(_FUNCTIONS[self.kind](b, b.load(place)), out, mask)

    def _load(self, at: Any, mask: Any) -> Any:
        pointer = self.b.inttoptr(at, _VECTOR.as_pointer())
        if mask is None:
            return self.b.load(pointer, align=4)
        shape = ir.FunctionType(_VECTOR, [pointer.type, _I32, _MASK, _VECTOR])
        name = f"llvm.masked.load.v{LANES}f32.p0"
        load = cgutils.get_or_insert_function(self.b.module, shape, name)
        return self.b.call(load, [pointer, _I32(4), mask, ir.Constant(_VECTOR, None)])

    def _store(self, value: Any, at: Any, mask: Any) -> None:
        pointer = self.b.inttoptr(at, _VECTOR.as_pointer())
        if mask is None:
            self.b.store(value, pointer, align=4)
            return
        shape = ir.FunctionType(ir.VoidType(), [_VECTOR, pointer.type, _I32, _MASK])
        name = f"llvm.masked.store.v{LANES}f32.p0"
        store = cgutils.get_or_insert_function(self.b.module, shape, name)
        self.b.call(store, [value, pointer, _I32(4), mask])


# Functions of vectors.


def elu(b: Any, x: Any) -> Any:
    """x above zero, e^x - 1 below."""
    zero = splat_of(0.0)
    below = b.fsub(exponential(b, _least(b, x, zero)), splat_of(1.0))
    return b.select(b.fcmp_ordered("<=", x, zero), below, x)


def gelu(b: Any, x: Any) -> Any:
    """x times the normal distribution's integral up to x, to about one part in 10^6."""
    size = _call(b, "fabs", x)
    z = b.fmul(size, splat_of(math.sqrt(0.5)))
    t = b.fdiv(splat_of(1.0), _fused(b, splat_of(_ERFC_STEP), z, splat_of(1.0)))
    rest = b.fmul(exponential(b, b.fneg(b.fmul(z, z))), b.fmul(_polynomial(b, t, _ERFC), t))
    above = b.fsub(splat_of(2.0), rest)
    twice = b.select(b.fcmp_ordered(">", x, splat_of(0.0)), above, rest)
    return b.fmul(b.fmul(splat_of(0.5), x), twice)


def silu(b: Any, x: Any) -> Any:
    """x / (1 + e^-x)"""
    size = exponential(b, b.fneg(_call(b, "fabs", x)))
    share = b.select(b.fcmp_ordered(">=", x, splat_of(0.0)), splat_of(1.0), size)
    return b.fdiv(b.fmul(x, share), b.fadd(splat_of(1.0), size))


_FUNCTIONS = {ELU: elu, GELU: gelu, SILU: silu}


def exponential(b: Any, x: Any) -> Any:
    """e^x for x <= 0 (and NaN), to about one part in 10^7; below -87 it stays at e^-87."""
    x = b.select(b.fcmp_ordered("<", x, splat_of(-87.0)), splat_of(-87.0), x)
    n = b.fptosi(b.fsub(b.fmul(x, splat_of(math.log2(math.e))), splat_of(0.5)), _WHOLE)
    whole = b.sitofp(n, _VECTOR)
    r = _fused(b, whole, splat_of(-0.693359375), x)
    r = _fused(b, whole, splat_of(2.12194440e-4), r)
    result = _fused(b, b.fmul(r, r), _polynomial(b, r, _EXP), b.fadd(splat_of(1.0), r))
    power = b.shl(b.add(n, ir.Constant(_WHOLE, [127] * LANES)), ir.Constant(_WHOLE, [23] * LANES))
    return b.fmul(result, b.bitcast(power, _VECTOR))


def splat(b: Any, value: Any) -> Any:
    """A vector of one number."""
    kind = ir.VectorType(value.type, LANES)
    first = b.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return b.shuffle_vector(first, first, ir.Constant(_WHOLE, [0] * LANES))


def splat_of(value: float) -> Any:
    """The same of a constant."""
    return ir.Constant(_VECTOR, [value] * LANES)


def _polynomial(b: Any, x: Any, coefficients: Sequence[float]) -> Any:
    value = splat_of(coefficients[-1])
    for one in coefficients[-2::-1]:
        value = _fused(b, value, x, splat_of(one))
    return value


def _least(b: Any, x: Any, limit: Any) -> Any:
    return b.select(b.fcmp_ordered("<", x, limit), x, limit)


def _fused(b: Any, x: Any, y: Any, z: Any) -> Any:
    return _call(b, "fma", x, y, z)


def _call(b: Any, name: str, *args: Any) -> Any:
    shape = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    return b.call(cgutils.get_or_insert_function(b.module, shape, f"llvm.{name}.v{LANES}f32"), args)
