"""Results that survive an interruption: one JSON line each, written as soon as it is known.

A result belongs to its key, which names everything that it depends on; results of other keys are
left alone and ignored, so a folder can be gone on with after the model or the settings changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import duologue
from duologue.evaluation.errors import EvaluationError

Progress = Callable[[int, int], None]
"""Is told how many results there are, of how many."""


def key_of(*parts: object) -> str:
    """A short name for everything that a result depends on: `parts`, and this program itself."""
    named = "\n".join([program_fingerprint(), *map(str, parts)])
    return hashlib.sha256(named.encode()).hexdigest()[:16]


@cache
def program_fingerprint() -> str:
    """Names this package's sources and data: phrasings, retrieval and judges are among them."""
    package = Path(duologue.__file__).parent
    files = [*package.rglob("*.py"), *(package / "data").rglob("*")]
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


class Ledger:
    """Results by identifier in a JSON Lines file."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._results: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read(path.read_bytes())

    def __contains__(self, name: str) -> bool:
        return name in self._results

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._results[name]

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Keep a result, on disk before this returns."""
        line = json.dumps({"id": name, "key": self._key, "result": result})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._results[name] = result

    def _read(self, data: bytes) -> None:
        whole, _, rest = data.rpartition(b"\n")
        if rest:
            # A line that was cut off by the end of the last run. The others are not touched: if
            # this run ends here too, they are still there.
            os.truncate(self._path, len(whole) + 1 if whole else 0)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                if entry["key"] == self._key:
                    self._results[entry["id"]] = entry["result"]
            except (ValueError, KeyError, TypeError) as error:
                raise EvaluationError(
                    f"{self._path}, line {number}: not a result of an evaluation; "
                    "name another folder"
                ) from error
