"""Event logs, and replaying them to the same bits."""

from __future__ import annotations

import errno
import json
import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.conversations import frames_of, model, speech
from support.stage import Stage, trace

from duologue.dialogue import AudioFrame, EndReason, Reset, SelectBackend
from duologue.session import eventlog
from duologue.session.eventlog import LogWriter, SessionLog, pack_pcm, unpack_pcm
from duologue.session.replay import LogError, read_header, replay
from duologue.session.seat import Seat
from duologue.session.snapshot import SessionSnapshot

AUDIO = frames_of(speech(40))


class Logged:
    """A stage that writes logs."""

    def __init__(self, folder: Path, **settings_: Any) -> None:
        self.folder = folder
        self.writer = LogWriter(folder)
        self.writer.start()
        self.stage = Stage(2, logs=self.writer, **settings_)

    def talk(self, seat: Seat, frames: list[np.ndarray]) -> np.ndarray:
        """Say something; returns what the model said."""
        said = []
        for frame in frames:
            self.stage.talk({seat: frame})
            events = self.stage.events(seat)
            said += [event.payload for event in events if isinstance(event, AudioFrame)]
        return np.concatenate(said)

    def path(self, seat: Seat) -> Path:
        """The log, complete."""
        self.stage.conductor.end(seat, EndReason.CLIENT_CLOSED)
        self.writer.close()
        return self.folder / f"{seat.id}.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_replays_to_the_same_bits(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    other = logged.stage.open(0, seed=9)
    seat = logged.stage.open(1, seed=13, backend="other")
    faint = [frame * np.float32(1 / 3) for frame in AUDIO[:10]]
    said = [logged.talk(seat, AUDIO[:14])]
    logged.stage.conductor.receive(seat, Reset())
    logged.stage.talk({other: AUDIO[20]})
    said.append(logged.talk(seat, faint))
    logged.stage.conductor.receive(seat, SelectBackend("nobody"))
    said.append(logged.talk(seat, AUDIO[14:20]))
    path = logged.path(seat)
    kinds = {record["record"] for record in lines(path)}
    assert kinds == {"session", "frame", "receive", "end"}
    assert any(r["record"] == "receive" and r["rows"] for r in lines(path)), "rows were injected"
    report = replay(path, model())
    assert report.difference == ""
    assert report.complete
    assert report.frames == 30
    assert np.array_equal(report.pcm, np.concatenate(said))
    assert path.stat().st_mode & 0o077 == 0


def test_a_restored_session_replays_from_its_snapshot(tmp_path: Path) -> None:
    plain = Stage(2)
    first = plain.open(0)
    for frame in AUDIO[:6]:
        plain.talk({first: frame})
    saved = SessionSnapshot.from_bytes(plain.seating.snapshot(first, "token").to_bytes())
    logged = Logged(tmp_path)
    seat = logged.stage.reopen(saved, 1)
    logged.talk(seat, AUDIO[6:10])
    report = replay(logged.path(seat), model())
    assert (report.frames, report.difference) == (4, "")


def changed(path: Path, edit: Any) -> Path:
    records = lines(path)
    edit(records)
    other = path.with_name("changed.jsonl")
    other.write_text("".join(json.dumps(record) + "\n" for record in records))
    return other


def test_any_difference_is_found_and_named(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    seat = logged.stage.open(seed=5)
    logged.talk(seat, AUDIO[:8])
    path = logged.path(seat)
    frames = [i for i, record in enumerate(lines(path)) if record["record"] == "frame"]

    def other_audio(records: list[Any]) -> None:
        records[frames[3]]["pcm"] = pack_pcm(AUDIO[30])

    def other_event(records: list[Any]) -> None:
        records[frames[5]]["outputs"].append({"type": "conversation_reset", "frame": 5})

    def other_seed(records: list[Any]) -> None:
        records[0]["seed"] += 1

    audio = replay(changed(path, other_audio), model()).difference
    assert audio.endswith("the model made other bits")
    assert 3 <= int(audio.split()[1][:-1]) <= 6, "what is heard is not always answered at once"
    event = replay(changed(path, other_event), model()).difference
    assert event == "after frame 5: nothing in the replay, conversation_reset in the log"
    assert replay(changed(path, other_seed), model()).difference.startswith("frame 0")


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    logged = Logged(tmp_path, log_audio=False)
    seat = logged.stage.open()
    logged.talk(seat, AUDIO[:2])
    path = logged.path(seat)
    with pytest.raises(LogError, match="without audio"):
        replay(path, model())
    with pytest.raises(LogError, match="another model"):
        replay(path, model(max_delay=2))
    broken = tmp_path / "broken.jsonl"
    for text, why in (
        ("", "empty"),
        ("{}\n", "not a record"),
        ('{"record": "frame"}\n', "not an event log"),
        (path.read_text().splitlines()[0] + '\n{"record": "frame", "frame": 0}\n', "damaged"),
    ):
        broken.write_text(text)
        with pytest.raises(LogError, match=why):
            replay(broken, model())


def test_a_damaged_header_says_why(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    path = logged.path(logged.stage.open())

    def without(key: str) -> Path:
        return changed(path, lambda records: records[0].pop(key))

    for key in ("model", "threads", "fingerprint", "seed", "slot"):
        with pytest.raises(LogError, match=f"lacks {key}"):
            read_header(without(key))
    with pytest.raises(LogError, match="damaged"):
        replay(without("brain"), model())
    path.write_bytes(b'{"record": "session", "version": 1, "model": "\xff"}\n')
    with pytest.raises(LogError, match=":1: not a record"):
        read_header(path)


def test_a_log_whose_last_line_was_cut_short_ends_before_it(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    seat = logged.stage.open(seed=5)
    logged.talk(seat, AUDIO[:4])
    path = logged.path(seat)
    written = path.read_bytes()
    assert lines(path)[-1]["record"] == "end"
    path.write_bytes(written[:-5])
    report = replay(path, model())
    assert (report.frames, report.difference, report.complete) == (4, "", False)
    path.write_bytes(written[:-5] + b"\n")
    with pytest.raises(LogError, match="not a record"):
        replay(path, model())


class Slow:
    """A writer of small queue that writes nothing until it is let go."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(eventlog, "MAX_QUEUED_RECORDS", 4)
        self.writer = LogWriter(folder)
        self.go, self.at_it = threading.Event(), threading.Event()
        write = self.writer._write

        def wait(name: str, line: str) -> None:
            self.at_it.set()
            self.go.wait(5.0)
            write(name, line)

        monkeypatch.setattr(self.writer, "_write", wait)
        self.writer.start()


def test_a_log_whose_end_is_lost_keeps_what_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(tmp_path, monkeypatch)
    log = SessionLog(slow.writer, "a", audio=False, max_bytes=2**20)
    log.begin({"line": 0})
    assert slow.at_it.wait(5.0)
    for line in range(1, 7):
        log.begin({"line": line})
    assert slow.writer.truncated == 1
    slow.go.set()
    slow.writer.close()
    assert [record["line"] for record in lines(tmp_path / "a.jsonl")] == [0, 1, 2, 3, 4]
    assert not slow.writer._failed
    assert not slow.writer._lost


def test_a_log_that_lost_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(tmp_path, monkeypatch)
    log = SessionLog(slow.writer, "a", audio=False, max_bytes=2**20)
    log.begin({"line": 0})
    assert slow.at_it.wait(5.0)
    log.begin({"line": 1})
    put, refused = slow.writer._queue.put_nowait, [True]

    def full_once(item: tuple[str, str] | None) -> None:
        if refused and refused.pop():
            raise queue.Full
        put(item)

    monkeypatch.setattr(slow.writer._queue, "put_nowait", full_once)
    log.begin({"line": 2})
    slow.go.set()
    slow.writer.close()
    kinds = [record["record"] for record in lines(tmp_path / "a.jsonl")]
    assert kinds == ["session", "session", "truncated"]


def test_a_log_ends_at_its_bound_and_says_so(tmp_path: Path) -> None:
    logged = Logged(tmp_path, log_bytes=60_000)
    seat = logged.stage.open(seed=5)
    logged.talk(seat, AUDIO[:12])
    path = logged.path(seat)
    assert path.stat().st_size < 61_000
    records = lines(path)
    assert records[-1] == {"record": "truncated", "why": "the log's size"}
    assert logged.writer.truncated == 1
    report = replay(path, model())
    assert report.difference == ""
    assert not report.complete
    assert 0 < report.frames < 12


def test_a_full_disk_ends_the_log_and_not_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does anybody hear of it: the same words to the bit as on a disk with room."""

    def run(name: str, is_full: bool) -> list[Any]:
        writer = LogWriter(tmp_path / name)
        write, lines_left, told = writer._write, 10, set[str]()

        def fill_up(name: str, line: str) -> None:
            nonlocal lines_left
            lines_left -= 1
            if is_full and lines_left < 0:
                told.add(name)
                raise OSError(errno.ENOSPC, "no space left on device")
            write(name, line)

        monkeypatch.setattr(writer, "_write", fill_up)
        writer.start()
        stage = Stage(2, logs=writer)
        seats = [stage.open(seed=seed) for seed in (5, 6)]
        for t in range(8):
            stage.talk({seats[0]: AUDIO[t], seats[1]: AUDIO[t + 20]})
        while is_full and len(told) < len(seats):
            threading.Event().wait(0.002)
        for t in range(8, 12):
            stage.talk({seats[0]: AUDIO[t], seats[1]: AUDIO[t + 20]})
        assert not any(seat.ended for seat in seats)
        said = [trace(stage.events(seat)) for seat in seats]
        for seat in seats:
            stage.conductor.end(seat, EndReason.CLIENT_CLOSED)
        writer.close()
        assert (writer.truncated > 0) is is_full
        return said

    assert run("small", True) == run("large", False)


def test_a_slow_disk_never_holds_up_a_session(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)  # not started: nothing is ever written
    log = SessionLog(writer, "stuck", audio=True, max_bytes=2**30)
    for _ in range(5000):
        log.end("never")
        log._open = True
    assert writer.truncated > 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), max_size=50), st.booleans())
def test_audio_in_logs_is_exact(samples: list[float], coarse: bool) -> None:
    pcm = np.array(samples, np.float32)
    if coarse:
        pcm = (np.round(pcm * 32767) / 32768).astype(np.float32)
    packed = pack_pcm(pcm)
    assert unpack_pcm(packed).tobytes() == pcm.tobytes()
    if coarse and not np.signbit(pcm[pcm == 0]).any():
        assert "s16" in packed


def test_the_command_replays_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    import duologue.engine
    from duologue.cli.main import app

    logged = Logged(tmp_path)
    seat = logged.stage.open(seed=5)
    logged.talk(seat, AUDIO[:3])
    path = logged.path(seat)
    monkeypatch.setattr(duologue.engine, "load_model", lambda name, device: model())
    runner = CliRunner()
    wav = tmp_path / "said.wav"
    good = runner.invoke(app, ["replay", str(path), "--json", "--wav", str(wav)])
    assert good.exit_code == 0, good.output
    summary = json.loads(good.output)
    assert (summary["same"], summary["frames"]) == (True, 3)
    assert wav.stat().st_size == 44 + 3 * 1920 * 2

    def edit(records: list[Any]) -> None:
        records[0]["seed"] += 1

    bad = runner.invoke(app, ["replay", str(changed(path, edit))])
    assert bad.exit_code == 1
    assert "other bits" in bad.output
    torch.set_num_threads(1)


def test_a_session_that_goes_on_elsewhere_has_a_log_of_its_own(tmp_path: Path) -> None:
    """A restored session keeps its name, and the folder may have its first part."""
    for part in ("first", "second", "third"):
        writer = LogWriter(tmp_path)
        writer.start()
        log = SessionLog(writer, "talk", audio=False, max_bytes=1 << 20)
        log.begin({"part": part})
        writer.close()
        assert writer.truncated == 0
    parts = [lines(tmp_path / f"{name}.jsonl")[0]["part"] for name in ("talk", "talk-2", "talk-3")]
    assert parts == ["first", "second", "third"]
