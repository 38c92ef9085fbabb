"""How long things take to start and how much room they take: `python benchmarks/startup.py`.

Imports and commands run in fresh processes, in turns, several times over; the bare interpreter's
time is given beside them, not taken off. Sizes are those of the installed files: the package's own,
and with everything it asks for but torch, which all but `rustymimi` need. Peers come from `make
peers`, which installs them without what they ask for; what is missing is named. Results go to
docs/benchmarks/startup.json and docs/benchmarks.md.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import harness

ROUNDS = 3
SERVE_LIMIT_S = 60
OUR_BIN = harness.OUR_PYTHON.parent / "duologue"
WITHOUT = {"torch"}

Command = list[str | Path]


def commands() -> dict[str, Command]:
    """What is timed from start to end of its process."""
    ours: dict[str, Command] = {
        "python, doing nothing": [harness.OUR_PYTHON, "-c", "pass"],
        "import duologue": [harness.OUR_PYTHON, "-c", "import duologue"],
        "duologue --help": [OUR_BIN, "--help"],
        "import duologue's codec": [harness.OUR_PYTHON, "-c", "import duologue; duologue.Mimi"],
        'load_codec("wren") and a frame': [
            harness.OUR_PYTHON,
            "-c",
            "import duologue, torch; codec = duologue.load_codec('wren'); "
            "codec.encode(torch.zeros(1, 1, 1920))",
        ],
    }
    peers: dict[str, Command] = {}
    if harness.PEER_PYTHON.exists():
        for module in ("moshi.models", "rustymimi", "transformers.models.mimi.modeling_mimi"):
            peers[f"import {module}"] = [harness.PEER_PYTHON, "-c", f"import {module}"]
    return ours | peers


def measure_starts() -> dict[str, dict[str, float]]:
    """Seconds and megabytes of each command."""
    found: dict[str, list[tuple[float, float]]] = {}
    for turn in range(ROUNDS + 1):
        for name, command in commands().items():
            figures = _timed(command)
            if turn:  # the first round brings files into memory and compiles what is kept
                found.setdefault(name, []).append(figures)
    return {
        name: {
            "p50_s": round(statistics.median(seconds for seconds, _ in runs), 3),
            "best_s": round(min(seconds for seconds, _ in runs), 3),
            "peak_mb": round(max(megabytes for _, megabytes in runs)),
        }
        for name, runs in found.items()
    }


def _timed(command: Command) -> tuple[float, float]:
    """Seconds from start to end, and largest resident memory, of one process."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, cwd=harness.ROOT
    )
    _, status, used = os.wait4(process.pid, 0)
    spent = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return spent, used.ru_maxrss * unit / 2**20


def measure_server() -> dict[str, float]:
    """Seconds until `duologue serve` answers that it is ready, and the memory it then has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [str(OUR_BIN), "serve", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=harness.ROOT,
    )  # fmt: skip
    try:
        while time.perf_counter() - begin < SERVE_LIMIT_S:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        else:
            raise SystemExit("the server was not ready in time")
        ready = time.perf_counter() - begin
        status = Path(f"/proc/{process.pid}/status")
        text = status.read_text() if status.exists() else ""
        peak = re.search(r"VmHWM:\s+(\d+) kB", text)
        return {"ready_s": round(ready, 2), "peak_mb": round(int(peak[1]) / 1024) if peak else 0}
    finally:
        process.terminate()
        process.wait(20)


def sizes(names: list[str]) -> dict[str, dict[str, Any]]:
    """Megabytes of installed packages of this interpreter: own, and with what they ask for."""
    return {name: _size(name) for name in names}


def _size(name: str) -> dict[str, Any]:
    from packaging.requirements import Requirement

    seen: dict[str, float] = {}
    missing: set[str] = set()
    todo = [name]
    while todo:
        current = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if current in seen or current in WITHOUT:
            continue
        try:
            distribution = importlib.metadata.distribution(current)
        except importlib.metadata.PackageNotFoundError:
            missing.add(current)
            continue
        seen[current] = _files_mb(current, distribution)
        for line in distribution.requires or ():
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                todo.append(asked.name)
    own = seen.get(re.sub(r"[-_.]+", "-", name).lower(), 0.0)
    heavy = sorted(seen.items(), key=lambda item: -item[1])[:4]
    return {
        "own_mb": round(own, 1),
        "with_dependencies_mb": round(sum(seen.values())),
        "largest": [f"{package} {megabytes:.0f}" for package, megabytes in heavy],
        "not_installed": sorted(missing),
    }


def _files_mb(name: str, distribution: importlib.metadata.Distribution) -> float:
    if name == "duologue":  # installed from the repository, where its files are
        paths = [path for path in (harness.ROOT / "duologue").rglob("*") if path.is_file()]
    else:
        paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    kept = [path for path in paths if path.suffix != ".pyc" and path.exists()]
    return sum(path.stat().st_size for path in kept) / 1e6


def report(record: harness.Record) -> None:
    row = record.rows[0]
    starts = [
        [name, found["p50_s"], found["best_s"], found["peak_mb"]]
        for name, found in row["starts"].items()
    ]
    server = row["server"]
    starts.append(["duologue serve, until ready", server["ready_s"], "", server["peak_mb"]])
    room = [
        [
            name, found["own_mb"], found["with_dependencies_mb"], ", ".join(found["largest"]),
            ", ".join(found["not_installed"]) or "none",
        ]
        for name, found in row["sizes"].items()
    ]  # fmt: skip
    begun = harness.table(("process", "seconds p50", "best", "peak MB"), starts)
    placed = harness.table(
        ("package", "own MB", "with dependencies", "largest of them", "not installed here"), room
    )
    harness.publish(
        "startup",
        f"## Start-up and size\n\n`{record.command}`. Whole processes, from start to end; the "
        "least memory shown is that of the measuring process. Sizes without torch. "
        f"{harness.machine_line(record.machine)}\n\n{begun}\n\n{placed}",
    )


def main() -> None:
    ours = sizes(["duologue"])
    peers: dict[str, Any] = {}
    if harness.PEER_PYTHON.exists():
        command = [str(harness.PEER_PYTHON), __file__, "--sizes", "moshi", "rustymimi"]
        answer = subprocess.run(
            [*command, "transformers"], check=True, capture_output=True, text=True
        )
        peers = json.loads(answer.stdout)
    row = {"starts": measure_starts(), "server": measure_server(), "sizes": {**ours, **peers}}
    record = harness.Record("startup", "python benchmarks/startup.py", [row])
    report(harness.record(record))
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    if "--sizes" in sys.argv:
        print(json.dumps(sizes(sys.argv[2:])))
    else:
        main()
