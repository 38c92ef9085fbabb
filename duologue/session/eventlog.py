"""Event logs: what a conversation was given and what came of it, as JSON lines.

A log holds what was said, so it is off unless a folder is named, and its files are readable by
their owner alone. With the user's audio in it, it replays to the same bits (`replay`). Writing
happens in a thread of its own behind a bounded queue: a full or slow disk ends logs, never
conversations.

Records (`record` names the kind): `session` (what is needed to start or continue the same
conversation), `frame` (audio, recognised words, digest of what the model made, events), `receive`
(a reply or control and what it caused), `end`. A log that stopped early lacks `end`; `truncated`
says why, if it still could.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.dialogue import AudioFrame, Control, Output, Reply
from duologue.dialogue.records import to_data
from duologue.stt.ports import Heard, Link, Notice

logger = logging.getLogger(__name__)

LOG_VERSION = 1
MAX_QUEUED_RECORDS = 2_048
MAX_PARTS = 100
"""Files of one session, which goes on in another after each restart."""
_CLOSE_S = 5.0


class LogWriter:
    """Files of all sessions of an engine, written by one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queue: queue.Queue[tuple[str, str] | None] = queue.Queue(MAX_QUEUED_RECORDS)
        self._files: dict[str, IO[str]] = {}
        self._failed: set[str] = set()
        self._waiting: Counter[str] = Counter()
        """Lines in the queue, by log."""
        self._lost: set[str] = set()
        """Logs whose end did not fit into the queue."""
        self._lock = threading.Lock()
        """Over the two above, so that a log is not closed before its last queued line."""
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)
        self.truncated = 0

    def start(self) -> None:
        """Make the folder and begin; raises `OSError` when there can be none."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def write(self, name: str, line: str) -> bool:
        """Queue a line, "" for the file's end; False when it is lost."""
        if line and name in self._failed:
            return False
        with self._lock:
            try:
                self._queue.put_nowait((name, line))
            except queue.Full:
                if not line:
                    self._lost.add(name)
                return False
            self._waiting[name] += 1
        return True

    def close(self) -> None:
        """Write what is queued and close all files."""
        # A writer that hangs in the file system is left behind: it is a daemon.
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE_S)
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            name, line = item
            try:
                self._write(name, line)
            except OSError as error:
                logger.warning("event log %s ends early: %s", name, error.strerror)
                self._failed.add(name)
                self._shut(name)
            if not line:
                self._failed.discard(name)
            self._end_lost(name)
        for name in list(self._files):
            self._shut(name)

    def _end_lost(self, name: str) -> None:
        """A line has been dealt with; close the logs of which no more lines will come."""
        with self._lock:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name]
            ended = self._lost - self._waiting.keys()
            self._lost -= ended
        for lost in ended:
            self._failed.discard(lost)
            self._shut(lost)

    def _write(self, name: str, line: str) -> None:
        if not line:
            self._shut(name)
            return
        if name in self._failed:
            return
        if name not in self._files:
            self._files[name] = os.fdopen(self._create(name), "w", encoding="utf-8")
        file = self._files[name]
        file.write(line)
        file.write("\n")
        file.flush()

    def _create(self, name: str) -> int:
        """A new file for a log; one that goes on where an earlier one ended gets a number."""
        for number in range(1, MAX_PARTS):
            part = name if number == 1 else f"{name}-{number}"
            try:
                return self._create_file(part)
            except FileExistsError:
                continue
        return self._create_file(f"{name}-{MAX_PARTS}")

    def _create_file(self, name: str) -> int:
        path = self._folder / f"{name}.jsonl"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def _shut(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


class SessionLog:
    """The log of one session; at its bound, or when a line is lost, it ends with what it has."""

    def __init__(self, writer: LogWriter, name: str, *, audio: bool, max_bytes: int) -> None:
        self._writer, self._name, self._audio = writer, name, audio
        self._left, self._open = max_bytes, True

    def begin(self, header: Mapping[str, Any]) -> None:
        self._write({"record": "session", "version": LOG_VERSION, **header})

    def frame(
        self,
        frame: int,
        pcm: NDArray[np.float32],
        heard: Heard,
        digest: str,
        outputs: Sequence[Output],
        told: NDArray[np.float32] | None = None,
    ) -> None:
        """A frame: what was heard and what was made of it."""
        self._write(
            {
                "record": "frame",
                "frame": frame,
                "pcm": pack_pcm(pcm) if self._audio else None,
                "heard": pack_heard(heard),
                "told": None if told is None or not self._audio else pack_floats(told),
                "digest": digest,
                "outputs": plain_outputs(outputs),
            }
        )

    def receive(
        self, given: Reply | Control, rows: Tensor | None, outputs: Sequence[Output]
    ) -> None:
        """A reply or control between two frames, and what it caused."""
        self._write(
            {
                "record": "receive",
                "given": given.to_dict(),
                "rows": None if rows is None else pack_rows(rows),
                "outputs": plain_outputs(outputs),
            }
        )

    def end(self, reason: str) -> None:
        self._write({"record": "end", "reason": reason})
        if self._open:
            self._open = False
            self._writer.write(self._name, "")

    def _write(self, record: Mapping[str, Any]) -> None:
        if not self._open:
            return
        line = json.dumps(record, separators=(",", ":"))
        self._left -= len(line) + 1
        if self._left >= 0 and self._writer.write(self._name, line):
            return
        self._open = False
        self._writer.truncated += 1
        why = "the log's size" if self._left < 0 else "the disk is too slow or full"
        self._writer.write(self._name, json.dumps({"record": "truncated", "why": why}))
        self._writer.write(self._name, "")


def plain_outputs(outputs: Sequence[Output]) -> list[Any]:
    """Events and commands as plain data; audio is left to the digest."""
    return [
        to_data(output.without_payload() if isinstance(output, AudioFrame) else output)
        for output in outputs
    ]


def pack_floats(values: NDArray[np.float32]) -> str:
    """Numbers, exactly."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def unpack_floats(packed: str) -> NDArray[np.float32]:
    """What `pack_floats` was given."""
    return np.frombuffer(base64.b64decode(packed), "<f4").astype(np.float32)


def pack_pcm(pcm: NDArray[np.float32]) -> dict[str, str]:
    """Samples in [-1, 1] as text, exactly: 16 bit when that loses no bit, else float32."""
    short = np.clip(pcm * 32768.0, -32768, 32767).astype("<i2")
    again = short.astype(np.float32) / np.float32(32768.0)
    if again.tobytes() == pcm.tobytes():
        return {"s16": base64.b64encode(short.tobytes()).decode()}
    return {"f32": pack_floats(pcm)}


def unpack_pcm(packed: Mapping[str, str]) -> NDArray[np.float32]:
    """What `pack_pcm` was given."""
    if "s16" in packed:
        short = np.frombuffer(base64.b64decode(packed["s16"]), "<i2")
        return short.astype(np.float32) / np.float32(32768.0)
    return unpack_floats(packed["f32"])


def pack_heard(heard: Heard) -> dict[str, Any] | None:
    """What recognition said, as far as a conversation takes notice of it; None for nothing."""
    if heard == Heard():
        return None
    packed = {
        "words": list(heard.words),
        "inactivity": heard.inactivity,
        "transcribed_frame": heard.transcribed_frame,
        "notices": [[notice.link.value, notice.detail] for notice in heard.notices],
    }
    return packed if heard.ahead is None else {**packed, "ahead": heard.ahead}


def unpack_heard(packed: Mapping[str, Any] | None) -> Heard:
    """What `pack_heard` was given, completed words aside."""
    if packed is None:
        return Heard()
    return Heard(
        words=tuple(packed["words"]),
        inactivity=packed["inactivity"],
        transcribed_frame=packed["transcribed_frame"],
        notices=tuple(Notice(Link(link), detail) for link, detail in packed["notices"]),
        ahead=packed.get("ahead"),
    )


def pack_rows(rows: Tensor) -> dict[str, Any]:
    """Reference rows as text, exactly."""
    values = rows.float().contiguous().numpy()
    return {"shape": list(rows.shape), "f32": pack_floats(values)}


def unpack_rows(packed: Mapping[str, Any]) -> Tensor:
    """What `pack_rows` was given, as float32."""
    values = unpack_floats(packed["f32"])
    return torch.from_numpy(values).view(packed["shape"])
