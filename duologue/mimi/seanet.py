"""SEANet encoder and decoder (Tagliasacchi et al. 2020), causal, as in Mimi and EnCodec.

Member indices are those of the published checkpoints, activations included.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from duologue.mimi.config import SEANetConfig
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from duologue.nn.sequence import SequenceState, StreamingSequence
from duologue.nn.state import State


@dataclass
class ResidualUnitState(State):
    block: SequenceState


class ResidualUnit(nn.Module):
    """x + conv1(elu(conv(elu(x)))) with a bottleneck."""

    def __init__(self, config: SEANetConfig, channels: int, dilation: int) -> None:
        super().__init__()
        hidden = channels // config.compress
        self.block = StreamingSequence(
            [
                nn.ELU(),
                CausalConv1d(channels, hidden, config.residual_kernel_size, dilation=dilation),
                nn.ELU(),
                CausalConv1d(hidden, channels, 1),
            ]
        )

    def init_state(self, batch_size: int) -> ResidualUnitState:
        return ResidualUnitState(self.block.init_state(batch_size))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)

    def step(self, x: Tensor, state: ResidualUnitState, active: Tensor | None = None) -> Tensor:
        return x + self.block.step(x, state.block, active)


def build_encoder(config: SEANetConfig) -> StreamingSequence:
    """[B, 1, T] -> [B, dimension, T / hop_length]."""
    channels = config.n_filters
    members: list[nn.Module] = [CausalConv1d(config.channels, channels, config.kernel_size)]
    for ratio in reversed(config.ratios):
        members += _residual_units(config, channels)
        members += [nn.ELU(), CausalConv1d(channels, 2 * channels, 2 * ratio, stride=ratio)]
        channels *= 2
    members += [nn.ELU(), CausalConv1d(channels, config.dimension, config.last_kernel_size)]
    return StreamingSequence(members)


def build_decoder(config: SEANetConfig) -> StreamingSequence:
    """[B, dimension, T] -> [B, 1, T * hop_length]."""
    channels = config.n_filters * 2 ** len(config.ratios)
    members: list[nn.Module] = [CausalConv1d(config.dimension, channels, config.kernel_size)]
    for ratio in config.ratios:
        upsample = CausalConvTranspose1d(channels, channels // 2, 2 * ratio, stride=ratio)
        channels //= 2
        members += [nn.ELU(), upsample, *_residual_units(config, channels)]
    members += [nn.ELU(), CausalConv1d(channels, config.channels, config.last_kernel_size)]
    return StreamingSequence(members)


def _residual_units(config: SEANetConfig, channels: int) -> list[nn.Module]:
    return [
        ResidualUnit(config, channels, config.dilation_base**index)
        for index in range(config.n_residual_layers)
    ]
