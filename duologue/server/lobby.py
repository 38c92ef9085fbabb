"""What all doors and routes share: the engine, who is in, and how a visit begins.

`Lobby.host` opens or resumes a session, or refuses before the websocket is accepted, and then holds
the visit. A session has one visit at a time: the newest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket

from duologue.errors import DuologueError
from duologue.moshi.sampling import GenerationDefaults
from duologue.server.door import Door
from duologue.server.knowledge import KnowledgeStore
from duologue.server.limits import ClientSessions, client_of
from duologue.server.logs import session_id
from duologue.server.metrics import ServerMetrics
from duologue.server.refusals import Refusal
from duologue.server.settings import ServerSettings
from duologue.server.visit import Visit, VisitLimits
from duologue.session import (
    Engine,
    EngineDraining,
    EngineFull,
    Session,
    SessionOptions,
    UnknownSession,
)

logger = logging.getLogger(__name__)

STOPPING = "the server stops"


@dataclass(frozen=True)
class ModelCard:
    """What is told about the model."""

    name: str
    takes_references: bool
    takes_prompts: bool
    defaults: GenerationDefaults


@dataclass
class Lobby:
    """See the module. Sessions that wait for a client count as its own: the oldest give way."""

    settings: ServerSettings
    engine: Engine
    model: ModelCard
    metrics: ServerMetrics
    knowledge: KnowledgeStore
    voices: Mapping[str, Path]
    visits: dict[str, Visit] = field(default_factory=dict)
    """By session id."""
    waiting: dict[str, Session] = field(default_factory=dict)
    """Sessions that wait for their client, by id."""
    owners: dict[str, str] = field(default_factory=dict)
    """Address of the client that began a session, by id. It counts as that client's until it ends,
    wherever it is resumed: who comes back needs no room, and who moves gains none."""

    def __post_init__(self) -> None:
        self._draining = False
        self.clients = ClientSessions(self.settings.sessions_per_client)
        self.limits = VisitLimits(
            idle_s=self.settings.idle_s,
            send_s=self.settings.send_s,
            messages_per_s=self.settings.messages_per_s,
        )

    def availability(self) -> dict[str, Any]:
        """Whether one more conversation would be taken now."""
        admission = self.engine.can_admit()
        if admission.ok:
            return {"available": True}
        return {
            "available": False,
            "reason": admission.reason,
            "retry_after_s": round(admission.retry_after_s, 3),
        }

    async def host(
        self,
        websocket: WebSocket,
        options: SessionOptions,
        make_door: Callable[[Session], Door],
        *,
        resume: str | None = None,
        max_frames: int | None = None,
    ) -> None:
        """Hold one visit: a new session, or the one that waits under the token `resume`.

        Raises:
            Refusal: before the websocket is accepted. 503 full or draining, 410 nothing to resume,
                429 too many sessions of this client, 400 options the model cannot have.
        """
        address = websocket.client.host if websocket.client else "unknown"
        back = None if resume is None else await self._open(options, resume)
        owner = address if back is None else self.owners.get(back.id, address)
        with self.clients.enter(owner, comes_back=back is not None):
            if back is None:
                await self._make_room(owner)
            session = back or await self._open(options, None)
            self.waiting.pop(session.id, None)
            self.owners[session.id] = owner
            mark = session_id.set(session.id)
            try:
                await self._receive(websocket, session, make_door, resume is not None, max_frames)
            finally:
                session_id.reset(mark)
                if session.ended:
                    self.owners.pop(session.id, None)
                elif session.id not in self.visits:
                    self.waiting[session.id] = session

    async def _receive(
        self,
        websocket: WebSocket,
        session: Session,
        make_door: Callable[[Session], Door],
        resumed: bool,
        max_frames: int | None,
    ) -> None:
        door = make_door(session)
        visit = Visit(
            websocket,
            session,
            door,
            self.limits,
            self.metrics,
            max_frames=max_frames,
            stats=self.figures,
        )
        if earlier := self.visits.get(session.id):
            earlier.superseded = True
        self.visits[session.id] = visit
        self.metrics.opened.labels(door.name, str(resumed).lower()).inc()
        _log("session opened", door=door.name, resumed=resumed)
        begun = time.monotonic()
        try:
            ending = await visit.run()
        finally:
            if self.visits.get(session.id) is visit:
                del self.visits[session.id]
                if self._draining:
                    await session.close(STOPPING)
        _log(
            "visit ended",
            door=door.name,
            code=ending.code,
            reason=ending.reason,
            seconds=round(time.monotonic() - begun, 1),
            frames=visit.frames,
            dropped_samples=visit.dropped_samples,
        )

    async def drain(self) -> None:
        """Let nobody in any more and wait for the conversations to end, for as long as the engine
        lets them. Sessions that nobody is in, now or later, are ended at once."""
        self._draining = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.engine.drain())
            for session in self.waiting.values():
                tasks.create_task(session.close(STOPPING))

    def figures(self) -> dict[str, Any]:
        """The engine in a few figures, for clients that show them."""
        stats = self.engine.stats()
        return {
            "frame_ms_p50": round(stats.frame_times.p50_s * 1000, 2),
            "frame_ms_p99": round(stats.frame_times.p99_s * 1000, 2),
            "lateness_ms_p99": round(stats.lateness.p99_s * 1000, 2),
            "latency_ms_p50": round(stats.latency.p50_s * 1000, 2),
            "input_frames_waiting": stats.input_frames_waiting,
            "sessions": stats.in_use,
            "slots": stats.slots,
        }

    async def _make_room(self, address: str) -> None:
        """End sessions that this client has left behind, the oldest first, beyond what it may have.

        Otherwise a client that is lost again and again would take all slots.
        """
        for session in list(self.waiting.values()):
            if session.ended:
                self._forget(session)
        own = [
            session
            for id, session in self.waiting.items()
            if client_of(self.owners[id]) == client_of(address)
        ]
        for session in own[: max(0, len(own) - self.clients.room(address))]:
            self._forget(session)
            await session.close("its client began another one")

    def _forget(self, session: Session) -> None:
        self.waiting.pop(session.id, None)
        self.owners.pop(session.id, None)

    async def _open(self, options: SessionOptions, resume: str | None) -> Session:
        try:
            if resume is not None:
                return self.engine.resume(resume)
            return await self.engine.open(options)
        except EngineDraining as error:
            refusal = Refusal(503, "draining", str(error), retry_after_s=error.retry_after_s)
        except EngineFull as error:
            refusal = Refusal(503, "full", str(error), retry_after_s=error.retry_after_s)
        except UnknownSession as error:
            refusal = Refusal(410, "resume", str(error))
        except DuologueError as error:
            stats = self.engine.stats()
            stopped = stats.draining or not stats.healthy
            refusal = Refusal(503 if stopped else 400, "options", str(error))
        self.metrics.refused.labels(refusal.code).inc()
        raise refusal


def _log(message: str, **fields: Any) -> None:
    logger.info(message, extra={"fields": fields})
