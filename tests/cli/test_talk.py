"""`duologue talk` as a user types it: a whole pipeline of tiny untrained models."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.conversations import speech
from support.folders import write_model
from support.stt_services import FakeService, running
from support.stt_services import speech as numbered

from duologue.audio import read_audio, read_channels, write_wav
from duologue.offline.style import MODEL, USER

from .test_commands import Result, duologue

PUBLISHED = {
    "rag_trigger_step": int, "retrieval_step": int, "conditioning_step": int,
    "question_end_step": int, "reference_text": str, "model_text": list, "user_text": list,
    "gt_user_text": str, "gt_reference_text": str, "answer": str,
}  # fmt: skip
FRAMES = {"first": 14, "second": 20, "third": 9}
TRUTH = "a rat rates tea"
TAIL = 0.8
"""Ten frames."""
WORDS = ("museum", "harbour", "bakery", "library", "cinema", "garden", "station", "castle")


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No services of this machine's environment."""
    for name in ("STT_URL", "LLM_BASE_URL", "MOSHI_RETRIEVAL_LLMS_JSON", "REFERENCE_ENCODER_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings and what is true about them."""
    folder = tmp_path_factory.mktemp("questions")
    for seed, (name, frames) in enumerate(FRAMES.items()):
        write_wav(folder / f"{name}.wav", speech(frames, seed=seed))
        values = {"topic": "tea at sea", "gt_reference_text": TRUTH, "answer": "rat"}
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def published(model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all three under the published rules, three at a time."""
    out = tmp_path_factory.mktemp("published")
    talk(questions, "--rules", "published", "--batch-size", 3, "--stereo", model=model, out=out)
    return out


def talk(*arguments: object, model: Path, out: Path, code: int = 0, truth: bool = True) -> Result:
    """Run it, short of pictures unless they are asked for."""
    given = [*arguments]
    if truth:
        given.append("--use-gt-reference")
    if not any("picture" in str(one) for one in given):
        given.append("--no-picture")
    if not any(str(one) in ("--tail", "--stop-on-end-of-input") for one in given):
        given += ["--tail", TAIL]
    result = duologue("talk", *given, "-m", model, "-o", out, ok=False)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def trace(out: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    return values


def timeless(out: Path, name: str) -> dict[str, Any]:
    """A trace without what a clock has measured."""
    values = trace(out, name)
    del values["timings"]
    for lookup in values["lookups"]:
        del lookup["lookup_s"], lookup["encoding_s"]
    return values


def test_traces_have_the_published_schema(published: Path) -> None:
    for name, frames in FRAMES.items():
        values = trace(published, name)
        assert list(values)[: len(PUBLISHED)] == list(PUBLISHED)
        for key, kind in PUBLISHED.items():
            assert type(values[key]) is kind, key
        assert values["question_end_step"] == frames - 1
        assert len(values["model_text"]) == len(values["user_text"]) == frames + 10
        assert "<pad>" in values["model_text"]
        assert any(piece.startswith("▁") for piece in values["model_text"])
        assert (values["answer"], values["gt_user_text"]) == ("rat", "tea at sea")
        assert len(read_audio(published / f"{name}.wav")) == (frames + 10) * 1920
        said, heard = read_channels(published / f"{name}.stereo.wav")
        assert np.array_equal(said, read_audio(published / f"{name}.wav"))
        assert np.array_equal(heard[: frames * 1920], speech(frames, list(FRAMES).index(name)))
        assert not heard[frames * 1920 :].any()


def test_steps_follow_the_published_arithmetic(published: Path) -> None:
    """Six frames of wait, the trigger's own among them; a true reference is there at once."""
    values = trace(published, "second")
    triggers = [step for step, piece in enumerate(values["model_text"]) if piece == "<ret>"]
    assert values["rag_trigger_step"] == triggers[-1]
    assert [lookup["trigger_step"] for lookup in values["lookups"]] == triggers
    assert values["retrieval_step"] == triggers[-1] + 6
    first = values["lookups"][0]
    assert first["start_step"] == first["conditioning_step"] == first["trigger_step"] + 5
    assert first["outcome"] == "answered"
    assert first["reference"] == values["reference_text"] == TRUTH
    assert first["label"] == "Ground truth"
    assert first["sources"] == [{"title": "second.json", "location": ""}]
    assert first["rows"] > 0
    assert first["question"]


def test_a_batch_is_what_one_by_one_is(
    published: Path, model: Path, questions: Path, tmp_path: Path
) -> None:
    rules = ("--rules", "published", "--batch-size", 3)
    for name in ("third", "first"):
        talk(questions / f"{name}.wav", *rules, model=model, out=tmp_path)
        assert timeless(tmp_path, name) == timeless(published, name)
        assert (tmp_path / f"{name}.wav").read_bytes() == (published / f"{name}.wav").read_bytes()
    # In a batch of another shape sums are rounded otherwise; what is said is the same.
    alone = tmp_path / "alone"
    talk(questions / "second.wav", "--rules", "published", model=model, out=alone)
    assert trace(alone, "second")["text_tokens"] == trace(published, "second")["text_tokens"]
    difference = read_audio(alone / "second.wav") - read_audio(published / "second.wav")
    assert np.abs(difference).max() < 1e-3


def test_a_reference_changes_what_is_said_after_it_is_told_and_not_before(
    published: Path, model: Path, questions: Path, tmp_path: Path
) -> None:
    shutil.copy(questions / "second.wav", tmp_path)
    (tmp_path / "second.json").write_text('{"gt_reference_text": "sea sea sea sea east tart"}')
    out = tmp_path / "out"
    rules = ("--rules", "published", "--batch-size", 3)
    talk(tmp_path / "second.wav", *rules, model=model, out=out)
    told = trace(out, "second")["lookups"][0]["conditioning_step"]
    assert told == trace(published, "second")["lookups"][0]["conditioning_step"]
    one, other = (read_audio(folder / "second.wav") for folder in (out, published))
    border = (told + 1) * 1920
    assert np.array_equal(one[:border], other[:border])
    assert not np.array_equal(one[border:], other[border:])


def test_latency_is_simulated_in_model_time(
    published: Path, model: Path, questions: Path, tmp_path: Path
) -> None:
    arguments = ("--rules", "published", "--batch-size", 3, "--retrieval-delay", 0.57)
    talk(questions / "second.wav", *arguments, model=model, out=tmp_path)
    late, early = (trace(out, "second")["lookups"][0] for out in (tmp_path, published))
    assert late["start_step"] == early["start_step"]
    assert late["conditioning_step"] == early["conditioning_step"] + 7


def test_answers_come_from_documents_and_name_them(
    published: Path, model: Path, questions: Path, tmp_path: Path
) -> None:
    """The untrained recogniser hears gibberish; a document that answers it is made to measure."""
    question = trace(published, "second")["lookups"][0]["question"]
    facts = tmp_path / "facts.md"
    others = [f"The {word} opens at {hour} o'clock." for hour, word in enumerate(WORDS, 5)]
    facts.write_text("\n\n".join(["# Facts", f"{question} is a rat on a star.", *others]))
    out = tmp_path / "out"
    arguments = ("--knowledge", facts, "--rules", "published", "--retrieval-delay", 0)
    talk(questions / "second.wav", *arguments, model=model, out=out, truth=False)
    lookup = trace(out, "second")["lookups"][0]
    assert lookup["outcome"] == "answered", lookup
    assert "rat on a star" in lookup["reference"]
    assert lookup["sources"][0]["title"] == "facts.md, line 3"
    assert lookup["rows"] > 0


def test_a_service_hears_the_words_and_the_turns_follow(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it hears is asked, wherever it is asked: the answer is in a document."""
    said = dict(enumerate(["when", "was", "the", "harbour", "bridge", "opened"], 2))
    recording, out = tmp_path / "question.wav", tmp_path / "out"
    write_wav(recording, np.concatenate([numbered(frame) for frame in range(24)]))
    facts = tmp_path / "facts.md"
    facts.write_text("The harbour bridge was opened in 1902.\n\nThe library has a blue door.\n")
    with listening(FakeService(said)) as service:
        monkeypatch.setenv("STT_URL", service.url)
        talk(
            recording, "--knowledge", facts, "--seed", 4, "--retrieval-delay", 0, "--tail", 4,
            model=model, out=out, truth=False,
        )  # fmt: skip
    values = trace(out, "question")
    assert values["user_text"][8:14] == [f" {word}" for word in said.values()]
    assert [word["step"] for word in values["words"]["user"]] == list(said)
    assert values["transcript"][0]["text"] == " ".join(said.values())
    assert values["transcript"][1]["role"] == "model"
    found = [one for one in values["lookups"] if one["outcome"] == "answered"]
    assert found, values["lookups"]
    assert "nineteen" in found[0]["reference"]
    assert found[0]["sources"][0]["title"] == "facts.md, line 1"
    assert values["run"]["stt"] == "service"


@contextmanager
def listening(service: FakeService) -> Iterator[FakeService]:
    """A recognition service in a thread of its own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    over = asyncio.Event()

    async def serve() -> None:
        async with running(service, "kyutai"):
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield service
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        loop.close()


def test_what_is_done_is_left_out_and_the_rest_is_made(
    model: Path, questions: Path, tmp_path: Path
) -> None:
    one = tmp_path / "one"
    talk(questions / "third.wav", model=model, out=one)
    before = (one / "third.json").stat().st_mtime_ns
    result = talk(questions, "--json", model=model, out=one)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {Path(line["input"]).stem: line["skipped"] for line in lines} == {
        "first": False, "second": False, "third": True,
    }  # fmt: skip
    assert (one / "third.json").stat().st_mtime_ns == before
    assert not list(one.glob(".*"))
    differently = talk(questions / "third.wav", "--seed", 7, model=model, out=one, code=2)
    assert "made differently (settings.seed)" in differently.stderr
    talk(questions / "third.wav", "--seed", 7, "--force", model=model, out=one)
    assert trace(one, "third")["run"]["settings"]["seed"] == 7


def test_what_an_earlier_result_left_beside_it_is_not_taken_for_this_one(
    model: Path, questions: Path, tmp_path: Path
) -> None:
    third = questions / "third.wav"
    talk(third, "--seed", 1, "--stereo", model=model, out=tmp_path)
    stereo = tmp_path / "third.stereo.wav"
    old = stereo.read_bytes()
    talk(third, "--seed", 2, "--force", model=model, out=tmp_path)
    assert stereo.read_bytes() == old
    talk(third, "--seed", 2, "--stereo", model=model, out=tmp_path)
    assert stereo.read_bytes() != old
    made = stereo.stat().st_mtime_ns
    talk(third, "--seed", 2, "--stereo", model=model, out=tmp_path)
    assert stereo.stat().st_mtime_ns == made, "what belongs to it stays"


def test_an_interrupted_run_leaves_whole_results_and_goes_on(
    model: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duologue.offline import results

    write, written = results.write_json, []

    def interrupted(path: Path, values: Any) -> None:
        """Ctrl-C while the first result is being written."""
        written.append(path)
        if len(written) == 1:
            signal.raise_signal(signal.SIGINT)
        write(path, values)

    # One after the other: together, all may be done when the signal is seen.
    arguments = (questions, "--stop-on-end-of-input", "--batch-size", 1)
    # Workers of a test run ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(results, "write_json", interrupted)
            stopped = talk(*arguments, model=model, out=tmp_path, code=130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "of 3 recordings are done; the same command goes on" in stopped.stderr
    done = sorted(path.name for path in tmp_path.iterdir())
    assert {f"{Path(name).stem}{kind}" for name in done for kind in (".json", ".wav")} == set(done)
    assert 1 <= len(done) / 2 < 3
    talk(*arguments, model=model, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def test_the_picture_shows_both_voices_and_is_drawn_again(
    published: Path, model: Path, questions: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "copy"
    shutil.copytree(published, out)
    talk(
        questions, "--rules", "published", "--batch-size", 3, "--picture", "--stereo",
        model=model, out=out,
    )  # fmt: skip
    picture = out / "second.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    colours = set(_colours(picture))
    assert {USER, MODEL} <= colours
    assert timeless(out, "second") == timeless(published, "second")


def _colours(path: Path) -> Iterator[str]:
    from matplotlib.image import imread

    pixels = (imread(path)[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for red, green, blue in np.unique(pixels, axis=0):
        yield f"#{red:02x}{green:02x}{blue:02x}"


def test_pictures_need_matplotlib_and_results_do_not(
    model: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duologue.offline.timeline.can_draw", lambda: False)
    refused = talk(questions, "--picture", model=model, out=tmp_path, code=2)
    assert "duologue[plots]" in refused.stderr
    duologue("talk", questions / "third.wav", "-m", model, "-o", tmp_path, "--stop-on-end-of-input")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["third.json", "third.wav"]


def test_models_can_be_named_by_single_files_as_published(
    model: Path, questions: Path, published: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "weights"
    elsewhere.mkdir()
    for name in ("model.safetensors", "codec.safetensors", "text.model", "config.json"):
        shutil.copy(model / name, elsewhere)
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    for name in ("model.safetensors", "codec.safetensors", "text.model"):
        (bare / name).unlink()
    folder = tmp_path / "in"
    folder.mkdir()
    for kind in ("wav", "json"):
        shutil.copy(questions / f"third.{kind}", folder)
    out = tmp_path / "out"
    duologue(
        "talk", "--input-dir", folder, "--output-dir", out, "--hf-repo", bare, "--config",
        elsewhere / "config.json", "--moshi-weight", elsewhere / "model.safetensors",
        "--mimi-weight", elsewhere / "codec.safetensors", "--tokenizer", elsewhere / "text.model",
        "--rules", "published", "--use-gt-reference", "--batch-size", 3, "--no-picture", "--tail",
        TAIL, "--device", "cpu", "--cfg-coef", 1.0, "--log-level", "ERROR",
    )  # fmt: skip
    assert trace(out, "third")["text_tokens"] == trace(published, "third")["text_tokens"]


def test_a_model_without_ears_is_told_the_truth_too(
    model: Path, questions: Path, tmp_path: Path
) -> None:
    """A true reference short-circuits everything, so nobody need have said anything."""
    arguments = ("--stt", "none", "--init-active-speaker", "model", "--rules", "published")
    talk(questions / "second.wav", *arguments, model=model, out=tmp_path)
    values = trace(tmp_path, "second")
    assert values["lookups"][0]["outcome"] == "answered"
    assert set(values["user_text"]) == {"<pad>"}
    assert any("no speech recognition" in note for note in values["notes"])


def test_one_bad_recording_does_not_stop_the_others(
    model: Path, questions: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(questions / "third.wav", folder / "good.wav")
    (folder / "bad.wav").write_text("these are words, not samples")
    write_wav(folder / "short.wav", speech(1)[:900])
    result = talk(
        folder, "--stop-on-end-of-input", "--rules", "published", model=model, out=tmp_path / "out",
        code=2, truth=False,
    )  # fmt: skip
    assert "bad.wav" in result.stderr
    assert "short.wav: shorter than a frame" in result.stderr
    assert (tmp_path / "out" / "good.json").exists()


def test_faults_are_told_before_anything_runs(model: Path, questions: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.wav"
    write_wav(lone, speech(2))
    odd = tmp_path / "odd.wav"
    write_wav(odd, speech(2))
    odd.with_suffix(".json").write_text('{"answer": 3}')
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "lone.wav").write_bytes(b"mine")
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((empty, "-o", out), "no recordings"),
        (("-o", out), "no recordings"),
        ((lone,), "--output-dir"),
        ((lone, "-o", out, "--use-gt-reference"), "no gt_reference_text"),
        ((odd, "-o", out), "answer must be a text"),
        ((lone, "-o", tmp_path), "belongs to the recording"),
        ((lone, "-o", tmp_path, "--force"), "belongs to the recording"),
        ((lone, "-o", taken), "exists without its JSON"),
        ((lone, questions / "third.wav", lone, "-o", out), "two recordings are called lone"),
        ((lone, "-o", out, "--rules", "mine"), "improved, published"),
        ((lone, "-o", out, "--cfg-coef", 2), "1.0"),
        ((lone, "-o", out, "--rag-timeout", 61), "equal to 60"),
        ((lone, "-o", out, "--tail", 1, "--stop-on-end-of-input"), "give one"),
        ((lone, "-o", out, "--knowledge", tmp_path / "none.md"), "none.md: no such document"),
        ((lone, "-o", out, "--moshi-weight", tmp_path), "is not a file"),
    ]
    for arguments, complaint in cases:
        result = duologue("talk", *arguments, "-m", model, "--no-picture", ok=False)
        assert result.returncode == 2, arguments
        assert complaint in result.stderr
        assert "Traceback" not in result.stderr
    assert lone.read_bytes()[:4] == b"RIFF"
    assert (taken / "lone.wav").read_bytes() == b"mine"


def test_the_longest_lookup_is_that_of_the_back_ends() -> None:
    from duologue.cli.talk import MAX_RAG_TIMEOUT_S
    from duologue.retrieval.protocol import MAX_DEADLINE_S

    assert MAX_RAG_TIMEOUT_S == MAX_DEADLINE_S
