"""Imports run downward: the engine knows no dialogue, sessions know no doors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import duologue

PACKAGE = Path(duologue.__file__).parent
ABOVE = {
    "engine": ("dialogue", "retrieval", "session", "server", "client", "cli"),
    "session": ("server", "client", "cli", "training", "synthesis"),
    "moshi": ("engine", "dialogue", "retrieval", "session", "server", "cli"),
}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    plain = (node for node in ast.walk(tree) if isinstance(node, ast.Import))
    return names | {alias.name for node in plain for alias in node.names}


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_imports_nothing_from_above(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported(path):
            rooms = name.split(".")[:2]
            assert rooms[0] != "duologue" or rooms[1:2] == [] or rooms[1] not in ABOVE[room], (
                f"{path.relative_to(PACKAGE)} imports {name}"
            )
