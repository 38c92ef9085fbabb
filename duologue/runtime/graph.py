"""Running a frame between fixed buffers: as it is, or recorded once and replayed in each tick.

A frame is a function of one float32 vector that gives one float32 tensor (for conversations,
`duologue.engine.frame`). The host fills `inputs`, calls `run`, and has the outputs: one copy there,
one copy back, and the only wait for the device is for that copy. To be recorded, a frame must

- keep what it remembers in tensors that are there before its first call, and write them in place;
- do the same work, on the same shapes, whatever numbers the tensors hold;
- leave what it remembers as it is, to the bit, when its inputs are all zero (so nothing is lost
  when it is warmed up);
- say in `baked` what else its work depends on.

**Baked** into a recording are addresses and whatever Python decided: weights, shapes, kernels,
which features run, and the values in `baked`. When these change, the frame is recorded anew; some
recordings are kept, for values that come back. **Read from buffers** in each replay is all that a
conversation is: samples, who is active, positions and places in rings, seeds and frame numbers
(draws hash them), temperatures and limits, steering, reference rows, conditions, forced tokens.
Those may be written between frames by anyone, in place. Replacing such a tensor by another leaves
a recording on the old one: don't.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MAX_RECORDINGS = 8
"""Recordings kept of one frame; the least recently used go."""
WARM_UPS = 2
"""Calls before a recording: libraries choose their algorithms and allocate in the first."""

Advance = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recording:
    """Work that can be done again."""

    replay: Callable[[], None]
    outputs: Tensor
    """Where each replay leaves its result."""


class Recorder(Protocol):
    """What can record device work."""

    def record(self, work: Callable[[], Tensor]) -> Recording:
        """Record `work`, which is called some times for that.

        Raises:
            RuntimeError: the device cannot record it.
        """
        ...


class EagerFrames:
    """Runs a frame by calling it: the reference, and the way on devices without graphs."""

    def __init__(self, advance: Advance, size: int, device: torch.device) -> None:
        """`size` is the length of the input."""
        self._advance, self._device = advance, device
        self._on_gpu = device.type == "cuda"
        self.inputs = torch.zeros(size, pin_memory=self._on_gpu)
        """float32 [size] on the host, to be filled before `run`; pinned where that matters."""
        self._given = torch.zeros(size, device=device)
        self._outputs: Tensor | None = None

    @torch.no_grad()
    def run(self) -> Tensor:
        """The frame's outputs for `inputs`, on the host; they hold until the next call."""
        if not self._on_gpu:
            return self._run().cpu()
        with torch.cuda.device(self._device):
            return self._fetched(self._run())

    def _run(self) -> Tensor:
        work = self._work()
        self._given.copy_(self.inputs, non_blocking=True)
        return work()

    def _work(self) -> Callable[[], Tensor]:
        """What computes the outputs once the inputs are on the device."""
        return self._call

    def _call(self) -> Tensor:
        return self._advance(self._given)

    def _fetched(self, outputs: Tensor) -> Tensor:
        if self._outputs is None:
            self._outputs = torch.empty(outputs.shape, dtype=outputs.dtype, pin_memory=True)
        self._outputs.copy_(outputs, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        done.synchronize()
        return self._outputs


class CapturedFrames(EagerFrames):
    """Runs a frame by replaying a recording of it. A frame that cannot be recorded is called."""

    def __init__(
        self,
        advance: Advance,
        size: int,
        device: torch.device,
        baked: Callable[[], Hashable],
        recorder: Recorder,
    ) -> None:
        """
        Args:
            baked: what the frame's work depends on beside its tensors; asked before each frame, so
                it must be quick.
        """
        super().__init__(advance, size, device)
        self._baked, self._recorder = baked, recorder
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self.recorded = 0
        """Recordings made so far."""
        self.failure: str | None = None
        """Why the frame is called instead of replayed."""

    def _work(self) -> Callable[[], Tensor]:
        if self.failure is not None:
            return self._call
        baked = self._baked()
        recording = self._recordings.get(baked) or self._record(baked)
        if recording is None:
            return self._call
        self._recordings.move_to_end(baked)

        def replay() -> Tensor:
            recording.replay()
            return recording.outputs

        return replay

    def _record(self, baked: Hashable) -> Recording | None:
        # The values are kept with their recording, so a vocabulary lives as long as work on it.
        self._given.zero_()
        begin = time.perf_counter()
        try:
            recording = self._recorder.record(self._call)
        except RuntimeError as error:
            # Ending a broken recording raises too; what broke it is the context.
            self.failure = str(error.__context__ or error)
            logger.warning("frames run without a graph, for none could be made: %s", self.failure)
            self._recordings.clear()
            return None
        self.recorded += 1
        self._recordings[baked] = recording
        while len(self._recordings) > MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        took_ms = 1000 * (time.perf_counter() - begin)
        logger.info("recorded a frame in %.0f ms (%d so far)", took_ms, self.recorded)
        return recording


class CudaRecorder:
    """Records CUDA graphs that share one pool of working memory: only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Tensor]) -> Recording:
        """As `Recorder.record`, on a stream of its own."""
        caller = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(caller)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                work()
            torch.cuda.synchronize(self._stream.device)
            torch.cuda.empty_cache()  # what warming up took is taken again, from the graph's pool
            # Other threads may use the device meanwhile (reference encoders do).
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = self._capture(graph, work)
            except RuntimeError:
                self._give_up()
                raise
        caller.wait_stream(self._stream)
        return Recording(graph.replay, outputs)

    def _capture(self, graph: torch.cuda.CUDAGraph, work: Callable[[], Tensor]) -> Tensor:
        try:
            return work()
        finally:
            graph.capture_end()

    def _give_up(self) -> None:
        """Tell the allocator that a capture is over whose end failed.

        It would wait for ever, and could give no memory back.
        """
        device = torch.cuda.current_device()
        with contextlib.suppress(RuntimeError):  # it knew
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)
