"""The capacity bench on a tiny model: what it finds, what it checks, and what it writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.folders import write_model
from typer.testing import CliRunner

from duologue.audio import OggOpusDecoder, write_wav
from duologue.cli.bench_capacity import (
    PAUSE_S,
    RATE,
    built_in_questions,
    largest_on_time,
    measure,
    opus_messages,
    recorded_speech,
)
from duologue.cli.bench_checks import heard_alone, refusal
from duologue.cli.main import app
from duologue.engine.api import FRAME_SAMPLES
from duologue.server.assembly import Loaded, load
from duologue.server.settings import ServerSettings


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return load(ServerSettings(model=str(folder)), {})


SPEECH = (0.2 * np.random.default_rng(0).standard_normal(12 * FRAME_SAMPLES)).astype(np.float32)


@pytest.mark.parametrize("largest", [0, 1, 2, 3, 5, 8, 11, 12])
def test_the_search_finds_the_largest_and_asks_no_number_twice(largest: int) -> None:
    asked: list[int] = []

    async def is_on_time(number: int) -> bool:
        asked.append(number)
        return number <= largest

    assert asyncio.run(largest_on_time(12, is_on_time)) == largest
    assert len(asked) == len(set(asked)) <= 8
    assert max(asked) <= 12


def test_speech_is_sent_as_a_client_sends_it() -> None:
    speech = recorded_speech(built_in_questions())
    assert len(built_in_questions()) == 3
    assert len(speech) > 3 * PAUSE_S * RATE
    messages = opus_messages(SPEECH, 20)
    assert {message[0] for message in messages} == {1}
    decoder = OggOpusDecoder(RATE)
    heard = np.concatenate([decoder.decode(message[1:]) for message in messages])
    assert abs(len(heard) - 20 * FRAME_SAMPLES) <= FRAME_SAMPLES
    assert np.abs(heard).max() > 0.1


def test_every_frame_of_every_session_is_accounted_for(loaded: Loaded) -> None:
    level = asyncio.run(measure(loaded, 2, SPEECH, 0.8, knowledge=()))
    assert (level.sessions, level.frames) == (2, 20)
    # The decoder keeps some milliseconds back, so the last frame of each may never be whole.
    assert 18 <= level.answered + level.dropped <= 20
    assert 0 < level.step["p50"] <= level.step["p99"] <= level.step["max"]
    assert level.lateness["p99"] > 0
    assert level.on_time == (level.lateness["p99"] < 80 and not level.dropped)


def test_one_more_is_refused_before_it_is_let_in(loaded: Loaded) -> None:
    refused = refusal(loaded, 1, SPEECH, knowledge=())
    assert (refused.talking, refused.status) == (1, 503)
    assert refused.retry_after is not None
    assert int(refused.retry_after) > 0
    assert json.loads(refused.reason)["error"]["code"] == "full"
    assert refused.clean


def test_sessions_together_are_what_they_are_alone(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = asyncio.run(heard_alone(loaded, 2, SPEECH, 8, knowledge=()))
    assert alone.sessions == 2
    assert 14 <= alone.frames <= 16
    assert alone.differences == ()

    # Sessions that hear what others have said before them must be found.
    from duologue.engine.slots import SlotBank

    step = SlotBank.step
    said: dict[int, dict[int, np.ndarray]] = {}

    def mixed(bank: SlotBank, frames: dict[int, np.ndarray], *steers: Any) -> dict:
        before = said.setdefault(id(bank), {})
        wrong = {
            slot: next((pcm for other, pcm in before.items() if other != slot), frame)
            for slot, frame in frames.items()
        }
        before |= frames
        return step(bank, wrong, *steers)

    monkeypatch.setattr(SlotBank, "step", mixed)
    assert asyncio.run(heard_alone(loaded, 2, SPEECH, 8, knowledge=())).differences


def test_the_command_writes_what_it_found(folder: Path, tmp_path: Path) -> None:
    wav = tmp_path / "speech.wav"
    write_wav(wav, SPEECH, RATE)
    arguments = ["bench", "capacity", "--model", str(folder), "--sessions", "1", "--seconds", "2"]
    more = ["--no-check", "--wav", str(wav), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "out" / "capacity.json").read_text())
    assert [level["sessions"] for level in report["levels"]] == [1]
    assert report["levels"][0]["frames"] == 25
    assert report["sessions_on_time"] in (0, 1)
    assert report["at_least"] == bool(report["sessions_on_time"]), "no larger number was tried"
    assert (tmp_path / "out" / "capacity.png").stat().st_size > 1000
