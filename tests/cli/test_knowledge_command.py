"""`duologue knowledge` as a user types it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from duologue.retrieval.knowledge import store

from .test_commands import Result, duologue

FACTS = """# Harbor Museum

The Harbor Museum was founded in 1889 by Agnes Thornbury.

- Saturday: 10am to 4pm
- A child ticket costs 6 pounds.
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of documents, and a current folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    documents = tmp_path / "shop"
    documents.mkdir()
    (documents / "museum.md").write_text(FACTS)
    (documents / "menu.csv").write_text("dish,price\nSoup,4\nBread,2\n")
    return documents


def knowledge(*arguments: object, code: int = 0) -> Result:
    result = duologue("knowledge", *arguments, ok=False)
    assert result.returncode == code, result.stderr or result.stdout
    assert "Traceback" not in result.stderr
    return result


def as_json(*arguments: object, code: int = 0) -> Any:
    result = knowledge(*arguments, "--json", code=code)
    assert not result.stderr
    return json.loads(result.stdout)


def test_add_search_list_and_remove(shop: Path) -> None:
    assert "2 added" in knowledge("add", shop).stdout
    assert Path("knowledge-index", "index.json").is_file()
    assert "2 unchanged" in knowledge("add", shop).stdout

    found = knowledge("search", "who founded the harbour museum", "-k", 1).stdout
    assert "1. shop/museum.md, line 3" in found
    assert "a model is told: The Harbor Museum was founded in eighteen eighty nine by" in found

    listed = knowledge("list").stdout
    assert "shop/menu.csv" in listed
    assert "2 documents, 5 passages" in listed

    assert "1 removed; 3 passages left" in knowledge("remove", "shop/menu.csv").stdout
    knowledge("remove", "shop/menu.csv", code=1)
    knowledge("search", "what is the price of soup", code=1)


def test_everything_as_json(shop: Path) -> None:
    index = ("--index", "other")
    added = as_json("add", shop, *index)
    assert added == {
        "index": "other", "added": 2, "updated": 0, "unchanged": 0, "removed": 0,
        "new_passages": 5, "passages": 5, "failed": {},
    }  # fmt: skip
    found = as_json("search", "what is the price of bread", *index, "-k", 2)
    assert found["reference"] == "The price of Bread is two."
    assert found["sources"] == ["shop/menu.csv, row 3"]
    assert found["confidence"] == found["passages"][0]["confidence"] > 0.5
    best = found["passages"][0]
    assert (best["document"], best["row"]) == ("shop/menu.csv", 3)
    assert best["path"] == str(shop / "menu.csv")
    rows = as_json("list", *index)["documents"]
    assert [(row["name"], row["passages"]) for row in rows] == [
        ("shop/menu.csv", 2),
        ("shop/museum.md", 3),
    ]
    assert as_json("remove", shop, *index) == {"removed": 2, "passages": 0}
    assert as_json("list", *index)["documents"] == []


def test_what_is_not_there_is_not_told(shop: Path) -> None:
    knowledge("add", shop)
    near = as_json("search", "who founded the maritime museum", code=1)
    assert near["reference"] is None
    assert near["passages"][0]["confidence"] < 0.5
    assert "a model is told nothing" in knowledge("search", "who wrote hamlet", code=1).stdout


def test_changes_are_taken_over(shop: Path) -> None:
    knowledge("add", shop)
    (shop / "menu.csv").unlink()
    path = shop / "museum.md"
    path.write_text(FACTS.replace("6 pounds", "7 pounds"))
    report = as_json("add", shop, "--prune")
    assert (report["updated"], report["removed"]) == (1, 1)
    before = path.stat()
    path.write_text(FACTS.replace("6 pounds", "8 pounds"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert as_json("add", shop)["unchanged"] == 1
    assert as_json("add", shop, "--verify")["updated"] == 1
    told = as_json("search", "what does a child ticket cost")["reference"]
    assert "eight pounds" in told


def test_a_question_to_a_document_needs_no_index(shop: Path) -> None:
    told = as_json("search", "when do you open on saturday", "--index", shop / "museum.md")
    assert told["sources"] == ["museum.md, line 5"]
    assert as_json("search", "what is the capital of france", "-i", "factbook")["sources"] == [
        "facts.md, line 545"
    ]
    assert not Path("knowledge-index").exists()


def test_the_environment_names_the_index(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUOLOGUE_INDEX", "elsewhere")
    knowledge("add", shop)
    assert Path("elsewhere", "index.json").is_file()


def test_files_that_cannot_be_read_are_named(shop: Path) -> None:
    (shop / "broken.jsonl").write_text("{")
    result = knowledge("add", shop, shop / "gone.md", code=1)
    assert "2 added" in result.stdout
    said = result.stderr.replace("\n", "")
    assert "broken.jsonl: line 1" in said
    assert "gone.md: no such file" in said
    assert set(as_json("add", shop, code=1)["failed"]) == {str(shop / "broken.jsonl")}


def test_faults_give_one_clear_line(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "index.json").write_text("{")
    cases = [
        (("search", "x"), "duologue knowledge add DOCUMENTS"),
        (("list", "-i", "gone"), "gone: no index"),
        (("remove", "x"), "no index"),
        (("add", shop, "-i", shop / "menu.csv"), "is a file"),
        (("search", "x", "-i", "damaged"), "index.json"),
        (("search", "x", "-i", _picture(tmp_path)), "unknown kind .png"),
        (("add", tmp_path / "typo"), "typo: no such file"),
        (("search", "x"), "knowledge-index: no index"),
        (("add", shop, "--embeddings", "gone"), "embeddings"),
    ]
    for arguments, complaint in cases:
        result = knowledge(*arguments, code=2)
        assert result.stderr.startswith("error: "), result.stderr
        assert complaint in result.stderr.replace("\n", " "), result.stderr
    assert not Path("knowledge-index").exists()
    knowledge("add", tmp_path / "picture.png", code=1)
    assert "knowledge-index: no index" in knowledge("search", "x", code=2).stderr
    knowledge("add", shop)
    assert "typo: no such file" in knowledge("add", tmp_path / "typo", code=1).stderr
    with store.writing(Path("knowledge-index")):
        assert "another process" in knowledge("add", shop, code=2).stderr


def _picture(folder: Path) -> Path:
    path = folder / "picture.png"
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("command", ["add", "search", "list", "remove"])
def test_help_shows_examples(command: str) -> None:
    text = duologue("knowledge", command, "--help").stdout
    assert "Examples" in text
    assert f"duologue knowledge {command}" in text
