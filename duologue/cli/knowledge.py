"""`duologue knowledge`: documents into an index, and what is found in it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duologue.cli.options import Json

if TYPE_CHECKING:
    from duologue.retrieval.knowledge import AddReport, Embedder, Hit, KnowledgeBase

app = typer.Typer(help="Look things up in documents, without a model.", no_args_is_help=True)

INDEX_FILE = "index.json"
SHOWN_CHARS = 300
EXIT_NOTHING = 1
"""Of `search` and `remove` when there is nothing, of `add` when a file was left out."""

Index = Annotated[
    Path,
    typer.Option(
        "--index", "-i", envvar="DUOLOGUE_INDEX", help="Folder of the index.", show_default=True
    ),
]
Embeddings = Annotated[
    str | None,
    typer.Option(help="Folder of a model2vec model, for a second opinion by meaning."),
]
DEFAULT_INDEX = Path("knowledge-index")


@app.command()
def add(
    documents: Annotated[
        list[Path],
        typer.Argument(help="Files and folders: txt, md, csv, tsv, jsonl, html, docx, pdf."),
    ],
    index: Index = DEFAULT_INDEX,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove files that are gone from the folders given.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read files again whose size and time are unchanged.")
    ] = False,
    embeddings: Embeddings = None,
    json_output: Json = False,
) -> None:
    """Add documents; those known and unchanged are skipped, so it can be run again and again.

    Interrupted, it goes on where it was. Files that cannot be read are named, and end it with 1.

    Examples:

        duologue knowledge add handbook/ prices.csv

        duologue knowledge add handbook/ --prune --index shop-index --json
    """
    from contextlib import nullcontext

    from duologue.retrieval.knowledge.progress import progress_bar
    from duologue.retrieval.settings import documents_at

    _refuse_a_file(index)
    _refuse_an_index_of_nothing(documents, index)
    base = _base(index, embeddings)
    with nullcontext(None) if json_output else progress_bar() as progress:
        report = base.add(
            [documents_at(path) for path in documents],
            prune=prune,
            verify=verify,
            progress=progress,
        )
    if json_output:
        typer.echo(json.dumps(_added(report, base, index)))
    else:
        counts = {name: getattr(report, name) for name in _COUNTS}
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        typer.echo(f"{index}: {said or 'nothing to add'}; {base.passages} passages in all")
        for path, reason in report.failed.items():
            typer.secho(f"left out {path}: {reason}", err=True, fg="yellow")
    if report.failed:
        raise typer.Exit(EXIT_NOTHING)


@app.command()
def search(
    question: Annotated[str, typer.Argument(help="As one would ask it.")],
    index: Annotated[
        Path,
        typer.Option(
            "--index",
            "-i",
            envvar="DUOLOGUE_INDEX",
            help="Folder of the index, or a document, or `factbook`.",
            show_default=True,
        ),
    ] = DEFAULT_INDEX,
    count: Annotated[int, typer.Option("--count", "-k", min=1, max=100, help="Passages.")] = 5,
    embeddings: Embeddings = None,
    json_output: Json = False,
) -> None:
    """Find passages for a question, and what a model would be told.

    Ends with 1 when nothing is sure enough to be told.

    Examples:

        duologue knowledge search "when do you open on saturday"

        duologue knowledge search "what is the capital of france" --index factbook -k 2 --json
    """  # fmt: skip
    from duologue.retrieval.knowledge import KnowledgeRetriever
    from duologue.retrieval.protocol import RetrievalContext

    base = _base_or_documents(index, embeddings)
    begin = time.perf_counter()
    hits = base.search(question, count)
    seconds = time.perf_counter() - begin
    found = KnowledgeRetriever(base).look_up(RetrievalContext.from_question(question))
    if json_output:
        values = {
            "question": question,
            "reference": found.reference or None,
            "confidence": round(found.confidence, 4),
            "sources": [source.cite() for source in found.sources],
            "search_ms": round(1000 * seconds, 3),
            "passages": [_hit(hit) for hit in hits],
        }
        typer.echo(json.dumps(values, ensure_ascii=False))
    else:
        for number, hit in enumerate(hits, 1):
            typer.secho(f"{number}. {hit.source.cite()}  {hit.confidence:.0%}", bold=True)
            typer.echo(f"   {_shortened(hit)}")
        if found.reference:
            typer.echo(f"a model is told: {found.reference}")
        else:
            sure = f"the best is only {found.confidence:.0%} sure" if hits else "no passage fits"
            typer.echo(f"a model is told nothing: {sure}")
    if not found.reference:
        raise typer.Exit(EXIT_NOTHING)


@app.command("list")
def list_documents(index: Index = DEFAULT_INDEX, json_output: Json = False) -> None:
    """List the documents of an index.

    Examples:

        duologue knowledge list

        duologue knowledge list --index shop-index --json
    """
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.table import Table

    base = _existing(index)
    rows = [
        {
            "name": document.name,
            "path": document.path,
            "passages": document.passages,
            "bytes": document.size,
            "modified": datetime.fromtimestamp(document.modified_ns // 10**9, UTC).isoformat(),
        }
        for document in base.list()
    ]
    if json_output:
        typer.echo(json.dumps({"index": str(index), "documents": rows}, ensure_ascii=False))
        return
    table = Table("document", "passages", "bytes", "modified", box=None)
    for row in rows:
        table.add_row(
            str(row["name"]).replace("[", r"\["), f"{row['passages']:,}", f"{row['bytes']:,}",
            str(row["modified"])[:16].replace("T", " "),
        )  # fmt: skip
    Console().print(table)
    typer.echo(f"{len(rows)} documents, {base.passages:,} passages")


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(help="As `list` shows them, or paths.")],
    index: Index = DEFAULT_INDEX,
    json_output: Json = False,
) -> None:
    """Remove documents from an index; a folder's name or path means all files in it.

    The files themselves stay. Ends with 1 when there was nothing of these names.

    Examples:

        duologue knowledge remove handbook/old.md

        duologue knowledge remove handbook --index shop-index
    """
    base = _existing(index)
    removed = base.remove(names)
    if json_output:
        typer.echo(json.dumps({"removed": removed, "passages": base.passages}))
    else:
        typer.echo(f"{index}: {removed} removed; {base.passages:,} passages left")
    if not removed:
        raise typer.Exit(EXIT_NOTHING)


_COUNTS = ("added", "updated", "unchanged", "removed")


def _base(index: Path, embeddings: str | None) -> KnowledgeBase:
    from duologue.retrieval.knowledge import KnowledgeBase

    return KnowledgeBase.open(index, embedder=_embedder(embeddings))


def _existing(index: Path) -> KnowledgeBase:
    from duologue.errors import DuologueError

    if not (index / INDEX_FILE).is_file():
        raise DuologueError(
            f"{index}: no index; make one with `duologue knowledge add DOCUMENTS --index {index}`"
        )
    return _base(index, None)


def _base_or_documents(place: Path, embeddings: str | None) -> KnowledgeBase:
    """An index, or documents indexed for this one question."""
    from duologue.retrieval.knowledge import KnowledgeBase
    from duologue.retrieval.settings import documents_at

    documents = documents_at(place)
    if (place / INDEX_FILE).is_file():
        return _base(place, embeddings)
    if not documents.exists():
        return _existing(place)
    base = KnowledgeBase.from_files([documents], embedder=_embedder(embeddings))
    if documents.is_dir() and not base.passages:
        return _existing(place)
    return base


def _embedder(model: str | None) -> Embedder | None:
    from duologue.errors import DuologueError
    from duologue.retrieval.knowledge import StaticEmbedder

    if model is None:
        return None
    try:
        return StaticEmbedder(model)
    except ImportError as error:
        raise DuologueError(str(error)) from error
    except Exception as error:  # the package raises nothing narrower
        raise DuologueError(f"{model}: no readable model of embeddings: {error}") from error


def _refuse_a_file(index: Path) -> None:
    from duologue.errors import DuologueError

    if index.exists() and not index.is_dir():
        raise DuologueError(f"{index}: is a file; --index is a folder to keep the index in")


def _refuse_an_index_of_nothing(documents: list[Path], index: Path) -> None:
    """Adding to an index tells what is not there; none is begun for that alone."""
    from duologue.errors import DuologueError
    from duologue.retrieval.settings import documents_at

    there = any(documents_at(path).exists() for path in documents)
    if not there and not (index / INDEX_FILE).is_file():
        gone = ", ".join(map(str, documents))
        raise DuologueError(f"{gone}: no such file; there is nothing to begin an index with")


def _added(report: AddReport, base: KnowledgeBase, index: Path) -> dict[str, Any]:
    counts = {name: getattr(report, name) for name in _COUNTS}
    return {
        "index": str(index),
        **counts,
        "new_passages": report.passages,
        "passages": base.passages,
        "failed": report.failed,
    }


def _hit(hit: Hit) -> dict[str, Any]:
    source = hit.source
    places = {"page": source.page, "row": source.row, "line": source.line}
    return {
        "text": hit.text,
        "heading": hit.heading,
        "document": source.title,
        "path": source.location,
        **{name: place for name, place in places.items() if place is not None},
        "confidence": round(hit.confidence, 4),
        "score": round(hit.score, 4),
    }


def _shortened(hit: Hit) -> str:
    text = f"{hit.heading}: {hit.text}" if hit.heading else hit.text
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."
