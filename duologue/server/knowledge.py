"""Documents that clients add, list, search and remove: `/api/knowledge`.

Uploads live in a folder of the server's own, under names it makes up; a client's name only becomes
the last, cleaned part of the path, and documents are addressed by ids. All changes go through one
worker, so they happen one after the other and never on the event loop.

Bounds: the size of a file, the number of documents, and `MAX_RESULTS` hits of a search.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import shutil
import unicodedata
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from duologue.errors import DuologueError
from duologue.retrieval.knowledge import Document, Hit, IndexBusy, KnowledgeBase
from duologue.retrieval.knowledge.readers import READERS
from duologue.retrieval.settings import documents_at
from duologue.server.refusals import Refusal

logger = logging.getLogger(__name__)

MAX_NAME_CHARACTERS = 100
MAX_QUERY_CHARACTERS = 1_000
MAX_RESULTS = 20
_UPLOADS = "uploads"
_ODD = re.compile(r"[^\w .,()+&'-]+")

T = TypeVar("T")


class KnowledgeError(DuologueError):
    """Documents given at the start cannot be used; names the first."""


class KnowledgeStore:
    """The server's documents: an index in `folder`, uploads beside it."""

    def __init__(
        self, folder: Path, *, upload_bytes: int, documents: int, persistent: bool = True
    ) -> None:
        self.base = KnowledgeBase.open(folder)
        self.persistent = persistent
        """Whether uploads outlive the server."""
        self.upload_bytes, self.most = upload_bytes, documents
        self._uploads = folder / _UPLOADS
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="knowledge")

    def seed(self, sources: Sequence[str]) -> None:
        """Index the documents that the settings name; `factbook` is the one that is shipped."""
        paths = [documents_at(name) for name in sources]
        for path in paths:
            if not path.exists():
                raise KnowledgeError(f"{path}: there is no such file or folder of documents")
            if (path / "index.json").is_file():
                raise KnowledgeError(f"{path}: an index; name it with --knowledge-dir instead")
        report = self.base.add(paths)
        for failed, reason in report.failed.items():
            if Path(failed) in paths:
                raise KnowledgeError(f"{failed}: {reason}")
            logger.warning("a document was left out", extra={"fields": {"reason": reason}})

    def entries(self) -> list[dict[str, Any]]:
        """All documents, by name."""
        return [_entry(document) for document in self.base.list()]

    def limits(self) -> dict[str, Any]:
        return {
            "upload_bytes": self.upload_bytes,
            "documents": self.most,
            "kinds": sorted(READERS),
        }

    async def add(self, name: str, body: AsyncIterator[bytes]) -> tuple[dict[str, Any], bool]:
        """Take in a file; one of the same name that was uploaded before is replaced.

        Returns its entry, and whether it is new.

        Raises:
            Refusal: 400 name, 413 size, 415 kind, 422 unreadable, 409 too many, 503 busy.
        """
        name = clean_name(name)
        folder = self._uploads / secrets.token_hex(8)
        path = folder / name
        try:
            await self._work(folder.mkdir, 0o777, True)
            await self._store(path, body)
            return await self._work(self._add, path)
        except BaseException:
            await asyncio.shield(self._work(shutil.rmtree, folder, True))
            raise

    async def remove(self, identity: str) -> None:
        """Take a document out of the index, and its file away if it was uploaded.

        Raises:
            Refusal: 404, 503 busy.
        """
        await self._work(self._remove, identity)

    async def search(self, query: str, count: int) -> list[dict[str, Any]]:
        """The best passages for a question."""
        hits = await asyncio.to_thread(
            self.base.search, query[:MAX_QUERY_CHARACTERS], max(1, min(count, MAX_RESULTS))
        )
        return [_shown(hit) for hit in hits]

    def close(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)

    # In the worker.

    def _add(self, path: Path) -> tuple[dict[str, Any], bool]:
        documents = self.base.list()
        replaced = [
            document.path
            for document in documents
            if document.name == path.name and self._is_upload(Path(document.path))
        ]
        if len(documents) - len(replaced) >= self.most:
            raise Refusal(409, "documents", f"there are {self.most} documents already")
        report = self.base.add([path])
        if report.failed:
            raise Refusal(422, "unreadable", f"{path.name}: {next(iter(report.failed.values()))}")
        self._forget(replaced)
        for document in self.base.list():
            if Path(document.path) == path.resolve():
                return _entry(document), not replaced
        raise Refusal(503, "busy", "the index was changed meanwhile", retry_after_s=1)

    def _remove(self, identity: str) -> None:
        found = [document.path for document in self.base.list() if _id(document) == identity]
        if not found:
            raise Refusal(404, "document", "there is no such document")
        self._forget(found)

    def _forget(self, paths: Sequence[str]) -> None:
        if paths:
            self.base.remove(paths)
        for path in map(Path, paths):
            if self._is_upload(path):
                shutil.rmtree(path.parent, ignore_errors=True)

    def _is_upload(self, path: Path) -> bool:
        return path.parent.parent == self._uploads.resolve()

    async def _store(self, path: Path, body: AsyncIterator[bytes]) -> None:
        """Write the upload, no more of it than is allowed."""
        size = 0
        file = await self._work(path.open, "xb")
        try:
            async for chunk in body:
                size += len(chunk)
                if size > self.upload_bytes:
                    raise Refusal(413, "size", f"at most {self.upload_bytes} bytes are taken")
                await self._work(file.write, chunk)
        finally:
            await self._work(file.close)

    async def _work(self, function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._worker, function, *arguments)
        except IndexBusy:
            raise Refusal(
                503, "busy", "another process is changing the index", retry_after_s=1
            ) from None
        except OSError as error:
            logger.error("the index cannot be changed", extra={"fields": {"error": error.strerror}})
            raise Refusal(507, "storage", "the document cannot be stored") from None


def clean_name(name: str) -> str:
    """The last part of a client's file name, with nothing in it that a path could mean.

    Raises:
        Refusal: 400, nothing is left; 415, not a kind of document that can be read.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    cleaned = " ".join(_ODD.sub("_", last).split()).lstrip(". ")
    stem, dot, suffix = cleaned.rpartition(".")
    if not dot or f".{suffix.lower()}" not in READERS:
        raise Refusal(415, "kind", f"documents are {', '.join(sorted(READERS))}")
    if not stem.strip(" ._"):
        raise Refusal(400, "name", "the document needs a name")
    while len((stem + dot + suffix).encode()) > MAX_NAME_CHARACTERS:
        stem = stem[:-1]
    return stem + dot + suffix


def _id(document: Document) -> str:
    return hashlib.sha256(document.path.encode("utf-8", "replace")).hexdigest()[:16]


def _entry(document: Document) -> dict[str, Any]:
    return {
        "id": _id(document),
        "name": document.name,
        "bytes": document.size,
        "passages": document.passages,
    }


def _shown(hit: Hit) -> dict[str, Any]:
    return {
        "text": hit.text,
        "heading": hit.heading,
        "title": hit.source.title,
        "citation": hit.source.cite(),
        "score": round(hit.score, 4),
        "coverage": round(hit.coverage, 4),
    }
