"""Logs that never hold up the event loop and never stop the server.

Records go through a bounded queue to a thread that writes them. When the disk is full, the file is
gone or the queue overflows, lines are lost and counted (`LogWriter.lost`); nothing is raised.
Neither speech nor transcripts are logged, here or anywhere in the package; what can be kept of a
conversation is its event log, which is off by default. Tokens are not logged either: the path of a
request is, its query is not.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import time
from contextlib import suppress
from contextvars import ContextVar
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Any, Literal

from duologue.errors import DuologueError

MAX_QUEUED_LINES = 10_000
QUIET_LOGGERS = ("uvicorn", "uvicorn.error", "httpx", "httpcore", "websockets")
"""Libraries that log every connection or whole URLs; only their warnings are kept."""

FALSE_ALARM = "ASGI callable returned without completing handshake."
"""uvicorn says so of websockets that were refused with a proper response."""

session_id: ContextVar[str] = ContextVar("session_id", default="")
"""The session that the current task works for."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, session, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if session := getattr(record, "session", ""):
            values["session"] = session
        values.update(getattr(record, "fields", {}))
        if record.exc_info:
            values["trace"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: `12:00:01 info session opened door=kyutai`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        session = getattr(record, "session", "")
        fields = {**({"session": session} if session else {}), **getattr(record, "fields", {})}
        pairs = "".join(f" {key}={value}" for key, value in fields.items())
        line = f"{moment} {record.levelname.lower()} {record.getMessage()}{pairs}"
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join(_printable(line) for line in (line, *trace))


class LogWriter:
    """The root logger's way out. `start` before the first record, `stop` at the end."""

    def __init__(
        self, level: str, layout: Literal["text", "json"], file: Path | None = None
    ) -> None:
        """Raises DuologueError when the file cannot be opened."""
        self._target = _target(file, self._count)
        self._target.setFormatter(JsonFormatter() if layout == "json" else TextFormatter())
        self._queue: queue.Queue[Any] = queue.Queue(MAX_QUEUED_LINES)
        self._entrance = _Entrance(self._queue, self._count)
        self._listener = QueueListener(self._queue, self._target)
        self._level = level.upper()
        self._lost = 0

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._lost

    def start(self) -> None:
        root = logging.getLogger()
        root.handlers[:] = [self._entrance]
        root.setLevel(self._level)
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("uvicorn.error").addFilter(_is_true_alarm)
        self._listener.start()

    def stop(self) -> None:
        """Write what waits, and take the root logger's handler away."""
        logging.getLogger().handlers[:] = []
        self._listener.stop()
        with suppress(OSError):  # the lines are counted already
            self._target.close()

    def _count(self) -> None:
        self._lost += 1


class _Entrance(QueueHandler):
    """Marks records with their session and queues them without waiting."""

    def __init__(self, target: queue.Queue[Any], on_lost: Any) -> None:
        super().__init__(target)
        self._on_lost = on_lost

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record.session = session_id.get()
        record.msg, record.args = record.getMessage(), None
        return record

    def handleError(self, record: logging.LogRecord) -> None:
        self._on_lost()


def _is_true_alarm(record: logging.LogRecord) -> bool:
    return record.msg != FALSE_ALARM


def _target(file: Path | None, on_lost: Any) -> logging.Handler:
    class Target(WatchedFileHandler if file else logging.StreamHandler):  # type: ignore[misc]
        def handleError(self, record: logging.LogRecord) -> None:
            on_lost()

    if file is None:
        return Target(sys.stderr)
    try:
        return Target(file, encoding="utf-8", errors="replace")
    except OSError as error:
        raise DuologueError(f"{file}: the log cannot be opened: {error.strerror}") from error


def _printable(line: str) -> str:
    """A record is one line and moves no terminal's cursor, whatever a client put into it."""
    return "".join(c if c.isprintable() else _escaped(c) for c in line)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
