"""A tiny model that talks nonsense and often asks for a lookup, and who visits its page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
from support.serving import talkative_model

from duologue.audio import read_audio, write_wav
from duologue.engine.model import LoadedModel
from duologue.moshi.sampling import GenerationDefaults, Sampling

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "web" / "node_modules" / "playwright-core"
QUESTION = ROOT / "examples" / "question.wav"
BEFORE_S, LISTEN_S = 1.0, 12.0

Visit = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    loaded = talkative_model(tmp_path_factory.mktemp("tokenizer"))
    loaded.lm.defaults = GenerationDefaults(text=Sampling(temperature=10.0, top_k=0))
    return loaded


def _chromium() -> str | None:
    given = os.environ.get("CHROMIUM")
    names = [given] if given else ["chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)


class Driver:
    """A Chromium that takes a recording for its microphone; `visit.mjs` steers it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def visit(self, scenario: str, url: str, out: Path, **more: str) -> dict[str, Any]:
        """Visit a page; returns what was seen there."""
        to_driver, from_driver = self._process.stdin, self._process.stdout
        assert to_driver is not None
        assert from_driver is not None
        plan = {"scenario": scenario, "url": url, "out": str(out), **more}
        print(json.dumps(plan), file=to_driver, flush=True)
        answer = from_driver.readline()
        assert answer, "the browser's driver has ended"
        seen: dict[str, Any] = json.loads(answer)
        assert seen.pop("faults") == []
        return seen


@contextmanager
def driving(microphone: Path) -> Iterator[Driver]:
    """A browser that hears this recording, again and again."""
    chromium, node = _chromium(), shutil.which("node")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    if node is None or not DRIVER.is_dir():
        pytest.skip("no Playwright: run `npm ci` in web/")
    script = Path(__file__).parent / "visit.mjs"
    command = [node, str(script), chromium, str(microphone)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        yield Driver(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


@pytest.fixture(scope="session")
def _driver() -> Iterator[Driver]:
    with driving(QUESTION) as driver:
        yield driver


@pytest.fixture
def visit(_driver: Driver, tmp_path: Path) -> Visit:
    """Visit a page in a Chromium into whose microphone a question is asked without end."""
    return partial(_driver.visit, out=tmp_path)


@pytest.fixture
def visit_and_ask(tmp_path: Path) -> Iterator[Visit]:
    """The same in one that asks, and then listens for a while before it asks again."""
    question = read_audio(QUESTION, 24_000)
    pauses = [np.zeros(round(seconds * 24_000), np.float32) for seconds in (BEFORE_S, LISTEN_S)]
    microphone = tmp_path / "microphone.wav"
    write_wav(microphone, np.concatenate([pauses[0], question, pauses[1]]), 24_000)
    with driving(microphone) as driver:
        yield partial(driver.visit, out=tmp_path)
