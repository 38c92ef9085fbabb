"""Sample-rate conversion for live streams: a polyphase windowed-sinc FIR with explicit state.

For a ratio L / M (`target_rate / source_rate` in lowest terms), output n is the signal at input
time n * M / L, delayed by `delay_seconds`. After N inputs exactly ceil(N * L / M) outputs exist,
however the inputs were cut into steps. What is computed in pieces equals what is computed whole up
to float32 rounding (below 1e-6 of full scale; the order of additions may differ).

Phases. A slot's place in the ratio is part of its state. Steps whose length is a multiple of
`input_multiple` (M) give every slot the same number of outputs whatever its phase, read nothing
back from the device, and are the ones to use on the hot path: 24 kHz needs multiples of 1 from 8
and 24, of 2 from 16 and 48, of 147 from 44.1. Other lengths are allowed as long as the active slots
agree on the number of outputs (they always do while the same slots were active in every step, or
with one stream per state); the phases are then read to the host, and disagreement is an error.

The filter is a Kaiser-windowed sinc, so its phase is linear and its delay the same at all
frequencies. Its stop band starts at the lower of the two Nyquist frequencies. With the defaults
(5 ms, 70 dB) it is flat within 1 dB up to 320 Hz below that frequency: 0.92 of it between 8 and
24 kHz, 0.97 between 48 and 24 kHz. Longer delays make it steeper; files use 20 ms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from duologue.nn.state import State, assign_active, tensor_field

MAX_WEIGHTS = 1 << 22
"""Bound on the coefficients of one converter (16 MiB); only odd ratios come near it."""
_SMALLEST_BLOCK = 64
"""Inputs per matrix row: short cycles are computed several at a time."""
_OFFLINE_CHUNK = 1 << 16


@dataclass
class ResamplerState(State):
    """What a converter remembers of each slot's stream."""

    history: Tensor = tensor_field(0)
    """[B, context]: the last input samples."""
    phase: Tensor = tensor_field(0)
    """[B] int64: inputs taken since the start of the filter's cycle."""


class Resampler(nn.Module):
    """Convert float32 streams from `source_rate` to `target_rate` (both in Hz).

    Args:
        delay_ms: upper bound of the delay, rounded down to whole output samples.
        stopband_db: rejection of everything beyond the lower Nyquist frequency.
        ratio_tolerance: relative error of the ratio that is accepted where the exact one would
            need more than `MAX_WEIGHTS` coefficients; 0 refuses such pairs of rates.
    """

    weight: Tensor

    def __init__(
        self,
        source_rate: int,
        target_rate: int,
        *,
        delay_ms: float = 5.0,
        stopband_db: float = 70.0,
        ratio_tolerance: float = 0.0,
    ) -> None:
        super().__init__()
        if source_rate < 1 or target_rate < 1:
            raise ValueError(f"rates must be positive, got {source_rate} and {target_rate} Hz")
        if not (delay_ms > 0 and stopband_db > 21):
            raise ValueError("delay_ms must be positive and stopband_db above 21")
        self.source_rate, self.target_rate = source_rate, target_rate
        same = source_rate == target_rate
        self.delay_samples = 0 if same else max(1, int(delay_ms * target_rate / 1000))
        self._ratio = self._choose_ratio(ratio_tolerance)
        rows, columns = self._block_shape(self._ratio)
        self._block, self._taps = columns, self._taps_for(self._ratio)
        weight = _polyphase(self._ratio, self.delay_samples, rows, self._prototype(stopband_db))
        padded = _place(weight, self._ratio, columns)
        self.register_buffer("weight", torch.from_numpy(padded), persistent=False)

    @property
    def delay_seconds(self) -> float:
        """Time by which `step` delays the signal."""
        return self.delay_samples / self.target_rate

    @property
    def input_multiple(self) -> int:
        """Steps of a multiple of this many inputs suit slots of any phase (see the module)."""
        return self._ratio.denominator

    def output_length(self, input_length: int) -> int:
        """Outputs that exist once a fresh stream has been given `input_length` samples."""
        return -(-input_length * self._ratio.numerator // self._ratio.denominator)

    def init_state(self, batch_size: int) -> ResamplerState:
        """Fresh state of `batch_size` slots on the device of the filter."""
        context = self._taps - 1 + self._block - 1
        phase = torch.zeros(batch_size, dtype=torch.int64, device=self.weight.device)
        return ResamplerState(self.weight.new_zeros(batch_size, context), phase)

    def step(self, x: Tensor, state: ResamplerState, active: Tensor | None = None) -> Tensor:
        """Convert the next samples [B, T] of each active slot; inactive slots yield zeros.

        Returns:
            [B, T_out]; T_out is T * target / source where T is a multiple of `input_multiple`, and
            otherwise what the phase of the active slots makes of it.

        Raises:
            ValueError: T is no multiple of `input_multiple` and active slots of different phase
                would get different numbers of samples.
        """
        if x.dim() != 2 or x.shape[0] != state.history.shape[0]:
            raise ValueError(
                f"expected [{state.history.shape[0]}, T] samples, got {tuple(x.shape)}"
            )
        count, rest = divmod(x.shape[1] * self._ratio.numerator, self._ratio.denominator)
        if rest:
            count = self._common_count(x.shape[1], state, active)
        return self._advance(x.to(self.weight.dtype), state, active, count)

    def flush(self, state: ResamplerState, active: Tensor | None = None) -> Tensor:
        """End the streams of the active slots: their last `delay_samples` outputs, then reset.

        All steps and the flush concatenated, without the first `delay_samples`, are `forward`.
        """
        inputs = math.ceil(self.delay_samples / self._ratio)
        zeros = self.weight.new_zeros(state.history.shape[0], inputs)
        tail = self._advance(zeros, state, active, self.delay_samples)
        state.reset(active)
        return tail

    def forward(self, x: Tensor) -> Tensor:
        """Convert whole signals [..., T] -> [..., ceil(T * target / source)], without delay."""
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        state = self.init_state(rows.shape[0])
        size = math.ceil(_OFFLINE_CHUNK / self._block) * self._block
        pieces = (
            [self.step(chunk, state) for chunk in rows.split(size, dim=1)] if rows.numel() else []
        )
        whole = torch.cat([*pieces, self.flush(state)], dim=1)[:, self.delay_samples :]
        return whole.reshape(*x.shape[:-1], whole.shape[1])

    def _advance(
        self, x: Tensor, state: ResamplerState, active: Tensor | None, count: int
    ) -> Tensor:
        """Take x [B, T] in and give each slot's next `count` outputs [B, count]."""
        batch, taken = x.shape
        context = state.history.shape[1]
        up, down, block = self._ratio.numerator, self._ratio.denominator, self._block
        joined = torch.cat([state.history, x], dim=1)
        # Each slot's samples are shifted to start at its own cycle, after which one matrix does for
        # all of them. Positions past the end repeat the last sample; no output taken here sees it.
        cycles = (block - 1 + taken + block - 1) // block
        length = cycles * block + self._taps - 1
        steps = torch.arange(length, device=x.device)
        at = (block - 1 - state.phase)[:, None] + steps
        aligned = joined.gather(1, at.clamp_(max=context + taken - 1))
        windows = aligned.unfold(1, self._taps - 1 + block, block)
        outputs = (windows @ self.weight).reshape(batch, -1)
        first = -(-state.phase * up // down)
        y = outputs.gather(1, first[:, None] + torch.arange(count, device=x.device))
        assign_active(state.history, joined[:, taken:], active)
        assign_active(state.phase, (state.phase + taken) % block, active)
        return y if active is None else y.masked_fill(~active[:, None], 0)

    def _common_count(self, taken: int, state: ResamplerState, active: Tensor | None) -> int:
        up, down = self._ratio.numerator, self._ratio.denominator
        phases = state.phase if active is None else state.phase[active]
        counts = {-(-(p + taken) * up // down) - -(-p * up // down) for p in set(phases.tolist())}
        if len(counts) > 1:
            raise ValueError(
                f"a step of {taken} samples gives the active slots {sorted(counts)} samples each, "
                f"for their phases differ; use multiples of {down} samples, or a state per stream"
            )
        return counts.pop() if counts else 0

    def _choose_ratio(self, tolerance: float) -> Fraction:
        exact = Fraction(self.target_rate, self.source_rate)
        near = [exact.limit_denominator(1 << power) for power in range(4, 13)] if tolerance else []
        for ratio in (exact, *near):
            close = ratio > 0 and abs(ratio / exact - 1) <= tolerance
            if close and math.prod(self._weight_shape(ratio)) <= MAX_WEIGHTS:
                return ratio
        raise ValueError(
            f"{self.source_rate} Hz and {self.target_rate} Hz have no short ratio "
            f"({exact.numerator}:{exact.denominator}); convert from a common rate, such as 48000 Hz"
        )

    def _taps_for(self, ratio: Fraction) -> int:
        return int(2 * self.delay_samples / ratio) + 1

    def _block_shape(self, ratio: Fraction) -> tuple[int, int]:
        """Outputs and inputs of one matrix row: one or more whole cycles of the ratio."""
        cycles = math.ceil(_SMALLEST_BLOCK / ratio.denominator)
        return cycles * ratio.numerator, cycles * ratio.denominator

    def _weight_shape(self, ratio: Fraction) -> tuple[int, int]:
        outputs, inputs = self._block_shape(ratio)
        return self._taps_for(ratio) - 1 + inputs, outputs

    def _prototype(self, stopband_db: float) -> tuple[float, float]:
        """Cut-off (in cycles per output sample) and shape parameter of the Kaiser window."""
        if self.delay_samples == 0:
            return 0.5, 0.0
        span = 2 * self.delay_samples
        transition = (stopband_db - 7.95) / (14.36 * span)
        nyquist = min(self.source_rate, self.target_rate) / (2 * self.target_rate)
        cutoff = max(nyquist - transition / 2, nyquist / 2)
        if stopband_db > 50:
            beta = 0.1102 * (stopband_db - 8.7)
        else:
            beta = 0.5842 * (stopband_db - 21) ** 0.4 + 0.07886 * (stopband_db - 21)
        return cutoff, beta


def _polyphase(
    ratio: Fraction, delay: int, phases: int, prototype: tuple[float, float]
) -> np.ndarray:
    """Coefficients [phases, taps] float64; tap k of phase p weighs input floor(p * M / L) - k.

    Each phase adds up to one, so that a constant stays that constant.
    """
    cutoff, beta = prototype
    up, down = ratio.numerator, ratio.denominator
    taps = int(2 * delay / ratio) + 1
    offset = np.arange(phases) * down % up / down
    age = offset[:, None] + np.arange(taps) * (up / down)
    centred = age - delay
    if delay == 0:
        return np.ones((phases, 1))
    inside = np.maximum(1 - (centred / delay) ** 2, 0.0)
    window = np.where(np.abs(centred) <= delay, np.i0(beta * np.sqrt(inside)), 0.0)
    kernel = np.sinc(2 * cutoff * centred) * window
    return kernel / kernel.sum(axis=1, keepdims=True)


def _place(kernel: np.ndarray, ratio: Fraction, block: int) -> np.ndarray:
    """Arrange [phases, taps] as a float32 matrix [taps - 1 + block, phases] over one block."""
    phases, taps = kernel.shape
    matrix = np.zeros((taps - 1 + block, phases), dtype=np.float32)
    newest = taps - 1 + np.arange(phases) * ratio.denominator // ratio.numerator
    rows = newest[:, None] - np.arange(taps)
    matrix[rows, np.arange(phases)[:, None]] = kernel
    return matrix
