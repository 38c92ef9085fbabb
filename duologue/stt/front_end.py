"""What a recogniser hears sound through: a codec's codes, or mel spectra and a few convolutions.

Codes are what the published models read, and cost nothing where the conversation has them already.
A small codec keeps little of voices that it was not made for; a front end of the recogniser's own
hears all of the spectrum, and learns from spectra that were bent and blotted in passing, which
codes cannot be.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.errors import DuologueError
from duologue.nn.conv import CausalConv1d, ConvState
from duologue.nn.norm import RMSNorm
from duologue.nn.state import State, assign_active, tensor_field

FLOOR = 1e-5
"""Added to energies before the logarithm."""
MEAN, SCALE = -5.0, 3.0
"""Roughly those of the log energies of speech."""
_KERNEL = 5
_EPS = 1e-6
_FEW = 64


class FrontEndError(DuologueError, ValueError):
    """A front end's description makes no sense."""


class FrontEnd(Protocol):
    """Turns frames of sound into what a recogniser's language model reads."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def frame_size(self) -> int:
        """Samples of a frame."""
        ...

    @property
    def frame_rate(self) -> float: ...

    def init_encoder_state(self, batch_size: int) -> State: ...

    def encode_step(
        self,
        pcm: Tensor,
        state: Any,
        active: Tensor | None = None,
        num_codebooks: int | None = None,
    ) -> Tensor:
        """Whole frames [B, 1, T] -> int64 codes [B, K, T / frame_size], or vectors [B, dim, ...]
        that are added to the model's input.
        """
        ...


class FrontEndRunner(Protocol):
    """Takes a `MelFrontEnd`'s steps in its place."""

    def takes(self, pcm: Tensor) -> bool:
        """Whether sound is of a kind that this runs."""
        ...

    def encode_step(
        self, front_end: MelFrontEnd, pcm: Tensor, state: MelFrontEndState, active: Tensor | None
    ) -> Tensor:
        """As `MelFrontEnd.encode_step`, whose checks have been made; inactive slots get zeros."""
        ...


@dataclass(frozen=True)
class MelFrontEndConfig:
    """Shape of a `MelFrontEnd`. Each stage halves the rate: from 100 spectra a second to 12.5."""

    dim: int
    """Of the vectors, the language model's."""
    channels: tuple[int, ...] = (192, 192, 256)
    """Into each stage."""
    units: tuple[int, ...] = (1, 2, 0)
    """Residual units after each stage."""
    bands: int = 80
    low_hz: float = 60.0
    high_hz: float = 8000.0
    sample_rate: int = 24_000
    hop: int = 240
    """Samples from one spectrum to the next."""
    window: int = 768
    """Samples of a spectrum, the last ones heard."""
    n_fft: int = 1024

    def __post_init__(self) -> None:
        if not self.channels or len(self.channels) != len(self.units) or min(self.units) < 0:
            raise FrontEndError("front end: channels and units must be lists of one length")
        sizes = (*self.channels, self.dim, self.bands, self.hop)
        if min(sizes) < 1 or not self.hop <= self.window <= self.n_fft:
            raise FrontEndError("front end: sizes must be positive, and hop <= window <= n_fft")
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise FrontEndError("front end: low_hz < high_hz <= half of the sample rate must hold")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MelFrontEndConfig:
        """Read a configuration file's block.

        Raises:
            FrontEndError: names what is wrong.
        """
        known = {item.name for item in fields(cls)}
        if unknown := values.keys() - known:
            raise FrontEndError(f"front end: {sorted(unknown)[0]!r} is no entry")
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        try:
            return cls(**given)
        except TypeError as error:
            raise FrontEndError(f"front end: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """For a configuration file."""
        return asdict(self)


@dataclass
class MelFrontEndState(State):
    """The end of what was heard."""

    samples: Tensor = tensor_field(0)
    """[B, window - hop]"""
    convs: list[ConvState] | None = None


class MelFrontEnd(nn.Module):
    """Log mel spectra, causal convolutions: one vector for each frame of sound.

    Spectra look back only, so a frame's vector knows nothing of what comes after it.
    """

    def __init__(self, config: MelFrontEndConfig) -> None:
        super().__init__()
        self.config = config
        widths = (*config.channels, config.dim)
        self.first = _Conv(config.bands, widths[0], _KERNEL)
        self.down = nn.ModuleList(_Conv(a, b, 4, stride=2) for a, b in itertools.pairwise(widths))
        self.units = nn.ModuleList(
            nn.ModuleList(_Unit(width) for _ in range(count))
            for width, count in zip(widths[1:], config.units, strict=True)
        )
        self.norm = RMSNorm(config.dim, _EPS, in_float32=True)
        self.runtime: FrontEndRunner | None = None
        """What takes whole frames instead of the modules; see `duologue.runtime`."""
        self._fixed: tuple[Tensor, Tensor] | None = None

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def frame_size(self) -> int:
        return self.config.hop << len(self.config.channels)

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.frame_size

    def spectra(self, pcm: Tensor) -> Tensor:
        """Log mel energies [B, T / hop, bands] of a whole signal [B, T]."""
        return self._spectra(F.pad(pcm, (self.config.window - self.config.hop, 0)))

    def forward(self, spectra: Tensor) -> Tensor:
        """Vectors [B, T, dim] of log mel energies [B, T * spectra per frame, bands]."""
        x = self.first(_normal(spectra).transpose(1, 2))
        x = F.silu(x)
        for down, units in zip(self.down, self.units, strict=True):
            x = down(x)
            for unit in units:  # type: ignore[attr-defined]
                x = unit(x)
        return self.norm(x.transpose(1, 2))

    def init_encoder_state(self, batch_size: int) -> MelFrontEndState:
        tail = self.config.window - self.config.hop
        samples = self.first.weight.new_zeros(batch_size, tail)
        return MelFrontEndState(samples, [c.init_state(batch_size) for c in self._convolutions()])

    @torch.no_grad()
    def encode_step(
        self,
        pcm: Tensor,
        state: MelFrontEndState,
        active: Tensor | None = None,
        num_codebooks: int | None = None,
    ) -> Tensor:
        """Continue each slot by whole frames [B, 1, T]; vectors [B, dim, T / frame_size].

        Raises:
            ValueError: T is no positive number of whole frames.
        """
        if pcm.dim() != 3 or not pcm.shape[-1] or pcm.shape[-1] % self.frame_size:
            raise ValueError(
                f"pcm must be [B, 1, whole frames of {self.frame_size}], got {tuple(pcm.shape)}"
            )
        if self.runtime is not None and self.runtime.takes(pcm):
            return self.runtime.encode_step(self, pcm, state, active)
        heard = torch.cat([state.samples, pcm[:, 0]], dim=1)
        assign_active(state.samples, heard[:, pcm.shape[-1] :], active)
        states = iter(state.convs or ())
        x = self.first.step(_normal(self._spectra(heard)).transpose(1, 2), next(states), active)
        x = F.silu(x)
        for down, units in zip(self.down, self.units, strict=True):
            x = down.step(x, next(states), active)  # type: ignore[operator]
            for unit in units:  # type: ignore[attr-defined]
                x = unit.step(x, next(states), active)
        return self.norm(x.transpose(1, 2)).transpose(1, 2)

    def _convolutions(self) -> list[CausalConv1d]:
        """Those with a memory, in the order in which sound goes through them."""
        found: list[CausalConv1d] = [self.first]
        for down, units in zip(self.down, self.units, strict=True):
            found += [down, *(unit.wide for unit in units)]  # type: ignore[list-item,attr-defined]
        return found

    def _spectra(self, heard: Tensor) -> Tensor:
        """Log mel energies of a signal that begins `window - hop` samples early."""
        window, filters = self._window_and_filters(heard.device)
        pieces = heard.unfold(-1, self.config.window, self.config.hop) * window
        energies = torch.fft.rfft(pieces, self.config.n_fft).abs().square() @ filters
        return torch.log(energies + FLOOR)

    def _window_and_filters(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Made once for each device; they are no weights, and stay in float32."""
        if self._fixed is None or self._fixed[0].device != device:
            filters = mel_filters(self.config).to(device)
            self._fixed = torch.hann_window(self.config.window, device=device), filters
        return self._fixed


class _Conv(CausalConv1d):
    """A convolution that is one matrix product where it makes few positions, as in a step: torch's
    own takes longer to prepare than to do."""

    def _convolve(self, window: Tensor) -> Tensor:
        size = self.weight.shape[2]
        count = (window.shape[-1] - size) // self.stride + 1
        if count > _FEW or torch.is_grad_enabled():
            return super()._convolve(window)
        pieces = window.unfold(2, size, self.stride).transpose(1, 2).flatten(2)
        return F.linear(pieces, self.weight.flatten(1), self.bias).transpose(1, 2)


class _Unit(nn.Module):
    """A residual unit: x + pointwise(silu(wide(silu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = _Conv(width, width, _KERNEL)
        self.pointwise = _Conv(width, width, 1)
        nn.init.zeros_(self.pointwise.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(F.silu(self.wide(F.silu(x))))

    def step(self, x: Tensor, state: ConvState, active: Tensor | None) -> Tensor:
        return x + self.pointwise(F.silu(self.wide.step(F.silu(x), state, active)))


def band_centres(config: MelFrontEndConfig) -> Tensor:
    """Hz of each band's peak [bands], float64."""
    return _edges(config)[1:-1]


def mel_filters(config: MelFrontEndConfig) -> Tensor:
    """Triangular filters [n_fft / 2 + 1, bands] with peaks of one, float32."""
    edges = _edges(config)
    hz = torch.arange(config.n_fft // 2 + 1, dtype=torch.float64)[:, None]
    hz = hz * config.sample_rate / config.n_fft
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    up, down = (hz - left) / (centre - left), (right - hz) / (right - centre)
    return torch.minimum(up, down).clamp(min=0).float()


def _edges(config: MelFrontEndConfig) -> Tensor:
    ends = torch.tensor([config.low_hz, config.high_hz], dtype=torch.float64)
    low, high = (2595 * torch.log10(1 + ends / 700)).tolist()
    mel = torch.linspace(low, high, config.bands + 2, dtype=torch.float64)
    return 700 * (10 ** (mel / 2595) - 1)


def _normal(spectra: Tensor) -> Tensor:
    return (spectra - MEAN) / SCALE
