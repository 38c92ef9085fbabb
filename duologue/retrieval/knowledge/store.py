"""The folder an index lives in: which segments are current, and how that changes atomically.

`index.json` is the only file that is ever replaced, by renaming; everything else is written once
under a new name. A reader therefore sees the index before a change or after it, and a writer killed
at any moment loses at most what it had not yet committed. Files that no `index.json` names any more
are removed by the next writer. One writer at a time, by a lock the system drops when it dies.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duologue.errors import DuologueError
from duologue.retrieval.knowledge.segment import (
    FORMAT_VERSION,
    Array,
    IndexCorrupt,
    Segment,
    read_segment,
    sync,
    write_segment,
)

_INDEX = "index.json"
_LOCK = "writer.lock"
_SEGMENTS = "segments"
_DELETED = "deleted"
_LOAD_TRIES = 5


class IndexBusy(DuologueError, RuntimeError):
    """Another process is writing to this index."""


@dataclass(frozen=True, slots=True)
class Part:
    """A segment of the current index: its name, its arrays, and which documents are gone."""

    name: str
    segment: Segment
    deleted: Array | None = None  # bool [D]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One generation of the index."""

    generation: int
    parts: tuple[Part, ...]
    embedder: str = ""


Stamp = tuple[int, int, int] | None
"""Tells one `index.json` from another without reading it."""


def stamp(folder: Path) -> Stamp:
    """The stamp of the current index; None when there is none."""
    try:
        status = (folder / _INDEX).stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def load(folder: Path) -> Snapshot:
    """The current generation; an absent or empty folder is an empty index."""
    for _ in range(_LOAD_TRIES):
        before = stamp(folder)
        try:
            return _load_once(folder)
        except IndexCorrupt:
            # A writer may have moved on, and swept away what was about to be opened.
            if stamp(folder) == before:
                raise
    return _load_once(folder)


def _load_once(folder: Path) -> Snapshot:
    path = folder / _INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Snapshot(0, ())
    except (OSError, ValueError) as error:
        raise IndexCorrupt(f"{path}: {error}") from error
    try:
        if index["format"] != FORMAT_VERSION:
            raise IndexCorrupt(
                f"{path}: index format {index['format']}, this program reads {FORMAT_VERSION}"
            )
        parts = tuple(
            _load_part(folder, _file_name(entry["name"]), entry["deleted"])
            for entry in index["segments"]
        )
        return Snapshot(int(index["generation"]), parts, str(index["embedder"]))
    except (KeyError, TypeError) as error:
        raise IndexCorrupt(f"{path}: {error!r}") from error


def _load_part(folder: Path, name: str, deleted: str | None) -> Part:
    segment = read_segment(folder / _SEGMENTS / name)
    if deleted is None:
        return Part(name, segment)
    path = folder / _DELETED / _file_name(deleted)
    try:
        gone = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise IndexCorrupt(f"{path}: {error}") from error
    if gone.shape != (len(segment.documents),) or gone.dtype != np.bool_:
        raise IndexCorrupt(f"{path}: does not fit its segment")
    return Part(name, segment, gone)


def _file_name(name: str) -> str:
    if not name or Path(name).name != name or name.startswith("."):
        raise IndexCorrupt(f"{name!r} is no file name")
    return name


def add_segment(folder: Path, segment: Segment) -> Part:
    """Write a segment; it becomes part of the index with the next `commit`."""
    name = f"{len(segment.documents)}-{segment.passages}-{secrets.token_hex(6)}"
    target = folder / _SEGMENTS / name
    write_segment(segment, target)
    sync(target.parent)
    return Part(name, read_segment(target))


def commit(folder: Path, snapshot: Snapshot) -> Snapshot:
    """Make `snapshot` the current index, under the next generation number."""
    generation = snapshot.generation + 1
    entries: list[dict[str, str | None]] = []
    (folder / _DELETED).mkdir(exist_ok=True)
    for part in snapshot.parts:
        deleted: str | None = None
        if part.deleted is not None and part.deleted.any():
            deleted = f"{part.name}-{generation}.npy"
            np.save(folder / _DELETED / deleted, part.deleted, allow_pickle=False)
            sync(folder / _DELETED / deleted)
        entries.append({"name": part.name, "deleted": deleted})
    index = {
        "format": FORMAT_VERSION,
        "generation": generation,
        "embedder": snapshot.embedder,
        "segments": entries,
    }
    temporary = folder / f"{_INDEX}.{secrets.token_hex(4)}.new"
    temporary.write_text(json.dumps(index, indent=1), encoding="utf-8")
    sync(temporary)
    os.replace(temporary, folder / _INDEX)
    sync(folder)
    return Snapshot(generation, snapshot.parts, snapshot.embedder)


def sweep(folder: Path, snapshot: Snapshot) -> None:
    """Remove what the current index does not name (the caller holds the writer's lock)."""
    names = {part.name for part in snapshot.parts}
    for path in (folder / _SEGMENTS).glob("*"):
        if path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
    for path in (folder / _DELETED).glob("*.npy"):
        if path.name not in {f"{name}-{snapshot.generation}.npy" for name in names}:
            path.unlink(missing_ok=True)
    for path in folder.glob(f"{_INDEX}.*.new"):
        path.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the writer's lock; IndexBusy if someone else does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SEGMENTS).mkdir(exist_ok=True)
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            _lock(handle)
        except OSError as error:
            raise IndexBusy(f"another process is writing to {folder}") from error
        yield
    finally:
        os.close(handle)


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
