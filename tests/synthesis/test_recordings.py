"""Finished recordings: timing, silence after a barge-in, side-cars, and data sets on disk."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from duologue.audio.files import read_channels
from duologue.synthesis import generate as generation
from duologue.synthesis.command import app
from duologue.synthesis.corpus import render_speech
from duologue.synthesis.draw import Draw
from duologue.synthesis.engines.program import find
from duologue.synthesis.generate import Dataset, DatasetError, generate
from duologue.synthesis.item import Item
from duologue.synthesis.mixer import cast_user, render_script
from duologue.synthesis.samples import RATE
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.voices import Voice, cast
from duologue.synthesis.writer.dialogues import CLASSES, write_dialogue

USER = Voice("flite", "kal", "kal16")
_speaker = Speaker()


@cache
def recording(label: str, index: int = 0) -> Item:
    return render_script(write_dialogue(5, index, "train", label), _speaker, USER)


def db(pcm: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm, dtype=np.float64)) + 1e-16))


def part(item: Item, channel: int, start_s: float, end_s: float) -> np.ndarray:
    return item.samples[channel, round(start_s * RATE) : round(end_s * RATE)]


@pytest.mark.parametrize("label", sorted(CLASSES))
def test_words_are_sorted_inside_and_audible(label: str, speaker: Speaker) -> None:
    item = recording(label)
    words = item.sidecar["alignments"]
    starts = [start for _, (start, _), _ in words]
    assert starts == sorted(starts)
    assert item.samples.shape[0] == 2
    for word, (start, end), side in words:
        assert word
        assert 0 <= start < end <= item.seconds
        if side == "SPEAKER_MAIN":
            assert db(part(item, 0, start, end)) > -55, word
    assert {side for *_, side in words} <= {"SPEAKER_MAIN", "SPEAKER_OTHER"}
    assert json.loads(json.dumps(item.sidecar))["class"] == label


def lookups(labels: tuple[str, ...]) -> list[tuple[Item, dict[str, Any]]]:
    return [(i, r) for label in labels for i in [recording(label)] for r in i.sidecar["retrieval"]]


def test_wren_replies_quickly_and_waits_for_its_reference(speaker: Speaker) -> None:
    records = lookups(("fact", "personal", "tool", "followup", "unknown", "pause"))
    assert len(records) > 5
    for item, record in records:
        assert 0.1 < record["lead_start"] - record["question_end"] < 0.5
        assert record["question_end"] < record["trigger_time"] < record["lead_start"]
        main = [w for w in item.sidecar["alignments"] if w[2] == "SPEAKER_MAIN"]
        first = next(w for w in main if w[1][0] > record["trigger_time"])
        assert first[1][0] - record["question_end"] <= 0.6
        if record["body_start"] is None:
            continue
        assert record["body_start"] > record["lead_end"]
        body = [w[0] for w in main if record["body_start"] <= w[1][0] < record["body_end"]]
        if record["outcome"] == "found" and not record["interrupted"]:
            assert " ".join(body) == record["reference_text"]
        if record["arrival_time"] is not None:
            assert record["body_start"] > record["arrival_time"] + 0.15
            delay = record["arrival_time"] - record["trigger_time"]
            assert delay == pytest.approx(record["reference_delay"], abs=0.002)
        else:
            assert record["outcome"] == "lost"


def test_wren_is_silent_half_a_second_into_a_barge_in(speaker: Speaker) -> None:
    seen = 0
    for index in range(6):
        item = recording("barge_in", index)
        for event in item.sidecar["events"]:
            if event["kind"] != "barge_in":
                continue
            seen += 1
            start = event["time"]
            assert event["silent_by"] - start < 0.5
            turns = item.sidecar["turns"]
            end = next(t["end"] for t in turns if t["start"] == pytest.approx(start, abs=0.01))
            until = max(end, start + 0.55)
            assert db(part(item, 0, start - 0.2, start + 0.1)) > -50
            assert db(part(item, 0, start + 0.5, until)) < -100
            for word, (begin, end), side in item.sidecar["alignments"]:
                if side == "SPEAKER_MAIN" and begin < until:
                    assert end <= start + 0.5, word
    assert seen >= 4


def test_wren_waits_through_pauses_and_silence(speaker: Speaker) -> None:
    item = recording("pause")
    pauses = [event for event in item.sidecar["events"] if event["kind"] == "pause"]
    assert pauses
    for pause in pauses:
        assert pause["end"] - pause["time"] > 0.45
        assert db(part(item, 0, pause["time"], pause["end"])) < -100
    for label in ("silence", "noise"):
        item = recording(label)
        event = item.sidecar["events"][0]
        assert db(part(item, 0, event["time"], event["end"])) < -100


def test_both_sides_speak_at_once_in_backchannels_only(speaker: Speaker) -> None:
    kinds = {e["kind"] for i in range(3) for e in recording("backchannel", i).sidecar["events"]}
    assert "backchannel" in kinds


def test_mono_items_have_phones(speaker: Speaker) -> None:
    index = next(
        i
        for i in range(50)
        if cast(Draw("mono", 1, "train", i, "voice"), "train").engine != "festival"
    )
    item = render_speech("mono", 1, index, "train", speaker)
    assert item.samples.ndim == 1
    assert 3.0 < item.seconds < 25.0
    assert item.sidecar["text"] == " ".join(word for word, *_ in item.sidecar["alignments"])
    phones = item.sidecar["phones"]
    assert len(phones) > 2 * len(item.sidecar["alignments"])
    assert all(0 <= start <= end <= item.seconds + 1e-3 for _, start, end in phones)


def dataset_without_festival(items: int) -> Dataset:
    """A seed whose first items need flite and espeak-ng only."""
    for seed in range(10_000):
        voices = [cast_user(write_dialogue(seed, index, "train")) for index in range(items)]
        if all(voice.engine != "festival" for voice in voices):
            return Dataset("dialogue", "train", seed)
    raise AssertionError("no such seed")


def test_data_sets_resume_and_do_not_depend_on_workers(
    tmp_path: Path, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_without_festival(8)
    first, second = tmp_path / "one", tmp_path / "two"
    hours = 20 / 3600
    summary = generate(dataset, first, hours, workers=0)
    assert summary.seconds >= 20
    assert summary.made == summary.items

    manifest = (first / "manifest.jsonl").read_text()
    lines = [json.loads(line) for line in manifest.splitlines()]
    for line in lines:
        pcm = read_channels(first / line["path"])
        assert pcm.shape == (2, round(line["duration"] * RATE))
    removed = first / lines[0]["path"]
    removed.with_suffix(".json").unlink()
    again = generate(dataset, first, hours, workers=0)
    assert again.made == 1
    assert (first / "manifest.jsonl").read_text() == manifest

    # Items that come in another order, as from several processes, make the same set.
    made = generation._count
    monkeypatch.setattr(generation, "_count", lambda: iter([1, 0, *range(2, 100)]))
    generate(dataset, second, hours, workers=0)
    monkeypatch.setattr(generation, "_count", made)
    assert (second / "manifest.jsonl").read_text() == manifest
    for line in lines:
        assert (first / line["path"]).read_bytes() == (second / line["path"]).read_bytes()


def test_ctrl_c_keeps_what_is_complete(
    tmp_path: Path, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_without_festival(8)
    make = generation._make

    def interrupted(index: int) -> generation.Result:
        if index == 1:
            raise KeyboardInterrupt
        return make(index)

    monkeypatch.setattr(generation, "_make", interrupted)
    summary = generate(dataset, tmp_path, 1.0, workers=0)
    assert summary.stopped
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 1


def test_a_folder_holds_one_data_set(tmp_path: Path) -> None:
    generate(Dataset("dialogue", "train", 1), tmp_path, 0.0, workers=0)
    with pytest.raises(DatasetError, match="holds another data set"):
        generate(Dataset("dialogue", "train", 2), tmp_path, 0.0)


def test_the_command_checks_its_options(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, [str(tmp_path / "x"), "--hours", "0"])
    assert run.exit_code == 0, run.output
    for option, value in (("--split", "all"), ("--kind", "video")):
        run = CliRunner().invoke(app, [str(tmp_path / "y"), option, value])
        assert run.exit_code == 2
    run = CliRunner().invoke(app, [str(tmp_path / "x"), "--seed", "9", "--hours", "0"])
    assert run.exit_code == 1
    assert "holds another data set" in " ".join(run.output.split())


def test_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find.cache_clear()
    monkeypatch.setenv("PATH", "/nonexistent")
    run = CliRunner().invoke(app, [str(tmp_path / "x")])
    monkeypatch.undo()
    find.cache_clear()
    assert run.exit_code == 1
    assert "apt-get install flite" in " ".join(run.output.split())
