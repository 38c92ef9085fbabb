"""A table of operations, and the layers it is put together from.

Activations lie channels last, so that every window of a convolution is one contiguous row: a
convolution is a product over overlapping rows of its input, a transposed one over pairs of
neighbouring rows, and nothing is copied to make it so. A layer's output is written, activated,
straight into the window of the next one. States stay as the modules have them: contexts are turned
round on the way in and out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvState, ConvTransposeState
from duologue.nn.feedforward import FeedForward
from duologue.nn.state import State
from duologue.nn.transformer import Transformer, TransformerLayer, TransformerState
from duologue.runtime import codec_kernels as k
from duologue.runtime.codec_pack import Matrix, Weights, aligned
from duologue.runtime.conv_finish import GELU, NO_ACTIVATION
from duologue.runtime.errors import Unsupported

INPUT, OUTPUT = 0, 1
"""Memory numbers of what goes in and what comes out; the state's tensors follow."""


@dataclass(frozen=True)
class Buffer:
    """Rows of `width` floats for each active slot, with spare rows before and after."""

    data: NDArray[np.float32]
    before: int
    rows: int
    width: int

    @property
    def stride(self) -> int:
        """Bytes from slot to slot."""
        return self.data.strides[0]

    @property
    def start(self) -> int:
        """Address of the first slot's first spare row."""
        return self.data.ctypes.data

    @property
    def body(self) -> int:
        """Address of the first slot's first row proper."""
        return self.start + self.before * self.width * 4


class Program:
    """Operations for `frames` frames of up to `slots` slots at once, in one direction."""

    def __init__(self, weights: Weights, template: State, slots: int, frames: int) -> None:
        """
        Args:
            template: a state of the kind that the program will run on.
        """
        self.slots, self.frames = slots, frames
        self.macs = 0
        """Multiplications of one slot, a measure of how much there is to share."""
        self.weight_bytes = 0
        """Of packed weights read in one run."""
        self.weights = weights
        self._numbers = {id(t): i + 2 for i, t in enumerate(template.tensors().values())}
        self._template = template
        self._rows: list[list[int]] = []
        self._kept: list[Any] = []
        self._contexts_out: list[list[int]] = []

    def finish(self) -> NDArray[np.int64]:
        """The table."""
        for row in self._contexts_out:
            self._rows.append(row)
        self._rows[-1][1] = 1
        table = np.zeros((len(self._rows), k.COLUMNS), np.int64)
        for index, row in enumerate(self._rows):
            table[index, : len(row)] = row
        return table

    # Parts that operations are made of.

    def memory(self, tensor: Tensor) -> int:
        """Number of a tensor of the template."""
        return self._numbers[id(tensor)]

    def buffer(self, rows: int, width: int, before: int = 0, after: int = 0) -> Buffer:
        data = aligned((self.slots, before + rows + after, width))
        self._kept.append(data)
        return Buffer(data, before, rows, width)

    def keep(self, array: NDArray[Any]) -> int:
        """Address of an array that lives as long as the program."""
        self._kept.append(array)
        return array.ctypes.data

    def add(self, kind: int, *columns: int, meet: bool = True) -> None:
        self._rows.append([kind, int(meet), *columns])

    def product(
        self,
        matrix: Matrix,
        x: int,
        x_stride: int,
        row_stride: int,
        rows: int,
        *,
        raw: Buffer | None = None,
        residual: Buffer | None = None,
        activation: int = NO_ACTIVATION,
        out: Buffer | None = None,
        begun: Buffer | None = None,
        meet: bool = True,
    ) -> None:
        """Product of `rows` rows a slot; see the kernel. Strides in bytes."""
        self.macs += rows * matrix.depth * matrix.columns
        self.weight_bytes += matrix.weights.nbytes
        self._kept.append(matrix)
        self.add(
            k.PRODUCT, x, x_stride, row_stride, rows, matrix.depth, matrix.columns,
            matrix.weights.ctypes.data, matrix.vectors, int(matrix.half), matrix.bias.ctypes.data,
            *_target(raw, matrix.columns), *_target(residual, matrix.columns), activation,
            *_target(out, matrix.columns), *((begun.start, begun.stride) if begun else ()),
            meet=meet,
        )  # fmt: skip

    # Layers.

    def window(self, conv: CausalConv1d, state: ConvState, rows: int) -> Buffer:
        """Input of a convolution: its context, then `rows` new ones."""
        before = conv.context
        window = self.buffer(rows, conv.in_channels, before)
        if before:
            self.remember(state.previous, window)
        return window

    def remember(self, context: Tensor, window: Buffer) -> None:
        """Have a window's spare rows be the end of what was in it last time, [slots, C, n]."""
        # Turned round well before its product: threads meet in between.
        where = [self.memory(context), window.width, window.before]
        self.add(k.CONTEXT_IN, *where, window.start, window.stride, meet=False)
        last = window.start + window.rows * window.width * 4
        self._contexts_out.append([k.CONTEXT_OUT, 0, *where, last, window.stride])

    def conv(self, conv: CausalConv1d, window: Buffer, **targets: Any) -> None:
        """The rows of a window, convolved."""
        self.product(
            self.weights.conv(conv), window.start, window.stride, conv.stride * window.width * 4,
            window.rows // conv.stride, **targets,
        )  # fmt: skip

    def transposed(
        self, conv: CausalConvTranspose1d, state: ConvTransposeState, window: Buffer, out: Buffer
    ) -> Buffer:
        """From a window with one zero row before and after; `out` gets the activated rows.

        Returns:
            The rows before the activation.
        """
        stride, channels = conv.stride, conv.out_channels
        rows = window.rows * stride
        # Each sum goes on where the last step left it, so that its order is that of one long step.
        begun = self.buffer(stride, channels)
        kept = [self.memory(state.partial), channels, conv.overlap]
        self.add(k.CONTEXT_IN, *kept, begun.start, begun.stride)
        raw = self.buffer(window.rows + 1, stride * channels)
        self.product(
            self.weights.transposed(conv), window.start, window.stride, window.width * 4,
            window.rows + 1, raw=raw, begun=begun,
        )  # fmt: skip
        last = raw.start + rows * channels * 4
        self._contexts_out.append([k.CONTEXT_OUT, 0, *kept, last, raw.stride])
        bias = np.zeros(channels, np.float32)
        if conv.bias is not None:
            bias = self.weights.array(conv.bias)
        self.add(
            k.FINISH, rows, channels, raw.start, raw.stride, self.keep(bias), out.body, out.stride
        )
        return Buffer(raw.data.reshape(self.slots, -1, channels), 0, rows, channels)

    def transformer(
        self, stack: Transformer, state: TransformerState, x: Buffer, out: Buffer
    ) -> None:
        """The stack over x (used up), into `out`."""
        config = stack.config
        if config.positional_embedding != "rope" or config.kv_repeat != 1:
            raise Unsupported("only interleaved rotary positions and full heads")
        width, heads, rows = config.head_dim, config.num_heads, x.rows
        wide = np.arange(width // 2, dtype=np.float64)
        frequencies = self.keep(config.max_period ** (-2.0 * wide / width))
        offsets = self.memory(state.offset)
        turn = self.buffer(rows, width)
        self.add(k.ROTATION, offsets, rows, width // 2, turn.start, frequencies)
        normed, mixed = self.buffer(rows, config.dim), self.buffer(rows, config.dim)
        heads_rows = self.buffer(rows, 3 * config.dim)
        hidden = self.buffer(rows, config.feedforward)
        scores = self.buffer(heads, config.context)
        ring = config.context + config.max_chunk - 1
        for index, layer in enumerate(stack.layers):
            last = index == len(stack.layers) - 1
            attention, feedforward, cache = layer.self_attn, layer.gating, state.layers[index].cache
            if not isinstance(feedforward, FeedForward) or config.cross_attention:
                raise Unsupported("gated feed-forward or cross-attention")
            self._norm(layer.norm1, x, normed)
            self.linear(self.weights.linear(attention.in_proj), normed, raw=heads_rows)
            self.add(
                k.ATTENTION, heads_rows.start, mixed.start, rows, heads, width,
                self.memory(cache.keys), self.memory(cache.values), offsets, ring, config.context,
                turn.start, scores.start,
            )  # fmt: skip
            self._add_branch(layer, attention.out_proj, layer.layer_scale_1, mixed, x, x)
            self._norm(layer.norm2, x, normed)
            self.linear(
                self.weights.linear(feedforward.linear_in), normed, activation=GELU, out=hidden
            )
            target = out if last else x
            self._add_branch(layer, feedforward.linear_out, layer.layer_scale_2, hidden, x, target)
        self.add(k.ADVANCE, offsets, rows, meet=False)

    def _norm(self, norm: nn.Module, x: Buffer, out: Buffer) -> None:
        if not isinstance(norm, nn.LayerNorm) or norm.eps != 1e-5:
            raise Unsupported("only layer norm")
        gain, bias = (self.keep(self.weights.array(p)) for p in (norm.weight, norm.bias))
        self.add(k.NORM, x.start, out.start, x.rows, x.width, gain, bias)

    def linear(self, matrix: Matrix, x: Buffer, **targets: Any) -> None:
        """Rows times a matrix, one for one."""
        self.product(matrix, x.body, x.stride, x.width * 4, x.rows, **targets)

    def _add_branch(
        self, layer: TransformerLayer, linear: nn.Module, scale: nn.Module, x: Buffer,
        residual: Buffer, out: Buffer,
    ) -> None:  # fmt: skip
        self.linear(self.weights.linear(linear, scale), x, residual=residual, raw=out)


def _target(buffer: Buffer | None, columns: int) -> tuple[int, int, int]:
    """Address, slot stride and row stride of where a product's rows go."""
    if buffer is None:
        return 0, 0, 0
    assert buffer.width == columns, (buffer.width, columns)
    return buffer.body, buffer.stride, columns * 4
