"""Folders of recognisers, and `duologue transcribe` as a user types it."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from support.stt_services import FakeService, running, speech

from duologue.audio import write_wav
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.save import save_codec, save_lm
from duologue.checkpoints.untrained import create_untrained
from duologue.cli.main import main
from duologue.stt import load_recogniser, transcribe
from duologue.stt.load import recogniser_folder
from duologue.stt.recogniser import Recogniser, RecogniserError

RATE = 24_000


def duologue(*arguments: object, ok: bool = True) -> tuple[str, str]:
    """Run the command line in this process; returns what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["duologue", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    assert (code == 0) is ok, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, recogniser: Recogniser, tokenizer_path: Path
) -> Path:
    """A recogniser as training exports it."""
    path = tmp_path_factory.mktemp("models") / "tiny-stt"
    save_codec(
        path, recogniser.front_end, config_name="codec.json", weights_name="codec.safetensors"
    )
    described = FolderConfig(
        recogniser.lm.config, model_type="stt", mimi_name="codec.safetensors",
        mimi_config_name="codec.json", tokenizer_name="tokenizer.model",
        stt_config={"audio_silence_prefix_seconds": 0.1, "audio_delay_seconds": 0.4},
    )  # fmt: skip
    save_lm(path, recogniser.lm, described, dtype=torch.float32)
    shutil.copy(tokenizer_path, path / "tokenizer.model")
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    generator = np.random.default_rng(5)
    paths = []
    for index, seconds in enumerate((1.0, 2.5, 0.3)):
        pcm = 0.2 * generator.standard_normal(int(seconds * RATE)).astype(np.float32)
        paths.append(folder / f"{index}.wav")
        write_wav(paths[-1], pcm, RATE)
    return paths


def test_a_folder_is_loaded_with_its_timing(folder: Path, recogniser: Recogniser) -> None:
    loaded = load_recogniser(folder, device="cpu")
    assert (loaded.delay_s, loaded.delay_frames) == (0.4, 5)
    assert loaded.hears_codes_of(recogniser.front_end)
    shared = load_recogniser(folder, device="cpu", codec=recogniser.front_end)
    assert shared.front_end is recogniser.front_end, "no second copy of the same codec"
    pcm = 0.2 * torch.randn(RATE, generator=torch.Generator().manual_seed(1))
    # Two frames of silence come first.
    quiet = torch.cat([torch.zeros(2 * 1920), pcm])
    led = Recogniser(loaded.lm, loaded.front_end, loaded.tokenizer, delay_s=0.4)
    state = led.init_state(1)
    expected = [int(led.step(f[None, None], state).text[0]) for f in quiet.split(1920)[:-1]]
    state = loaded.init_state(1)
    found = [int(loaded.step(f[None, None], state).text[0]) for f in pcm.split(1920)[:-1]]
    assert found == expected[2:]


def test_a_dialogue_model_may_hold_a_recogniser(folder: Path, tmp_path: Path) -> None:
    outer = tmp_path / "talker"
    create_untrained(outer, "tiny")
    with pytest.raises(CheckpointError, match="speaks, without a recogniser"):
        recogniser_folder(outer)
    shutil.copytree(folder, outer / "stt")
    assert recogniser_folder(outer).path == outer / "stt"
    (outer / "stt" / "codec.safetensors").unlink()
    # The outer codec has other codebooks: found, and refused by name.
    with pytest.raises(RecogniserError, match="codebooks of 48 entries"):
        load_recogniser(outer, device="cpu")
    for name in ("codec.safetensors", "codec.json"):
        shutil.copy(folder / name, outer / name)
    assert load_recogniser(outer, device="cpu").num_codebooks == 8


@pytest.mark.parametrize("value", ["soon", True, -1.0, 1e9])
def test_impossible_timing_is_named(folder: Path, tmp_path: Path, value: object) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    config["stt_config"]["audio_delay_seconds"] = value
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, RecogniserError), match="delay"):
        load_recogniser(broken, device="cpu")


def test_transcribing_files(folder: Path, recordings: list[Path]) -> None:
    """In batches, under JSON and in plain text, the same words as in one go."""
    loaded = load_recogniser(folder, device="cpu")
    out, _ = duologue("transcribe", *recordings, "-m", folder, "--batch", 2, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["input"] for record in records] == [str(path) for path in recordings]
    for record, path in zip(records, recordings, strict=True):
        from duologue.audio import read_audio

        (expected,) = transcribe(loaded, [torch.from_numpy(read_audio(path))])
        assert record["text"] == expected.text
        assert record["seconds"] == pytest.approx(expected.duration_s)
        assert [word["text"] for word in record["words"]] == [w.text for w in expected.words]
        assert all(0 <= word["start"] <= word["end"] for word in record["words"])
        assert record["real_time_factor"] > 0
    page, _ = duologue("transcribe", recordings[1], "-m", folder)
    first, *lines = page.rstrip("\n").split("\n")
    assert first == f"{recordings[1]}: 2.50 s: {records[1]['text'] or '(nothing)'}"
    assert [line.split(maxsplit=2)[2] for line in lines] == [w["text"] for w in records[1]["words"]]


def test_channels(folder: Path, recordings: list[Path], tmp_path: Path) -> None:
    from duologue.audio import read_audio

    pcm = read_audio(recordings[0])
    both = tmp_path / "both.wav"
    write_wav(both, np.stack([np.zeros_like(pcm), pcm]), RATE)
    alone = json.loads(duologue("transcribe", recordings[0], "-m", folder, "--json")[0])
    right = ("transcribe", both, "-m", folder, "--json", "--channel")
    assert json.loads(duologue(*right, 1)[0])["words"] == alone["words"]
    assert "no channel 2" in duologue(*right, 2, ok=False)[1]


def test_a_vocabulary_and_documents(folder: Path, recordings: list[Path], tmp_path: Path) -> None:
    words, facts = tmp_path / "words.txt", tmp_path / "facts.md"
    words.write_text("Canberra\n\nNewark\n")
    facts.write_text("# Places\nThe capital of Australia is Canberra. People love Zargova.\n")
    arguments = ("transcribe", recordings[0], "-m", folder, "--json")
    for option, path in (("--vocabulary", words), ("--knowledge", facts)):
        record = json.loads(duologue(*arguments, option, path)[0])
        assert record["seconds"] == 1.0
    assert "none.txt" in duologue(*arguments, "--vocabulary", tmp_path / "none.txt", ok=False)[1]


def test_help_and_faults(tmp_path: Path) -> None:
    text = duologue("transcribe", "--help")[0]
    assert "Examples" in text
    assert "duologue transcribe" in text
    missing = duologue("transcribe", tmp_path / "x.wav", "-m", tmp_path / "nowhere", ok=False)[1]
    assert missing.startswith("error: ")
    assert "nowhere" in missing


@pytest.fixture
def service() -> Iterator[FakeService]:
    """A moshi-server on a thread of its own, for a command that brings its own event loop."""
    fake = FakeService({5: "what", 12: "time?"})
    ready, stop = threading.Event(), threading.Event()

    async def run() -> None:
        async with running(fake, "kyutai"):
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(5)
    yield fake
    stop.set()
    thread.join(5)


def test_asking_a_service(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "question.wav"
    write_wav(path, np.concatenate([speech(n) for n in range(20)]), RATE)
    monkeypatch.setenv("STT_URL", service.url)
    record = json.loads(duologue("transcribe", path, "--service", "--json")[0])
    assert record["text"] == "what time?"
    assert [word["start"] for word in record["words"]] == [0.4, 0.96]
    assert service.requests[0]["kyutai-api-key"] == "public_token"
    monkeypatch.delenv("STT_URL")
    assert "STT_URL" in duologue("transcribe", path, "--service", ok=False)[1]


def test_a_recording_that_cannot_be_read_ends_no_others(
    folder: Path, recordings: list[Path], tmp_path: Path
) -> None:
    noise, gone = tmp_path / "noise.wav", tmp_path / "gone.wav"
    noise.write_bytes(b"no sound")
    sources = (noise, recordings[0], gone, recordings[2])
    arguments = ("transcribe", *sources, "-m", folder, "--batch", 2, "--json")
    out, err = duologue(*arguments, ok=False)
    inputs = [json.loads(line)["input"] for line in out.splitlines()]
    assert inputs == [str(recordings[0]), str(recordings[2])]
    lines = err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True, True]
    assert "noise.wav" in lines[0]
    assert str(gone) in lines[1]


def test_typing_errors_are_told_by_what_was_typed(
    folder: Path, recordings: list[Path], tmp_path: Path
) -> None:
    arguments = ("transcribe", recordings[0], "-m", folder)
    gone = tmp_path / "nowhere" / "facts"
    err = duologue(*arguments, "--knowledge", gone, ok=False)[1]
    assert err.startswith(f"error: {gone}: there is no such")
    err = duologue(*arguments, "--quantization", "int3", ok=False)[1]
    assert "int8, int4" in err
    assert "Traceback" not in err
