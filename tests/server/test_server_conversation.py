"""One whole conversation through the published protocol: Ogg-Opus over a real socket.

The caller is a script: it listens to the greeting, asks with a recorded voice, and waits for what
was found and for the voice that goes on. The model's weights are random, so what it says is
nonsense; that it says the right thing is measured by `duologue evaluate wren --system socket`. What
the user's words are comes through the recognition port as a recogniser would bring it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.folders import write_model
from support.serving import FRAME, Caller, Running, ScriptedRecogniser, run, serving

import duologue.server
from duologue.audio import read_audio
from duologue.engine.model import load_model

QUESTION = Path(duologue.server.__file__).parent / "static" / "questions" / "capital.wav"
GREETING_FRAMES = 12
WORDS = ["what", "is", "the", "capital", "of", "peru"]
FACT = "The capital of Peru is Lima."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("model")
    facts = folder / "facts.md"
    facts.write_text(f"{FACT}\n")
    loaded = load_model(write_model(folder / "tiny"))
    said = {GREETING_FRAMES + 3 * (n + 1): word for n, word in enumerate(WORDS)}
    with serving(loaded, ScriptedRecogniser(said), knowledge=(str(facts),)) as running:
        yield running


async def converse(server: Running, dialect: str) -> Caller:
    """Greeting, question, lookup, answer; in this order or never."""
    query: dict[str, Any] = {"text_temperature": 10, "text_topk": 0, "seed": 14}
    async with server.call(audio="opus", dialect=dialect, init_speaker="model", **query) as caller:
        assert await caller.receive() == b"\x00"
        await caller.converse(GREETING_FRAMES)
        assert loudest(caller, 0) > 0.001, "it speaks first"
        question = read_audio(QUESTION, 24_000)
        frames = -(-len(question) // FRAME)
        asked = np.pad(question, (0, frames * FRAME - len(question))).reshape(frames, FRAME)
        for frame in asked:
            heard = len(caller.heard)
            await caller.say(pcm=frame)
            while len(caller.heard) == heard:
                await caller.receive()
        while not any(FACT.encode() in message for message in caller.messages):
            await caller.say(pcm=np.zeros(FRAME, np.float32))
            await caller.receive()
        found = len(caller.heard)
        while len(caller.heard) < found + 20:
            await caller.say(pcm=np.zeros(FRAME, np.float32))
            await caller.until(1)
        assert loudest(caller, found) > 0.001, "and talks on with what was found"
        return caller


def loudest(caller: Caller, start: int) -> float:
    return max(float(np.abs(pcm).max(initial=0.0)) for pcm in caller.heard[start:])


def test_a_conversation_as_published_clients_hold_it(server: Running) -> None:
    caller = run(converse(server, "moshirag"))
    kinds = {message[0] for message in caller.messages}
    assert kinds == {0, 1, 7, 9}
    pages = [message[1:] for message in caller.messages if message[0] == 1]
    assert all(page.startswith(b"OggS") for page in pages)

    def first(beginning: bytes, containing: bytes = b"") -> int:
        return next(
            number
            for number, message in enumerate(caller.messages)
            if message.startswith(beginning) and containing in message
        )

    greeting = first(b"\x07\x04moshi: ")
    question = first(b"\x07\x0a", b"what")
    found = first(b"\x09\x04", FACT.encode())
    assert greeting < question < found
    assert any(m == b"\x07\x04[RET]" for m in caller.messages[greeting:found])
    spoken = b"".join(m[2:] for m in caller.messages if m[:2] == b"\x07\x0a").decode()
    assert " ".join(WORDS) in " ".join(spoken.split())


def test_what_was_found_is_in_the_next_frames(server: Running) -> None:
    caller = run(converse(server, "events"))
    events = [json.loads(message[1:]) for message in caller.messages if message[0] == 10]
    found = next(e for e in events if e.get("text") == FACT)
    assert found["sources"][0]["title"].startswith("facts.md")
    order = events[events.index(found) :]
    injected = next(e for e in order if e["type"] == "reference_injected")
    assert injected["sequence"] == found["sequence"]
    assert injected["rows"] >= 1
    assert 0 <= injected["frame"] - found["frame"] <= 12, "within a second, on a busy machine too"
