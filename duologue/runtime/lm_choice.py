"""Which way a loaded language model computes: its modules, or compiled code that equals them."""

from __future__ import annotations

import logging

from duologue.moshi.lm import MoshiLM
from duologue.runtime.codec_choice import RuntimeUnavailable

logger = logging.getLogger(__name__)

LM_RUNTIMES = ("auto", "eager", "fast")
"""`auto` is `fast` where that can run and `eager` elsewhere."""


def choose_lm_runtime(lm: MoshiLM, runtime: str) -> None:
    """Have the generators that are made from `lm` from now on run this way (`LM_RUNTIMES`).

    Raises:
        RuntimeUnavailable: it was asked for by name, and the machine or the model does not fit.
    """
    if runtime not in LM_RUNTIMES:
        raise ValueError(f"runtime: {runtime!r} is none of {', '.join(LM_RUNTIMES)}")
    lm.make_runner = lm.make_reader = None
    if runtime == "eager" or (runtime == "auto" and lm.device.type != "cpu"):
        return
    try:
        from duologue.runtime.linear import UnsupportedError
        from duologue.runtime.lm import attach
    except ImportError as error:
        if runtime == "fast":
            raise RuntimeUnavailable(
                f"the fast runtime needs numba, which does not import here ({error}); "
                "install it or take runtime='eager'"
            ) from error
        logger.info("numba does not import here; the language model runs eagerly")
        return
    try:
        attach(lm)
    except UnsupportedError as error:
        if runtime == "fast":
            raise RuntimeUnavailable(f"the fast runtime cannot run this: {error}") from error
        logger.info("the language model runs eagerly: %s", error)
