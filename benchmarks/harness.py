"""Measure systems beside each other: one process each, taking turns in short bursts.

A machine is never quiet for long, so times of one run cannot be compared with those of another.
Here every system lives in a process of its own (its own packages, threads and memory), and the
harness lets them work one at a time, in turns, several rounds over: whatever slows the machine down
slows all of them. What counts are medians over all bursts and the ratios between them.

A system's side is a function that sets itself up and yields the times of one burst at a time:

    def setup(options: dict[str, Any]) -> Worker: ...     # in the system's process
    serve(setup)                                          # answers bursts until the harness ends

The harness's side, in a program that `main` gives its arguments:

    systems = [System("ours", [PYTHON, __file__, "--work"], {"threads": 2}), ...]
    figures = compare(systems, rounds=6)                  # {"ours": Figures(...), ...}
    record(Record("mimi", ...))                           # docs/benchmarks/mimi.json
    publish("mimi", table)                                # docs/benchmarks.md, between its marks

Knows no model. Nothing here names a host, and results hold no paths.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
OUR_PYTHON = ROOT / ".venv" / "bin" / "python"
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
"""The published packages (`make peers`); it sees ours and torch too."""
INTRODUCTION = """# Benchmarks

Each section is written by the command that it names, from the JSON file of the same name under
`benchmarks/`. Systems run in processes of their own and take turns within one run, so compare the
times of one table, and trust ratios more than times. `make peers` installs the other programs.
"""

READ_MIB = 256
"""What `reader` reads at once, far beyond the caches."""

Burst = Mapping[str, Sequence[float]]
"""Milliseconds by what was measured ("encode", "decode", ...), one number a repetition."""


@dataclass
class Worker:
    """A system that is set up: `burst(n)` measures n repetitions; `facts` go into the record."""

    burst: Callable[[int], Burst]
    facts: dict[str, Any] = field(default_factory=dict)


def serve(setup: Callable[[dict[str, Any]], Worker]) -> None:
    """Run a system's side of the conversation: one JSON line in, one out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print goes to the error stream
    begin = time.perf_counter()
    worker = setup(json.loads(sys.stdin.readline()))
    facts = {"ready_s": time.perf_counter() - begin, **worker.facts}
    print(json.dumps(facts, default=str), file=answers, flush=True)
    for line in sys.stdin:
        times = {name: list(values) for name, values in worker.burst(int(line)).items()}
        reply = {"times": times, "peak_mb": peak_mb()}
        print(json.dumps(reply), file=answers, flush=True)


def _read(options: dict[str, Any]) -> Worker:
    """A system that does nothing but read memory: what a step's rate is measured against."""
    import torch

    torch.set_num_threads(options["threads"])
    block = torch.ones(READ_MIB * 2**18)
    block.sum()

    def burst(repetitions: int) -> Burst:
        times = []
        for _ in range(repetitions):
            begin = time.perf_counter()
            block.sum()
            times.append(1e3 * (time.perf_counter() - begin))
        return {"read": times}

    return Worker(burst)


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@dataclass(frozen=True)
class System:
    """How to start one: a command whose process calls `serve`, and the options it is given."""

    name: str
    command: Sequence[str | Path]
    options: dict[str, Any] = field(default_factory=dict)
    repetitions: int = 12
    """In one burst."""


@dataclass
class Figures:
    """What came of one system."""

    times: dict[str, list[list[float]]] = field(default_factory=dict)
    """Milliseconds by what was measured, a list for each burst."""
    facts: dict[str, Any] = field(default_factory=dict)
    peak_mb: float = 0.0
    failure: str | None = None

    def start(self, answer: dict[str, Any]) -> None:
        """Take what a system said when it was ready."""
        self.failure = answer.pop("failure", None)
        self.facts.update(answer)

    def add_burst(self, answer: dict[str, Any]) -> None:
        """Take what it said after a burst."""
        self.failure = answer.get("failure")
        if self.failure is None:
            for what, values in answer["times"].items():
                self.times.setdefault(what, []).append(values)
            self.peak_mb = max(self.peak_mb, answer["peak_mb"])

    def median(self, what: str) -> float:
        """Median over all repetitions, in milliseconds."""
        return statistics.median(self._all(what))

    def percentile(self, what: str, percent: float) -> float:
        """The smallest time that so many percent of all repetitions do not exceed."""
        ordered = sorted(self._all(what))
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def best_burst(self, what: str) -> float:
        """The lowest median of a burst: closest to what the machine can do undisturbed."""
        return min(statistics.median(burst) for burst in self.times[what])

    def summary(self) -> dict[str, Any]:
        """For the record: p50, p95, the best burst, and how many repetitions stand behind them."""
        if self.failure is not None:
            return {"failure": self.failure}
        kinds = {
            what: {
                "p50_ms": round(self.median(what), 4),
                "p95_ms": round(self.percentile(what, 95), 4),
                "best_burst_ms": round(self.best_burst(what), 4),
                "repetitions": len(self._all(what)),
                "bursts": len(bursts),
            }
            for what, bursts in self.times.items()
        }
        return {**kinds, "peak_mb": round(self.peak_mb), **self.facts}

    def _all(self, what: str) -> list[float]:
        return [value for burst in self.times[what] for value in burst]


READER = "reading alone"


def reader(threads: int, repetitions: int = 12) -> System:
    """Reads `READ_MIB` of memory (torch's sum), in turns with the others: this machine's rate."""
    return System(READER, [OUR_PYTHON, __file__], {"threads": threads}, repetitions)


def read_rate(figures: Figures) -> float:
    """GB/s that a `reader` reached in the middle."""
    return READ_MIB * 2**20 / figures.median("read") / 1e6


def compare(
    systems: Sequence[System],
    rounds: int = 6,
    limit_s: float = 60.0,
    deadline_s: float = 75.0,
) -> dict[str, Figures]:
    """Start all systems, then let each measure one burst per round, one at a time.

    Args:
        limit_s: no new round begins so long after all are ready,
        deadline_s: nor so long after the call; but at least two are run.
    """
    results = {system.name: Figures() for system in systems}
    called = time.monotonic()
    with ExitStack() as stack:
        processes = {}
        for system in systems:  # one after another: what starts does not share the machine either
            process = stack.enter_context(_start(system))
            processes[system.name] = process
            results[system.name].start(_answer(process, None))
            print(f"  {system.name} is ready", file=sys.stderr, flush=True)
        begin = time.monotonic()
        for turn in range(rounds):
            now = time.monotonic()
            if turn >= 2 and (now - begin > limit_s or now - called > deadline_s):
                break
            # Every other round backwards, so that nobody always follows the same neighbour.
            for system in systems if turn % 2 == 0 else reversed(systems):
                if results[system.name].failure is None:
                    answer = _answer(processes[system.name], system.repetitions)
                    results[system.name].add_burst(answer)
    return results


def _start(system: System) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [str(part) for part in system.command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(system.options) + "\n")
    process.stdin.flush()
    return process


def _answer(process: subprocess.Popen[str], repetitions: int | None) -> dict[str, Any]:
    """What a process replies to a request for a burst (or, for `None`, to its start)."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if repetitions is not None:
            process.stdin.write(f"{repetitions}\n")
            process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        return {"failure": f"the process ended with status {process.wait()}"}
    return json.loads(line)


# A program.


@dataclass(frozen=True)
class Question:
    """What a benchmark asks: its cases, how one is measured, and what is told of all."""

    name: str
    """Of its record and its section."""
    about: str
    cases: Sequence[str]
    setup: Callable[[dict[str, Any]], Worker]
    run_case: Callable[[str], list[dict[str, Any]]]
    report: Callable[[Record], None]
    prepare: Callable[[], None] | None = None
    """Writes what all systems read; runs in the peers' Python."""
    prepared: Path | None = None
    """A file that is there afterwards."""
    check: Callable[[Record], list[str]] | None = None
    """What has become slower than it must not."""


def ensure_prepared(question: Question, program: str) -> None:
    """Have a question's files written, once."""
    if question.prepared is not None and not question.prepared.exists():
        if not PEER_PYTHON.exists():
            raise SystemExit("the peers' weights are not here: run `make peers` first")
        subprocess.run([PEER_PYTHON, program, "--prepare"], check=True)


def main(question: Question, program: str) -> None:
    """A benchmark's command line: its cases, all of them by default, one after another.

    Each case replaces its own rows of the record, so that they may be measured one at a time.
    """
    parser = argparse.ArgumentParser(
        description=question.about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="|".join(question.cases))
    parser.add_argument("--report", action="store_true", help="only write tables and plot anew")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(question.cases):
        parser.error(f"{sorted(unknown)[0]} is no case; cases are {', '.join(question.cases)}")
    if arguments.work:
        serve(question.setup)
    elif arguments.prepare and question.prepare is not None:
        question.prepare()
    elif arguments.report:
        question.report(Record(**json.loads((RESULTS / f"{question.name}.json").read_text())))
    else:
        ensure_prepared(question, program)
        for case in arguments.cases or question.cases:
            _run_and_tell(question, case)


def _run_and_tell(question: Question, case: str) -> None:
    print(case, flush=True)
    rows = [{**row, "date": date.today().isoformat()} for row in question.run_case(case)]
    command = f"python benchmarks/{question.name}.py"
    kept = record(Record(question.name, command, rows), keys=("case",))
    question.report(kept)
    for fault in question.check(kept) if question.check else ():
        print(f"  slower than it was: {fault}", flush=True)
    for row in rows:
        for name, found in row["systems"].items():
            print(f"  {row['case']} {name}: {json.dumps(found)}", flush=True)


# The machine.


def describe_machine() -> dict[str, Any]:
    """Processor, cores and versions; nothing that identifies a host."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "date": date.today().isoformat(),
    }


def measure_machine(threads: int, seconds: float = 1.5) -> dict[str, float]:
    """What bounds a model here: GB/s read from memory, GFLOP/s of a float32 matrix product.

    The best of several passes: a floor is made of what the machine can do.
    """
    import torch

    torch.set_num_threads(threads)
    block = torch.ones(2**27)  # 512 MiB, far beyond the caches
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    out = torch.empty(1024, 1024)
    read = _best_s(block.sum, seconds)
    multiply = _best_s(lambda: torch.mm(a, b, out=out), seconds)
    return {
        "threads": threads,
        "read_gb_s": round(block.numel() * 4 / read / 1e9, 2),
        "gflop_s": round(2 * 1024**3 / multiply / 1e9, 1),
    }


def _best_s(work: Callable[[], Any], seconds: float) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni") if name in known]
    return f"{names[0] if names else platform.machine()} ({', '.join(wide) or 'no AVX2'})"


# Results.


@dataclass
class Record:
    """One question's answer: `rows` hold a case's settings and each system's summary."""

    question: str
    command: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    notes: list[str] = field(default_factory=list)


def record(result: Record, keys: Sequence[str] = ()) -> Record:
    """Write `docs/benchmarks/QUESTION.json`; rows of other cases there (by `keys`) are kept.

    Returns:
        The record as it is now on disk.
    """
    path = RESULTS / f"{result.question}.json"
    if keys and path.exists():
        new = {tuple(row[key] for key in keys) for row in result.rows}
        before = json.loads(path.read_text())
        when = before["machine"].get("date")
        old = [{"date": when, **row} for row in before["rows"]]
        kept = [row for row in old if tuple(row.get(key) for key in keys) not in new]
        result.rows = sorted(
            kept + result.rows, key=lambda row: tuple(str(row.get(key)) for key in keys)
        )
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return result


def publish(question: str, body: str, page: Path = PAGE) -> None:
    """Put a question's section into a page, between its marks; the rest stays."""
    begin, end = f"<!-- begin {question} -->", f"<!-- end {question} -->"
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    block = f"{begin}\n{body.strip()}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda _: block, text)
    else:
        text = f"{text.rstrip()}\n\n{block}\n"
    page.write_text(text)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats get three significant digits."""
    lines = [_line(header), _line(["---"] * len(header)), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def machine_line(machine: Mapping[str, Any]) -> str:
    """One sentence under a table."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}, torch {machine['torch']}, {machine['date']}."
    )


def plot_bars(
    question: str, title: str, groups: Mapping[str, Mapping[str, float]], unit: str = "ms",
    line: tuple[str, float] | None = None,
) -> None:  # fmt: skip
    """`docs/benchmarks/QUESTION.png`: for each group, one bar a system. Nothing w/o matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    size = (8, max(2.0, 0.5 + 0.34 * len(groups) * len(names)))
    figure, axes = pyplot.subplots(figsize=size)
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [row + (index - (len(names) - 1) / 2) * height for row in range(len(groups))]
        values = [bars.get(name, 0.0) for bars in groups.values()]
        drawn = axes.barh(places, values, height * 0.92, label=name)
        axes.bar_label(drawn, [_cell(float(v)) if v else "" for v in values], padding=3, fontsize=8)
    if line is not None:
        axes.axvline(line[1], color="black", linestyle="--", linewidth=1, label=line[0])
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_title(title)
    axes.legend(fontsize=8)
    figure.tight_layout()
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"{question}.png", dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    serve(_read)
