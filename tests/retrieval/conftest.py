"""A chat endpoint that misbehaves on request, on loopback, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

ANSWER = "Paris is the capital of France, and it lies on the Seine. It has two million people."


@dataclass
class Received:
    """One request as the server saw it."""

    path: str
    headers: dict[str, str]
    payload: dict[str, Any]


@dataclass
class ChatServer:
    """Behaviour is chosen by the model name of the request."""

    port: int = 0
    other_port: int = 0
    received: list[Received] = field(default_factory=list)
    disconnected: threading.Event = field(default_factory=threading.Event)

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/v1"

    def reset(self) -> None:
        self.received.clear()
        self.disconnected.clear()

    @property
    def models(self) -> list[str]:
        return [request.payload.get("model", "") for request in self.received]

    # -- behaviours

    async def chat(self, request: Request) -> Response:
        payload = await request.json()
        self.received.append(Received(request.url.path, dict(request.headers), payload))
        model = str(payload.get("model", "")).partition(":")[0]
        name = "answer_" + model.replace("-", "_")
        behaviour = getattr(self, name, None)
        if behaviour is None:
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        result: Response = await behaviour(request, payload)
        return result

    async def answer_stream(self, request: Request, payload: dict[str, Any]) -> Response:
        return _events(*_words(ANSWER))

    async def answer_slow(self, request: Request, payload: dict[str, Any]) -> Response:
        return _events(*_words(ANSWER), pause_s=0.03)

    async def answer_label(self, request: Request, payload: dict[str, Any]) -> Response:
        return _events("\n", "Refer", "ence", ": ", "It opened in 1889.", "\nSecond line.")

    async def answer_think(self, request: Request, payload: dict[str, Any]) -> Response:
        return _events("<thi", "nk>They want", " a city.</th", "ink>\n\n", "Paris it is.")

    async def answer_json(self, request: Request, payload: dict[str, Any]) -> Response:
        message = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
        return JSONResponse({"choices": [{"message": message, "finish_reason": "stop"}]})

    async def answer_empty(self, request: Request, payload: dict[str, Any]) -> Response:
        return _events("  \n ")

    async def answer_broken(self, request: Request, payload: dict[str, Any]) -> Response:
        return JSONResponse({"error": "boom"}, 500)

    async def answer_busy(self, request: Request, payload: dict[str, Any]) -> Response:
        return JSONResponse({"error": "slow down"}, 429)

    async def answer_denied(self, request: Request, payload: dict[str, Any]) -> Response:
        return JSONResponse({"error": f"bad key {request.headers.get('authorization')}"}, 401)

    async def answer_malformed(self, request: Request, payload: dict[str, Any]) -> Response:
        return Response("data: {nonsense\n\n", media_type="text/event-stream")

    async def answer_odd(self, request: Request, payload: dict[str, Any]) -> Response:
        return JSONResponse({"choices": "none"})

    async def answer_html(self, request: Request, payload: dict[str, Any]) -> Response:
        return Response("<html>gateway</html>", media_type="text/html")

    async def answer_hang(self, request: Request, payload: dict[str, Any]) -> Response:
        await self._until_gone(request)
        return JSONResponse({})

    async def answer_hang_after_clause(self, request: Request, payload: dict[str, Any]) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                for word in _words("Paris is the capital. It lies on the"):
                    yield _event(word)
                await self._until_gone(request)
            finally:
                self.disconnected.set()

        return StreamingResponse(body(), media_type="text/event-stream")

    async def answer_cut(self, request: Request, payload: dict[str, Any]) -> Response:
        return _events(*_words("Paris is the capital. It lies on"), cut=True)

    async def answer_cut_early(self, request: Request, payload: dict[str, Any]) -> Response:
        return _events(*_words("Paris is"), cut=True)

    async def answer_unfinished(self, request: Request, payload: dict[str, Any]) -> Response:
        return _events(*_words("Paris is the capital of"), done=False)

    async def answer_endless(self, request: Request, payload: dict[str, Any]) -> Response:
        async def body() -> AsyncIterator[bytes]:
            while not await request.is_disconnected():
                yield b"data: " + b"x" * 65_536
            self.disconnected.set()

        return StreamingResponse(body(), media_type="text/event-stream")

    async def answer_elsewhere(self, request: Request, payload: dict[str, Any]) -> Response:
        return RedirectResponse(f"http://127.0.0.1:{self.other_port}/v1/chat/completions", 307)

    async def answer_other_name(self, request: Request, payload: dict[str, Any]) -> Response:
        return RedirectResponse(f"http://localhost:{self.port}/v1/chat/completions", 307)

    async def answer_moved(self, request: Request, payload: dict[str, Any]) -> Response:
        if request.url.path.startswith("/moved"):
            return _events(*_words(ANSWER))
        return RedirectResponse("/moved/v1/chat/completions", 307)

    async def answer_loop(self, request: Request, payload: dict[str, Any]) -> Response:
        return RedirectResponse(request.url.path, 307)

    async def answer_tools(self, request: Request, payload: dict[str, Any]) -> Response:
        results = [m["content"] for m in payload["messages"] if m["role"] == "tool"]
        if results:
            return _events(*_words(f"The tool says: {results[-1]}"))
        assert payload["tools"][0]["type"] == "function"
        first = {"index": 0, "id": "a", "function": {"name": "calculate", "arguments": '{"expr'}}
        second = {"index": 0, "function": {"arguments": 'ession": "12 * 7"}'}}
        third = {"index": 1, "id": "b", "function": {"name": "no_such_tool", "arguments": "{}"}}
        chunks = [{"tool_calls": [call]} for call in (first, second, third)]
        lines = [f"data: {json.dumps({'choices': [{'delta': c}]})}\n\n" for c in chunks]
        return Response("".join(lines) + "data: [DONE]\n\n", media_type="text/event-stream")

    async def answer_tools_forever(self, request: Request, payload: dict[str, Any]) -> Response:
        if "tools" not in payload:
            return _events("I give up.")
        call = {"index": 0, "id": "a", "function": {"name": "calculate", "arguments": "["}}
        chunk = json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]})
        return Response(f"data: {chunk}\n\ndata: [DONE]\n\n", media_type="text/event-stream")

    async def _until_gone(self, request: Request) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        self.disconnected.set()


def _words(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


def _event(text: str) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode()


def _events(*texts: str, pause_s: float = 0.0, cut: bool = False, done: bool = True) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b": a comment\n\n"
        for text in texts:
            yield _event(text)
            await asyncio.sleep(pause_s)
        if cut:
            raise ConnectionResetError("the server falls over")
        if done:
            yield b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
            yield b"data: [DONE]\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")


def _serve(app: Starlette) -> tuple[uvicorn.Server, threading.Thread, int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    return server, thread, listener.getsockname()[1]


@pytest.fixture(scope="session")
def chat_servers() -> Iterator[tuple[ChatServer, ChatServer]]:
    """Two servers on two ports; the first may redirect to the second."""
    running = []
    servers = (ChatServer(), ChatServer())
    for server in servers:
        routes = [
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/moved/v1/chat/completions", server.chat, methods=["POST"]),
        ]
        uvicorn_server, thread, port = _serve(Starlette(routes=routes))
        running.append((uvicorn_server, thread))
        server.port = port
    servers[0].other_port = servers[1].port
    yield servers
    for uvicorn_server, thread in running:
        uvicorn_server.should_exit = True
        thread.join(timeout=5)


@pytest.fixture
def chat_server(chat_servers: tuple[ChatServer, ChatServer]) -> ChatServer:
    for server in chat_servers:
        server.reset()
    return chat_servers[0]


@pytest.fixture
def other_chat_server(chat_servers: tuple[ChatServer, ChatServer]) -> ChatServer:
    return chat_servers[1]
