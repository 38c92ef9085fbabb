"""Causal convolutions that give the same samples whether a signal comes whole or in pieces.

Sources: Moshi paper (arXiv 2410.00037) section 3.3; SEANet. A convolution of kernel K, dilation d
and stride S looks back `(K - 1) * d + 1 - S` samples and never ahead; offline, those samples are
zeros (or the first sample repeated), streaming, they are the end of what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.nn.state import State, assign_active, tensor_field

PadMode = Literal["constant", "replicate"]


@dataclass
class ConvState(State):
    """Left context of a causal convolution."""

    previous: Tensor = tensor_field(0)
    """[B, C_in, context]: the last input samples."""
    first: Tensor | None = tensor_field(True, default=None)
    """[B] bool, only where the padding repeats the first sample: nothing has come yet."""


class CausalConv1d(nn.Module):
    """Convolution over [B, C_in, T] -> [B, C_out, T / stride] with all padding on the left."""

    exact = False
    """Whether it is computed in float32 under autocast, too."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        pad_mode: PadMode = "constant",
    ) -> None:
        super().__init__()
        span = (kernel_size - 1) * dilation + 1
        if span < stride:
            raise ValueError(f"kernel span {span} is shorter than the stride {stride}")
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.in_channels, self.context = in_channels, span - stride
        self.pad_mode: PadMode = pad_mode
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        _init_uniform(self.weight, self.bias, fan_in=self.weight[0].numel())

    def init_state(self, batch_size: int) -> ConvState:
        previous = self.weight.new_zeros(batch_size, self.in_channels, self.context)
        replicate = self.pad_mode == "replicate"
        first = torch.ones(batch_size, dtype=torch.bool, device=previous.device)
        return ConvState(previous, first if replicate else None)

    def forward(self, x: Tensor) -> Tensor:
        """Whole signal; T must be a multiple of the stride."""
        self._check_length(x)
        if self.context:
            x = F.pad(x, (self.context, 0), mode=self.pad_mode)
        return self._convolve(x)

    def step(self, x: Tensor, state: ConvState, active: Tensor | None = None) -> Tensor:
        """Next piece of the signal, any multiple of the stride long."""
        self._check_length(x)
        if not self.context:
            return self._convolve(x)
        previous = state.previous
        if state.first is not None:
            previous = torch.where(state.first[:, None, None], x[..., :1], previous)
            started = torch.zeros_like(state.first)
            assign_active(state.first, started, active)
        window = torch.cat([previous, x], dim=-1)
        assign_active(state.previous, window[..., -self.context :], active)
        return self._convolve(window)

    def _convolve(self, window: Tensor) -> Tensor:
        if self.exact and torch.is_autocast_enabled(window.device.type):
            with torch.autocast(window.device.type, enabled=False):
                return self._convolve(window.to(self.weight))
        return F.conv1d(
            window, self.weight, self.bias, self.stride, dilation=self.dilation, groups=self.groups
        )

    def _check_length(self, x: Tensor) -> None:
        if x.shape[-1] == 0 or x.shape[-1] % self.stride:
            raise ValueError(
                f"a chunk of {x.shape[-1]} samples is no positive multiple of stride {self.stride}"
            )


@dataclass
class ConvTransposeState(State):
    """Output that later input will still add to."""

    partial: Tensor = tensor_field(0)
    """[B, C_out, kernel - stride], without the bias."""


class CausalConvTranspose1d(nn.Module):
    """Transposed convolution [B, C_in, T] -> [B, C_out, T * stride], trimmed on the right."""

    exact = False
    """Whether it is computed in float32 under autocast, too."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size < stride:
            raise ValueError(f"kernel {kernel_size} is shorter than the stride {stride}")
        self.stride, self.groups = stride, groups
        self.in_channels, self.out_channels = in_channels, out_channels
        self.overlap = kernel_size - stride
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        _init_uniform(self.weight, self.bias, fan_in=self.weight[0].numel())

    def init_state(self, batch_size: int) -> ConvTransposeState:
        return ConvTransposeState(
            self.weight.new_zeros(batch_size, self.out_channels, self.overlap)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self._spread(x)
        return self._add_bias(y[..., : y.shape[-1] - self.overlap])

    def step(self, x: Tensor, state: ConvTransposeState, active: Tensor | None = None) -> Tensor:
        y = self._spread(x)
        if self.overlap:
            y[..., : self.overlap] += state.partial
            assign_active(state.partial, y[..., -self.overlap :], active)
        return self._add_bias(y[..., : x.shape[-1] * self.stride])

    def _spread(self, x: Tensor) -> Tensor:
        if self.exact and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._spread(x.to(self.weight))
        return F.conv_transpose1d(x, self.weight, None, self.stride, groups=self.groups)

    def _add_bias(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias[:, None]


def _init_uniform(weight: nn.Parameter, bias: nn.Parameter | None, fan_in: int) -> None:
    bound = fan_in**-0.5
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)
