"""What must hold at capacity: one more is refused cleanly, and nobody hears the others.

`refusal` asks a whole server over real sockets: sessions talk until one more is turned away, which
must happen before the websocket is accepted. `heard_alone` writes event logs of sessions that talk
together and replays each of them alone: the same input must give the same bits.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from duologue.cli.bench_capacity import Pcm, measure, opus_messages
from duologue.client.host import own_server
from duologue.engine.api import FRAME_S, EngineSettings
from duologue.server.assembly import Loaded
from duologue.server.settings import ServerSettings
from duologue.session.replay import replay

JOIN_S = 1.0
"""Between one caller and the next, who all go on talking: admission looks at what is."""
OPEN_S = 60.0


@dataclass(frozen=True)
class Refusal:
    """How the first caller was turned away for whom there was no room."""

    talking: int
    """Sessions that had been let in."""
    status: int
    retry_after: str | None
    reason: str
    undisturbed: bool
    """Whether all who had been let in were still answered afterwards."""

    @property
    def clean(self) -> bool:
        return self.status == 503 and self.retry_after is not None and self.undisturbed


@dataclass(frozen=True)
class Alone:
    """Sessions that talked together, each again on its own."""

    sessions: int
    frames: int
    differences: tuple[str, ...]
    """Where a session was something else alone; empty if none was."""


def refusal(
    loaded: Loaded, sessions: int, speech: Pcm, *, knowledge: Sequence[str] = ("factbook",)
) -> Refusal:
    """Fill a server of so many sessions with talkers, and one more."""
    settings = ServerSettings.model_validate(
        {
            "sessions": sessions,
            "sessions_per_client": sessions + 1,
            "knowledge": tuple(knowledge),
            "model": loaded.model.name,
        }
    )
    with own_server(settings, loaded, {}) as (url, token):
        return asyncio.run(_fill(url, token, sessions, speech))


async def _fill(url: str, token: str, sessions: int, speech: Pcm) -> Refusal:
    where = f"ws{url.removeprefix('http')}/api/chat?token={token}"
    frames = round((sessions + 2) * JOIN_S / FRAME_S) + 25
    messages = opus_messages(speech, frames)
    talkers: list[_Talker] = []
    try:
        while True:
            try:
                # No deflate, as our own clients ask for.
                socket = await connect(where, compression=None, open_timeout=OPEN_S, proxy=None)
            except InvalidStatus as refused:
                before = [talker.answers for talker in talkers]
                await asyncio.sleep(JOIN_S)
                going_on = all(t.answers > n for t, n in zip(talkers, before, strict=True))
                response = refused.response
                return Refusal(
                    len(talkers), response.status_code, response.headers.get("retry-after"),
                    bytes(response.body or b"").decode(errors="replace")[:500], going_on,
                )  # fmt: skip
            talkers.append(_Talker(socket, messages))
            await asyncio.sleep(JOIN_S)
    finally:
        for talker in talkers:
            await talker.hang_up()


class _Talker:
    """Talks at the real pace and counts what comes back."""

    def __init__(self, socket: ClientConnection, messages: Sequence[bytes]) -> None:
        self.answers = 0
        self._socket, self._messages = socket, messages
        self._tasks = [asyncio.create_task(part()) for part in (self._talk, self._listen)]

    async def hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close()

    async def _talk(self) -> None:
        clock = asyncio.get_running_loop().time
        begin_s = clock()
        with contextlib.suppress(ConnectionClosed):
            for number, message in enumerate(self._messages, 1):
                await asyncio.sleep(begin_s + number * FRAME_S - clock())
                await self._socket.send(message)

    async def _listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self._socket:
                self.answers += message[:1] == b"\x01"


async def heard_alone(
    loaded: Loaded,
    sessions: int,
    speech: Pcm,
    frames: int,
    *,
    knowledge: Sequence[str] = ("factbook",),
) -> Alone:
    """Let sessions talk together for so many frames, then each of them alone."""
    with tempfile.TemporaryDirectory(prefix="duologue-bench-") as folder:

        def log(settings: EngineSettings) -> EngineSettings:
            return replace(settings, log_dir=Path(folder))

        await measure(loaded, sessions, speech, frames * FRAME_S, knowledge=knowledge, adapt=log)
        reports = [
            await asyncio.to_thread(replay, path, loaded.model)
            for path in sorted(Path(folder).glob("*.jsonl"))
        ]
    differences = tuple(report.difference for report in reports if report.difference)
    return Alone(len(reports), sum(report.frames for report in reports), differences)


def as_data(refused: Refusal | None, alone: Alone | None) -> dict[str, Any]:
    """Plain data for a report; nothing for what was not checked."""
    data: dict[str, Any] = {}
    if refused is not None:
        data["refusal"] = {
            "talking": refused.talking, "status": refused.status,
            "retry_after": refused.retry_after, "reason": refused.reason, "clean": refused.clean,
        }  # fmt: skip
    if alone is not None:
        data["alone"] = {
            "sessions": alone.sessions, "frames": alone.frames,
            "differences": list(alone.differences),
        }  # fmt: skip
    return data
