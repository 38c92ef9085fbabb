"""Files of a run: recordings in, side-cars beside them, results out.

A recording NAME gives OUT/NAME.wav, OUT/NAME.json and, where wanted, OUT/NAME.stereo.wav and
OUT/NAME.png. Where the JSON is, the result is complete (`results`). A recording is never written
over, nor is a result that this program did not make, or made with other settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duologue.offline.settings import TalkError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
"""What is taken for a recording in a folder."""
MAX_RECORDINGS = 100_000
MAX_SIDECAR_BYTES = 1 << 20
SIDECAR_KEYS = ("topic", "gt_reference_text", "answer")
"""What the user really says, the true reference, and the expected answer."""


@dataclass(frozen=True)
class SideCar:
    """What is known of a recording beforehand; `None` where nothing is."""

    topic: str | None = None
    gt_reference_text: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Recording:
    """One recording of a user."""

    path: Path
    sidecar: SideCar

    @property
    def name(self) -> str:
        return self.path.stem

    def fingerprint(self) -> str:
        """Of the bytes of the recording and what its side-car says."""
        digest = hashlib.blake2b(digest_size=12)
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        digest.update(repr(self.sidecar).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Outputs:
    """Where the results of one recording belong."""

    wav: Path
    trace: Path
    stereo: Path | None = None
    picture: Path | None = None

    @classmethod
    def of(cls, recording: Recording, folder: Path, *, stereo: bool, picture: bool) -> Outputs:
        """The files of a recording in the output folder."""
        name = recording.name
        return cls(
            folder / f"{name}.wav",
            folder / f"{name}.json",
            folder / f"{name}.stereo.wav" if stereo else None,
            folder / f"{name}.png" if picture else None,
        )


def find_recordings(sources: Sequence[Path], *, needs_reference: bool = False) -> list[Recording]:
    """Recordings by name: files as they are, folders with all that lie directly in them, sorted.

    Raises:
        TalkError: there are none, two are called the same, or a side-car is not usable.
    """
    paths: list[Path] = []
    for source in sources:
        paths += _in_folder(source) if source.is_dir() else [source]
    if not paths:
        raise TalkError("no recordings: name some, or a folder that holds some")
    if len(paths) > MAX_RECORDINGS:
        raise TalkError(f"{len(paths)} recordings; at most {MAX_RECORDINGS} are taken at once")
    seen: dict[str, Path] = {}
    for path in paths:
        if other := seen.get(path.stem):
            raise TalkError(
                f"two recordings are called {path.stem} ({other}, {path}); "
                "their results would collide"
            )
        seen[path.stem] = path
    found = [Recording(path, read_sidecar(path.with_suffix(".json"))) for path in paths]
    lacking = [item.path.name for item in found if not item.sidecar.gt_reference_text]
    if needs_reference and lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise TalkError(
            f"{lacking[0]}{more}: no gt_reference_text in the JSON file beside it, which "
            "--use-gt-reference needs"
        )
    return found


def read_sidecar(path: Path) -> SideCar:
    """What stands in a recording's JSON file; nothing, if there is no such file."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return SideCar()
    if size > MAX_SIDECAR_BYTES:
        raise TalkError(f"{path}: larger than {MAX_SIDECAR_BYTES} bytes, too large for a side-car")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TalkError(f"{path}: not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise TalkError(f"{path}: a side-car is a JSON object, not a {type(values).__name__}")
    given = {key: values.get(key) for key in SIDECAR_KEYS}
    for key, value in given.items():
        if value is not None and not isinstance(value, str):
            raise TalkError(f"{path}: {key} must be a text, not {value!r}"[:300])
    return SideCar(**given)


def is_done(outputs: Outputs, run: Mapping[str, Any], recording: Recording) -> bool:
    """Whether a result is there and was made from the same things in the same way.

    Args:
        run: what results depend on, as it will stand in the trace.

    Raises:
        TalkError: files are in the way.
    """
    if not outputs.trace.exists():
        for path in (outputs.wav, outputs.stereo, outputs.picture):
            if path is not None and path.exists():
                raise TalkError(f"{path} exists without its JSON; use --force to overwrite it")
        return False
    made = read_trace(outputs.trace).get("run")
    if not isinstance(made, dict):
        raise TalkError(f"{outputs.trace} is not one of ours; use --force to overwrite it")
    if differing := _differences(made, run):
        raise TalkError(
            f"{outputs.trace} was made differently ({', '.join(differing[:4])}); use --force to "
            "overwrite it, or another output folder"
        )
    return outputs.wav.exists() and (outputs.stereo is None or belongs(outputs.stereo, outputs.wav))


def belongs(path: Path, wav: Path) -> bool:
    """Whether a file is there and of the same result as a reply: those are written after it."""
    return path.exists() and path.stat().st_mtime_ns >= wav.stat().st_mtime_ns


def read_trace(path: Path) -> dict[str, Any]:
    """A trace as it stands in its file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TalkError(f"{path} is not readable JSON; use --force to overwrite it") from error
    return values if isinstance(values, dict) else {}


def check_writable(outputs: Outputs, recording: Recording) -> None:
    """Leave a recording and its side-car alone, whatever is forced.

    Raises:
        TalkError: the result would be written over them.
    """
    for path in (outputs.wav, outputs.trace, outputs.stereo, outputs.picture):
        if path is None or not path.exists():
            continue
        if _same(path, recording.path) or _same(path, recording.path.with_suffix(".json")):
            raise TalkError(f"{path}: belongs to the recording; choose another output folder")


def _in_folder(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(found, key=lambda path: (path.name.lower(), path.name))


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _differences(made: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> list[str]:
    """Keys whose values differ, with their paths."""
    found = []
    for key in sorted(made.keys() | wanted.keys()):
        one, other = made.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other, f"{where}{key}.")
        elif one != other:
            found.append(f"{where}{key}")
    return found
