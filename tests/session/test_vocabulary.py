"""Names of a knowledge base reach the recogniser that hears its users, also later ones."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.conversations import recogniser

from duologue.retrieval.knowledge import KnowledgeBase
from duologue.session.vocabulary import MAX_NAMES, VocabularyFollower, tell_names

PATIENCE_S = 10.0


class Notebook:
    """A recogniser that writes down what it is told, and lets a test wait for it."""

    leans = True

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.news = threading.Semaphore(0)
        self.fails = False

    def set_vocabulary(self, words: Iterable[str]) -> int:
        if self.fails:
            raise RuntimeError("no")
        self.told.append(list(words))
        self.news.release()
        return len(self.told[-1])

    def wait(self) -> list[str]:
        assert self.news.acquire(timeout=PATIENCE_S)
        return self.told[-1]


@pytest.fixture
def base(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(tmp_path / "index")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_names_follow_what_is_added_and_removed(base: KnowledgeBase, tmp_path: Path) -> None:
    heard = Notebook()
    follower = VocabularyFollower(base, heard)
    assert heard.wait() == []
    first = write(tmp_path, "a.md", "The museum was founded by Agnes Thornbury.")
    base.add([first])
    assert set(heard.wait()) == {"Agnes", "Thornbury"}
    # Another process adds; a lookup finds that out.
    other = KnowledgeBase.open(tmp_path / "index")
    other.add([write(tmp_path, "b.md", "Its director is Orla Quimby.")])
    base.refresh()
    assert set(heard.wait()) == {"Agnes", "Thornbury", "Orla", "Quimby"}
    base.remove([first])
    assert set(heard.wait()) == {"Orla", "Quimby"}
    follower.close()
    base.remove(["b.md"])
    assert set(heard.told[-1]) == {"Orla", "Quimby"}, "nobody follows any more"


def test_a_failure_leaves_the_names_of_before_and_goes_on(
    base: KnowledgeBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Notebook()
    follower = VocabularyFollower(base, heard)
    heard.wait()
    heard.fails = True
    base.add([write(tmp_path, "a.md", "It belongs to Mister Thornbury.")])
    follower.close()
    assert "RuntimeError" in caplog.text
    assert "Thornbury" not in caplog.text
    heard.fails = False
    again = VocabularyFollower(base, heard)
    assert "Thornbury" in heard.wait()
    again.close()


def test_names_are_bounded() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [f"A{a}{b}{c}" for a in letters for b in letters for c in letters[:4]]
    texts = [("t", str(n), f"It was made by {name}.") for n, name in enumerate(names)]
    assert tell_names(KnowledgeBase.from_texts(texts), Notebook()) == MAX_NAMES


def test_a_recogniser_that_never_leans_is_left_alone() -> None:
    base = KnowledgeBase.from_texts([("t", "", "It was made by Thornbury.")])
    assert tell_names(base, recogniser()) == 0
    assert recogniser().bias is None
