"""The dialogue brain stays pure: nothing that waits, talks, tells the time or computes tensors."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import duologue.dialogue

PACKAGE = Path(duologue.dialogue.__file__).parent
ROOT = PACKAGE.parent.parent
FORBIDDEN = {"torch", "asyncio", "socket", "selectors", "ssl"}
ALLOWED = {
    "base64",
    "binascii",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "math",
    "re",
    "types",
    "typing",
}


def test_import_brings_in_nothing_that_waits_or_talks() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        "import duologue.dialogue\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert not FORBIDDEN & set(done.stdout.split())


def test_sources_use_a_few_pure_modules_only() -> None:
    for source in sorted(PACKAGE.glob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                inside = name.startswith("duologue.dialogue") or name == "duologue.errors"
                assert inside or top in ALLOWED | {"__future__"}, f"{source.name}: {name}"
