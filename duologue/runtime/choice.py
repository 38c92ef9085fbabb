"""Which way a loaded model computes: its modules, or compiled code that equals them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from duologue.mimi.codec import Mimi
from duologue.moshi.lm import MoshiLM
from duologue.runtime.errors import RuntimeUnavailable, Unsupported
from duologue.stt.front_end import MelFrontEnd

logger = logging.getLogger(__name__)

LM_RUNTIMES = ("auto", "eager", "fast")
"""`auto` is `fast` where that can run and `eager` elsewhere."""
CODEC_RUNTIMES = (*LM_RUNTIMES, "half")
"""`half` is `fast` with large matrices in float16, which reads half the memory and gives nearly the
same (see docs/benchmarks.md)."""


def choose_codec_runtime(codec: Mimi, runtime: str) -> None:
    """Give a codec the runtime of this name (`CODEC_RUNTIMES`).

    Raises:
        RuntimeUnavailable: it was asked for by name, and the machine or the codec does not fit.
    """

    def attach() -> None:
        from duologue.runtime.codec import CodecRuntime

        codec.runtime = CodecRuntime(codec, half=runtime == "half")

    codec.runtime = None
    device = codec.downsample.weight.device
    _choose("the codec", runtime, CODEC_RUNTIMES, device.type == "cpu", attach)


def choose_front_end_runtime(front_end: MelFrontEnd, runtime: str) -> None:
    """Give a recogniser's front end the runtime of this name (`LM_RUNTIMES`).

    Raises:
        RuntimeUnavailable: it was asked for by name, and the machine or the weights do not fit.
    """

    def attach() -> None:
        from duologue.runtime.front_end import FrontEndRuntime

        front_end.runtime = FrontEndRuntime(front_end)

    front_end.runtime = None
    device = front_end.first.weight.device
    _choose("the front end", runtime, LM_RUNTIMES, device.type == "cpu", attach)


def choose_lm_runtime(lm: MoshiLM, runtime: str) -> None:
    """Have the generators that are made from `lm` from now on run this way (`LM_RUNTIMES`).

    Raises:
        RuntimeUnavailable: it was asked for by name, and the machine or the model does not fit.
    """

    def attach() -> None:
        from duologue.runtime.lm import attach

        attach(lm)

    lm.make_runner = lm.make_reader = None
    _choose("the language model", runtime, LM_RUNTIMES, lm.device.type == "cpu", attach)


def _choose(
    what: str, runtime: str, known: Collection[str], on_cpu: bool, attach: Callable[[], None]
) -> None:
    """Attach compiled code if `runtime` asks for it, or leaves it to us and it can run."""
    if runtime not in known:
        raise ValueError(f"runtime: {runtime!r} is none of {', '.join(known)}")
    if runtime == "eager" or (runtime == "auto" and not on_cpu):
        return
    try:
        attach()
    except ImportError as error:
        cause: Exception = error
        reason = (
            f"the {runtime} runtime needs numba, which does not import here ({error}); "
            "install it or take runtime='eager'"
        )
    except Unsupported as error:
        cause, reason = error, f"the {runtime} runtime cannot run this: {error}"
    else:
        return
    if runtime != "auto":
        raise RuntimeUnavailable(reason) from cause
    logger.info("%s runs eagerly: %s", what, cause)
