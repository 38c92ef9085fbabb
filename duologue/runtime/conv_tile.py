"""The pieces that numba lacks, written in LLVM's own instructions, so that any processor gets them.

`tile_product` is the heart of the runtime: a few rows of activations times one packed block of
weights, with all sums in vector registers. Rows are given by address, so that they may overlap (a
streaming convolution is a product over overlapping windows) and may belong to different slots. Each
sum runs over the depth in order, whatever rows share the tile: a slot's result does not depend on
its neighbours, to the bit. The rest are one-liners, such as addresses as pointers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _numba_intrinsic

from duologue.runtime.compile import LANES

MAX_VECTORS = 2
MAX_ROWS = 8 if LANES == 16 else 4
"""Rows of a tile: as many as keep all its sums in registers."""

_I64 = ir.IntType(64)
_F32, _F16 = ir.FloatType(), ir.HalfType()
_VECTOR = ir.VectorType(_F32, LANES)
_SPLAT = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)


def intrinsic(typing: Callable[..., Any]) -> Any:
    """numba's, untyped: what it decorates is called with fewer arguments than it has."""
    return _numba_intrinsic(typing)


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _tile_function(module: Any) -> Any:
    """The product as one function of the module, with a loop for each shape of tile."""
    name = "duologue_tile_product"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 7), name)
    function.linkage = "internal"
    # Written into its caller, it shares registers with all that lives there (`finish_tile`'s
    # constants, above all): sums went to memory in the loop, and it took 1.6 times as long.
    function.attributes.add("noinline")
    shape = ir.IRBuilder(function.append_basic_block("entry"))
    rows, count, weights, depth, vectors, half, out = function.args
    # One number for (half, vectors, count), so that one switch finds the loop.
    chosen = shape.add(
        shape.mul(shape.add(shape.mul(half, _I64(MAX_VECTORS + 1)), vectors), _I64(MAX_ROWS + 1)),
        count,
    )
    other = function.append_basic_block("other")
    switch = shape.switch(chosen, other)
    ir.IRBuilder(other).ret_void()
    for is_half in (0, 1):
        for n in range(1, MAX_VECTORS + 1):
            for m in range(1, MAX_ROWS + 1):
                key = (is_half * (MAX_VECTORS + 1) + n) * (MAX_ROWS + 1) + m
                block = _tile_loop(function, rows, weights, depth, out, m, n, bool(is_half))
                switch.add_case(_I64(key), block)
    return function


def _tile_loop(
    function: Any, rows: Any, weights: Any, depth: Any, out: Any, m: int, n: int, half: bool
) -> Any:
    """Block that computes an m x (n * LANES) tile and returns."""
    before = function.append_basic_block(f"tile_{m}_{n}_{half}")
    loop = function.append_basic_block(f"loop_{m}_{n}_{half}")
    after = function.append_basic_block(f"store_{m}_{n}_{half}")
    step = _F16 if half else _F32
    fmuladd = cgutils.get_or_insert_function(
        function.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
    )

    b = ir.IRBuilder(before)
    table = _pointer(b, rows, _I64)
    starts = [_pointer(b, b.load(b.gep(table, [_I64(i)])), _F32) for i in range(m)]
    block = _pointer(b, weights, step)
    places = [
        [b.gep(_pointer(b, out, _F32), [_I64((i * n + j) * LANES)]) for j in range(n)]
        for i in range(m)
    ]
    cells = [[b.bitcast(place, _VECTOR.as_pointer()) for place in row] for row in places]
    begins = [_pointer(b, b.load(b.gep(table, [_I64(MAX_ROWS + i)])), _F32) for i in range(m)]
    first = [
        [
            b.load(b.bitcast(b.gep(begin, [_I64(j * LANES)]), _VECTOR.as_pointer()), align=4)
            for j in range(n)
        ]
        for begin in begins
    ]
    b.branch(loop)

    b = ir.IRBuilder(loop)
    k = b.phi(_I64)
    sums = [[b.phi(_VECTOR) for _ in range(n)] for _ in range(m)]
    w = []
    for j in range(n):
        place = b.gep(block, [b.add(b.mul(k, _I64(n * LANES)), _I64(j * LANES))])
        kind = ir.VectorType(step, LANES)
        vector = b.load(b.bitcast(place, kind.as_pointer()), align=LANES * (2 if half else 4))
        w.append(b.fpext(vector, _VECTOR) if half else vector)
    new = []
    for i in range(m):
        x = b.load(b.gep(starts[i], [k]), align=4)
        single = b.insert_element(ir.Constant(_VECTOR, ir.Undefined), x, ir.IntType(32)(0))
        wide = b.shuffle_vector(single, single, _SPLAT)
        new.append([b.call(fmuladd, [wide, w[j], sums[i][j]]) for j in range(n)])
    following = b.add(k, _I64(1))
    k.add_incoming(_I64(0), before)
    k.add_incoming(following, loop)
    for i in range(m):
        for j in range(n):
            sums[i][j].add_incoming(first[i][j], before)
            sums[i][j].add_incoming(new[i][j], loop)
    b.cbranch(b.icmp_signed("<", following, depth), loop, after)

    b = ir.IRBuilder(after)
    for i in range(m):
        for j in range(n):
            b.store(new[i][j], cells[i][j], align=4)
    b.ret_void()
    return before


@intrinsic
def tile_product(
    context: Any, rows: Any, count: Any, weights: Any, depth: Any, vectors: Any, half: Any, out: Any
) -> Any:
    """out[i, :] = begins[i][:] + sum over k of rows[i][k] * weights[k, :], for `count` rows.

    Args (all int64):
        rows: address of a table: the addresses of `MAX_ROWS` rows (float32, `depth` long), then
            those of what their sums begin with (float32, `vectors * LANES` long).
        weights: address of the block [depth, vectors * LANES], float32 or (`half`) float16.
        out: address of float32 [count, vectors * LANES].
    """

    def generate(ctx: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_tile_function(builder.module), args)
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


def _pointer_to(kind: Any) -> Any:
    def typing(context: Any, address: Any) -> Any:
        def generate(ctx: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], ctx.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    return intrinsic(typing)


floats = _pointer_to(types.float32)
"""An address as something to index: float32 there."""
doubles = _pointer_to(types.float64)
"""The same for float64."""
longs = _pointer_to(types.int64)
"""The same for int64."""
flags = _pointer_to(types.uint8)
"""The same for bytes."""


@intrinsic
def truncate(context: Any, x: Any) -> Any:
    """Towards zero, for |x| below 2^31, without leaving vector registers."""

    def generate(ctx: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(builder.fptosi(args[0], ir.IntType(32)), _F32)

    return types.float32(types.float32), generate


@intrinsic
def power_of_two(context: Any, exponent: Any) -> Any:
    """2^n for a float32 that is a whole number from -126 to 127."""

    def generate(ctx: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        biased = builder.add(builder.fptosi(args[0], i32), i32(127))
        return builder.bitcast(builder.shl(biased, i32(23)), _F32)

    return types.float32(types.float32), generate
