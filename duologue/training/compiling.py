"""Compiling what training runs most."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
_COMPILERS = ("c++", "g++", "clang++", "cl")


def compiled(function: Callable[P, R], wanted: bool) -> Callable[P, R]:
    """The same function, compiled if it is wanted and this machine has a C++ compiler.

    Shapes are taken as fixed: training meets few, and each is fastest so.
    """
    if not wanted:
        return function
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS)):
        logger.warning("no C++ compiler: training runs uncompiled, which takes half as long again")
        return function
    return torch.compile(function, dynamic=False)
