"""Matrix products on the CPU, weights read as they are stored: floats, 8 bits or 4 bits.

A `MatrixTable` describes the linear maps of a model by address, in rows of a table that compiled
code reads; the weights themselves stay where the model has them and are not copied. Only small
scales may be held a second time, in the type that the kernels read.
"""

from __future__ import annotations

import functools
from enum import IntEnum

import numpy as np
import torch
from numba.core import types
from torch import Tensor, nn

from duologue.nn.linear import Linear, QuantizedLinear, QuantizedWeight
from duologue.runtime.compile import address_of, kernel, make_call, variant
from duologue.runtime.errors import Unsupported
from duologue.runtime.linear_integer import make_arrange, make_integer_tile
from duologue.runtime.linear_tiles import BLOCK, FLOATS, GROUP, Kind, make_tile

ROWS_AT_ONCE = 4
_FLOATS = {
    torch.float32: Kind.FLOAT32,
    torch.float16: Kind.FLOAT16,
    torch.bfloat16: Kind.BFLOAT16,
}


class Field(IntEnum):
    """What each column of the table holds; addresses and strides count bytes."""

    PRODUCT = 0
    """Address of the code."""
    ARRANGE = 1
    """Address of the code that lays out its inputs, 0 if they are taken as they are."""
    ROWS = 2
    COLUMNS = 3
    WEIGHTS = 4
    WEIGHT_STRIDE = 5
    SCALES = 6
    OFFSETS = 7
    SCALE_STRIDE = 8


class MatrixTable:
    """Linear maps by number."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._tensors: list[Tensor] = []
        self._bytes = 0

    def add(self, module: nn.Module) -> int:
        """Describe a map; its number.

        Raises:
            Unsupported: it is none that the kernels know.
        """
        if isinstance(module, Linear):
            row = self._float(module.weight.data)
        elif isinstance(module, QuantizedLinear):
            row = self._quantized(module.quantized_weight)
        else:
            raise Unsupported(f"a linear map of type {type(module).__name__}")
        self._rows.append(row)
        return len(self._rows) - 1

    def array(self) -> np.ndarray:
        """The table, int64 [maps, fields]. Addresses in it live as long as `self`."""
        return np.array(self._rows or np.zeros((1, len(Field))), dtype=np.int64)

    def size(self, number: int) -> int:
        """Bytes that one product with a map reads."""
        row = self._rows[number]
        return row[Field.ROWS] * (
            row[Field.WEIGHT_STRIDE] + row[Field.SCALE_STRIDE] * (2 if row[Field.OFFSETS] else 1)
        )

    def _float(self, weight: Tensor) -> list[int]:
        if weight.dtype not in _FLOATS or weight.device.type != "cpu":
            raise Unsupported(f"weights in {weight.dtype} on {weight.device}")
        weight = self._keep(weight)
        rows, columns = weight.shape
        stride = columns * weight.element_size()
        product = product_address(_FLOATS[weight.dtype])
        return [product, 0, rows, columns, weight.data_ptr(), stride, 0, 0, 0]

    def _quantized(self, weight: QuantizedWeight) -> list[int]:
        if weight.codes.device.type != "cpu":
            raise Unsupported(f"weights on {weight.codes.device}")
        rows, columns = weight.shape
        kind, scales, offsets = _held(weight)
        codes, scales = self._keep(weight.codes), self._keep(scales)
        offset_address = 0 if offsets is None else self._keep(offsets).data_ptr()
        return [
            product_address(kind), arrange_address(planes=weight.bits == 4), rows, columns,
            codes.data_ptr(), codes.shape[1], scales.data_ptr(), offset_address,
            scales.shape[1] * scales.element_size(),
        ]  # fmt: skip

    def _keep(self, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        self._tensors.append(tensor)
        return tensor


def _held(weight: QuantizedWeight) -> tuple[Kind, Tensor, Tensor | None]:
    """How the kernels take a quantised matrix: kind, scales, offsets (by `GROUP` columns)."""
    scales, offsets, columns = weight.scales, weight.offsets, weight.shape[1]
    signed = weight.codes.dtype == torch.int8
    if signed and offsets is None and scales.shape[1] == 1:
        return Kind.INT8_ROWS, scales.float(), None
    group = columns // scales.shape[1]
    if group % GROUP:
        raise Unsupported(f"{weight.bits}-bit weights in groups of {group}")
    scales = scales.repeat_interleave(group // GROUP, 1)
    if offsets is not None:
        offsets = offsets.float().repeat_interleave(group // GROUP, 1)
    half = torch.equal(scales.half().float(), scales.float())
    if weight.bits == 4:
        if offsets is None and not half:
            offsets = -8.0 * scales.float()
        kind = Kind.INT4 if offsets is None else Kind.UINT4
    elif signed != (offsets is None):
        raise Unsupported(f"8-bit weights of type {weight.codes.dtype}, offsets {offsets is None}")
    elif signed and not half:
        raise Unsupported("8-bit weights in groups whose scales are not in float16")
    else:
        kind = Kind.INT8_GROUPS if signed else Kind.UINT8_GROUPS
    return kind, scales.half() if offsets is None else scales.float(), offsets


def padded(columns: int) -> int:
    """Numbers that a vector of `columns` takes in memory; those past its end must be zero."""
    return -(-columns // BLOCK) * BLOCK


@kernel
def share(count, rank, size):  # type: ignore[no-untyped-def]
    """Rows of one thread: [begin, end). Shares begin on cache lines, so none is written by two."""
    chunk = -(-count // size)
    chunk = -(-chunk // 16) * 16
    return min(rank * chunk, count), min((rank + 1) * chunk, count)


def make_rows(kind: Kind):  # type: ignore[no-untyped-def]
    """Product of rows [begin, end) with a whole batch."""
    make = make_tile if kind in FLOATS else make_integer_tile
    four_by_four, four_by_two = make(kind, ROWS_AT_ONCE, 4), make(kind, ROWS_AT_ONCE, 2)
    four_by_one, one_by_one = make(kind, ROWS_AT_ONCE, 1), make(kind, 1, 1)

    def rows(w, ws, s, o, ss, x, xs, columns, out, outs, batch, begin, end):  # type: ignore[no-untyped-def]
        # The rows of a tile lie far apart, so memory is read in a few long runs: what a processor
        # foresees best.
        apart = (end - begin) // ROWS_AT_ONCE
        for r in range(begin, begin + apart):
            wr, sr, orow, outr, n = w + r * ws, s + r * ss, o + r * ss, out + 4 * r, 0
            while n + 4 <= batch:
                four_by_four(
                    wr, apart * ws, sr, orow, apart * ss, x + n * xs, xs, columns,
                    outr + n * outs, 4 * apart, outs,
                )  # fmt: skip
                n += 4
            if n + 2 <= batch:
                four_by_two(
                    wr, apart * ws, sr, orow, apart * ss, x + n * xs, xs, columns,
                    outr + n * outs, 4 * apart, outs,
                )  # fmt: skip
                n += 2
            if n < batch:
                four_by_one(
                    wr, apart * ws, sr, orow, apart * ss, x + n * xs, xs, columns,
                    outr + n * outs, 4 * apart, outs,
                )  # fmt: skip
        for r in range(begin + apart * ROWS_AT_ONCE, end):
            for n in range(batch):
                one_by_one(
                    w + r * ws, ws, s + r * ss, o + r * ss, ss, x + n * xs, xs, columns,
                    out + 4 * r + n * outs, 4, outs,
                )  # fmt: skip

    return variant(rows, f"rows_{kind.name.lower()}")


_float32, _float16, _bfloat16, _int8_rows, _int8_groups, _uint8_groups, _int4, _uint4 = (
    make_rows(kind) for kind in Kind
)


def _product_float32(a, b, c, d, e, f, g, h, i, j, k, l, m):  # type: ignore[no-untyped-def]  # noqa: E741
    _float32(a, b, c, d, e, f, g, h, i, j, k, l, m)


def _product_float16(a, b, c, d, e, f, g, h, i, j, k, l, m):  # type: ignore[no-untyped-def]  # noqa: E741
    _float16(a, b, c, d, e, f, g, h, i, j, k, l, m)


def _product_bfloat16(a, b, c, d, e, f, g, h, i, j, k, l, m):  # type: ignore[no-untyped-def]  # noqa: E741
    _bfloat16(a, b, c, d, e, f, g, h, i, j, k, l, m)


def _product_int8_rows(a, b, c, d, e, f, g, h, i, j, k, l, m):  # type: ignore[no-untyped-def]  # noqa: E741
    _int8_rows(a, b, c, d, e, f, g, h, i, j, k, l, m)


def _product_int8_groups(a, b, c, d, e, f, g, h, i, j, k, l, m):  # type: ignore[no-untyped-def]  # noqa: E741
    _int8_groups(a, b, c, d, e, f, g, h, i, j, k, l, m)


def _product_uint8_groups(a, b, c, d, e, f, g, h, i, j, k, l, m):  # type: ignore[no-untyped-def]  # noqa: E741
    _uint8_groups(a, b, c, d, e, f, g, h, i, j, k, l, m)


def _product_int4(a, b, c, d, e, f, g, h, i, j, k, l, m):  # type: ignore[no-untyped-def]  # noqa: E741
    _int4(a, b, c, d, e, f, g, h, i, j, k, l, m)


def _product_uint4(a, b, c, d, e, f, g, h, i, j, k, l, m):  # type: ignore[no-untyped-def]  # noqa: E741
    _uint4(a, b, c, d, e, f, g, h, i, j, k, l, m)


# One function by name for each kind: numba keeps compiled code by name and line.
_PRODUCTS = {
    Kind.FLOAT32: _product_float32, Kind.FLOAT16: _product_float16,
    Kind.BFLOAT16: _product_bfloat16, Kind.INT8_ROWS: _product_int8_rows,
    Kind.INT8_GROUPS: _product_int8_groups, Kind.UINT8_GROUPS: _product_uint8_groups,
    Kind.INT4: _product_int4, Kind.UINT4: _product_uint4,
}  # fmt: skip
_ARGUMENTS = 13
call_product = make_call(_ARGUMENTS)


@functools.cache
def product_address(kind: Kind) -> int:
    """Where the product with matrices of a kind is, for `call_product`."""
    return address_of(types.void(*[types.int64] * _ARGUMENTS), _PRODUCTS[kind])


_arrange_plain, _arrange_in_planes = make_arrange(planes=False), make_arrange(planes=True)


def _plain(x, columns, out):  # type: ignore[no-untyped-def]
    _arrange_plain(x, columns, out)


def _in_planes(x, columns, out):  # type: ignore[no-untyped-def]
    _arrange_in_planes(x, columns, out)


call_arrange = make_call(3)


@functools.cache
def arrange_address(*, planes: bool) -> int:
    """Where the code is that lays out a vector for integer weights, for `call_arrange`."""
    return address_of(types.void(*[types.int64] * 3), _in_planes if planes else _plain)


_PRODUCT, _ARRANGE, _COLUMNS, _WEIGHTS, _WEIGHT_STRIDE, _SCALES, _OFFSETS, _SCALE_STRIDE = (
    int(field)
    for field in (
        Field.PRODUCT, Field.ARRANGE, Field.COLUMNS, Field.WEIGHTS, Field.WEIGHT_STRIDE,
        Field.SCALES, Field.OFFSETS, Field.SCALE_STRIDE,
    )
)  # fmt: skip


@kernel
def project(matrix, x, batch, out, begin, end, arranged):  # type: ignore[no-untyped-def]
    """Rows [begin, end) of y = W x for each vector of a batch.

    Args:
        matrix: one row of a `MatrixTable`.
        x: float32 [>= batch, padded(columns)], zero past the columns.
        out: float32 [>= batch, >= rows]; other rows than the given are left alone.
        arranged: this thread's room to lay the vectors out in, as wide as `x` or wider.
    """
    columns = matrix[_COLUMNS]
    inputs, stride = np.int64(x.ctypes.data), np.int64(x.strides[0])
    if matrix[_ARRANGE]:
        room, apart = np.int64(arranged.ctypes.data), np.int64(arranged.strides[0])
        for n in range(batch):
            call_arrange(matrix[_ARRANGE], inputs + n * stride, columns, room + n * apart)
        inputs, stride = room, apart
    call_product(
        matrix[_PRODUCT], matrix[_WEIGHTS], matrix[_WEIGHT_STRIDE], matrix[_SCALES],
        matrix[_OFFSETS], matrix[_SCALE_STRIDE], inputs, stride, columns,
        np.int64(out.ctypes.data), np.int64(out.strides[0]), np.int64(batch), np.int64(begin),
        np.int64(end),
    )  # fmt: skip
