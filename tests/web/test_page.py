"""The built page in a real Chromium, against real servers on real sockets.

A tiny model, since most of what is seen does not depend on what is said; and the bundled one.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.serving import Running, ScriptedRecogniser, process_of, run, serving

from duologue.audio import power_db, read_channels, write_wav
from duologue.engine.api import SessionOptions
from duologue.engine.model import LoadedModel
from duologue.retrieval.knowledge.readers import READERS
from duologue.session import Session

Visit = Callable[..., dict[str, Any]]
MODEL, USER = 0, 1
FOREIGN = "duologue.example"
TOKEN = "a-token-that-is-long-enough"

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def server(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """It hears the same question again and again, and has the answer in a file."""
    facts = tmp_path_factory.mktemp("knowledge") / "facts.md"
    facts.write_text("The capital of Peru is Lima.\n")
    words = ["what", "is", "the", "capital", "of", "peru"]
    times = (24 + 60 * again + 2 * i for again in range(12) for i in range(len(words)))
    question = ScriptedRecogniser(dict(zip(times, words * 12, strict=True)))
    with serving(
        model, question, knowledge=(str(facts),), seed=3, allowed_hosts=(FOREIGN,)
    ) as running:
        yield running


def loudest_db(path: str, channel: int) -> float:
    """The loudest 80 ms of one side of a stereo recording."""
    pcm = read_channels(path)
    assert pcm.shape[0] == 2
    return float(power_db(torch.from_numpy(pcm[channel])).max())


def words_of(lines: list[str]) -> set[str]:
    return set(re.findall(r"\w+", " ".join(lines)))


def test_a_conversation_by_microphone(visit: Visit, server: Running) -> None:
    """A WAV is the microphone: the model is heard, and the transcript and the source are seen."""
    seen = visit("conversation", server.http, answer="Lima")
    assert seen["formats"] == ["opus"]
    assert seen["answer"] == "The capital of Peru is Lima."
    assert "facts.md" in seen["source"]
    assert {"what", "capital", "peru"} <= words_of(seen["user"])
    assert "".join(seen["model"]).strip()
    assert re.fullmatch(r"\d+\.\d\d s", seen["delay"])
    assert seen["muted"] == "true"

    assert loudest_db(seen["sound"], MODEL) > -50, "the model was heard"
    assert loudest_db(seen["sound"], USER) > -30, "the microphone was recorded"
    timeline = json.loads(Path(seen["timeline"]).read_text())
    assert timeline["model"] == server.lobby.model.name
    assert any(lookup.get("answer") == seen["answer"] for lookup in timeline["lookups"])
    assert {turn["role"] for turn in timeline["turns"]} == {"user", "model"}
    script = Path(seen["script"]).read_text()
    assert "YOU" in script
    assert "DUOLOGUE" in script


def test_the_bundled_model_answers_a_spoken_question(visit_and_ask: Visit, tmp_path: Path) -> None:
    """`duologue serve` as it is shipped, with a file of the user's own."""
    facts = tmp_path / "facts.md"
    facts.write_text("The capital of Peru is Quito.\nThe capital of France is Lyon.\n")
    with process_of("--knowledge", str(facts), "--seed", "3") as server:
        url = server.wait_for(r"ready: (http://localhost:\d+)")[1]
        seen = visit_and_ask("conversation", url, answer="Lyon", reply="Lyon")
    assert seen["answer"] == "The capital of France is Lyon."
    assert "facts.md, line 2" in seen["source"]
    assert {"capital", "France"} <= words_of(seen["user"])
    assert "Lyon" in words_of(seen["model"])
    assert loudest_db(seen["sound"], USER) > -30, "the question was asked"
    assert loudest_db(seen["sound"], MODEL) > -30, "the answer was heard"
    timeline = json.loads(Path(seen["timeline"]).read_text())
    assert timeline["model"] == "wren"
    assert any(lookup.get("answer") == seen["answer"] for lookup in timeline["lookups"])


def test_a_sample_question_without_a_microphone(visit: Visit, server: Running) -> None:
    seen = visit("question", server.http)
    assert seen["formats"] == ["pcm16"], "plain samples were chosen"
    assert loudest_db(seen["sound"], USER) > -30, "the synthetic voice speaks for the visitor"
    assert loudest_db(seen["sound"], MODEL) > -50


def test_a_lost_connection_comes_back_by_itself(visit: Visit, server: Running) -> None:
    seen = visit("lost", server.http)
    assert re.search(r"kept for \d:\d\d", seen["alarm"])
    assert seen["sockets"][0] is False
    assert seen["sockets"][-1] is True
    assert seen["after"][0].startswith(seen["before"][0][:20]), "the script was not begun anew"


def test_a_server_that_stops_is_not_waited_for(visit: Visit, model: LoadedModel) -> None:
    with serving(model, drain_s=0) as server:

        def stop() -> None:
            until = time.monotonic() + 60
            while not server.lobby.visits and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(0.5)  # somebody talks now
            server.loop.call_soon_threadsafe(server.server.stop)

        stopping = threading.Thread(target=stop)
        stopping.start()
        seen = visit("stopped", server.http)
        stopping.join()
    assert "The server ended it." in seen["curtain"]


def test_a_file_that_cannot_be_read_does_not_hold_up_others(visit: Visit, server: Running) -> None:
    seen = visit("documents", server.http)
    assert seen["fault"].startswith("two.xyz: ")
    assert sorted(seen["names"]) == ["facts.md", "one.md", "three.md"]
    assert seen["accepted"].split(",") == sorted(READERS)


def test_a_full_server_says_when_it_tries_again(visit: Visit, model: LoadedModel) -> None:
    with serving(model, sessions=1) as server, _occupied(server):
        seen = visit("full", server.http)
    assert "Every seat is taken." in seen["notice"]
    assert re.search(r"next try is in \d+:\d\d", seen["notice"])


def test_a_token_is_asked_for_and_kept_out_of_the_address(visit: Visit, model: LoadedModel) -> None:
    with serving(model, token=TOKEN) as server:
        seen = visit("token", server.http, token=TOKEN)
    assert "asks for a token" in seen["asked"]
    assert TOKEN not in seen["address"]


def test_a_voice_is_picked(visit: Visit, model: LoadedModel, tmp_path: Path) -> None:
    for name in ("Ada", "Kurt"):
        write_wav(tmp_path / f"{name}.wav", 0.1 * np.sin(np.arange(12_000) / 20), 24_000)
    prompted = replace(model, takes_prompts=True)
    with serving(prompted, voices=tmp_path, seed=3) as server, _voices_of(server) as used:
        seen = visit("voice", server.http, voice="Kurt")
    assert seen["offered"] == ["itself", "Ada", "Kurt"]
    assert seen["kept"] == "Kurt"
    assert seen["asked"] == ["Kurt"]
    assert used == [tmp_path / "Kurt.wav"]


def test_a_blocked_microphone_is_called_by_its_name(visit: Visit, server: Running) -> None:
    assert "The microphone is blocked." in visit("denied", server.http)["notice"]


def test_plain_http_on_a_foreign_host_is_explained(visit: Visit, server: Running) -> None:
    notice = visit("insecure", f"http://{FOREIGN}:{server.port}")["notice"]
    assert "https" in notice
    assert f"ssh -L {server.port}:localhost:{server.port} {FOREIGN}" in notice


@contextmanager
def _voices_of(server: Running) -> Iterator[list[Path | None]]:
    """The voices of the sessions that are opened meanwhile."""
    engine, used = server.lobby.engine, []
    opened = engine.open

    async def open_session(options: SessionOptions) -> Session:
        used.append(options.voice)
        return await opened(options)

    engine.open = open_session
    yield used


@contextmanager
def _occupied(server: Running) -> Iterator[None]:
    """Somebody holds a seat and talks."""
    inside, leave = threading.Event(), threading.Event()

    async def stay() -> None:
        async with server.call() as caller:
            await caller.converse(1)
            inside.set()
            while not leave.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: run(stay()))
    thread.start()
    assert inside.wait(60)
    try:
        yield
    finally:
        leave.set()
        thread.join()
