"""Which way the frames of a bank of slots run: called, or recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from duologue.runtime.errors import RuntimeUnavailable
from duologue.runtime.graph import Advance, CapturedFrames, CudaRecorder, EagerFrames, Recorder

FRAME_RUNTIMES = ("auto", "eager", "graph")
"""`auto` is `graph` on CUDA devices and `eager` elsewhere."""


def frame_maker(
    runtime: str,
    device: torch.device,
    baked: Callable[[], Hashable],
    recorder: Recorder | None = None,
) -> Callable[[Advance, int], EagerFrames]:
    """What makes runners of frames from a frame and the length of its input.

    Args:
        runtime: one of `FRAME_RUNTIMES`.
        baked: see `CapturedFrames`.
        recorder: what records under "graph"; CUDA graphs when `None`.

    Raises:
        RuntimeUnavailable: a graph was asked for by name, and the device has none.
    """
    if runtime not in FRAME_RUNTIMES:
        raise ValueError(f"runtime: {runtime!r} is none of {', '.join(FRAME_RUNTIMES)}")
    if recorder is None and device.type == "cuda":
        recorder = CudaRecorder(device)
    if runtime == "graph" and recorder is None:
        raise RuntimeUnavailable(
            f"the graph runtime needs a CUDA device, not {device.type}; take runtime='auto'"
        )
    if runtime == "eager" or recorder is None:
        return lambda advance, size: EagerFrames(advance, size, device)
    return lambda advance, size: CapturedFrames(advance, size, device, baked, recorder)
