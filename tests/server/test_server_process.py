"""The server as a process: start, signals, logs; and what its logs never hold."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from support.serving import (
    PATIENCE_S,
    Process,
    Running,
    ScriptedRecogniser,
    calling,
    process_of,
    run,
    serving,
)
from websockets.exceptions import InvalidStatus

from duologue.checkpoints.untrained import create_untrained
from duologue.engine.model import LoadedModel
from duologue.server.logs import LogWriter
from duologue.server.serve import ServeError, bind
from duologue.session import live, thread

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    create_untrained(path, "tiny")
    return path


@pytest.fixture
def process(folder: Path, tmp_path: Path) -> Iterator[Process]:
    """Reachable from outside, so that it makes a token; and as talkative as can be."""
    flags = ["--model", str(folder), "--knowledge", "none", "--host", "0.0.0.0", "--drain-s", "50"]
    flags += ["--allowed-origins", "https://a.example"]
    logs = ["--log-file", str(tmp_path / "log"), "--log-format", "json", "--log-level", "debug"]
    with process_of(*flags, *logs) as started:
        yield started


def test_start_talk_and_stop_under_load(process: Process, tmp_path: Path) -> None:
    found = process.wait_for(r"ready: http://localhost:(\d+)/\?token=(\S+)\n")
    port, token = int(found[1]), found[2]
    process.wait_for("The token is shown once")
    http = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {token}"}

    same = {"token": token, "seed": 11, "text_temperature": 10, "text_topk": 0}

    async def talk() -> None:
        async with calling(port, **same) as undisturbed:
            for _ in range(2):
                await undisturbed.converse(5)
        async with AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(calling(port, **same)) for _ in range(3)]
            await asyncio.gather(*(caller.converse(5) for caller in callers))
            process.popen.send_signal(signal.SIGTERM)
            await is_draining()
            await asyncio.gather(*(caller.converse(5) for caller in callers))
            for caller in callers:
                assert caller.messages == undisturbed.messages, "nobody hears of it"
            process.popen.send_signal(signal.SIGTERM)  # enough of it
            for caller in callers:
                assert await caller.closed() in (1001, 1012)

    async def is_draining() -> None:
        async with httpx.AsyncClient(base_url=http, headers=headers, timeout=60) as client:
            while (await client.get("/ready")).status_code != 503:
                await asyncio.sleep(0.01)
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/api/availability")).json()["available"] is False
        with pytest.raises(InvalidStatus) as refused:
            async with calling(port, token=token):
                pass
        response = refused.value.response
        assert response.status_code == 503
        assert json.loads(response.body or b"")["error"]["code"] == "draining"
        assert "retry-after" in response.headers

    run(talk())
    assert process.end() == 0
    assert process.said.count(token) == 1, "shown once, to the one who started the server"
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    messages = [line["message"] for line in lines]
    assert {"settings", "session opened", "visit ended", "request", "draining"} <= set(messages)
    shown = next(line for line in lines if line["message"] == "settings")
    assert shown["allowed_origins"] == ["https://a.example"]
    assert not any(token in json.dumps(line) for line in lines)


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = (
            f"cannot listen at 127.0.0.1:{port}: Address already in use; choose another --port"
        )
        with pytest.raises(ServeError, match=message):
            bind("127.0.0.1", port)
    with pytest.raises(ServeError, match=r"cannot listen at no\.such\.host"):
        bind("no.such.host.invalid", 0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """All of this process's logs, in a file."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    writer = LogWriter("debug", "json", tmp_path / "log")
    writer.start()
    yield tmp_path / "log"
    writer.stop()
    root.handlers[:], root.level = handlers, level


def test_logs_hold_neither_words_nor_tokens(model: LoadedModel, log: Path, facts: str) -> None:
    question = ScriptedRecogniser({4: "what is the capital", 5: "of peru"})

    async def talk(server: Running) -> str:
        query = {"token": TOKEN, "dialect": "events", "text_temperature": 10, "text_topk": 0}
        async with server.call(**query, seed=7) as caller:
            resume = (await caller.until(10, type="session"))["resume_token"]
            while not any(b"Lima" in message for message in caller.messages):
                await caller.converse(4)
            await caller.command(type="end")
            await caller.closed()
        with pytest.raises(InvalidStatus):
            async with server.call(token=TOKEN, resume=resume):
                pass
        client = httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
        asked = {"query": "the capital of peru"}
        assert client.post(f"{server.http}/api/knowledge/search", json=asked).json()["hits"]
        assert isinstance(resume, str)
        return resume

    with serving(model, question, token=TOKEN, knowledge=(facts,)) as server:
        resume = run(talk(server))
    written = log.read_text()
    assert "session opened" in written
    for secret in (TOKEN, resume, "capital", "peru", "Lima"):
        assert secret not in written


def test_a_step_that_hangs_is_told_and_the_server_still_ends(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    async def talk(server: Running) -> None:
        async with server.call() as caller, httpx.AsyncClient(base_url=server.http) as client:
            await caller.converse(2)
            assert (await client.get("/health")).status_code == 200
            for module in (live, thread):
                monkeypatch.setattr(module, "STALL_S", 0.2)
            monkeypatch.setattr(server.lobby.engine._conductor.bank, "step", lambda *_: gate.wait())
            await caller.say()
            while (await client.get("/health")).status_code == 200:
                await asyncio.sleep(0.02)
            assert (await client.get("/api/availability")).json()["available"] is False
            server.loop.call_soon_threadsafe(server.server.stop)
            assert await caller.closed() == 1012

    try:
        with serving(model, drain_s=0.1) as server:
            run(talk(server))
    finally:
        gate.set()


def test_a_full_disk_under_the_log_is_nobodys_concern(model: LoadedModel) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    writer = LogWriter("debug", "json", Path("/dev/full"))
    writer.start()
    try:
        with serving(model) as server:
            server.lobby.metrics.watch_log(lambda: writer.lost)

            async def talk() -> None:
                async with server.call() as caller:
                    await caller.converse(4)

            run(talk())
            until = time.monotonic() + PATIENCE_S
            while "duologue_log_lines_lost_total 0.0" in httpx.get(f"{server.http}/metrics").text:
                assert time.monotonic() < until
    finally:
        writer.stop()
        root.handlers[:], root.level = handlers, level
    assert writer.lost > 0
