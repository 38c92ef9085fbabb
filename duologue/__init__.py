"""Duologue: real-time, full-duplex spoken dialogue with asynchronous knowledge retrieval.

    import duologue
    codec = duologue.load_codec("wren")
    lm = duologue.load_lm("folder")

Names are loaded on first use, so importing the package is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from duologue.checkpoints.errors import CheckpointError
    from duologue.checkpoints.load import load_codec, load_lm
    from duologue.engine.api import EngineSettings, SessionOptions
    from duologue.engine.model import load_model
    from duologue.mimi.codec import Mimi
    from duologue.moshi.generator import Generator
    from duologue.moshi.lm import MoshiLM
    from duologue.moshi.sampling import Sampling
    from duologue.session.live import Engine
    from duologue.session.moshi import Moshi
    from duologue.session.session import Session

_HOMES = {
    "CheckpointError": "duologue.checkpoints.errors",
    "Engine": "duologue.session.live",
    "EngineSettings": "duologue.engine.api",
    "Generator": "duologue.moshi.generator",
    "Mimi": "duologue.mimi.codec",
    "Moshi": "duologue.session.moshi",
    "MoshiLM": "duologue.moshi.lm",
    "Sampling": "duologue.moshi.sampling",
    "Session": "duologue.session.session",
    "SessionOptions": "duologue.engine.api",
    "load_codec": "duologue.checkpoints.load",
    "load_lm": "duologue.checkpoints.load",
    "load_model": "duologue.engine.model",
}

__all__ = [
    "CheckpointError",
    "Engine",
    "EngineSettings",
    "Generator",
    "Mimi",
    "Moshi",
    "MoshiLM",
    "Sampling",
    "Session",
    "SessionOptions",
    "__version__",
    "load_codec",
    "load_lm",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'duologue' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
