"""Compiled matrix products against the matrices that their codes stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from duologue.nn.linear import (
    Linear,
    QuantizedLinear,
    QuantizedWeight,
    quantize_groups,
    quantize_rows,
)

pytest.importorskip("numba")

from duologue.runtime.compile import entry
from duologue.runtime.errors import Unsupported
from duologue.runtime.linear import MatrixTable, padded, project
from duologue.runtime.linear_integer import LARGEST, SMALLEST
from duologue.runtime.linear_tiles import BLOCK
from duologue.runtime.lm_layers import aligned_zeros

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GROUPED = ("int8_groups", "uint8_groups", "int4", "uint4", "uint4_of_64")


@entry
def run(matrix, x, batch, out, begin, end, arranged):  # type: ignore[no-untyped-def]
    project(matrix, x, batch, out, begin, end, arranged)


def linear(kind: str, rows: int, columns: int) -> nn.Module:
    torch.manual_seed(rows)
    if kind in FLOATS:
        return Linear(columns, rows).to(FLOATS[kind])
    weight = torch.randn(rows, columns)
    if kind == "int8_rows":
        return QuantizedLinear(quantize_rows(weight))
    if kind == "int4":
        return QuantizedLinear(quantize_groups(weight))
    group = 64 if kind == "uint4_of_64" else 32
    scales, offsets = torch.rand(rows, columns // group), torch.randn(rows, columns // group)
    if kind == "int8_groups":
        codes = torch.randint(-128, 128, (rows, columns)).to(torch.int8)
        return QuantizedLinear(QuantizedWeight(codes, scales.half()))
    width, bits = (columns, 8) if kind == "uint8_groups" else (columns // 2, 4)
    codes = torch.randint(0, 256, (rows, width)).to(torch.uint8)
    return QuantizedLinear(QuantizedWeight(codes, scales.bfloat16(), offsets.bfloat16(), bits))


def product(module: nn.Module, x: torch.Tensor, parts: int = 1) -> torch.Tensor:
    """Rows in `parts` shares, as threads would."""
    table = MatrixTable()
    table.add(module)
    batch, columns = x.shape
    room = [aligned_zeros((batch, padded(columns))) for _ in range(2)]
    room[0][:, :columns] = x.numpy()
    rows = module.out_features
    out = np.full((batch, rows), np.nan, dtype=np.float32)
    for part in range(parts):
        begin, end = part * rows // parts, (part + 1) * rows // parts
        run(table.array()[0], room[0], batch, out, begin, end, room[1])
    return torch.from_numpy(out)


@pytest.mark.parametrize("kind", [*FLOATS, "int8_rows", *GROUPED])
@pytest.mark.parametrize("shape", [(37, 64), (18, 192), (64, 320), (5, 341)])
def test_products_are_those_of_the_widened_weights(kind: str, shape: tuple[int, int]) -> None:
    rows, columns = shape
    if columns % 64 and kind in GROUPED:
        columns = 384
    module = linear(kind, rows, columns)
    loudness = torch.tensor([1.0, 1e-3, 40.0, 0.0, 1.0, 1e4, 1.0])[:, None]
    x = torch.randn(7, columns) * loudness
    made = product(module, x)
    whole = module.weight.detach().float() if kind in FLOATS else None
    if whole is None:
        wide, x = module.quantized_weight.dequantize(), rounded(x)
    else:
        wide = whole
    tolerance = 2e-6 * float(wide.abs().sum(1).max())
    louder = loudness.clamp(min=1e-3)
    torch.testing.assert_close(made / louder, x @ wide.T / louder, rtol=1e-5, atol=tolerance)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """What integer weights are multiplied with, [..., columns]: 16 bits, a scale for each block."""
    blocks = torch.nn.functional.pad(x, (0, -x.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    peaks = blocks.abs().amax(-1, keepdim=True)
    codes = (blocks * (LARGEST / peaks.clamp(min=SMALLEST))).round()
    return (codes * (peaks / LARGEST)).flatten(-2)[..., : x.shape[-1]]


def test_rounding_a_vector_moves_it_less_than_float16_would() -> None:
    x = torch.randn(64, 512)
    error = (rounded(x) - x).norm() / x.norm()
    assert error < 4e-5
    assert error < (x.half().float() - x).norm() / x.norm() / 2


@pytest.mark.parametrize("kind", ["int8_rows", *GROUPED])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(kind: str, odd: float) -> None:
    """A fault further up must be seen, not become a number."""
    module, x = linear(kind, 8, 256), torch.randn(2, 256)
    x[1, 150] = odd
    made = product(module, x)
    assert made[0].isfinite().all()
    assert not made[1].isfinite().any()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8_rows", *GROUPED[:-1]])
def test_bits_depend_neither_on_the_batch_nor_on_the_division_of_rows(kind: str) -> None:
    module, x = linear(kind, 43, 160), torch.randn(8, 160)
    together = product(module, x)
    for slots in (1, 2, 3, 7):
        assert torch.equal(product(module, x[:slots], parts=3), together[:slots])


def test_four_bits_are_near() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    widened = quantize_groups(weight).dequantize()
    error = (widened - weight).norm() / weight.norm()
    assert error < 0.09
    assert torch.equal(quantize_groups(widened).dequantize(), widened)
    assert torch.equal(quantize_groups(torch.zeros(2, 32)).dequantize(), torch.zeros(2, 32))


def test_unknown_maps_are_named() -> None:
    codes = torch.randint(0, 256, (4, 12), dtype=torch.uint8)
    scales = torch.rand(4, 2)
    odd = QuantizedLinear(QuantizedWeight(codes, scales, scales, 4))
    with pytest.raises(Unsupported, match="groups of 12"):
        MatrixTable().add(odd)
    with pytest.raises(Unsupported, match="Conv1d"):
        MatrixTable().add(nn.Conv1d(1, 1, 1))
