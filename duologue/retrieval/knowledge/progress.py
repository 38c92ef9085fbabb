"""A progress bar for `KnowledgeBase.add` on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from duologue.retrieval.knowledge.base import Progress


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Yields what to pass as `progress=`; draws nothing where there is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console or Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(state: Progress) -> None:
            files = f"{state.done_files}/{state.total_files} files"
            bar.update(
                task,
                total=state.total_bytes,
                completed=state.done_bytes,
                description=f"{files} {state.name[-40:]}",
            )

        yield show
