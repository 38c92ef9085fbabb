"""The codec's fast path on CPU: whole frames as native programs over the codec's own states.

Results are the modules' within float32 rounding (codes differ where two centroids are as near to
within that), states are the same trees and can be handed to and fro between steps. A slot's bits
depend neither on the other slots nor on which of them are active, nor on the number of threads, nor
on how many frames come at once, so streaming and whole recordings agree to the bit.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from duologue.mimi.codec import DecoderState, EncoderState, Mimi
from duologue.runtime.codec_build import check, decoder_program, encoder_program
from duologue.runtime.codec_pack import Weights
from duologue.runtime.codec_runner import Loaded, Runner, takes
from duologue.runtime.errors import Unsupported

OFFLINE_FRAMES = 16
"""Frames of a recording that are treated at once: weights are read once for all of them."""
MAX_PROGRAMS = 12
"""Programs kept, by direction, codebooks, slots and frames; the oldest goes first."""


class CodecRuntime:
    """Runs one codec's steps; see the module. Safe to call from several threads, one at a time."""

    def __init__(self, codec: Mimi, half: bool = False) -> None:
        """
        Args:
            half: hold large matrices in float16; the result is then near, not equal.

        Raises:
            Unsupported: the codec has layers that the runtime does not know, or is not in
                float32 on the CPU.
        """
        # The codec refers to its runtime; a reference back would make a cycle of 400 MB.
        self._codec = weakref.ref(codec)
        self.half = half
        self._lock = threading.Lock()
        self._programs: dict[tuple[Any, ...], Loaded] = {}
        self._runner = Runner()
        self._forget_weights(codec)
        check(codec)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a codec has no runtime: addresses cannot be copied."""
        return type(None), ()

    def takes(self, tensor: Tensor) -> bool:
        """Whether an input is of a kind that this runs: on the CPU, float32 or codes, not empty."""
        return takes(tensor)

    def encode_step(
        self, pcm: Tensor, state: EncoderState, active: Tensor | None, levels: int
    ) -> Tensor:
        """float32 [B, 1, n * frame_size] -> int64 [B, levels, n]; inactive slots get zeros."""
        codec = self._its_codec()
        frames = pcm.shape[-1] // codec.frame_size
        pcm = pcm.detach().contiguous()
        make = torch.empty if active is None else torch.zeros
        codes = make(pcm.shape[0], levels, frames, dtype=torch.int64)
        with self._lock:
            loaded = self._program(codec, state, pcm.shape[0], frames, levels)
            self._runner.run(loaded, state, pcm, codes, active)
        return codes

    def decode_step(self, codes: Tensor, state: DecoderState, active: Tensor | None) -> Tensor:
        """int64 [B, K, n] -> float32 [B, 1, n * frame_size]; inactive slots get zeros."""
        codec = self._its_codec()
        slots, levels, frames = codes.shape
        codes = codes.contiguous()
        used = codes.numpy() if active is None else codes.numpy()[active.numpy()]
        if used.size and not 0 <= used.min() <= used.max() < codec.quantizer.bins:
            raise IndexError(
                f"codes lie between {used.min()} and {used.max()}, outside the codebooks' 0 to "
                f"{codec.quantizer.bins - 1}"
            )
        make = torch.empty if active is None else torch.zeros
        pcm = make(slots, 1, frames * codec.frame_size)
        with self._lock:
            loaded = self._program(codec, state, slots, frames, levels)
            self._runner.run(loaded, state, codes, pcm, active)
        return pcm

    def encode(self, pcm: Tensor, levels: int) -> Tensor:
        """Whole recordings: float32 [B, 1, T] -> int64 [B, levels, ceil(T / frame_size)]."""
        codec = self._its_codec()
        frames = -(-pcm.shape[-1] // codec.frame_size)
        chunk = min(OFFLINE_FRAMES, frames) * codec.frame_size
        whole = torch.nn.functional.pad(pcm, (0, -pcm.shape[-1] % chunk))
        state = codec.init_encoder_state(pcm.shape[0])
        parts = [self.encode_step(p, state, None, levels) for p in whole.split(chunk, dim=-1)]
        return torch.cat(parts, dim=-1)[..., :frames]

    def decode(self, codes: Tensor) -> Tensor:
        """Whole recordings: int64 [B, K, F] -> float32 [B, 1, F * frame_size]."""
        codec = self._its_codec()
        frames = codes.shape[-1]
        chunk = min(OFFLINE_FRAMES, frames)
        whole = torch.nn.functional.pad(codes, (0, -frames % chunk))
        state = codec.init_decoder_state(codes.shape[0])
        parts = [self.decode_step(c, state, None) for c in whole.split(chunk, dim=-1)]
        return torch.cat(parts, dim=-1)[..., : frames * codec.frame_size]

    def _its_codec(self) -> Mimi:
        codec = self._codec()
        assert codec is not None, "a runtime lives no longer than its codec"
        return codec

    def _program(
        self, codec: Mimi, state: EncoderState | DecoderState, slots: int, frames: int, levels: int
    ) -> Loaded:
        if codec.downsample.weight is not self._witness or self._written() != self._version:
            self._forget_weights(codec)
        encodes = isinstance(state, EncoderState)
        key = (encodes, slots, frames, levels)
        loaded = self._programs.get(key)
        if loaded is None:
            if isinstance(state, EncoderState):
                template = codec.init_encoder_state(1)
                program = encoder_program(codec, self._weights, template, slots, frames, levels)
            else:
                program = decoder_program(
                    codec, self._weights, codec.init_decoder_state(1), slots, frames, levels
                )
            loaded = Loaded.of(program)
            while len(self._programs) >= MAX_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            self._programs[key] = loaded
        return loaded

    def _forget_weights(self, codec: Mimi) -> None:
        """Pack anew: at the start, and whenever somebody has written to the codec's weights."""
        self._parameters = [*codec.parameters(), *codec.buffers()]
        if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in self._parameters):
            raise Unsupported("the runtime needs float32 weights on the CPU")
        self._witness = codec.downsample.weight
        self._version = self._written()
        self._weights = Weights(self.half)
        self._programs.clear()

    def _written(self) -> int:
        """How often weights have been written to in place."""
        return sum(parameter._version for parameter in self._parameters)
