"""The codec's fast path on CPU: whole frames as native programs over the codec's own states.

Results are the modules' within float32 rounding (codes differ where two centroids are as near to
within that), states are the same trees and can be handed to and fro between steps. A slot's bits
depend neither on the other slots nor on which of them are active, nor on the number of threads, nor
on how many frames come at once, so streaming and whole recordings agree to the bit.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.mimi.codec import DecoderState, EncoderState, Mimi
from duologue.nn.state import State
from duologue.runtime import codec_kernels as k
from duologue.runtime.codec_build import check, decoder_program, encoder_program
from duologue.runtime.codec_pack import Weights, aligned
from duologue.runtime.codec_program import Program
from duologue.runtime.codec_team import TEAM
from duologue.runtime.errors import Unsupported
from duologue.runtime.threads import meeting_point

MAX_THREADS = 16
MACS_PER_THREAD = 24_000_000
"""Work that makes waking one more thread worth while."""
OFFLINE_FRAMES = 16
"""Frames of a recording that are treated at once: weights are read once for all of them."""
MAX_PROGRAMS = 12
"""Programs kept, by direction, codebooks, slots and frames; the oldest goes first."""


@dataclass
class _Loaded:
    """A program ready to run."""

    program: Program
    table: NDArray[np.int64]


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
        self._programs: dict[tuple[Any, ...], _Loaded] = {}
        self._states: dict[int, tuple[Any, list[Tensor], NDArray[np.int64]]] = {}
        self._scratch = aligned((MAX_THREADS, k.SCRATCH_BYTES // 4))
        self._point = meeting_point()
        self._forget_weights(codec)
        check(codec)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a codec has no runtime: addresses cannot be copied."""
        return type(None), ()

    def takes(self, tensor: Tensor) -> bool:
        """Whether an input is of a kind that this runs: on the CPU, float32 or codes, not empty."""
        plain = tensor.dtype in (torch.float32, torch.int64)
        return plain and tensor.device.type == "cpu" and tensor.numel() > 0

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
            self._run(loaded, state, pcm, codes, active)
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
            self._run(loaded, state, codes, pcm, active)
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
    ) -> _Loaded:
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
            loaded = _Loaded(program, program.finish())
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

    def _run(
        self, loaded: _Loaded, state: State, source: Tensor, out: Tensor, active: Tensor | None
    ) -> None:
        slots = source.shape[0]
        chosen = np.arange(slots) if active is None else np.flatnonzero(active.numpy())
        if not len(chosen):
            return
        memory = self._addresses(state)
        memory[0], memory[1] = source.data_ptr(), out.data_ptr()
        table, point = loaded.table, self._point
        scratch = self._scratch.ctypes.data
        worth = 1 + loaded.program.macs * len(chosen) // MACS_PER_THREAD
        size = max(1, min(torch.get_num_threads(), worth, MAX_THREADS))

        def part(rank: int, size: int) -> None:
            k.run(table, memory, chosen, rank, size, point, scratch)

        TEAM.run(part, size)

    def _addresses(self, state: State) -> NDArray[np.int64]:
        """Addresses of a state's tensors, worked out once for each state."""
        known = self._states.get(id(state))
        if known is not None and known[0]() is state:
            return known[2]
        tensors = list(state.tensors().values())
        if not all(t.is_contiguous() and t.device.type == "cpu" for t in tensors):
            raise ValueError("a codec's state must lie on the CPU, contiguous")
        memory = np.array([0, 0, *(t.data_ptr() for t in tensors)], np.int64)
        name, states = id(state), self._states
        watch = weakref.ref(state, lambda _: states.pop(name, None))
        self._states[name] = (watch, tensors, memory)
        return memory
