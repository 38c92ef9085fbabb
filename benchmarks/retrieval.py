"""How fast and how robust the knowledge base is: `python benchmarks/retrieval.py`.

Builds indexes of generated passages, asks generated questions through a simulated recogniser with a
given word error rate, and reports build time, latency (p50, p95; wall and CPU) and recall@1 and @5,
for this index, for plain BM25 over words (the same index without likeness), and for `bm25s` where
installed; then how often it answers at its default confidence, rightly and wrongly.

What takes long without being measured (generating, indexing for others) is kept in `--work`, so a
size may be prepared first (`--prepare`) and measured later on a quiet machine. Results of a size
replace those of before in docs/benchmarks/retrieval.json; the plot beside it and the tables in
docs/retrieval.md are made from that file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import RESULTS, ROOT, describe_machine, machine_line, publish, table
from retrieval_questions import (
    COMMON,
    ERROR_RATES,
    Question,
    Recogniser,
    World,
    edits,
    make_passages,
)

from duologue.retrieval.knowledge import KnowledgeBase, KnowledgeRetriever, store
from duologue.retrieval.knowledge.passages import Passage, PlaceKind
from duologue.retrieval.knowledge.retriever import MIN_CONFIDENCE
from duologue.retrieval.knowledge.search import Searcher
from duologue.retrieval.knowledge.segment import Document, SegmentBuilder
from duologue.retrieval.knowledge.tuning import Tuning
from duologue.retrieval.protocol import RetrievalContext, attempt

SIZES = (1_000, 50_000, 500_000)
QUESTIONS = 500
DOCUMENT_PASSAGES = 500
STRANGERS = 2_000
PAGE = ROOT / "docs" / "retrieval.md"
_OURS = "duologue"

Search = Callable[[str], list[int]]
Asked = Sequence[tuple[str, Question]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    engine: str
    error_rate: float
    measured_error_rate: float
    recall_at_1: float
    recall_at_5: float
    p50_ms: float
    p95_ms: float
    cpu_p50_ms: float
    cpu_p95_ms: float


# Preparing.


def prepare(count: int, questions: int, seed: int, folder: Path) -> None:
    """Everything that a measurement needs, in a folder that is there only when it is whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    world = World(seed)
    passages, pool = make_passages(world, count)
    asked = pool[:questions]
    lexicon = sorted({word for q in pool for word in q.text.split()} | set(COMMON))
    recogniser = Recogniser(world, lexicon, seed + 1)
    strangers = World(seed + 1000)
    strangers.adopt(world)
    unknown = [q.text for q in make_passages(strangers, STRANGERS)[1][:questions]]
    notes = {
        "passages": count,
        "seed": seed,
        "heard": {
            str(rate): [[recogniser.hear(q.text, rate), q.text, q.passage] for q in asked]
            for rate in ERROR_RATES
        },
        "unanswerable": {
            str(rate): [recogniser.hear(text, rate) for text in unknown] for rate in ERROR_RATES
        },
        "build_s": build(passages, partial / "index"),
        "bm25s_build_s": build_bm25s(passages, partial / "bm25s"),
    }
    notes["answers"] = count_answers(partial / "index", notes)
    (partial / "questions.json").write_text(json.dumps(notes), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def build(passages: Sequence[str], folder: Path) -> float:
    """Index the passages on disk; returns seconds."""
    started = time.perf_counter()
    builder = SegmentBuilder()
    for start in range(0, len(passages), DOCUMENT_PASSAGES):
        texts = passages[start : start + DOCUMENT_PASSAGES]
        name = f"part-{start}.txt"
        builder.add(
            Document(name, name, "", 0, 0, len(texts)),
            [Passage(text, line, PlaceKind.LINE) for line, text in enumerate(texts, 1)],
        )
    with store.writing(folder):
        part = store.add_segment(folder, builder.build())
        store.commit(folder, store.Snapshot(0, (part,)))
    return round(time.perf_counter() - started, 2)


def build_bm25s(passages: Sequence[str], folder: Path) -> float | None:
    """The same with the `bm25s` library, if it is installed."""
    try:
        import bm25s
    except ImportError:
        return None
    started = time.perf_counter()
    tokens = bm25s.tokenize(list(passages), stopwords="en", show_progress=False)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    took = time.perf_counter() - started
    index.save(folder)
    return round(took, 2)


def count_answers(folder: Path, notes: Mapping[str, Any]) -> list[dict[str, float]]:
    """Share of questions answered at the default confidence, among those that have an answer and
    among those that ask for known attributes of things that are not there (the hardest kind).
    """
    base = KnowledgeBase.open(folder)

    def share(questions: Sequence[str]) -> float:
        hits = [base.search(question, 1) for question in questions]
        sure = sum(bool(found) and found[0].confidence >= MIN_CONFIDENCE for found in hits)
        return round(sure / len(questions), 3)

    return [
        {
            "error_rate": rate,
            "answered_of_answerable": share([text for text, *_ in notes["heard"][str(rate)]]),
            "answered_of_unanswerable": share(notes["unanswerable"][str(rate)]),
        }
        for rate in ERROR_RATES
    ]


# Measuring.


def measure_size(folder: Path, questions: int) -> dict[str, Any]:
    """The figures of one size, as prepared in a folder, for the first so many questions."""
    notes = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    heard: dict[float, Asked] = {
        float(rate): [(text, Question(said, at)) for text, said, at in entries[:questions]]
        for rate, entries in notes["heard"].items()
    }
    segments = [part.segment for part in store.load(folder / "index").parts]
    searchers = {
        _OURS: Searcher(segments, [None]),
        "words only": Searcher(segments, [None], Tuning(fuzzy=False)),
    }
    engines: dict[str, Search] = {
        name: lambda q, s=searcher: [m.passage for m in s.search(q, 5)]  # type: ignore[misc]
        for name, searcher in searchers.items()
    }
    if (other := bm25s_search(folder / "bm25s")) is not None:
        engines["bm25s"] = other
    rows: list[Row] = []
    for engine, search in engines.items():
        for question, _ in heard[0.0][:20]:
            search(question)
        rows += [measure(engine, search, heard[rate], rate) for rate in ERROR_RATES]
    files = [path for path in (folder / "index").rglob("*") if path.is_file()]
    return {
        "passages": notes["passages"],
        "seed": notes["seed"],
        "questions": len(heard[0.0]),
        "build_s": notes["build_s"],
        "bm25s_build_s": notes["bm25s_build_s"],
        "index_mb": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "terms": len(segments[0].term_hashes),
        "machine": describe_machine(),
        "rows": [asdict(row) for row in rows],
        "answers": notes["answers"],
        **measure_retriever(folder / "index", [text for text, _ in heard[0.2]]),
    }


def bm25s_search(folder: Path) -> Search | None:
    """The `bm25s` library over the same words, if it was installed when they were prepared."""
    if not folder.is_dir():
        return None
    import bm25s

    index = bm25s.BM25.load(folder)

    def search(question: str) -> list[int]:
        words = bm25s.tokenize([question], stopwords="en", show_progress=False)
        found, _ = index.retrieve(words, k=5, show_progress=False)
        return [int(i) for i in found[0]]

    return search


def measure(engine: str, search: Search, asked: Asked, rate: float) -> Row:
    """Ask every question once; each latency is one call as a conversation makes it."""
    wall: list[float] = []
    cpu: list[float] = []
    first = five = 0
    words = edits = 0
    for heard, question in asked:
        started, started_cpu = time.perf_counter(), time.thread_time()
        found = search(heard)
        cpu.append(1000 * (time.thread_time() - started_cpu))
        wall.append(1000 * (time.perf_counter() - started))
        first += found[:1] == [question.passage]
        five += question.passage in found[:5]
        words += len(question.text.split())
        edits += _word_edits(question.text.split(), heard.split())
    return Row(
        engine,
        rate,
        round(edits / words, 3),
        round(first / len(asked), 3),
        round(five / len(asked), 3),
        *(round(float(np.percentile(wall, q)), 3) for q in (50, 95)),
        *(round(float(np.percentile(cpu, q)), 3) for q in (50, 95)),
    )


def measure_retriever(folder: Path, questions: Sequence[str]) -> dict[str, float]:
    """Latency of a whole lookup: event loop, thread, search, answer spelled out."""
    retriever = KnowledgeRetriever(KnowledgeBase.open(folder))

    async def ask() -> list[float]:
        times: list[float] = []
        for question in questions:
            context = RetrievalContext.from_question(question)
            started = time.perf_counter()
            await attempt(retriever, context, 5.0)
            times.append(1000 * (time.perf_counter() - started))
        await retriever.aclose()
        return times

    times = asyncio.run(ask())
    p50, p95 = (round(float(np.percentile(times, q)), 3) for q in (50, 95))
    return {"lookup_p50_ms": p50, "lookup_p95_ms": p95}


def _word_edits(a: Sequence[str], b: Sequence[str]) -> int:
    numbers: dict[str, str] = {}
    code = lambda word: numbers.setdefault(word, chr(0x4E00 + len(numbers)))  # noqa: E731
    return edits("".join(map(code, a)), "".join(map(code, b)))


# Reporting.


def page(entries: Sequence[Mapping[str, Any]]) -> str:
    """The tables of docs/retrieval.md."""
    lines = []
    for entry in entries:
        for engine in dict.fromkeys(row["engine"] for row in entry["rows"]):
            rows = [row for row in entry["rows"] if row["engine"] == engine]
            slowest = max(rows, key=lambda row: row["p95_ms"])
            lines.append(
                (
                    f"{entry['passages']:,}",
                    engine,
                    " / ".join(f"{row['recall_at_1']:.3f}".lstrip("0") for row in rows),
                    " / ".join(f"{row['recall_at_5']:.3f}".lstrip("0") for row in rows),
                    f"{slowest['p50_ms']:.2f}",
                    f"{slowest['p95_ms']:.2f}",
                )
            )
    rates = " / ".join(f"{100 * rate:.0f}" for rate in ERROR_RATES)
    recall = table(
        (
            "passages",
            "engine",
            f"recall@1 at {rates} % errors",
            "recall@5",
            "p50 ms",
            "p95 ms",
        ),
        lines,
    )
    figures = ("build_s", "index_mb", "lookup_p50_ms", "lookup_p95_ms")
    sizes = table(
        ("passages", "built in s", "MB on disk", "whole lookup, p50 ms", "p95 ms"),
        [(f"{entry['passages']:,}", *(entry[name] for name in figures)) for entry in entries],
    )
    asked = ", ".join(f"{entry['questions']} of {entry['passages']:,}" for entry in entries)
    told = (
        "Times are wall times of one search, at the error rate where they are longest. "
        f"Questions asked: {asked} passages."
    )
    return f"{recall}\n\n{told}\n\n{sizes}\n\n{machine_line(entries[-1]['machine'])}"


def plot(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Recall against error rate, and latency against size."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: pip install 'duologue[bench]' for matplotlib")
        return
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    largest = entries[-1]
    for number, engine in enumerate(dict.fromkeys(row["engine"] for row in largest["rows"])):
        rows = [row for row in largest["rows"] if row["engine"] == engine]
        rates = [100 * row["error_rate"] for row in rows]
        for style, at in (("o-", 1), ("s--", 5)):
            recall = [row[f"recall_at_{at}"] for row in rows]
            left.plot(rates, recall, style, color=f"C{number}", label=f"{engine}, @{at}")
        slowest = [
            max(row["p95_ms"] for row in entry["rows"] if row["engine"] == engine)
            for entry in entries
        ]
        sizes = [entry["passages"] for entry in entries]
        right.plot(sizes, slowest, "o-", color=f"C{number}", label=engine)
    left.set(xlabel="word error rate of the question, %", ylabel="recall", ylim=(0, 1.02))
    left.set_title(f"{largest['passages']:,} passages", fontsize=10)
    right.set(xlabel="passages", ylabel="p95 of a search, ms", xscale="log", yscale="log")
    right.axhline(5.0, color="black", lw=0.8, ls=(0, (4, 3)))
    for axes in (left, right):
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def tell(entry: Mapping[str, Any]) -> None:
    """One size on the terminal."""
    print(f"{entry['passages']:,} passages: build {entry['build_s']} s, {entry['index_mb']} MB")
    for row in entry["rows"]:
        print(
            f"  {row['engine']:12} WER {row['error_rate']:.0%} ({row['measured_error_rate']:.0%})"
            f"  recall@1 {row['recall_at_1']:.3f}  @5 {row['recall_at_5']:.3f}"
            f"  p50 {row['p50_ms']:.2f} ms  p95 {row['p95_ms']:.2f} ms"
            f"  (CPU {row['cpu_p50_ms']:.2f}, {row['cpu_p95_ms']:.2f})"
        )
    print(f"  whole lookup p50 {entry['lookup_p50_ms']} ms  p95 {entry['lookup_p95_ms']} ms")
    for row in entry["answers"]:
        print(
            f"  at the default confidence, WER {row['error_rate']:.0%}: answers"
            f" {row['answered_of_answerable']:.0%} of what it knows and"
            f" {row['answered_of_unanswerable']:.0%} of near questions that it does not"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=SIZES,
        help="passages; 500,000 take some minutes and 3 GB; none: only the page and the plot",
    )  # fmt: skip
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="at most 500")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prepare", action="store_true", help="measure nothing yet")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "retrieval")
    arguments = parser.parse_args()
    target = RESULTS / "retrieval.json"
    results = json.loads(target.read_text())["results"] if target.exists() else []
    for size in arguments.sizes:
        folder = arguments.work / f"{size}-{arguments.seed}"
        if not (folder / "questions.json").is_file():
            prepare(size, QUESTIONS, arguments.seed, folder)
        if arguments.prepare:
            continue
        entry = measure_size(folder, arguments.questions)
        tell(entry)
        results = [other for other in results if other["passages"] != size]
        results = sorted([*results, entry], key=lambda one: one["passages"])
        RESULTS.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({"results": results}, indent=1) + "\n", encoding="utf-8")
    if results and not arguments.prepare:
        plot(results, target.with_suffix(".png"))
        publish("retrieval", page(results), PAGE)


if __name__ == "__main__":
    main()
