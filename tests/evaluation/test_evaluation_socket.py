"""A whole server as the system under test, with a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.conversations import speech
from support.folders import write_model

from duologue.evaluation.knowledge import Fault, Knowledge
from duologue.evaluation.socket_talker import SocketTalker
from duologue.evaluation.talker import Request, text_of

FRAMES = 25


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> SocketTalker:
    return SocketTalker(str(write_model(tmp_path_factory.mktemp("model"))), temperature=2.0)


@pytest.mark.parametrize(("begins", "fault"), [("model", Fault.NONE), ("user", Fault.FAILS)])
def test_what_comes_over_the_socket_is_what_is_judged(
    talker: SocketTalker, tmp_path: Path, begins: str, fault: Fault
) -> None:
    facts = tmp_path / "facts.md"
    facts.write_text("tea is rare at the sea\n")
    knowledge = Knowledge((facts,), fault)
    scene = None  # systems under test leave it alone
    request = Request(speech(FRAMES), knowledge, begins, 3, scene)  # type: ignore[arg-type]
    held = talker.converse(request)
    assert len(held.pcm) == FRAMES * 1920
    assert np.abs(held.pcm).max() > 0.001
    assert held.heard is not None
    floor = held.text if begins == "model" else held.heard
    assert text_of(floor), "random weights always say and understand something"
    assert all(0 <= piece.frame < FRAMES + 25 for piece in (*held.text, *held.heard))
    assert all(lookup.outcome != "answered" for lookup in held.lookups) or fault is Fault.NONE
