"""A tiny model that talks nonsense and often asks for a lookup, and who visits its page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from support.serving import talkative_model

from duologue.engine.model import LoadedModel
from duologue.moshi.sampling import GenerationDefaults, Sampling

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "web" / "node_modules" / "playwright-core"

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


@pytest.fixture(scope="session")
def _driver() -> Iterator[subprocess.Popen[str]]:
    chromium, node = _chromium(), shutil.which("node")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    if node is None or not DRIVER.is_dir():
        pytest.skip("no Playwright: run `npm ci` in web/")
    script = Path(__file__).parent / "visit.mjs"
    command = [node, str(script), chromium, str(ROOT / "examples" / "question.wav")]
    process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


@pytest.fixture
def visit(_driver: subprocess.Popen[str], tmp_path: Path) -> Visit:
    """Visit a page in Chromium; returns what was seen there (`visit.mjs`)."""
    to_driver, from_driver = _driver.stdin, _driver.stdout
    assert to_driver is not None
    assert from_driver is not None

    def go(scenario: str, url: str, **more: str) -> dict[str, Any]:
        plan = {"scenario": scenario, "url": url, "out": str(tmp_path), **more}
        print(json.dumps(plan), file=to_driver, flush=True)
        answer = from_driver.readline()
        assert answer, "the browser's driver has ended"
        seen: dict[str, Any] = json.loads(answer)
        assert seen.pop("faults") == []
        return seen

    return go
