"""The codec's two directions as programs.

A sequence of layers is walked with one question: what does the next layer want of this value? A
residual unit wants it as it is and activated, a convolution activated in its window, the end as it
is. Only then is the operation written that makes the value, and it puts it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import nn

from duologue.mimi.codec import DecoderState, EncoderState, Mimi
from duologue.mimi.quantizer import ResidualQuantizer
from duologue.mimi.seanet import ResidualUnit
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from duologue.nn.linear import Linear
from duologue.nn.norm import LayerScale
from duologue.nn.sequence import SequenceState, StreamingSequence
from duologue.runtime import codec_kernels as k
from duologue.runtime.codec_pack import Weights
from duologue.runtime.codec_program import INPUT, OUTPUT, Buffer, Program
from duologue.runtime.conv_finish import ELU, NO_ACTIVATION
from duologue.runtime.errors import Unsupported

Put = Callable[[Buffer | None, Buffer | None], Buffer | None]
"""Make a value and put it (as it is, activated); returns where it is kept as it is."""


def check(codec: Mimi) -> None:
    """Raise `Unsupported` for a codec that has layers which no program can hold."""
    for name, module in codec.named_modules():
        odd = isinstance(module, CausalConv1d) and (module.dilation != 1 or module.groups != 1)
        known = (Linear, CausalConv1d, CausalConvTranspose1d, nn.LayerNorm)
        leaf = not any(module.children())
        if odd or (
            leaf
            and any(True for _ in module.parameters())
            and not isinstance(module, (*known, LayerScale))
        ):
            raise Unsupported(f"{name} is a layer of another kind")


def encoder_program(
    codec: Mimi, weights: Weights, template: EncoderState, slots: int, frames: int, levels: int
) -> Program:
    """Samples [slots, frames * frame_size] to codes int64 [slots, levels, frames]."""
    program = Program(weights, template, slots, frames)
    samples = frames * codec.frame_size

    def load(into: Buffer | None, activated: Buffer | None) -> None:
        assert into is not None
        assert activated is None
        program.add(k.LOAD, INPUT, samples, into.body, into.stride)

    positions = frames * codec.config.positions_per_frame
    x = program.buffer(positions, codec.config.dimension)
    _sequence(program, codec.encoder, template.seanet, load, samples, x)
    down = codec.downsample
    window = program.window(down, template.downsample, positions)
    program.transformer(codec.encoder_transformer, template.transformer, x, window)
    if template.downsample.first is None or down.bias is not None:
        raise Unsupported("a downsampling convolution of another kind")
    fresh = program.memory(template.downsample.first)
    program.add(k.REPLICATE, fresh, down.in_channels, down.context, window.start, window.stride)
    latent = program.buffer(frames, codec.config.dimension)
    program.conv(down, window, raw=latent)
    _quantize(program, codec.quantizer.first, latent, 0, 1, levels)
    if levels > 1:
        _quantize(program, codec.quantizer.rest, latent, 1, levels - 1, levels)
    return program


def decoder_program(
    codec: Mimi, weights: Weights, template: DecoderState, slots: int, frames: int, levels: int
) -> Program:
    """Codes int64 [slots, levels, frames] to samples [slots, frames * frame_size]."""
    program = Program(weights, template, slots, frames)
    latent = _dequantize(program, codec, frames, levels)
    stride, dimension = codec.config.positions_per_frame, codec.config.dimension
    positions = frames * stride
    x = program.buffer(positions, dimension)
    # [C, 1, 2 * stride] as [2 * stride, C].
    taps = weights.array(
        codec.upsample.weight,
        lambda: np.ascontiguousarray(codec.upsample.weight.detach()[:, 0].t().numpy()),
    )
    program.add(
        k.UPSAMPLE, program.memory(template.upsample.partial), dimension, stride, frames,
        latent.start, x.start, program.keep(taps),
    )  # fmt: skip

    def attend(into: Buffer | None, activated: Buffer | None) -> None:
        assert into is not None
        assert activated is None
        program.transformer(codec.decoder_transformer, template.transformer, x, into)

    samples = frames * codec.frame_size
    wave = program.buffer(samples, 1)
    _sequence(program, codec.decoder, template.seanet, attend, positions, wave)
    program.add(k.STORE, OUTPUT, samples, wave.start, wave.stride)
    return program


def _sequence(
    program: Program, layers: StreamingSequence, state: SequenceState, put: Put, rows: int,
    end: Buffer,
) -> None:  # fmt: skip
    """SEANet's layers over a value of so many rows that `put` makes; the last one is put in `end`.

    Offline and streaming, one frame or many: the layers see contexts and rows, nothing else.
    """
    states: Iterator[Any] = iter(state.members)
    activated = False
    for layer in layers:
        if isinstance(layer, nn.ELU):
            activated = True
        elif isinstance(layer, ResidualUnit) and not activated:
            put = _residual_unit(program, layer, next(states), put, rows)
        elif isinstance(layer, CausalConv1d):
            window = program.window(layer, next(states), rows)
            _put_into(put, window, activated)
            put = _convolution(program, layer, window)
            rows, activated = rows // layer.stride, False
        elif isinstance(layer, CausalConvTranspose1d) and activated:
            window = program.buffer(rows, layer.weight.shape[0], before=1, after=1)
            _put_into(put, window, activated)
            put = _transposed(program, layer, next(states), window)
            rows, activated = rows * layer.stride, False
        else:
            raise Unsupported(f"a {type(layer).__name__} where none was expected")
    _put_into(put, end, False)


def _put_into(put: Put, place: Buffer, activated: bool) -> None:
    put(None if activated else place, place if activated else None)


def _convolution(program: Program, conv: CausalConv1d, window: Buffer) -> Put:
    def put(into: Buffer | None, activated: Buffer | None) -> Buffer | None:
        kind = ELU if activated else NO_ACTIVATION
        program.conv(conv, window, raw=into, activation=kind, out=activated)
        return into

    return put


def _transposed(program: Program, conv: CausalConvTranspose1d, state: Any, window: Buffer) -> Put:
    def put(into: Buffer | None, activated: Buffer | None) -> Buffer | None:
        if activated is None:
            raise Unsupported("a transposed convolution without an activation after it")
        return program.transposed(conv, state, window, activated)

    return put


def _residual_unit(
    program: Program, unit: ResidualUnit, state: Any, put_input: Put, rows: int
) -> Put:
    _, first, _, second = unit.block
    memory, after = state.block.members
    if second.context:
        raise Unsupported("a residual unit that ends with more than one tap")
    window = program.window(first, memory, rows)
    kept = put_input(program.buffer(rows, first.in_channels), window)
    hidden = program.window(second, after, rows)
    program.conv(first, window, activation=ELU, out=hidden)

    def put(into: Buffer | None, activated: Buffer | None) -> Buffer | None:
        kind = ELU if activated else NO_ACTIVATION
        program.conv(second, hidden, residual=kept, raw=into, activation=kind, out=activated)
        return into

    return put


def _quantize(
    program: Program, quantizer: ResidualQuantizer, latent: Buffer, first: int, count: int,
    levels: int,
) -> None:  # fmt: skip
    weights, rows = program.weights, latent.rows
    width, bins = (
        quantizer.codebooks[0].embedding.shape[1],
        quantizer.codebooks[0].embedding.shape[0],
    )
    residual, scores = program.buffer(rows, width), program.buffer(rows, bins)
    program.linear(weights.linear(quantizer.input_proj), latent, raw=residual)
    for index, book in enumerate(quantizer.codebooks[:count]):
        program.linear(weights.codebook(book), residual, raw=scores)
        program.add(
            k.PICK, scores.start, rows, bins, residual.start, width,
            program.keep(weights.array(book.embedding)), OUTPUT, first + index, levels,
        )  # fmt: skip


def _dequantize(program: Program, codec: Mimi, frames: int, levels: int) -> Buffer:
    """Codes to the latent [slots, frames, dimension]."""
    weights, quantizer = program.weights, codec.quantizer
    latent = program.buffer(frames, codec.config.dimension)
    branches = [(quantizer.first, 0, 1)]
    if levels > 1:
        branches.append((quantizer.rest, 1, levels - 1))
    for branch, first, count in branches:
        books = [weights.array(book.embedding) for book in branch.codebooks[:count]]
        tables = np.array([program.keep(book) for book in books], np.int64)
        found = program.buffer(frames, books[0].shape[1])
        program.add(
            k.LOOKUP, INPUT, first, count, levels, frames, books[0].shape[1],
            program.keep(tables), found.start,
        )  # fmt: skip
        program.linear(
            weights.linear(branch.output_proj), found, raw=latent,
            residual=latent if first else None,
        )  # fmt: skip
    return latent
