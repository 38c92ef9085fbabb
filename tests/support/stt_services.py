"""Recognition services that misbehave on request, over real sockets on loopback.

They hear what they are told to hear: a script of words by frame. Each speaks a published protocol,
keeps what it received, and can refuse, hang, talk nonsense, hang up or be slow.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

DELAY = 6
"""Frames by which these services' words are late."""


@dataclass
class FakeService:
    """Behaviour, and what was received. `script` maps a frame of speech to a word."""

    script: dict[int, str] = field(default_factory=dict)
    hang_up_after: int | None = None
    """Frames after which the first connection ends."""
    garbage_after: int | None = None
    deaf_after: int | None = None
    """Frames after which the first connection answers no more."""
    refuse: str | None = None
    status: int | None = None
    redirect: str | None = None
    never_ready: bool = False
    step_s: float = 0.0
    """How long a frame takes."""
    frames: list[list[float]] = field(default_factory=list)
    """Mean of each frame, by connection; flushes' silence included."""
    requests: list[Headers] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)
    setups: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    close: Callable[[], None] = lambda: None

    def first_request(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request.headers)
        self.asked_at.append(time.monotonic())
        if self.status is not None:
            return Response(self.status, "No", Headers({"Content-Length": "0"}), b"")
        if self.redirect is not None:
            headers = Headers({"Location": self.redirect, "Content-Length": "0"})
            return Response(307, "Elsewhere", headers, b"")
        return None

    def begin(self) -> list[float]:
        self.frames.append([])
        return self.frames[-1]

    def fault(self, heard: int) -> str | None:
        """What goes wrong at this frame; only first connections are faulty."""
        if len(self.frames) > 1:
            return None
        for name in ("hang_up_after", "garbage_after", "deaf_after"):
            if (limit := getattr(self, name)) is not None and heard >= limit:
                return name
        return None

    def words(self, means: list[float]) -> list[tuple[str, float]]:
        """Words due after the last frame: those spoken `DELAY` frames ago, by what was heard."""
        spoken = len(means) - 1 - DELAY
        if spoken < 0:
            return []
        # A frame of speech carries its number in its level.
        number = round(means[spoken] * 1000) - 1
        word = self.script.get(number) if number >= 0 else None
        return [(word, spoken * 0.08)] if word else []


def speech(number: int) -> np.ndarray:
    """A frame that says which one it is."""
    return np.full(1920, (number + 1) / 1000, dtype=np.float32)


@contextlib.asynccontextmanager
async def running(service: FakeService, protocol: str, port: int = 0) -> AsyncIterator[FakeService]:
    handler = {"gradium": _gradium, "kyutai": _kyutai}[protocol]

    async def handle(socket: ServerConnection) -> None:
        await handler(service, socket)

    async with serve(
        handle,
        "127.0.0.1",
        port,
        process_request=service.first_request,
        compression=None,
        close_timeout=0.05,
    ) as server:
        port = server.sockets[0].getsockname()[1]
        service.url = f"ws://127.0.0.1:{port}"
        yield service


async def _gradium(service: FakeService, socket: ServerConnection) -> None:
    means = service.begin()

    async def say(**message: Any) -> None:
        await socket.send(json.dumps(message))

    async def hear(pcm: np.ndarray) -> bool:
        means.append(float(pcm.mean()))
        fault = service.fault(len(means))
        if fault == "hang_up_after":
            await socket.close(1001, "session limit")
            return False
        if fault == "garbage_after":
            await socket.send("{not json")
            return False
        if fault == "deaf_after":
            await socket.wait_closed()
        if service.step_s:
            await asyncio.sleep(service.step_s)
        for word, start in service.words(means):
            await say(type="text", text=word, start_s=start, stream_id=None)
            await say(type="end_text", stop_s=start + 0.16, stream_id=None)
        vad = [{"horizon_s": h, "inactivity_prob": p} for h, p in ((0.5, 0.1), (1, 0.2), (2, 0.3))]
        total = len(means) * 0.08
        await say(type="step", vad=vad, step_idx=len(means), total_duration_s=total, extra={"a": 1})
        return True

    async for message in socket:
        given = json.loads(message)
        match given["type"]:
            case "setup":
                service.setups.append(given)
                if service.refuse:
                    await say(type="error", message=service.refuse, code=1008)
                    return
                if not service.never_ready:
                    await say(
                        type="ready", request_id="r", sample_rate=24000, delay_in_frames=DELAY
                    )
                    await say(type="something_new", of="interest")
            case "audio":
                pcm = np.frombuffer(base64.b64decode(given["audio"]), "<i2") / 32767
                assert len(pcm) == 1920
                if not await hear(pcm):
                    return
            case "flush":
                for _ in range(DELAY):
                    await hear(np.zeros(1920))
                await say(type="flushed", flush_id=given["flush_id"])


async def _kyutai(service: FakeService, socket: ServerConnection) -> None:
    means = service.begin()
    markers: list[tuple[int, int]] = []
    buffered = np.zeros(0, dtype=np.float32)

    async def say(**message: Any) -> None:
        await socket.send(msgspec.msgpack.encode(message))

    if service.refuse:
        await say(type="Error", message=service.refuse)
        return
    if not service.never_ready:
        await say(type="Ready")
    async for message in socket:
        given = msgspec.msgpack.decode(message)
        if given["type"] == "Marker":
            markers.append((len(means) + DELAY, given["id"]))
            continue
        assert given["type"] == "Audio"
        buffered = np.concatenate([buffered, np.array(given["pcm"], dtype=np.float32)])
        while len(buffered) >= 1920:
            pcm, buffered = buffered[:1920], buffered[1920:]
            means.append(float(pcm.mean()))
            fault = service.fault(len(means))
            if fault == "hang_up_after":
                return
            if fault == "garbage_after":
                await socket.send(b"\xc1\xff")
                return
            if fault == "deaf_after":
                await socket.wait_closed()
            if service.step_s:
                await asyncio.sleep(service.step_s)
            for word, start in service.words(means):
                await say(type="Word", text=word, start_time=start)
                await say(type="EndWord", stop_time=start + 0.16)
            await say(
                type="Step", step_idx=999 + len(means), prs=[0.1, 0.2, 0.3, 0.4], buffered_pcm=0
            )
            while markers and markers[0][0] <= len(means):
                await say(type="Marker", id=markers.pop(0)[1])
