"""Mimi: a streaming neural speech codec, 80 ms in, a handful of codes out, and back.

wave -> SEANet (25 Hz) -> transformer -> strided convolution (12.5 Hz) -> split residual VQ, and
the mirror image of it. Nothing looks ahead. Source: Moshi paper (arXiv 2410.00037) section 3.3.
The state of a conversation is passed in; weights are all that the module holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.mimi.config import MimiConfig
from duologue.mimi.quantizer import SplitQuantizer
from duologue.mimi.seanet import build_decoder, build_encoder
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvState, ConvTransposeState
from duologue.nn.sequence import SequenceState
from duologue.nn.state import State
from duologue.nn.transformer import Transformer, TransformerState

_REST_S = 4.0
"""A codec has come to rest after so much silence."""


@dataclass
class EncoderState(State):
    """What encoding remembers of each slot."""

    seanet: SequenceState
    transformer: TransformerState
    downsample: ConvState


@dataclass
class DecoderState(State):
    """What decoding remembers of each slot."""

    upsample: ConvTransposeState
    transformer: TransformerState
    seanet: SequenceState


@dataclass
class MimiState(State):
    """Both directions of a conversation; each may advance without the other."""

    encoder: EncoderState
    decoder: DecoderState


class CodecRuntime(Protocol):
    """Another way to compute what a codec's modules compute, over the same states."""

    def takes(self, tensor: Tensor) -> bool:
        """Whether it can work on this input."""
        ...

    def encode(self, pcm: Tensor, levels: int) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...

    def encode_step(
        self, pcm: Tensor, state: EncoderState, active: Tensor | None, levels: int
    ) -> Tensor: ...

    def decode_step(self, codes: Tensor, state: DecoderState, active: Tensor | None) -> Tensor: ...


class Mimi(nn.Module):
    """The codec. Audio is float32 [B, 1, T] in [-1, 1]; codes are int64 [B, K, frames].

    The modules say what is computed. Where `runtime` is set, `encode`, `decode` and the steps have
    it computed there (see `duologue.runtime.codec`).
    """

    runtime: CodecRuntime | None = None

    def __init__(self, config: MimiConfig, num_codebooks: int | None = None) -> None:
        """
        Args:
            num_codebooks: how many codes a frame has unless a call says otherwise; all of the
                quantiser's when `None`.
        """
        super().__init__()
        self.config = config
        self.num_codebooks = self._check_codebooks(num_codebooks or config.quantizer.n_q)
        stride = config.positions_per_frame
        self.encoder = build_encoder(config.seanet)
        self.encoder_transformer = Transformer(config.transformer_config)
        self.downsample = CausalConv1d(
            config.dimension, config.dimension, 2 * stride, stride, bias=False,
            pad_mode="replicate",
        )  # fmt: skip
        self.quantizer = SplitQuantizer(config.quantizer)
        self.upsample = CausalConvTranspose1d(
            config.dimension, config.dimension, 2 * stride, stride, groups=config.dimension,
            bias=False,
        )  # fmt: skip
        self.decoder_transformer = Transformer(config.transformer_config)
        self.decoder = build_decoder(config.seanet)

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self.config.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.config.frame_rate

    @property
    def frame_size(self) -> int:
        """Samples per frame."""
        return self.config.frame_size

    def init_state(self, batch_size: int) -> MimiState:
        """Fresh state of `batch_size` conversations."""
        return MimiState(self.init_encoder_state(batch_size), self.init_decoder_state(batch_size))

    def init_encoder_state(self, batch_size: int) -> EncoderState:
        """Fresh state of the encoding direction alone."""
        return EncoderState(
            self.encoder.init_state(batch_size),
            self.encoder_transformer.init_state(batch_size),
            self.downsample.init_state(batch_size),
        )

    def init_decoder_state(self, batch_size: int) -> DecoderState:
        """Fresh state of the decoding direction alone."""
        return DecoderState(
            self.upsample.init_state(batch_size),
            self.decoder_transformer.init_state(batch_size),
            self.decoder.init_state(batch_size),
        )

    @torch.no_grad()
    def encode(self, pcm: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Whole recordings: [B, 1, T] -> int64 [B, K, ceil(T / frame_size)].

        Raises:
            ValueError: the audio is empty, misshapen, or not finite.
        """
        if pcm.is_floating_point() and not bool(pcm.isfinite().all()):
            raise ValueError("audio holds NaN or infinite samples")
        levels = self._codebooks(num_codebooks)
        self._check_pcm(pcm)
        if self.runtime is not None and self.runtime.takes(pcm):
            return self.runtime.encode(pcm, levels)
        return self.quantizer.encode(self.encode_to_latent(pcm), levels)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Whole recordings: int64 [B, K, F] -> [B, 1, F * frame_size].

        Raises:
            ValueError: the codes are misshapen or outside the codebooks.
        """
        self._check_codes(codes)
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.quantizer.bins:
            raise ValueError(
                f"codes lie between {int(codes.min())} and {int(codes.max())}, outside the "
                f"codebooks' 0 to {self.quantizer.bins - 1}"
            )
        if self.runtime is not None and self.runtime.takes(codes):
            return self.runtime.decode(codes)
        return self.decode_from_latent(self.decode_latent(codes))

    @torch.no_grad()
    def encode_step(
        self,
        frame: Tensor,
        state: MimiState | EncoderState,
        active: Tensor | None = None,
        num_codebooks: int | None = None,
    ) -> Tensor:
        """Next frames of each active slot: [B, 1, n * frame_size] -> int64 [B, K, n]."""
        self._check_pcm(frame)
        if frame.shape[-1] % self.frame_size:
            raise ValueError(
                f"{frame.shape[-1]} samples are no multiple of a frame ({self.frame_size}); "
                "streaming takes whole frames, so gather samples until one is full"
            )
        memory = state.encoder if isinstance(state, MimiState) else state
        levels = self._codebooks(num_codebooks)
        if self.runtime is not None and self.runtime.takes(frame):
            return self.runtime.encode_step(frame, memory, active, levels)
        x = self.encoder.step(frame, memory.seanet, active).transpose(1, 2)
        x = self.encoder_transformer.step(x, memory.transformer, active).transpose(1, 2)
        latent = self.downsample.step(x, memory.downsample, active)
        return self.quantizer.encode(latent, levels)

    @torch.no_grad()
    def decode_step(
        self, codes: Tensor, state: MimiState | DecoderState, active: Tensor | None = None
    ) -> Tensor:
        """Next frames of each active slot: int64 [B, K, n] -> [B, 1, n * frame_size]."""
        self._check_codes(codes)
        memory = state.decoder if isinstance(state, MimiState) else state
        if self.runtime is not None and self.runtime.takes(codes):
            return self.runtime.decode_step(codes, memory, active)
        x = self.upsample.step(self.quantizer.decode(codes), memory.upsample, active)
        x = self.decoder_transformer.step(x.transpose(1, 2), memory.transformer, active)
        return self.decoder.step(x.transpose(1, 2), memory.seanet, active)

    @torch.no_grad()
    def silent_column(self) -> Tensor:
        """Codes [num_codebooks] of silence, once the codec has come to rest."""
        samples = int(_REST_S * self.frame_rate) * self.frame_size
        device = next(self.parameters()).device
        return self.encode(torch.zeros(1, 1, samples, device=device))[0, :, -1]

    def encode_to_latent(self, pcm: Tensor) -> Tensor:
        """[B, 1, T] -> [B, dimension, ceil(T / frame_size)], before the quantiser."""
        self._check_pcm(pcm)
        pcm = F.pad(pcm, (0, -pcm.shape[-1] % self.frame_size))
        x = self.encoder(pcm).transpose(1, 2)
        return self.downsample(self.encoder_transformer(x).transpose(1, 2))

    def decode_latent(self, codes: Tensor) -> Tensor:
        """int64 [B, K, F] -> [B, dimension, F], the quantiser's reconstruction."""
        self._check_codes(codes)
        return self.quantizer.decode(codes)

    def decode_from_latent(self, latent: Tensor) -> Tensor:
        """[B, dimension, F] -> [B, 1, F * frame_size]."""
        x = self.decoder_transformer(self.upsample(latent).transpose(1, 2))
        return self.decoder(x.transpose(1, 2))

    def _codebooks(self, requested: int | None) -> int:
        return self.num_codebooks if requested is None else self._check_codebooks(requested)

    def _check_codebooks(self, count: int) -> int:
        if not 1 <= count <= self.config.quantizer.n_q:
            raise ValueError(
                f"num_codebooks: {count} is not between 1 and {self.config.quantizer.n_q}"
            )
        return count

    def _check_pcm(self, pcm: Tensor) -> None:
        if pcm.dim() != 3 or pcm.shape[1] != 1 or not pcm.is_floating_point():
            raise ValueError(f"audio must be float [B, 1, T], got {pcm.dtype} {tuple(pcm.shape)}")
        if pcm.shape[-1] == 0:
            raise ValueError("audio is empty")

    def _check_codes(self, codes: Tensor) -> None:
        if codes.dtype != torch.int64:
            raise ValueError(f"codes must be int64, got {codes.dtype}")
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.config.quantizer.n_q:
            raise ValueError(
                f"codes must be [B, 1..{self.config.quantizer.n_q}, F], got {tuple(codes.shape)}"
            )
