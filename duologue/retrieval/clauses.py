"""Cut English text into sentences and clauses, whole or while it is still arriving.

A clause is the smallest piece worth injecting on its own: it ends at a sentence end, a semicolon or
colon, or at a comma after at least `MIN_CLAUSE_WORDS` words. Abbreviations, initials, decimals and
times do not end anything. Joining the pieces with single spaces gives the text back.
"""

from __future__ import annotations

import re

MIN_CLAUSE_WORDS = 5
MAX_PENDING_CHARS = 4_000
"""Text without any boundary is given out at the last space before this bound."""

_ABBREVIATIONS = frozenset(
    """
        mr mrs ms dr prof st mt jr sr vs etc e.g i.e approx inc ltd co corp no nos vol fig dept
        est jan feb mar apr jun jul aug sep sept oct nov dec gen col lt sgt rev hon capt u.s u.k
        a.m p.m ave blvd rd cf al
    """.split()  # noqa: SIM905
)
_ENDING = re.compile(r"""[.!?;:,\u2026]+["'\u201d\u2019)\]]*(?=\s)""")


def split_sentences(text: str) -> list[str]:
    """Sentences of a text; line breaks count as spaces."""
    return _split(" ".join(text.split()), clauses=False)


def split_clauses(text: str) -> list[str]:
    """Clauses of a text."""
    return _split(" ".join(text.split()), clauses=True)


def ends_sentence(text: str) -> bool:
    """Whether a piece is a complete sentence by its last character."""
    return text.rstrip("\"'\u201d\u2019)] ").endswith((".", "!", "?", "\u2026"))


class ClauseStream:
    """Collects text as it arrives and gives out clauses as soon as they are complete."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, text: str) -> list[str]:
        """Add text; returns the clauses that it completed."""
        self._pending = " ".join((self._pending + text).split()) + (
            " " if text[-1:].isspace() else ""
        )
        pieces: list[str] = []
        start = 0
        for end in _boundaries(self._pending, clauses=True):
            pieces.append(self._pending[start:end].strip())
            start = end
        self._pending = self._pending[start:].lstrip()
        while len(self._pending) > MAX_PENDING_CHARS:
            end = self._pending.rfind(" ", 0, MAX_PENDING_CHARS)
            end = end if end > 0 else MAX_PENDING_CHARS
            pieces.append(self._pending[:end])
            self._pending = self._pending[end:].lstrip()
        return pieces

    def flush(self) -> list[str]:
        """What is left, complete or not."""
        rest, self._pending = self._pending.strip(), ""
        return [rest] if rest else []


def _split(text: str, *, clauses: bool) -> list[str]:
    pieces: list[str] = []
    start = 0
    for end in _boundaries(text, clauses=clauses):
        pieces.append(text[start:end].strip())
        start = end
    if text[start:].strip():
        pieces.append(text[start:].strip())
    return pieces


def _boundaries(text: str, *, clauses: bool) -> list[int]:
    """Positions right after each piece's last mark; a mark counts once white space follows it."""
    ends: list[int] = []
    start = 0
    for match in _ENDING.finditer(text):
        mark = match.group()
        if mark[0] in ",;:" and not any(char in mark for char in ".!?\u2026"):
            if not clauses:
                continue
            if mark[0] == "," and len(text[start : match.start()].split()) < MIN_CLAUSE_WORDS:
                continue
        elif mark.startswith(".") and _is_abbreviation(text, match.start()):
            continue
        ends.append(match.end())
        start = match.end()
    return ends


def _is_abbreviation(text: str, dot: int) -> bool:
    word = text[text.rfind(" ", 0, dot) + 1 : dot].lstrip("\"'(\u201c\u2018[")
    if len(word) == 1 and word.isalpha() and word.isupper():
        return True
    return word.lower() in _ABBREVIATIONS
