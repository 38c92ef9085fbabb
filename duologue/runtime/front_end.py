"""The recogniser's mel front end on CPU: a frame of sound to a vector as one native program.

A spectrum is a product: the window's samples times sines and cosines that the window is folded
into, for those frequencies alone that some filter looks at. What follows is products, too, so the
codec's kernels do the rest, on the front end's own states. Results are the modules' within float32
rounding; a slot's bits depend neither on the other slots nor on the number of threads nor on how
many frames come at once.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duologue.nn.conv import CausalConv1d
from duologue.runtime import codec_kernels as k
from duologue.runtime.codec_pack import Matrix, Weights
from duologue.runtime.codec_program import INPUT, OUTPUT, Buffer, Program
from duologue.runtime.codec_runner import Loaded, Runner, takes
from duologue.runtime.conv_finish import SILU
from duologue.runtime.errors import Unsupported
from duologue.stt.front_end import (
    FLOOR,
    MEAN,
    SCALE,
    MelFrontEnd,
    MelFrontEndConfig,
    MelFrontEndState,
    mel_filters,
)

MAX_PROGRAMS = 6
"""Programs kept, by slots and frames; the oldest goes first."""


class FrontEndRuntime:
    """Runs one front end's steps. Safe to call from several threads, one at a time."""

    def __init__(self, front_end: MelFrontEnd) -> None:
        """
        Raises:
            Unsupported: weights are not in float32 on the CPU.
        """
        if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in front_end.parameters()):
            raise Unsupported("the runtime needs float32 weights on the CPU")
        self._lock = threading.Lock()
        self._runner = Runner()
        self._weights = Weights(half=False)
        filters = mel_filters(front_end.config)
        heard = filters.any(dim=1).nonzero()[:, 0]
        self._filters = Matrix.pack(filters[heard], None, half=False)
        self._sinusoids = Matrix.pack(_sinusoids(front_end.config, heard), None, half=False)
        self._programs: dict[tuple[int, int], Loaded] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a front end has no runtime: addresses cannot be copied."""
        return type(None), ()

    def takes(self, pcm: Tensor) -> bool:
        """Whether sound is of a kind that this runs."""
        return takes(pcm)

    def encode_step(
        self, front_end: MelFrontEnd, pcm: Tensor, state: MelFrontEndState, active: Tensor | None
    ) -> Tensor:
        """float32 [B, 1, n * frame_size] -> [B, dim, n]; inactive slots get zeros."""
        slots, frames = pcm.shape[0], pcm.shape[-1] // front_end.frame_size
        pcm = pcm.detach().contiguous()
        make = torch.empty if active is None else torch.zeros
        out = make(slots, front_end.config.dim, frames)
        with self._lock:
            key = (slots, frames)
            if key not in self._programs:
                while len(self._programs) >= MAX_PROGRAMS:
                    del self._programs[next(iter(self._programs))]
                self._programs[key] = Loaded.of(self._build(front_end, slots, frames))
            self._runner.run(self._programs[key], state, pcm, out, active)
        return out

    def _build(self, front_end: MelFrontEnd, slots: int, frames: int) -> Program:
        config, state = front_end.config, front_end.init_encoder_state(1)
        program = Program(self._weights, state, slots, frames)
        samples = frames * front_end.frame_size
        sound = program.buffer(samples, 1, config.window - config.hop)
        program.remember(state.samples, sound)
        program.add(k.LOAD, INPUT, samples, sound.body, sound.stride)
        spectra = self._energies(program, config, sound)
        rows, convs = spectra.rows, iter(state.convs or ())
        window = program.window(front_end.first, next(convs), rows)
        program.add(
            k.LOGARITHM, spectra.start, window.body, window.stride, rows, config.bands,
            program.keep(np.array([FLOOR, MEAN, SCALE], np.float32)),
        )  # fmt: skip
        conv: CausalConv1d = front_end.first
        kept: Buffer | None = None
        for stage, (down, units) in enumerate(zip(front_end.down, front_end.units, strict=True)):
            assert isinstance(down, CausalConv1d)
            into = program.window(down, next(convs), rows)
            _put(program, conv, window, into, kept, activated=stage == 0)
            window, conv, kept, rows = into, down, None, rows // down.stride
            for unit in units:  # type: ignore[attr-defined]
                old: Buffer | None = kept
                kept = program.buffer(rows, unit.wide.in_channels)
                wide = program.window(unit.wide, next(convs), rows)
                program.conv(conv, window, residual=old, raw=kept, activation=SILU, out=wide)
                hidden = program.buffer(rows, unit.wide.in_channels)
                program.conv(unit.wide, wide, activation=SILU, out=hidden)
                window, conv = hidden, unit.pointwise
        last = program.buffer(rows, config.dim)
        _put(program, conv, window, last, kept, activated=False)
        gain = self._weights.array(front_end.norm.alpha)
        eps = program.keep(np.array([front_end.norm.eps], np.float32))
        program.add(k.RMS_NORM, last.start, rows, config.dim, program.keep(gain), eps, OUTPUT)
        return program

    def _energies(self, program: Program, config: MelFrontEndConfig, sound: Buffer) -> Buffer:
        """Energies of all bands, [slots, rows, bands]."""
        rows, bins = sound.rows // config.hop, self._filters.depth
        waves, energies = program.buffer(rows, 2 * bins), program.buffer(rows, bins)
        program.product(self._sinusoids, sound.start, sound.stride, config.hop * 4, rows, raw=waves)
        program.add(k.ENERGY, waves.start, energies.start, rows, bins)
        found = program.buffer(rows, config.bands)
        program.linear(self._filters, energies, raw=found)
        return found


def _put(
    program: Program, conv: CausalConv1d, window: Buffer, into: Buffer, residual: Buffer | None,
    *, activated: bool,
) -> None:  # fmt: skip
    if activated:
        program.conv(conv, window, residual=residual, activation=SILU, out=into)
    else:
        program.conv(conv, window, residual=residual, raw=into)


def _sinusoids(config: MelFrontEndConfig, bins: Tensor) -> Tensor:
    """[window, 2 bins]: what makes real and imaginary parts of a window's samples."""
    time = torch.arange(config.window, dtype=torch.float64)[:, None]
    angles = 2 * torch.pi / config.n_fft * (time * bins)
    window = torch.hann_window(config.window, dtype=torch.float64)[:, None]
    return (torch.cat([angles.cos(), angles.sin()], dim=1) * window).float()
