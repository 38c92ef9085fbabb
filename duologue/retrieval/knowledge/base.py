"""A knowledge base: files in, cited passages out.

`KnowledgeBase.open(folder)` keeps its index on disk; `KnowledgeBase.from_files([...])` builds one
in memory, in milliseconds for a page of facts. Adding is incremental (a file whose content is known
is skipped), resumable (work is committed every `COMMIT_PASSAGES` passages or `COMMIT_EVERY_S`
seconds; the unit is one file) and atomic. Searching is thread-safe and goes on while another
process adds.

Bounds: `MAX_FILES` files a call, `MAX_RESULTS` results; the files' own bounds are in `readers`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from duologue.errors import DuologueError
from duologue.retrieval.knowledge import store
from duologue.retrieval.knowledge.analysis import fold, term_of
from duologue.retrieval.knowledge.embedding import Embedder
from duologue.retrieval.knowledge.mending import Reading, shares
from duologue.retrieval.knowledge.passages import Block, Passage, PlaceKind, passages_of
from duologue.retrieval.knowledge.readers import UnreadableFile, is_readable, read_blocks
from duologue.retrieval.knowledge.search import CANDIDATES, Match, Searcher
from duologue.retrieval.knowledge.segment import (
    Array,
    Document,
    Segment,
    SegmentBuilder,
    merge,
)
from duologue.retrieval.knowledge.tuning import Tuning
from duologue.retrieval.protocol import Clock, Source

logger = logging.getLogger(__name__)

COMMIT_PASSAGES = 5_000
COMMIT_EVERY_S = 10.0
MAX_FILES = 1_000_000
MAX_RESULTS = 100
MAX_SEGMENTS_WHILE_ADDING = 64
MERGE_RATIO = 4
"""A segment is merged with the smaller ones while it is less than this many times their sum."""
MAX_DELETED_SHARE = 0.3
SIMILARITY_WEIGHT = 0.5
MAX_VOCABULARY_PASSAGES = 20_000

_NAME = re.compile(r"(?<=[\w,;] )[A-Z][^\W\d_]*[^\W\d_A-Z][^\W\d_]*")


class KnowledgeBaseError(DuologueError, RuntimeError):
    """Something that this knowledge base cannot do, and why."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found. `coverage` in [0, 1]: how much of the question the passage has;
    `confidence` in (0, 1): how probable it is that the passage is the one asked for.
    """

    text: str
    heading: str
    source: Source
    score: float
    coverage: float
    confidence: float


Found = tuple[Source, str]
"""A passage: where it is, and its text."""


@dataclass(frozen=True, slots=True)
class Mended:
    """A question as it was most likely meant, and what was found for it, best first."""

    question: str
    hits: Sequence[Hit]

    @property
    def confidence(self) -> float:
        """How probable it is that this is meant, and the best hit the answer."""
        return self.hits[0].confidence

    @property
    def found(self) -> Found:
        """What the best hit is, whatever it was found for."""
        best = self.hits[0]
        return replace(best.source, score=0.0), best.text

    def at(self, confidence: float) -> Mended:
        """The same with another confidence of the best hit."""
        best = replace(self.hits[0], confidence=confidence)
        return replace(self, hits=(best, *self.hits[1:]))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where adding stands; `name` is the file in hand."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int
    name: str


@dataclass
class AddReport:
    """What `add` did. `failed` maps a file to the reason it was left out."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    passages: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class KnowledgeBase:
    """See the module. Create with `open` or `from_files`."""

    def __init__(
        self,
        folder: Path | None,
        snapshot: store.Snapshot,
        *,
        embedder: Embedder | None = None,
        tuning: Tuning | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.folder = folder
        self._embedder = embedder
        self._tuning = tuning
        self._clock = clock
        self._stamp: store.Stamp | None = None
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._changing = threading.RLock()
        self._use(snapshot)

    # -- opening

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        embedder: Embedder | None = None,
        tuning: Tuning | None = None,
        clock: Clock = time.monotonic,
    ) -> Self:
        """The index in a folder; a folder without one is an empty knowledge base."""
        path = Path(folder)
        return cls(path, store.load(path), embedder=embedder, tuning=tuning, clock=clock)

    @classmethod
    def from_files(
        cls,
        paths: Iterable[str | os.PathLike[str]],
        *,
        embedder: Embedder | None = None,
        tuning: Tuning | None = None,
    ) -> Self:
        """A knowledge base in memory; raises UnreadableFile for the first file it cannot use."""
        builder = SegmentBuilder()
        for path, name in _files(paths, _note_nothing):
            builder.add(*_read(path, name))
        part = store.Part("memory", _build(builder, embedder))
        return cls(
            None,
            store.Snapshot(1, (part,), embedder.name if embedder else ""),
            embedder=embedder,
            tuning=tuning,
        )

    @classmethod
    def from_texts(cls, texts: Iterable[tuple[str, str, str]]) -> Self:
        """A knowledge base in memory of (title, location, text)."""
        builder = SegmentBuilder()
        for title, location, text in texts:
            passages = list(passages_of([Block(text, heading=title)]))
            builder.add(Document(location, title, "", len(text), 0, len(passages)), passages)
        return cls(None, store.Snapshot(1, (store.Part("memory", builder.build()),)))

    def refresh(self) -> bool:
        """Take over what another process has committed; returns whether anything changed."""
        if self.folder is None:
            return False
        if not self._changing.acquire(blocking=False):
            return False  # what is being committed here is newer than what lies there
        try:
            stamp = store.stamp(self.folder)
            if stamp == self._stamp:
                return False
            snapshot = store.load(self.folder)
            self._stamp = stamp
            if snapshot.generation == self.generation:
                return False
            self._use(snapshot)
            return True
        finally:
            self._changing.release()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a function called after each change, in the thread that made or found it; it must
        return at once and not raise.
        """
        self._listeners += (listener,)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Undo `listen`."""
        self._listeners = tuple(other for other in self._listeners if other != listener)

    # -- what is in it

    @property
    def generation(self) -> int:
        """Grows with every change."""
        return self._snapshot.generation

    @property
    def passages(self) -> int:
        return self._searcher.passages

    def list(self) -> Sequence[Document]:
        """The files in it, by name."""
        documents = [document for _, _, document in self._documents()]
        return sorted(documents, key=lambda document: (document.name, document.path))

    def vocabulary(self, limit: int) -> Sequence[str]:
        """Names in the texts, as they are written, the most telling first: to bias a recogniser.

        A name is a word written with a capital inside a sentence. At most
        `MAX_VOCABULARY_PASSAGES` passages are looked at, evenly spread.
        """
        counts: Counter[str] = Counter()
        step = max(1, -(-self.passages // MAX_VOCABULARY_PASSAGES))
        for part in self._snapshot.parts:
            segment = part.segment
            for number in range(0, segment.passages, step):
                if part.deleted is None or not part.deleted[segment.passage_document[number]]:
                    counts.update(set(_NAME.findall(segment.texts[number])))
        weights = {
            name: math.log1p(count) * math.log(1 + self.passages / (step * count))
            for name, count in counts.items()
            if term_of(fold(name))
        }
        return sorted(weights, key=lambda name: (-weights[name], name))[:limit]

    # -- searching

    def search(self, text: str, k: int = 5, *, background: str = "") -> Sequence[Hit]:
        """The `k` best passages for a question, best first.

        `background` is what was said before: it decides between passages that fit the question.
        """
        searcher = self._searcher
        limit = max(0, min(k, MAX_RESULTS))
        if self._embedder is None or not self._has_vectors:
            matches = searcher.search(text, limit, background=background)
        else:
            wider = searcher.search(text, max(limit, CANDIDATES), background=background)
            matches = _by_similarity(searcher, self._embedder, text, wider)[:limit]
        return [_hit(searcher.segments[match.segment], match) for match in matches]

    def search_mended(self, text: str, k: int = 5) -> Mended | None:
        """The best passages for what a question most likely means if it was heard wrong.

        See `mending`; meant for questions to which `search` finds no sure answer. None if no name
        in the files sounds like part of it.
        """
        return next(iter(self.meanings(self.readings(text), k)), None)

    def readings(self, text: str) -> Sequence[Reading]:
        """The question with names of the files in place of what sounds like them."""
        return self._searcher.mender.readings(text)

    def meanings(self, readings: Sequence[Reading], k: int = 5) -> Sequence[Mended]:
        """What a question may mean, by its readings, likeliest first.

        The confidence of the best hit of each is the probability of that meaning.
        """
        found = [self.search(reading.text, k) for reading in readings]
        sure = [hits[0].confidence if hits else 0.0 for hits in found]
        # By what is found: several readings may ask for the same.
        meanings: dict[Found, tuple[float, Mended]] = {}
        for share, reading, hits in sorted(
            zip(shares(readings, sure), readings, found, strict=True), key=lambda item: -item[0]
        ):
            if hits and share:
                mended = Mended(reading.text, hits)
                so_far, likeliest = meanings.get(mended.found, (0.0, mended))
                meanings[mended.found] = so_far + share, likeliest
        likeliest_first = sorted(meanings.values(), key=lambda item: -item[0])
        return [mended.at(probability) for probability, mended in likeliest_first]

    def question_weights(self, text: str) -> dict[int, tuple[int, float]]:
        """Terms a question may mean, by hash: (which word of the question, how much it tells)."""
        return self._searcher.question_weights(text)

    # -- changing

    def add(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        prune: bool = False,
        verify: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> AddReport:
        """Add files and folders (recursively; hidden files and links are left out).

        A file known under the same path is skipped when its size and time are the same, or else its
        content; `verify` looks at the content always. `prune` removes files that are gone from the
        folders given. A file that cannot be read is reported, and its earlier version kept. Raises
        IndexBusy when another process is adding.
        """
        folder = self._writable()
        paths = list(paths)
        report = AddReport()
        with self._changing, store.writing(folder):
            self.refresh()
            store.sweep(folder, self._snapshot)
            self._check_embedder()
            wanted = list(_files(paths, report.failed.__setitem__))
            sizes = [_size(path) for path, _ in wanted]
            total = sum(sizes)
            known = {document.path: document for _, _, document in self._documents()}
            builder = SegmentBuilder()
            replaced: set[str] = set()
            last_commit = self._clock()
            done = 0
            for number, ((path, name), size) in enumerate(zip(wanted, sizes, strict=True)):
                if progress is not None:
                    progress(Progress(done, total, number, len(wanted), name))
                done += size
                earlier = known.get(str(path))
                try:
                    if earlier is not None and _is_unchanged(earlier, path, verify=verify):
                        report.unchanged += 1
                        continue
                    document, passages = _read(path, name)
                except UnreadableFile as error:
                    report.failed[str(path)] = error.reason
                    continue
                builder.add(document, passages)
                report.passages += len(passages)
                if earlier is None:
                    report.added += 1
                else:
                    replaced.add(str(path))
                    report.updated += 1
                late = self._clock() - last_commit >= COMMIT_EVERY_S
                if builder.passages >= COMMIT_PASSAGES or late:
                    self._commit(folder, builder, replaced)
                    builder, replaced = SegmentBuilder(), set()
                    last_commit = self._clock()
            if prune:
                gone = _vanished(known, paths, {str(path) for path, _ in wanted})
                replaced |= gone
                report.removed = len(gone)
            if builder.documents or replaced:
                self._commit(folder, builder, replaced)
            self._merge(folder)
            if progress is not None:
                progress(Progress(done, total, len(wanted), len(wanted), ""))
        return report

    def remove(self, names: Iterable[str | os.PathLike[str]]) -> int:
        """Remove files, or folders with all files in them, by name or path; returns how many."""
        folder = self._writable()
        wanted = {os.fspath(name) for name in names}
        paths = {str(Path(name).resolve()) for name in wanted}
        with self._changing, store.writing(folder):
            self.refresh()
            store.sweep(folder, self._snapshot)
            gone = {
                document.path
                for _, _, document in self._documents()
                if document.name in wanted
                or document.path in paths
                or any(document.name.startswith(f"{name.rstrip('/')}/") for name in wanted)
                or any(Path(document.path).is_relative_to(path) for path in paths)
            }
            if gone:
                self._commit(folder, SegmentBuilder(), gone)
                self._merge(folder)
        return len(gone)

    # -- inside

    def _use(self, snapshot: store.Snapshot) -> None:
        parts = snapshot.parts
        self._snapshot = snapshot
        self._searcher = Searcher(
            [part.segment for part in parts], [part.deleted for part in parts], self._tuning
        )
        self._has_vectors = (
            bool(parts)
            and self._embedder is not None
            and snapshot.embedder == self._embedder.name
            and all(part.segment.vectors is not None for part in parts)
        )
        for listener in self._listeners:
            listener()

    def _writable(self) -> Path:
        if self.folder is None:
            raise KnowledgeBaseError("a knowledge base in memory cannot be changed")
        return self.folder

    def _check_embedder(self) -> None:
        name = self._embedder.name if self._embedder else ""
        if self._snapshot.parts and name != self._snapshot.embedder:
            raise KnowledgeBaseError(
                f"this index was made with embeddings {self._snapshot.embedder or 'none'!r}, "
                f"not {name or 'none'!r}; make it anew to change that"
            )

    def _documents(self) -> Iterator[tuple[int, int, Document]]:
        """(part, number in the part, document) of everything not deleted."""
        for index, part in enumerate(self._snapshot.parts):
            for number, document in enumerate(part.segment.documents):
                if part.deleted is None or not part.deleted[number]:
                    yield index, number, document

    def _commit(self, folder: Path, builder: SegmentBuilder, gone: set[str]) -> None:
        """Add what the builder has and mark the documents in `gone` deleted, in one step."""
        parts = list(self._snapshot.parts)
        flags: dict[int, Array] = {}
        for index, number, document in self._documents():
            if document.path in gone:
                if index not in flags:
                    before = parts[index].deleted
                    count = len(parts[index].segment.documents)
                    flags[index] = np.zeros(count, bool) if before is None else before.copy()
                flags[index][number] = True
        for index, deleted in flags.items():
            parts[index] = store.Part(parts[index].name, parts[index].segment, deleted)
        if builder.documents:
            parts.append(store.add_segment(folder, _build(builder, self._embedder)))
        embedder = self._embedder.name if self._embedder else self._snapshot.embedder
        snapshot = store.Snapshot(self.generation, tuple(parts), embedder)
        self._use(store.commit(folder, snapshot))
        if len(parts) > MAX_SEGMENTS_WHILE_ADDING:
            self._merge(folder)

    def _merge(self, folder: Path) -> None:
        """Merge small segments into larger ones, and those with many deleted passages."""
        parts = self._snapshot.parts
        chosen = _to_merge(parts)
        if not chosen:
            return
        rest = [part for index, part in enumerate(parts) if index not in chosen]
        old = [parts[index] for index in sorted(chosen)]
        merged = merge([part.segment for part in old], [part.deleted for part in old])
        if merged.passages:
            rest.insert(0, store.add_segment(folder, merged))
        snapshot = store.Snapshot(self.generation, tuple(rest), self._snapshot.embedder)
        self._use(store.commit(folder, snapshot))
        store.sweep(folder, self._snapshot)


def _to_merge(parts: Sequence[store.Part]) -> set[int]:
    chosen: set[int] = set()
    total = 0
    for index in sorted(range(len(parts)), key=lambda i: parts[i].segment.passages):
        size = parts[index].segment.passages
        if chosen and size >= MERGE_RATIO * total:
            break
        chosen.add(index)
        total += size
    if len(chosen) < 2:
        chosen.clear()
    for index, part in enumerate(parts):
        if part.deleted is not None and part.segment.passages:
            gone = part.deleted[part.segment.passage_document].mean()
            if gone > MAX_DELETED_SHARE:
                chosen.add(index)
    return chosen


def _build(builder: SegmentBuilder, embedder: Embedder | None) -> Segment:
    segment = builder.build()
    if embedder is None:
        return segment
    texts = [
        f"{segment.headings[int(heading)]} {segment.texts[number]}"
        for number, heading in enumerate(segment.passage_heading)
    ]
    return segment.with_vectors(embedder.embed(texts).astype(np.float16))


def _by_similarity(
    searcher: Searcher, embedder: Embedder, text: str, matches: Sequence[Match]
) -> list[Match]:
    """Matches in the order of lexical score (relative to the best) plus similarity."""
    if not matches:
        return []
    query = embedder.embed([text])[0]
    best = matches[0].score or 1.0
    ranks: list[float] = []
    for match in matches:
        vectors = searcher.segments[match.segment].vectors
        similarity = 0.0 if vectors is None else float(vectors[match.passage].astype("f4") @ query)
        ranks.append(match.score / best + SIMILARITY_WEIGHT * similarity)
    return [matches[i] for i in np.argsort(-np.array(ranks), kind="stable")]


def _hit(segment: Segment, match: Match) -> Hit:
    document = segment.documents[int(segment.passage_document[match.passage])]
    kind = PlaceKind(int(segment.passage_kind[match.passage]))
    place = int(segment.passage_place[match.passage])
    return Hit(
        text=segment.texts[match.passage],
        heading=segment.headings[int(segment.passage_heading[match.passage])],
        source=Source(
            title=document.name,
            location=document.path,
            line=place if kind is PlaceKind.LINE else None,
            row=place if kind is PlaceKind.ROW else None,
            page=place if kind is PlaceKind.PAGE else None,
            score=match.score,
        ),
        score=match.score,
        coverage=match.coverage,
        confidence=match.confidence,
    )


def _files(
    paths: Iterable[str | os.PathLike[str]], note: Callable[[str, str], None]
) -> Iterator[tuple[Path, str]]:
    """(absolute path, name to cite) of every readable file; names are relative to their folder."""
    seen: set[Path] = set()
    for given in paths:
        top = Path(given).resolve()
        if top.is_dir():
            found: Iterable[tuple[Path, str]] = (
                (path, f"{top.name}/{path.relative_to(top).as_posix()}") for path in _walk(top)
            )
        elif top.is_file():
            found = [(top, top.name)]
        else:
            note(str(top), "no such file")
            continue
        for path, name in found:
            if path in seen:
                continue
            seen.add(path)
            if len(seen) > MAX_FILES:
                raise KnowledgeBaseError(f"more than {MAX_FILES} files")
            if is_readable(path):
                yield path, name
            elif path == top:
                note(str(path), f"unknown kind {path.suffix or '(no suffix)'}")


def _note_nothing(path: str, reason: str) -> None:
    raise UnreadableFile(Path(path), reason)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if not name.startswith(".") and not path.is_symlink():
                yield path


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_unchanged(document: Document, path: Path, *, verify: bool) -> bool:
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableFile(path, str(error)) from error
    if status.st_size != document.size:
        return False
    if status.st_mtime_ns == document.modified_ns and not verify:
        return True
    return _digest(path) == document.digest


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise UnreadableFile(path, str(error)) from error


def _read(path: Path, name: str) -> tuple[Document, Sequence[Passage]]:
    digest = _digest(path)
    status = path.stat()
    passages = list(passages_of(read_blocks(path)))
    document = Document(str(path), name, digest, status.st_size, status.st_mtime_ns, len(passages))
    return document, passages


def _vanished(
    known: dict[str, Document], paths: Iterable[str | os.PathLike[str]], present: set[str]
) -> set[str]:
    folders = [Path(path).resolve() for path in paths]
    return {
        path
        for path in known
        if path not in present and any(Path(path).is_relative_to(folder) for folder in folders)
    }
