"""The commands as a user types them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from duologue.audio import read_audio, write_wav
from duologue.checkpoints.untrained import create_untrained
from duologue.cli.main import COMMANDS, load_command, main

QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


def duologue(*arguments: object, ok: bool = True) -> Result:
    """Run the command line in this process, its errors handled as for a user."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["duologue", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    assert code == 0 or not ok, err.getvalue()
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    create_untrained(folder, "tiny")
    return folder


def test_help_is_fast_and_loads_no_torch() -> None:
    program = (
        "import resource, sys, duologue\n"
        "sys.argv = ['duologue', '--help']\n"
        "from duologue.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = [name for name in ('torch', 'numpy') if name in sys.modules]\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(loaded, used.ru_utime + used.ru_stime)"
    )
    seconds = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert "talk" in run.stdout
        last = run.stdout.splitlines()[-1]
        assert last.startswith("[] "), last
        seconds.append(float(last.split()[1]))
    # Processor time, which a busy machine does not stretch as it does wall time.
    assert min(seconds) < 0.3


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_each_command_by_the_first_line_of_its_own_help(name: str) -> None:
    assert load_command(name).get_short_help_str(200) == COMMANDS[name].help


def test_a_command_does_not_load_the_others() -> None:
    program = (
        "import sys\n"
        "from duologue.cli.main import load_command\n"
        "load_command('convert')\n"
        "assert 'duologue.cli.checkpoints' in sys.modules\n"
        "assert 'duologue.cli.serve' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_installed_program_reports_a_fault_in_one_line(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "duologue"
    command = [program, "codec", "decode", tmp_path / "none.codes", tmp_path / "x.wav"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) <= 3


@pytest.mark.parametrize(
    "command",
    ["talk", "doctor", "convert", "codec encode", "codec decode", "checkpoints inspect",
     "checkpoints new"],
)  # fmt: skip
def test_every_command_shows_examples(command: str) -> None:
    text = duologue(*command.split(), "--help").stdout
    assert "Examples" in text
    assert f"duologue {command}" in text


def test_a_recording_becomes_codes_and_comes_back(model: Path, tmp_path: Path) -> None:
    codes, back = tmp_path / "q.codes", tmp_path / "q.wav"
    report = json.loads(duologue("codec", "encode", QUESTION, codes, "-m", model, "--json").stdout)
    pcm = read_audio(QUESTION)
    assert report["frames"] == -(-len(pcm) // 1920)
    assert report["num_codebooks"] == 8
    assert codes.stat().st_size == report["bytes"] < len(pcm) / 24000 * 1100 / 8 + 300
    duologue("codec", "decode", codes, back, "-m", model)
    assert len(read_audio(back)) == len(pcm)
    fewer = tmp_path / "fewer.wav"
    duologue("codec", "decode", codes, fewer, "-m", model, "-k", 2)
    assert not np.array_equal(read_audio(fewer), read_audio(back))


def test_a_folder_that_is_missing_is_noticed_before_the_work(model: Path, tmp_path: Path) -> None:
    lost = tmp_path / "none" / "voice.codes"
    result = duologue("codec", "encode", QUESTION, lost, "-m", model, ok=False)
    assert result.returncode == 2
    assert f"there is no folder {lost.parent}; make it first" in result.stderr
    assert "Traceback" not in result.stderr


def test_talking_writes_voice_and_trace(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("talk", QUESTION, "-m", model, "-o", out, "--tail", 1, "--seed", 4, "--stereo")
    summary = json.loads(duologue(*arguments, "--json").stdout)
    trace = json.loads((out / "question.json").read_text())
    frames = -(-len(read_audio(QUESTION)) // 1920)
    assert trace["question_end_step"] == frames - 1
    assert len(trace["model_text"]) == len(trace["text_tokens"]) == frames + 12
    assert summary["seconds"] == pytest.approx(len(trace["model_text"]) * 0.08)
    first = (out / "question.wav").read_bytes()
    assert len(read_audio(out / "question.stereo.wav")) == len(read_audio(out / "question.wav"))
    assert "there already" in duologue(*arguments).stdout
    duologue(*arguments, "--force")
    assert (out / "question.wav").read_bytes() == first


def test_a_voice_starts_the_conversation(model: Path, tmp_path: Path) -> None:
    plain, voiced = tmp_path / "plain", tmp_path / "voiced"
    duologue("talk", QUESTION, "-m", model, "-o", plain, "--tail", 0)
    duologue("talk", QUESTION, "-m", model, "-o", voiced, "--tail", 0, "--voice", QUESTION)
    traces = [json.loads((o / "question.json").read_text()) for o in (plain, voiced)]
    assert len(traces[0]["text_tokens"]) == len(traces[1]["text_tokens"])
    assert traces[0]["text_tokens"] != traces[1]["text_tokens"]


def _broken_wav(path: Path) -> None:
    path.write_bytes(QUESTION.read_bytes()[:200])


def _not_audio(path: Path) -> None:
    path.write_text("these are words, not samples")


def _silent(path: Path) -> None:
    path.write_bytes(b"")


def _not_a_number(path: Path) -> None:
    write_wav(path, np.zeros(4000, np.float32), sample_format="float32")
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32("nan").tobytes()
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("make", [_broken_wav, _not_audio, _silent, _not_a_number])
def test_bad_recordings_give_one_clear_line(make: object, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.wav"
    make(path)  # type: ignore[operator]
    for command in (
        ("codec", "encode", path, tmp_path / "x.codes"),
        ("talk", path, "-o", tmp_path),
    ):
        result = duologue(*command, "-m", model, ok=False)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert "bad.wav" in result.stderr
        assert "Traceback" not in result.stderr


def test_other_faults_give_one_clear_line(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.codes"
    cases = [
        (("codec", "encode", tmp_path / "none.wav", out, "-m", model), "No such file"),
        (("codec", "encode", QUESTION, out, "-m", tmp_path / "none"), "no local folder"),
        (("codec", "decode", QUESTION, tmp_path / "y.wav", "-m", model), "not a file of codes"),
        (("talk", QUESTION, QUESTION, "-o", tmp_path, "-m", model), "question"),
        (("checkpoints", "new", model), "not empty"),
        (("checkpoints", "new", tmp_path / "n", "--preset", "huge"), "no preset"),
    ]
    for arguments, complaint in cases:
        result = duologue(*arguments, ok=False)
        assert result.returncode == 2, arguments
        assert complaint in result.stderr
        assert "Traceback" not in result.stderr


def test_doctor_reports_this_machine() -> None:
    report = json.loads(duologue("doctor", "--device", "cpu", "--threads", 1, "--json").stdout)
    assert report["bandwidth_gbps"] > 0.5
    rows = {(row["model"], row["precision"]): row for row in report["models"]}
    seven = rows["moshi-7b", "bf16"]
    assert seven["gigabytes"] == pytest.approx(15.375, abs=0.01)
    assert rows["moshi-7b", "int8"]["frame_ms"] == pytest.approx(seven["frame_ms"] / 2)
    assert any(row["measured"] for row in report["models"])
    assert [row["threads"] for row in report["thread_sweep"]] == [report["best_threads"]] == [1]
    assert 0 < report["thread_sweep"][0]["frame_ms"] < 5000


def test_the_best_number_of_threads_is_the_least_that_is_nearly_the_fastest() -> None:
    from duologue.cli.examination import best_of_sweep

    def best(*times: float) -> int | None:
        return best_of_sweep([{"threads": 2**i, "frame_ms": t} for i, t in enumerate(times)])

    assert best(10.0, 9.5, 12.0) == 1
    assert best(10.0, 6.0, 5.8) == 2
    assert best(10.0, 6.0, 3.0) == 4
    assert best() is None


def test_a_full_disk_is_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("duologue.audio.write_wav", full)
    codes = tmp_path / "question.codes"
    duologue("codec", "encode", QUESTION, codes, "-m", model, "--threads", 1)
    result = duologue("codec", "decode", codes, tmp_path / "x.wav", "-m", model, "--json", ok=False)
    assert (result.returncode, result.stderr) == (2, "error: No space left on device\n")


@pytest.mark.parametrize(
    ("command", "file"), [(("chat",), False), (("transcribe",), False), (("codec", "encode"), True)]
)
def test_a_file_is_offered_as_a_model_where_it_is_one(
    command: tuple[str, ...], file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = duologue(*command, "--help").stdout
    assert ("a file of a codec" in text) is file
    assert "a folder, a file, or" not in text
