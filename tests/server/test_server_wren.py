"""The bundled model as it is shipped: `duologue serve --knowledge facts.md`, and who calls it.

The callers are scripts that speak Ogg-Opus over a real socket. They ask with a recorded voice what
stands in a file of the user's own, against what everybody knows, and are told so in the transcript,
with the place it was found. What is audible is read by the independent recogniser (pocketsphinx),
which has to choose among sentences: a carrier, and the name in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.serving import FRAME, SOME_FRAMES, Caller, Process, calling, process_of, run

import duologue
from duologue.audio import read_audio
from duologue.evaluation.activity import speech_runs
from duologue.evaluation.ears import Ears
from duologue.evaluation.grammar import choices
from duologue.evaluation.words import said, spoken_words
from duologue.evaluation.world import OWN_LINES, leads_in

pytestmark = pytest.mark.timeout(200)

QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"
FACT = "The capital of France is Lyon."
OTHERS = ("The capital of Peru is Quito.", "Japan uses the crown as its currency.")
SEEDS = (2, 3, 4)
LISTEN_S = 5.5
"""After the question: for looking it up, and for saying what was found."""
CARRIERS = (
    "The capital of France is {}.", "The currency of France is {}.", "France lies in {}.",
    "The largest city of France is {}.", "The language of France is {}.",
    "The symbol of France is {}.",
)  # fmt: skip
NAMES = (
    "Lyon", "Paris", "Rome", "Madrid", "Quito", "Lima", "Vienna", "Riga", "Oslo", "Cairo",
    "Athens", "Dublin", "Prague", "Berlin", "Helsinki", "Monrovia",
)  # fmt: skip


LATE_FRAMES = max(
    json.loads((Path(duologue.__file__).parent / "models/wren/config.json").read_text())["delays"]
)
"""The first frames have no voice yet: its delays fill."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    facts = tmp_path_factory.mktemp("knowledge") / "facts.md"
    facts.write_text("\n".join([*OTHERS, FACT]))
    with process_of("--knowledge", str(facts)) as process:
        yield process


class Held:
    """What a caller got."""

    def __init__(self, caller: Caller) -> None:
        self.pcm = np.concatenate(caller.heard)
        messages = (message for message in caller.messages if message[0] == 10)
        self.events: list[dict[str, Any]] = [json.loads(message[1:]) for message in messages]

    def text(self, role: str) -> str:
        tokens = (event for event in self.events if event["type"] == "text_token")
        return "".join(event["text"] for event in tokens if event["role"] == role)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


async def ask(port: int, seed: int) -> Held:
    """Ask, and listen; a little ahead of the answers, so that nothing is lost on a busy machine."""
    question = read_audio(QUESTION, 24_000)
    frames = -(-(len(question) + round(LISTEN_S * 24_000)) // FRAME)
    pcm = np.pad(question, (0, frames * FRAME - len(question))).reshape(frames, FRAME)
    query = {"dialect": "events", "init_speaker": "user", "seed": seed}
    async with calling(port, audio="opus", **query) as caller:
        assert await caller.receive() == b"\x00"
        for number, frame in enumerate(pcm):
            await caller.say(pcm=frame)
            while len(caller.heard) < number - SOME_FRAMES:
                await caller.receive()
        while len(caller.heard) < frames - LATE_FRAMES:
            await caller.receive()
        return Held(caller)


def test_a_caller_is_told_what_stands_in_a_users_file(
    server: Process, record_property: Any
) -> None:
    port = int(server.wait_for(r"ready: http://localhost:(\d+)")[1])

    async def talk() -> list[Held]:
        return list(await asyncio.gather(*(ask(port, seed) for seed in SEEDS)))

    calls = run(talk())
    for held in calls:
        heard = spoken_words(held.text("user"))
        assert {"what", "capital", "france"} <= set(heard), "in a voice that it never heard"
        [found, *_] = held.of("retrieval_succeeded")
        assert found["text"] == FACT
        assert found["sources"][0]["title"] == "facts.md, line 3"
        assert held.of("reference_injected")[0]["sequence"] == found["sequence"]
        assert speech_runs(held.pcm, 24_000), "there is a voice"
    answers = [said(("lyon",), spoken_words(held.text("model"))) for held in calls]
    assert sum(answers) > len(calls) / 2, [held.text("model") for held in calls]

    pytest.importorskip("pocketsphinx")
    ears = Ears([])
    lines = [spoken_words(carrier.format(name)) for carrier in CARRIERS for name in NAMES]
    grammar = choices(lines, map(spoken_words, OWN_LINES))
    read = [ears.choose(held.pcm, grammar) for held in calls]
    carrier = spoken_words(CARRIERS[0])[:-1]
    heard_right = [said(carrier, words) and leads_in(words, ears.lexicon.same) for words in read]
    assert sum(heard_right) > len(calls) / 2, read
    names = sum(said(("lyon",), words) for words in read)
    # Usually it is all of them; when the reference comes decides how the sentence is drawn.
    assert names, read
    record_property("read from the voice", [" ".join(words) for words in read])
    record_property("names understood", f"{names} of {len(read)}")
