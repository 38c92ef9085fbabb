"""Conversations as a whole: model, dialogue brain, retrieval and speech recognition together.

async with Engine(load_model("wren"), EngineSettings(slots=4), retriever=retriever) as engine:
    session = await engine.open(SessionOptions(seed=1))
    session.push(pcm)
    async for event in session.events():
        ...
"""

from duologue.engine.api import (
    FRAME_S,
    FRAME_SAMPLES,
    Admission,
    BackendStats,
    EngineDraining,
    EngineError,
    EngineFull,
    EngineSettings,
    EngineStats,
    FrameTimes,
    LatePolicy,
    SessionOptions,
    SnapshotError,
    UnknownSession,
    Wording,
)
from duologue.session.live import Engine
from duologue.session.session import Session

__all__ = [
    "FRAME_S",
    "FRAME_SAMPLES",
    "Admission",
    "BackendStats",
    "Engine",
    "EngineDraining",
    "EngineError",
    "EngineFull",
    "EngineSettings",
    "EngineStats",
    "FrameTimes",
    "LatePolicy",
    "Session",
    "SessionOptions",
    "SnapshotError",
    "UnknownSession",
    "Wording",
]
