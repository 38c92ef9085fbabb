"""Documents of clients: names, sizes, replacement, search."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.folders import write_model

from duologue.engine.model import load_model
from duologue.retrieval.knowledge.readers import READERS
from duologue.server.assembly import Loaded, open_lobby
from duologue.server.knowledge import (
    MAX_NAME_CHARACTERS,
    KnowledgeError,
    KnowledgeStore,
    clean_name,
)
from duologue.server.refusals import Refusal
from duologue.server.settings import ServerSettings
from duologue.stt import load_recogniser


async def body(text: str | bytes, chunk: int = 7) -> AsyncIterator[bytes]:
    data = text.encode() if isinstance(text, str) else text
    for at in range(0, len(data), chunk):
        yield data[at : at + chunk]


def store(folder: Path, **limits: int) -> KnowledgeStore:
    return KnowledgeStore(folder, **{"upload_bytes": 1000, "documents": 3, **limits})


def files(folder: Path) -> set[str]:
    uploads = folder / "uploads"
    return {path.name for path in uploads.rglob("*") if path.is_file()}


def test_add_search_replace_remove(tmp_path: Path) -> None:
    async def run() -> None:
        documents = store(tmp_path)
        entry, is_new = await documents.add("opening.md", body("The shop opens at nine.\n"))
        assert is_new
        assert entry["name"] == "opening.md"
        assert entry["passages"] == 1
        [hit] = await documents.search("when does the shop open", 3)
        assert hit["text"] == "The shop opens at nine."
        assert hit["citation"] == "opening.md, line 1"
        entry, is_new = await documents.add("opening.md", body("The shop opens at ten.\n"))
        assert not is_new
        [hit] = await documents.search("when does the shop open", 3)
        assert "ten" in hit["text"], "the newer file has taken the older one's place"
        assert [known["name"] for known in documents.entries()] == ["opening.md"]
        assert files(tmp_path) == {"opening.md"}
        await documents.remove(entry["id"])
        assert documents.entries() == []
        assert files(tmp_path) == set()
        with pytest.raises(Refusal) as refused:
            await documents.remove(entry["id"])
        assert refused.value.status == 404
        documents.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("a.md", "x" * 1001, 413),
        ("a.exe", "x", 415),
        ("noending", "x", 415),
        (".md", "x", 415),
        ("_.md", "x", 400),
        ("a.md", b"\x00\x01\x02", 422),
        ("a.docx", "no archive", 422),
    ],
)
def test_what_cannot_be_taken_leaves_nothing(
    tmp_path: Path, name: str, content: str | bytes, status: int
) -> None:
    async def run() -> None:
        documents = store(tmp_path)
        with pytest.raises(Refusal) as refused:
            await documents.add(name, body(content))
        assert refused.value.status == status
        assert documents.entries() == []
        assert files(tmp_path) == set()
        documents.close()

    asyncio.run(run())


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"The shop"
        raise ConnectionError

    async def run() -> None:
        documents = store(tmp_path)
        with pytest.raises(ConnectionError):
            await documents.add("a.md", broken())
        assert files(tmp_path) == set()
        documents.close()

    asyncio.run(run())


def test_so_many_documents_and_no_more(tmp_path: Path) -> None:
    async def run() -> None:
        documents = store(tmp_path, documents=2)
        for name in ("a.md", "b.md", "b.md"):
            await documents.add(name, body(f"Text of {name} in words."))
        with pytest.raises(Refusal) as refused:
            await documents.add("c.md", body("One more."))
        assert refused.value.status == 409
        assert files(tmp_path) == {"a.md", "b.md"}
        documents.close()

    asyncio.run(run())


def test_documents_given_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "facts.txt"
    file.write_text("The mill was built in 1802.\n")
    documents = store(tmp_path / "index")
    documents.seed([str(file), "factbook"])
    names = {entry["name"] for entry in documents.entries()}
    assert {"facts.txt", "factbook/facts.md"} & names
    asyncio.run(
        documents.remove(next(e["id"] for e in documents.entries() if "facts" in e["name"]))
    )
    assert file.exists(), "only uploads are deleted"
    with pytest.raises(KnowledgeError, match="no such file"):
        documents.seed([str(tmp_path / "absent.md")])
    with pytest.raises(KnowledgeError, match="--knowledge-dir"):
        documents.seed([str(tmp_path / "index")])
    documents.close()


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("facts.md", "facts.md"),
        ("../../etc/cron.d/facts.md", "facts.md"),
        ("C:\\Users\\me\\facts.MD", "facts.MD"),
        ("..hidden.txt", "hidden.txt"),
        ("a\0b\n c<>.csv", "a_b_ c_.csv"),
        ("menü 2024 (neu).pdf", "menü 2024 (neu).pdf"),
        ("x" * 300 + ".html", "x" * 95 + ".html"),
    ],
)
def test_names(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=150), st.sampled_from(["", *READERS]))
def test_no_name_reaches_out_of_its_folder(stem: str, suffix: str) -> None:
    try:
        name = clean_name(stem + suffix)
    except Refusal:
        return
    assert Path(name).name == name
    assert not name.startswith(".")
    assert name.isprintable()
    assert len(name.encode()) <= MAX_NAME_CHARACTERS
    assert Path("/srv/x", name).resolve().parent == Path("/srv/x")


def test_the_fact_book_is_one_document(tmp_path: Path) -> None:
    """Its tables say the same once more, and an answer that is there twice is no surer."""
    documents = store(tmp_path, documents=10)
    documents.seed(["factbook"])
    assert [document["name"] for document in documents.entries()] == ["facts.md"]
    hits = asyncio.run(documents.search("what is the capital of peru", 5))
    assert sum("Lima" in hit["text"] for hit in hits) == 1
    documents.close()


def test_uploaded_names_reach_the_recogniser(tmp_path: Path) -> None:
    """Local recognition leans towards the names of all documents, also those that come later."""
    model = load_model(write_model(tmp_path / "model"), device="cpu")
    recogniser = load_recogniser(tmp_path / "model", codec=model.codec, vocabulary=())
    (tmp_path / "facts.md").write_text("The house was built by Tessa Starrat.\n")
    settings = ServerSettings(
        model=str(tmp_path / "model"), knowledge=(str(tmp_path / "facts.md"),), sessions=1
    )

    def entries() -> int:
        return recogniser.bias.entries if recogniser.bias is not None else 0

    async def run() -> None:
        async with open_lobby(settings, Loaded(model, recogniser), {}) as lobby:
            assert entries() == 2
            text = "It is rated by Sara Tessatea and by Tara Easteras.\n"
            entry, _ = await lobby.knowledge.add("more.md", body(text))
            await reached(lambda: entries() == 6)
            await lobby.knowledge.remove(entry["id"])
            await reached(lambda: entries() == 2)

    asyncio.run(run())


async def reached(condition: Callable[[], bool], patience_s: float = 10.0) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.01)
