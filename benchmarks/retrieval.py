"""How fast and how robust the knowledge base is: `python benchmarks/retrieval.py`.

Builds indexes of generated passages, asks generated questions through a simulated recogniser with a
given word error rate, and reports build time, latency (p50, p95; wall and CPU) and recall@1 and @5,
for this index, for plain BM25 over words (the same index without likeness), and for `bm25s` where
installed; then how often it answers at its default confidence, rightly and wrongly.
Everything is generated from a seed. Writes JSON, and a PNG plot where matplotlib is installed.

The simulated recogniser shares no code with the index: it edits letters by a table of confusions
of its own, replaces words by others of similar spelling, splits, drops, inserts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from duologue.retrieval.knowledge import KnowledgeBase, KnowledgeRetriever, store
from duologue.retrieval.knowledge.passages import Passage, PlaceKind
from duologue.retrieval.knowledge.retriever import MIN_CONFIDENCE
from duologue.retrieval.knowledge.search import Searcher, Tuning
from duologue.retrieval.knowledge.segment import Document, SegmentBuilder
from duologue.retrieval.protocol import RetrievalContext, attempt

ERROR_RATES = (0.0, 0.1, 0.2, 0.3)
QUESTIONS = 500
DOCUMENT_PASSAGES = 500


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words("b br c ch d dr f fl g gr h j k kr l m n p ph pr qu r s sh sl st t th tr v w y z")
_NUCLEI = _words("a e i o u a e i o u a e i o u a e i o u y ai ea ee ia io oa oo ou au")
_CODAS = (*_words("n r l s t d m p g b nd rk st ck x ng th sh lt mp rn nk ft ss"), *[""] * 16)
_KINDS = {
    "museum": ("founder", "opening year", "ticket price", "visitor count", "architect"),
    "river": ("length", "source", "mouth", "widest bridge", "fish"),
    "company": ("chief executive", "revenue", "headquarters", "flagship product", "staff count"),
    "bridge": ("span", "builder", "toll", "paint color", "speed limit"),
    "festival": ("main act", "entry fee", "organizer", "venue", "starting day"),
    "orchid": ("color", "discoverer", "scent", "height", "habitat"),
    "castle": ("owner", "oldest tower", "garden designer", "ghost", "restoration cost"),
    "engine": ("inventor", "fuel", "horsepower", "weight", "first test"),
    "village": ("mayor", "population", "patron saint", "market day", "dialect"),
    "library": ("director", "oldest book", "opening hours", "number of volumes", "reading room"),
}
_LEADS = (
    "what is the {attribute} of the {name} {kind}",
    "can you tell me the {attribute} of the {name} {kind}",
    "i was wondering about the {name} {kind} what is its {attribute}",
    "so um the {name} {kind} do you know the {attribute}",
    "tell me the {attribute} of {name}",
)
_COMMON = _words(
    """time people year water house world school state family student group country problem hand
    part place case week system program question work night point home room mother area money story
    fact month lot right study book eye job word business issue side kind head service friend father
    power hour game line end member law car city community name president team minute idea body
    information back parent face level office door health person art war history party result
    change morning reason research girl guy moment air teacher force education"""
)
_VERBS = _words("has shows keeps holds carries offers needs draws meets joins marks crosses feeds")


class World:
    """Generated names and facts; the same seed gives the same world."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._made: set[str] = set()
        self.vocabulary = [self.word() for _ in range(40_000)]
        ranks = np.arange(1, len(self.vocabulary) + 1)
        self._weights = list(np.cumsum(1.0 / (ranks + 20.0)))

    def word(self) -> str:
        """A new pronounceable word."""
        while True:
            word = "".join(
                self.random.choice(sounds)
                for _ in range(self.random.choice((1, 2, 2, 2, 3, 3)))
                for sounds in (_ONSETS, _NUCLEI, _CODAS)
            )
            if len(word) > 3 and word not in self._made:
                self._made.add(word)
                return word

    def adopt(self, other: World) -> None:
        """Use another world's vocabulary, but none of its words for new names."""
        self.vocabulary = other.vocabulary
        self._made |= other._made

    def filler(self, words: int) -> str:
        """A sentence of common English words and words of a long-tailed vocabulary."""
        rare = self.random.choices(self.vocabulary, cum_weights=self._weights, k=words)
        said = [
            self.random.choice(_COMMON) if self.random.random() < 0.5 else word for word in rare
        ]
        said.insert(1, self.random.choice(_VERBS))
        return " ".join(["The", *said]) + "."


@dataclass(frozen=True, slots=True)
class Question:
    """A question as spoken, and the number of the passage that answers it."""

    text: str
    passage: int


def make_passages(world: World, count: int) -> tuple[list[str], list[Question]]:
    """Passages of two facts about one thing and filler; one question per fact."""
    passages: list[str] = []
    questions: list[Question] = []
    kinds = list(_KINDS)
    first_names = [world.word() for _ in range(max(50, count // 12))]
    while len(passages) < count:
        kind = world.random.choice(kinds)
        name = world.random.choice(first_names)
        if world.random.random() < 0.6:
            name = f"{name} {world.word()}"
        attributes = world.random.sample(_KINDS[kind], 4)
        for pair in (attributes[:2], attributes[2:]):
            facts = [f"The {a} of the {name.title()} {kind} is {_value(world)}." for a in pair]
            facts.insert(world.random.randrange(3), world.filler(world.random.randrange(8, 22)))
            for attribute in pair:
                lead = world.random.choice(_LEADS)
                text = lead.format(attribute=attribute, name=name, kind=kind)
                questions.append(Question(text, len(passages)))
            passages.append(" ".join(facts))
    world.random.shuffle(questions)
    return passages[:count], [question for question in questions if question.passage < count]


def _value(world: World) -> str:
    if world.random.random() < 0.4:
        return str(world.random.randrange(2, 3000))
    return world.random.choice(world.vocabulary).title()


class Recogniser:
    """Mishears words at a given rate: 60 % substituted, 20 % dropped, 20 % inserted."""

    _CONFUSIONS = (
        ("ph", "f"), ("f", "v"), ("v", "f"), ("c", "k"), ("k", "c"), ("ck", "k"), ("qu", "kw"),
        ("s", "z"), ("z", "s"), ("b", "p"), ("p", "b"), ("d", "t"), ("t", "d"), ("g", "k"),
        ("m", "n"), ("n", "m"), ("th", "t"), ("th", "f"), ("sh", "ch"), ("ch", "sh"), ("j", "ch"),
        ("ee", "ea"), ("ea", "e"), ("ai", "ay"), ("oo", "u"), ("ou", "ow"), ("au", "o"),
        ("a", "e"), ("e", "i"), ("i", "e"), ("o", "a"), ("u", "o"), ("ia", "ya"), ("oa", "o"),
        ("l", "r"), ("r", "l"), ("x", "ks"), ("y", "i"), ("w", "wh"), ("h", ""), ("r", ""),
    )  # fmt: skip

    def __init__(self, world: World, lexicon: Sequence[str], seed: int) -> None:
        self._random = random.Random(seed)
        self._world = world
        self._by_shape: dict[tuple[str, int], list[str]] = {}
        for word in lexicon:
            self._by_shape.setdefault((word[:1], len(word)), []).append(word)

    def hear(self, text: str, error_rate: float) -> str:
        heard: list[str] = []
        for word in text.split():
            chance = self._random.random()
            if chance >= error_rate:
                heard.append(word)
            elif chance < 0.6 * error_rate:
                heard.append(self._mistake(word))
            elif chance < 0.8 * error_rate:
                heard += [word, self._random.choice(_COMMON)]
        return " ".join(heard)

    def _mistake(self, word: str) -> str:
        kind = self._random.random()
        if kind < 0.15:
            return self._random.choice(_COMMON)
        if kind < 0.30 and len(word) >= 6:
            cut = self._random.randrange(2, len(word) - 1)
            return f"{word[:cut]} {self._misspell(word[cut:])}"
        if kind < 0.55:
            length = len(word) + self._random.choice((-1, 0, 0, 1))
            near = self._by_shape.get((word[:1], length), [])
            sample = self._random.sample(near, min(len(near), 300))
            if sample:
                return min(sample, key=lambda other: _edits(word, other))
        return self._misspell(word)

    def _misspell(self, word: str) -> str:
        for _ in range(1 + (len(word) > 5)):
            possible = [pair for pair in self._CONFUSIONS if pair[0] in word]
            if possible:
                old, new = self._random.choice(possible)
                word = word.replace(old, new, 1)
        return word


def _edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    engine: str
    passages: int
    error_rate: float
    measured_error_rate: float
    recall_at_1: float
    recall_at_5: float
    p50_ms: float
    p95_ms: float
    cpu_p50_ms: float
    cpu_p95_ms: float


Search = Callable[[str], list[int]]


def measure(
    engine: str, count: int, search: Search, asked: Sequence[tuple[str, Question]], rate: float
) -> Row:
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
        count,
        rate,
        round(edits / words, 3),
        round(first / len(asked), 3),
        round(five / len(asked), 3),
        *(round(float(np.percentile(wall, q)), 3) for q in (50, 95)),
        *(round(float(np.percentile(cpu, q)), 3) for q in (50, 95)),
    )


def measure_answers(
    searcher: Searcher,
    heard: dict[float, list[tuple[str, Question]]],
    unanswerable: Sequence[str],
    recogniser: Recogniser,
) -> list[dict[str, float]]:
    """Share of questions answered at the default confidence, among those that have an answer and
    among those that ask for known attributes of things that are not there (the hardest kind).
    """

    def share(questions: Sequence[str]) -> float:
        confident = 0
        for question in questions:
            matches = searcher.search(question, 1)
            confident += bool(matches) and matches[0].confidence >= MIN_CONFIDENCE
        return round(confident / len(questions), 3)

    return [
        {
            "error_rate": rate,
            "answered_of_answerable": share([text for text, _ in heard[rate]]),
            "answered_of_unanswerable": share([recogniser.hear(q, rate) for q in unanswerable]),
        }
        for rate in ERROR_RATES
    ]


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
    return _edits("".join(map(code, a)), "".join(map(code, b)))


def build(passages: Sequence[str], folder: Path) -> tuple[Searcher, Searcher, float, int]:
    """Index the passages on disk; returns searchers with and without likeness, seconds, bytes."""
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
    took = time.perf_counter() - started
    segment = part.segment
    size = sum(path.stat().st_size for path in folder.rglob("*.*"))
    plain = Searcher([segment], [None], Tuning(fuzzy=False))
    return Searcher([segment], [None]), plain, took, size


def bm25s_search(passages: Sequence[str]) -> tuple[Search, float] | None:
    """The `bm25s` library over the same words, if it is installed."""
    try:
        import bm25s
    except ImportError:
        return None
    started = time.perf_counter()
    tokens = bm25s.tokenize(list(passages), stopwords="en", show_progress=False)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    took = time.perf_counter() - started

    def search(question: str) -> list[int]:
        words = bm25s.tokenize([question], stopwords="en", show_progress=False)
        found, _ = index.retrieve(words, k=5, show_progress=False)
        return [int(i) for i in found[0]]

    return search, took


def run(sizes: Sequence[int], questions: int, seed: int) -> Iterator[dict[str, object]]:
    """One report entry per size."""
    for count in sizes:
        world = World(seed)
        passages, pool = make_passages(world, count)
        asked = pool[:questions]
        lexicon = sorted({word for q in pool for word in q.text.split()} | set(_COMMON))
        recogniser = Recogniser(world, lexicon, seed + 1)
        heard = {rate: [(recogniser.hear(q.text, rate), q) for q in asked] for rate in ERROR_RATES}
        with tempfile.TemporaryDirectory() as folder:
            fuzzy, plain, build_s, size = build(passages, Path(folder) / "index")
            engines: dict[str, Search] = {
                "duologue": lambda q, s=fuzzy: [m.passage for m in s.search(q, 5)],  # type: ignore[misc]
                "duologue, words only": lambda q, s=plain: [m.passage for m in s.search(q, 5)],  # type: ignore[misc]
            }
            other = bm25s_search(passages)
            if other is not None:
                engines["bm25s"] = other[0]
            rows: list[Row] = []
            for engine, search in engines.items():
                for heard_pair in heard[0.0][:20]:
                    search(heard_pair[0])
                rows += [measure(engine, count, search, heard[rate], rate) for rate in ERROR_RATES]
            strangers = World(seed + 1000)
            strangers.adopt(world)
            unanswerable = [q.text for q in make_passages(strangers, 2_000)[1][:questions]]
            answers = measure_answers(fuzzy, heard, unanswerable, recogniser)
            lookup = measure_retriever(Path(folder) / "index", [t for t, _ in heard[0.2]])
            yield {
                "passages": count,
                "questions": len(asked),
                "build_s": round(build_s, 2),
                "bm25s_build_s": round(other[1], 2) if other else None,
                "index_mb": round(size / 1e6, 1),
                "terms": len(fuzzy.segments[0].term_hashes),
                "rows": [asdict(row) for row in rows],
                "answers": answers,
                **lookup,
            }


def plot(report: dict[str, object], path: Path) -> None:
    """Recall against error rate, and latency against size."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install 'duologue[bench]' for matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    entries = report["results"]
    assert isinstance(entries, list)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    largest = entries[-1]
    engines = list(dict.fromkeys(row["engine"] for row in largest["rows"]))
    for number, engine in enumerate(engines):
        rows = [row for row in largest["rows"] if row["engine"] == engine]
        rates = [100 * row["error_rate"] for row in rows]
        color = f"C{number}"
        left.plot(
            rates, [row["recall_at_1"] for row in rows], "o-", color=color, label=f"{engine}, @1"
        )
        left.plot(
            rates, [row["recall_at_5"] for row in rows], "s--", color=color, label=f"{engine}, @5"
        )
        sizes = [entry["passages"] for entry in entries]
        slowest = [
            max(row["cpu_p95_ms"] for row in entry["rows"] if row["engine"] == engine)
            for entry in entries
        ]
        right.plot(sizes, slowest, "o-", color=color, label=engine)
    left.set(xlabel="word error rate of the question, %", ylabel="recall", ylim=(0, 1.02))
    left.set_title(f"{largest['passages']:,} passages")
    right.set(
        xlabel="passages", ylabel="p95 of CPU time a search, ms", xscale="log", ylim=(0, None)
    )
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 50_000], help="passages")
    parser.add_argument(
        "--large", action="store_true", help="also 500,000 passages (minutes, 3 GB)"
    )
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for JSON and PNG")
    arguments = parser.parse_args()
    sizes = [*arguments.sizes, *([500_000] if arguments.large else [])]
    results = []
    for entry in run(sizes, arguments.questions, arguments.seed):
        results.append(entry)
        print(f"{entry['passages']:,} passages: build {entry['build_s']} s, {entry['index_mb']} MB")
        rows = entry["rows"]
        assert isinstance(rows, list)
        for row in rows:
            print(
                f"  {row['engine']:22} WER {row['error_rate']:.0%}"
                f" ({row['measured_error_rate']:.0%})"
                f"  recall@1 {row['recall_at_1']:.3f}  @5 {row['recall_at_5']:.3f}"
                f"  p50 {row['p50_ms']:.2f} ms  p95 {row['p95_ms']:.2f} ms"
                f"  (CPU {row['cpu_p50_ms']:.2f}, {row['cpu_p95_ms']:.2f})"
            )
        print(f"  whole lookup p50 {entry['lookup_p50_ms']} ms  p95 {entry['lookup_p95_ms']} ms")
        answers = entry["answers"]
        assert isinstance(answers, list)
        for row in answers:
            print(
                f"  at the default confidence, WER {row['error_rate']:.0%}: answers"
                f" {row['answered_of_answerable']:.0%} of what it knows and"
                f" {row['answered_of_unanswerable']:.0%} of near questions that it does not"
            )
    report: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seed": arguments.seed,
        "results": results,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "retrieval.json"
    target.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"report: {target}")
    plot(report, arguments.output / "retrieval.png")


if __name__ == "__main__":
    main()
