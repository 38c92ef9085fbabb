"""How many conversations stay on time on this machine: `duologue bench capacity`.

For a number of sessions, a server's inside is opened as `serve` opens it (codec, recognition,
language model, decoder, knowledge base, reference encoder), with that many slots. Each session has
a door of its own that decodes Opus and encodes it, and is sent recorded speech at its real pace,
not in step with the others. On time means: no audio lost, and the 99th percentile of lateness (from
when a step was due until its events were out) below a frame. Sockets are left out: they cost a
server little, and callers on the same machine would cost more than they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duologue.audio import OggOpusEncoder, read_audio
from duologue.dialogue import AudioFrame
from duologue.engine.api import FRAME_S, FRAME_SAMPLES, EngineSettings, FrameTimes, SessionOptions
from duologue.server.assembly import Loaded, open_lobby
from duologue.server.door import Samples
from duologue.server.protocols.kyutai.door import About, KyutaiDoor
from duologue.server.protocols.kyutai.query import ChatQuery, Dialect, Handshake
from duologue.server.settings import ServerSettings

if TYPE_CHECKING:
    from duologue.server.lobby import Lobby
    from duologue.session import Engine, Session

RATE = 24_000
PAUSE_S = 2.5
"""Silence after each recording, in which the model is to answer."""
SETTLE_S = 0.5
"""After the last frame, for answers that are still under way."""
Pcm = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """So many sessions at a time, and how they went. Times in milliseconds."""

    sessions: int
    on_time: bool
    frames: int
    answered: int
    dropped: int
    overruns: int
    lookups: int
    step: dict[str, float]
    lateness: dict[str, float]
    latency: dict[str, float]
    """From the arrival of a frame until its events were out."""

    def row(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def recorded_speech(files: Sequence[Path]) -> Pcm:
    """The recordings [T] one after the other, each followed by a pause."""
    pause = np.zeros(round(PAUSE_S * RATE), np.float32)
    parts = [part for path in files for part in (read_audio(path, RATE), pause)]
    return np.concatenate(parts)


def built_in_questions() -> list[Path]:
    """The spoken sample questions of the page."""
    import duologue.server

    return sorted((Path(duologue.server.__file__).parent / "static" / "questions").glob("*.wav"))


async def largest_on_time(most: int, is_on_time: Callable[[int], Awaitable[bool]]) -> int:
    """The largest number from 1 to `most` that is on time, 0 if none; by doubling, then halving."""
    good, tried = 0, 1
    while await is_on_time(tried):
        good = tried
        if tried == most:
            return most
        tried = min(2 * tried, most)
    late = tried
    while late - good > 1:
        tried = (good + late) // 2
        if await is_on_time(tried):
            good = tried
        else:
            late = tried
    return good


async def measure(
    loaded: Loaded,
    sessions: int,
    speech: Pcm,
    seconds: float,
    *,
    knowledge: Sequence[str] = ("factbook",),
    adapt: Callable[[EngineSettings], EngineSettings] = lambda settings: settings,
) -> Level:
    """Let so many sessions talk for so long."""
    settings = ServerSettings.model_validate(
        {"sessions": sessions, "knowledge": tuple(knowledge), "model": loaded.model.name}
    )

    def everybody(engine: EngineSettings) -> EngineSettings:
        return adapt(replace(engine, budget_share=None))

    messages = opus_messages(speech, round(seconds / FRAME_S))
    async with open_lobby(settings, loaded, {}, adapt=everybody) as lobby:
        engine = lobby.engine
        opened = [await engine.open(SessionOptions(seed=number)) for number in range(sessions)]
        begin_s = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(
                    _call(session, _door(lobby), messages, begin_s + FRAME_S * number / sessions)
                )
                for number, session in enumerate(opened)
            ]
        answered = sum(call.result() for call in calls)
        return _level(engine, sessions, sessions * len(messages), answered)


def opus_messages(speech: Pcm, frames: int) -> list[bytes]:
    """A client's messages, one for each frame, the recording as often as it takes."""
    encoder = OggOpusEncoder(RATE)
    samples = np.resize(speech, frames * FRAME_SAMPLES).reshape(frames, FRAME_SAMPLES)
    return [b"\x01" + encoder.encode(frame) for frame in samples]


async def _call(
    session: Session, door: KyutaiDoor, messages: Sequence[bytes], begin_s: float
) -> int:
    """Say everything at its pace; returns the frames that were answered."""
    reading = asyncio.create_task(_read(session, door))
    clock = asyncio.get_running_loop().time
    for number, message in enumerate(messages, 1):
        await asyncio.sleep(begin_s + number * FRAME_S - clock())
        for heard in door.hear(message):
            if isinstance(heard, Samples):
                session.push(heard.pcm)
    await asyncio.sleep(SETTLE_S)
    await session.close()
    return await reading


async def _read(session: Session, door: KyutaiDoor) -> int:
    frames = 0
    async for event in session.events():
        for _ in door.render(event):
            pass
        frames += isinstance(event, AudioFrame)
    return frames


def _door(lobby: Lobby) -> KyutaiDoor:
    usual = lobby.model.defaults
    about = About(
        session="", resume_token="", resumed=False, resume_s=0.0, model=lobby.model.name,
        backends=lobby.engine.backends, text=usual.text, audio=usual.audio,
    )  # fmt: skip
    return KyutaiDoor(ChatQuery(), Dialect.EVENTS, Handshake.SHORT, about)


def _level(engine: Engine, sessions: int, frames: int, answered: int) -> Level:
    stats = engine.stats()
    dropped = stats.input_frames_dropped + stats.output_frames_dropped
    return Level(
        sessions=sessions,
        on_time=stats.lateness.p99_s < FRAME_S and not dropped,
        frames=frames,
        answered=answered,
        dropped=dropped,
        overruns=stats.overruns,
        lookups=sum(one.started for one in stats.retrieval.values()),
        step=_milliseconds(stats.frame_times),
        lateness=_milliseconds(stats.lateness),
        latency=_milliseconds(stats.latency),
    )


def _milliseconds(times: FrameTimes) -> dict[str, float]:
    values = {"p50": times.p50_s, "p95": times.p95_s, "p99": times.p99_s, "max": times.max_s}
    return {name: round(value * 1000, 2) for name, value in values.items()}
