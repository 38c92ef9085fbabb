"""Shape of a Mimi codec, in the published JSON layout (`seanet`, `quantizer`, `transformer`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from duologue.configuration import ConfigError, parse_config
from duologue.nn.transformer import TransformerConfig


@dataclass(frozen=True)
class SEANetConfig:
    """Convolutional encoder and decoder. `ratios` are strides in decoder order."""

    channels: int = 1
    dimension: int = 512
    n_filters: int = 64
    n_residual_layers: int = 1
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 3
    dilation_base: int = 2
    compress: int = 2

    _fixed: ClassVar[dict[str, Any]] = {
        "causal": True,
        "activation": "ELU",
        "norm": "none",
        "pad_mode": "constant",
        "true_skip": True,
        "disable_norm_outer_blocks": 0,
    }

    @property
    def hop_length(self) -> int:
        """Samples per latent position."""
        return math.prod(self.ratios)


@dataclass(frozen=True)
class QuantizerConfig:
    """Split residual vector quantiser: level 0 on its own, the others in a cascade."""

    dimension: int = 256
    n_q: int = 32
    bins: int = 2048
    input_dimension: int = 512
    output_dimension: int = 512

    _fixed: ClassVar[dict[str, Any]] = {}


@dataclass(frozen=True)
class MimiTransformerConfig:
    """The two transformers, which have one shape."""

    d_model: int = 512
    num_heads: int = 8
    num_layers: int = 8
    dim_feedforward: int = 2048
    context: int = 250
    max_period: float = 10_000
    layer_scale: float = 0.01
    input_dimension: int = 512
    output_dimensions: tuple[int, ...] = (512,)

    _fixed: ClassVar[dict[str, Any]] = {
        "causal": True,
        "conv_layout": True,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
    }


@dataclass(frozen=True)
class MimiConfig:
    """A codec. The defaults are the published Mimi: 24 kHz, 12.5 frames/s, 32 codebooks."""

    sample_rate: int = 24_000
    channels: int = 1
    frame_rate: float = 12.5
    seanet: SEANetConfig = field(default_factory=SEANetConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    transformer: MimiTransformerConfig = field(default_factory=MimiTransformerConfig)

    def __post_init__(self) -> None:
        if self.channels != 1 or self.seanet.channels != 1:
            raise ConfigError("channels: only mono is supported")
        if self.frame_size != self.sample_rate / self.frame_rate:
            raise ConfigError(f"frame_rate: {self.frame_rate} is no whole number of samples")
        if self.frame_size % self.seanet.hop_length:
            raise ConfigError(
                f"seanet.ratios: a frame of {self.frame_size} samples is no multiple of the hop "
                f"{self.seanet.hop_length}"
            )
        dims = {
            "quantizer.input_dimension": self.quantizer.input_dimension,
            "quantizer.output_dimension": self.quantizer.output_dimension,
            "transformer.d_model": self.transformer.d_model,
            "transformer.input_dimension": self.transformer.input_dimension,
            "transformer.output_dimensions": self.transformer.output_dimensions[0],
        }
        for name, value in dims.items():
            if value != self.seanet.dimension:
                raise ConfigError(f"{name}: {value} is not seanet.dimension {self.dimension}")
        if self.quantizer.n_q < 1 or self.quantizer.bins < 2:
            raise ConfigError("quantizer: n_q must be at least 1 and bins at least 2")

    @property
    def dimension(self) -> int:
        return self.seanet.dimension

    @property
    def frame_size(self) -> int:
        """Samples per frame."""
        return int(self.sample_rate / self.frame_rate)

    @property
    def positions_per_frame(self) -> int:
        """Latent positions per frame before the resampling convolution (2 in Mimi)."""
        return self.frame_size // self.seanet.hop_length

    @property
    def transformer_config(self) -> TransformerConfig:
        shape = self.transformer
        return TransformerConfig(
            dim=shape.d_model,
            num_heads=shape.num_heads,
            num_layers=shape.num_layers,
            feedforward=shape.dim_feedforward,
            context=shape.context,
            max_period=shape.max_period,
            layer_scale=shape.layer_scale,
            max_chunk=self.positions_per_frame,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MimiConfig:
        """Read the published layout; an unknown or unsupported entry is an error naming it."""
        rest = dict(values)
        blocks: dict[str, Any] = {
            "seanet": SEANetConfig,
            "quantizer": QuantizerConfig,
            "transformer": MimiTransformerConfig,
        }
        parsed = {
            name: parse_config(kind, rest.pop(name), prefix=f"{name}.", fixed=kind._fixed)
            for name, kind in blocks.items()
            if name in rest
        }
        return parse_config(cls, rest, given=parsed)

    def to_dict(self) -> dict[str, Any]:
        """The published layout, entries that never vary included."""
        values = asdict(self)
        for name in ("seanet", "quantizer", "transformer"):
            values[name] |= getattr(self, name)._fixed
        return values
