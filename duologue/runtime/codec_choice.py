"""Which way a loaded codec computes: its modules, or the native programs that equal them."""

from __future__ import annotations

import logging

from duologue.errors import DuologueError
from duologue.mimi.codec import Mimi

logger = logging.getLogger(__name__)

RUNTIMES = ("auto", "eager", "fast", "half")
"""`auto` is `fast` where that can run and `eager` elsewhere; `half` is `fast` with large matrices
in float16, which reads half the memory and gives nearly the same (see docs/benchmarks.md)."""


class RuntimeUnavailable(DuologueError, RuntimeError):
    """The runtime that was asked for cannot run this codec here."""


def choose_runtime(codec: Mimi, runtime: str) -> None:
    """Give a codec the runtime of this name (`RUNTIMES`).

    Raises:
        RuntimeUnavailable: it was asked for by name, and the machine or the codec does not fit.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime: {runtime!r} is none of {', '.join(RUNTIMES)}")
    codec.runtime = None
    if runtime == "eager" or (runtime == "auto" and codec.downsample.weight.device.type != "cpu"):
        return
    try:
        from duologue.runtime.codec import CodecRuntime
        from duologue.runtime.codec_pack import Unsupported
    except ImportError as error:
        if runtime != "auto":
            raise RuntimeUnavailable(
                f"the {runtime} runtime needs numba, which does not import here ({error}); "
                "install it or take runtime='eager'"
            ) from error
        logger.info("numba does not import here; the codec runs eagerly")
        return
    try:
        codec.runtime = CodecRuntime(codec, half=runtime == "half")
    except Unsupported as error:
        if runtime != "auto":
            raise RuntimeUnavailable(f"the {runtime} runtime cannot run this: {error}") from error
        logger.info("the codec runs eagerly: %s", error)
