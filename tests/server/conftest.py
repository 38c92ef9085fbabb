"""A tiny model that talks nonsense, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import Running, serving, talkative_model

from duologue.engine.model import LoadedModel


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return talkative_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def _shared(model: LoadedModel) -> Iterator[Running]:
    with serving(model) as running:
        yield running


@pytest.fixture
def server(_shared: Running) -> Running:
    """A server that the tests of a file share; nobody is in it any more."""
    _shared.wait_until_empty()
    return _shared


@pytest.fixture
def facts(tmp_path: Path) -> str:
    path = tmp_path / "facts.md"
    path.write_text("The capital of Peru is Lima.\n")
    return str(path)
