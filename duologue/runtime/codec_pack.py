"""A codec's weights in the order in which the kernels read them.

Every matrix is held as [depth, columns] in blocks of columns, so that a block is read from end to
end; the order of the depth is that of a window's numbers, channels last. Gains per channel are
folded in. With `half`, large matrices are held in float16 (sums stay float32): activations keep
their precision, and half the memory is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from duologue.mimi.quantizer import Codebook
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from duologue.nn.linear import Linear
from duologue.nn.norm import LayerScale
from duologue.runtime.compile import LANES
from duologue.runtime.conv_tile import MAX_VECTORS
from duologue.runtime.errors import Unsupported

ALIGNMENT = 64
"""Bytes of a cache line, where packed weights and buffers begin."""
HALF_FROM = 2**16
"""Matrices of at least so many weights are held in float16 when that is asked for."""


@dataclass(frozen=True)
class Matrix:
    """A packed matrix [depth, columns] in blocks of columns, with a bias for each column."""

    weights: NDArray[Any]
    bias: NDArray[np.float32]
    depth: int
    columns: int
    vectors: int

    @property
    def half(self) -> bool:
        return self.weights.dtype == np.float16

    @classmethod
    def pack(cls, matrix: Tensor, bias: Tensor | None, half: bool) -> Matrix:
        """From [depth, columns]."""
        depth, columns = matrix.shape
        vectors = 1 if columns <= LANES else MAX_VECTORS
        width = vectors * LANES
        blocks = -(-columns // width)
        padded = np.zeros((depth, blocks * width), np.float32)
        padded[:, :columns] = matrix.numpy()
        packed = padded.reshape(depth, blocks, width).transpose(1, 0, 2)
        kind = np.float16 if half and matrix.numel() >= HALF_FROM else np.float32
        place = aligned((blocks, depth, width), kind)
        place[:] = packed
        offsets = np.zeros(blocks * width, np.float32)
        if bias is not None:
            offsets[:columns] = bias.numpy()
        return cls(place, offsets, depth, columns, vectors)


def aligned(shape: tuple[int, ...], kind: Any = np.float32) -> NDArray[Any]:
    """Zeros that begin at a cache line, with room after them: a last row is read in whole tiles."""
    count = int(np.prod(shape)) * np.dtype(kind).itemsize
    block = np.zeros(count + ALIGNMENT + MAX_VECTORS * LANES * 4, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + count].view(kind).reshape(shape)


class Weights:
    """What has been packed, by the tensors it came from: programs of several lengths share it."""

    def __init__(self, half: bool) -> None:
        self.half = half
        self._matrices: dict[int, Matrix] = {}
        self._arrays: dict[int, NDArray[Any]] = {}

    def matrix(self, source: Tensor, build: Callable[[], tuple[Tensor, Tensor | None]]) -> Matrix:
        """Packed form of what `build` makes of `source`."""
        key = id(source)
        if key not in self._matrices:
            self._matrices[key] = Matrix.pack(*build(), self.half)
        return self._matrices[key]

    def array(self, source: Tensor, build: Callable[[], NDArray[Any]] | None = None) -> Any:
        """Contiguous copy of a tensor, or of what `build` makes of it."""
        key = id(source)
        if key not in self._arrays:
            made = np.array(source.detach().numpy(), order="C") if build is None else build()
            self._arrays[key] = made
        return self._arrays[key]

    def conv(self, conv: CausalConv1d) -> Matrix:
        """[out, in, kernel] as [kernel * in, out], the order of a window's numbers."""
        weight, bias = conv.weight.detach(), conv.bias
        if conv.dilation != 1 or conv.groups != 1:
            raise Unsupported("convolutions with dilation or groups")
        return self.matrix(
            conv.weight, lambda: (weight.permute(2, 1, 0).flatten(0, 1), _detached(bias))
        )

    def transposed(self, conv: CausalConvTranspose1d) -> Matrix:
        """[in, out, 2 * stride] as [2 * in, stride * out]: the row before, then the row itself."""
        weight, stride = conv.weight.detach(), conv.stride
        if conv.groups != 1 or weight.shape[2] != 2 * stride:
            raise Unsupported("transposed convolutions but with kernel = 2 * stride")

        def build() -> tuple[Tensor, None]:
            taps = weight.unflatten(2, (2, stride)).permute(2, 0, 3, 1)  # [2, in, stride, out]
            return taps.flip(0).flatten(2).flatten(0, 1), None

        return self.matrix(conv.weight, build)

    def linear(self, linear: nn.Module, scale: nn.Module | None = None) -> Matrix:
        """[out, in] as [in, out], a gain per output folded in."""
        if not isinstance(linear, Linear):
            raise Unsupported(f"a {type(linear).__name__} instead of a plain linear map")
        weight = linear.weight.detach()

        def build() -> tuple[Tensor, None]:
            gain = scale.scale.detach()[:, None] if isinstance(scale, LayerScale) else 1.0
            return (weight * gain).t(), None

        return self.matrix(linear.weight, build)

    def codebook(self, book: Codebook) -> Matrix:
        """Scores x . e - |e|^2 / 2 of the centroids e: the greatest is the nearest."""
        table = book.embedding

        def build() -> tuple[Tensor, Tensor]:
            return table.t(), -table.square().sum(dim=1) / 2

        return self.matrix(table, build)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
