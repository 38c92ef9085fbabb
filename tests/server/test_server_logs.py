"""Logs: one line a record, never in the way, and lost lines are counted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from duologue.errors import DuologueError
from duologue.server.logs import LogWriter, session_id

logger = logging.getLogger("duologue.test")


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def written(path: Path, layout: str, *, level: str = "info") -> list[str]:
    writer = LogWriter(level, layout, path)  # type: ignore[arg-type]
    writer.start()
    mark = session_id.set("s1")
    logger.info("session opened", extra={"fields": {"door": "kyutai"}})
    session_id.reset(mark)
    logger.debug("details")
    logger.warning("client said %s", "a\nb")
    try:
        raise ValueError("inner")
    except ValueError:
        logger.exception("failed")
    writer.stop()
    assert writer.lost == 0
    return path.read_text().splitlines()


def test_json_lines(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in written(tmp_path / "log", "json")]
    assert [line["message"] for line in lines] == ["session opened", "client said a\nb", "failed"]
    assert lines[0]["session"] == "s1"
    assert lines[0]["door"] == "kyutai"
    assert lines[0]["level"] == "info"
    assert lines[0]["time"].endswith("Z")
    assert "session" not in lines[1]
    assert "ValueError: inner" in lines[2]["trace"]


def test_text_lines(tmp_path: Path) -> None:
    lines = written(tmp_path / "log", "text", level="debug")
    assert lines[0].endswith("info session opened session=s1 door=kyutai")
    assert lines[1].endswith("debug details")
    assert lines[2].endswith("client said a\\nb"), "nobody forges a line"
    assert lines[-1] == "ValueError: inner"


ODD = "\x1b]0;x\x07 \x7f \x85 \x9b2J \u2028 \u202e \ud800 é 中"


@pytest.mark.parametrize("layout", ["text", "json"])
def test_what_cannot_be_printed_is_escaped(tmp_path: Path, layout: str) -> None:
    """Nobody moves a terminal's cursor or breaks a line, in the message, a field, or a trace."""
    writer = LogWriter("info", layout, tmp_path / "log")  # type: ignore[arg-type]
    writer.start()
    logger.info("said %s", ODD, extra={"fields": {"path": ODD}})
    try:
        raise ValueError(ODD)
    except ValueError:
        logger.exception("failed")
    writer.stop()
    written = (tmp_path / "log").read_text(encoding="utf-8")
    assert all(character.isprintable() or character == "\n" for character in written)
    lines = written.splitlines()
    assert lines == written.split("\n")[:-1]
    if layout == "json":
        assert [json.loads(lines[0])[name] for name in ("message", "path")] == [f"said {ODD}", ODD]
        return
    escaped = r"\x1b]0;x\x07 \x7f \x85 \x9b2J \u2028 \u202e \ud800 é 中"
    assert lines[0].endswith(f"info said {escaped} path={escaped}")
    assert lines[-1] == f"ValueError: {escaped}"


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    writer = LogWriter("info", "json", Path("/dev/full"))
    writer.start()
    for _ in range(5):
        logger.info("into the void")
    writer.stop()
    assert writer.lost == 5


def test_a_queue_that_is_full_loses_lines(tmp_path: Path) -> None:
    writer = LogWriter("info", "text", tmp_path / "log")
    writer._queue.maxsize = 3
    logging.getLogger().handlers[:] = [writer._entrance]
    logging.getLogger().setLevel("INFO")
    for number in range(5):
        logger.info("line %d", number)
    assert writer.lost == 2
    writer._listener.start()
    writer.stop()
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_a_log_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(DuologueError, match="cannot be opened"):
        LogWriter("info", "text", tmp_path / "absent" / "log")
