"""Making a data set of so many hours: all cores, a progress bar, and it can be stopped at any time.

A data set is the shortest run of items 0, 1, 2, ... of a seed that has the wanted length; which
process makes an item has no influence on it. Items that exist are kept, so the same command goes on
where it was stopped, and asking for more hours adds to what is there.

    OUT/manifest.jsonl            {"path": "items/000/0000012.wav", "duration": 21.4}, one a line
    OUT/dataset.json              kind, split and seed, so that sets are never mixed by mistake
    OUT/items/000/0000012.wav     24 kHz, 16 bit, mono or stereo (left wren, right user)
    OUT/items/000/0000012.json    side-car
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from duologue.synthesis.corpus import render_speech
from duologue.synthesis.engines import festival
from duologue.synthesis.engines.program import MissingProgramError, SynthesizerError
from duologue.synthesis.item import Item, save, saved_seconds
from duologue.synthesis.mixer import render_dialogue
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split

Kind = Literal["dialogue", "mono", "wren", "users"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_MANIFEST_EVERY = 50
"""Items between two writings of the manifest."""
_MOST_FAILED = 0.02
"""Share of items that may fail before the whole run is given up; the first few are free."""
_PER_FOLDER = 1000

Progress = Callable[[float, int], None]
"""Called with the seconds done and the number of items."""


class DatasetError(ValueError):
    """The folder holds another data set, or too many items cannot be made."""


@dataclass(frozen=True)
class Dataset:
    """What determines every item: nothing else does."""

    kind: Kind
    split: Split
    seed: int

    def item(self, index: int, speaker: Speaker) -> Item:
        if self.kind == "dialogue":
            return render_dialogue(self.seed, index, self.split, speaker)
        return render_speech(self.kind, self.seed, index, self.split, speaker)


@dataclass
class Summary:
    """What a run did."""

    items: int = 0
    seconds: float = 0.0
    made: int = 0
    made_seconds: float = 0.0
    failed: int = 0
    stopped: bool = False


def item_path(index: int) -> Path:
    """Where an item's sound lies in the folder of its data set."""
    return Path("items") / f"{index // _PER_FOLDER:03d}" / f"{index:07d}.wav"


def generate(
    dataset: Dataset,
    out: Path,
    hours: float,
    *,
    workers: int = 1,
    cache: Path | None = None,
    progress: Progress = lambda seconds, items: None,
) -> Summary:
    """Fill a folder until the data set has so many hours.

    Args:
        workers: processes; 0 does the work in this one.
        cache: where spoken sentences are kept for other runs.

    Ctrl-C ends it in good order: what is complete is kept and listed.

    Raises:
        DatasetError: the folder holds another data set; or more than a few items fail.
        MissingProgramError: a speech program is not installed.
    """
    _claim(dataset, out)
    run = _Run(out, hours * 3600.0, progress)
    if hours <= 0.0:
        return run.summary
    try:
        with _makers(dataset, out, workers, cache) as results:
            for index, seconds, was_there in results:
                if run.take(index, seconds, was_there):
                    break
    except KeyboardInterrupt:
        run.summary.stopped = True
        if run.is_behind:
            return run.summary
    run.write_manifest()
    return run.summary


class _Run:
    """Puts results, which come in any order, into the order of their indices."""

    def __init__(self, out: Path, wanted_s: float, progress: Progress) -> None:
        self.summary = Summary()
        self._out = out
        self._wanted_s = wanted_s
        self._progress = progress
        self._waiting: dict[int, float | None] = {}
        self._next = 0
        self._lines: list[str] = []
        manifest = out / "manifest.jsonl"
        self._listed_before = manifest.read_text().count("\n") if manifest.exists() else 0

    @property
    def is_behind(self) -> bool:
        """Whether an earlier run has listed more items than this one yet."""
        return len(self._lines) < self._listed_before

    def take(self, index: int, seconds: float | None, was_there: bool) -> bool:
        """Note a result; true once the data set is long enough."""
        if not was_there and seconds is not None:
            self.summary.made += 1
            self.summary.made_seconds += seconds
        self._waiting[index] = seconds
        while self._next in self._waiting and self.summary.seconds < self._wanted_s:
            self._list(self._next, self._waiting.pop(self._next))
            self._next += 1
        self._progress(self.summary.seconds, self.summary.items)
        return self.summary.seconds >= self._wanted_s

    def _list(self, index: int, seconds: float | None) -> None:
        if seconds is None:
            self.summary.failed += 1
            if self.summary.failed > 3 + _MOST_FAILED * index:
                raise DatasetError(f"{self.summary.failed} of {index + 1} items could not be made")
            return
        line = {"path": item_path(index).as_posix(), "duration": round(seconds, 6)}
        self._lines.append(json.dumps(line) + "\n")
        self.summary.items += 1
        self.summary.seconds += seconds
        if not self.is_behind and self.summary.items % _MANIFEST_EVERY == 0:
            self.write_manifest()

    def write_manifest(self) -> None:
        _write(self._out / "manifest.jsonl", "".join(self._lines))


Result = tuple[int, float | None, bool]
"""Index, seconds (None: it failed), whether it was there before."""


@contextmanager
def _makers(
    dataset: Dataset, out: Path, workers: int, cache: Path | None
) -> Iterator[Iterator[Result]]:
    """An endless iterator of results, made by processes of their own (or here, for tests)."""
    if workers == 0:
        _start_worker(dataset, out, cache)
        yield (_make(index) for index in _count())
        return
    # Read by the processes when they load numpy and torch: each is to keep to one core.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(dataset, out, cache, True),
    )
    try:
        yield _from_pool(pool, workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _from_pool(pool: ProcessPoolExecutor, workers: int) -> Iterator[Result]:
    indices = _count()
    running: set[Future[Result]] = set()
    while True:
        while len(running) < 2 * workers:
            running.add(pool.submit(_make, next(indices)))
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _count() -> Iterator[int]:
    index = 0
    while True:
        yield index
        index += 1


_worker: tuple[Dataset, Path, Speaker] | None = None


def _start_worker(
    dataset: Dataset, out: Path, cache: Path | None, own_process: bool = False
) -> None:
    global _worker
    _worker = (dataset, out, Speaker(folder=cache))
    if own_process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process would wait for ever if its parent were killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        festival.close()
        os._exit(1)


def _make(index: int) -> Result:
    assert _worker is not None
    dataset, out, speaker = _worker
    wav = out / item_path(index)
    if (seconds := saved_seconds(wav)) is not None:
        return index, seconds, True
    try:
        item = dataset.item(index, speaker)
    except MissingProgramError:
        raise
    except SynthesizerError as error:
        _write(wav.with_suffix(".failed"), f"{error}\n")
        return index, None, False
    save(item, wav)
    return index, round(item.seconds, 6), False


def _claim(dataset: Dataset, out: Path) -> None:
    """Make the folder this data set's, or check that it is."""
    description = out / "dataset.json"
    if description.exists():
        found = json.loads(description.read_text())
        if found != asdict(dataset):
            raise DatasetError(
                f"{out} holds another data set ({found['kind']}, {found['split']}, seed "
                f"{found['seed']}); name another folder"
            )
        return
    _write(description, json.dumps(asdict(dataset)) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(text)
    partial.replace(path)
