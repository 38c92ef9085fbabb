"""Make text from outside harmless: one line, printable, bounded.

References and transcripts end in prompts, on the wire (where NUL and tab have meanings) and on
screens, and none of their authors is trusted. What is removed: control characters, invisible format
characters (among them the ones that reorder text), surrogates, private-use and unassigned code
points. What is changed: every run of white space, line breaks included, becomes one space, so text
cannot fake another turn or a second line of a prompt.
"""

from __future__ import annotations

import unicodedata

_REMOVED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_KEPT_FORMAT = frozenset({"\u200c", "\u200d"})
"""Zero-width (non-)joiners change the spelling of some scripts and no more than that."""


def clean_text(text: str, max_chars: int) -> str:
    """One printable line of at most `max_chars` characters, cut at a word where possible."""
    # Cleaning costs time per character, so text far over the bound is cut before, not after.
    text = " ".join(text[: 4 * max_chars + 64].split())
    if text.isprintable():
        return cut_at_word(text, max_chars)
    kept = "".join(
        " " if char.isspace() else char
        for char in text
        if char.isspace()
        or char in _KEPT_FORMAT
        or unicodedata.category(char) not in _REMOVED_CATEGORIES
    )
    return cut_at_word(" ".join(kept.split()), max_chars)


def cut_at_word(text: str, max_chars: int) -> str:
    """At most `max_chars` characters of `text`, without half a word if one whole word fits."""
    if len(text) <= max_chars:
        return text
    cut = text[:max_chars]
    if not text[max_chars].isspace():
        head, space, _ = cut.rpartition(" ")
        cut = head if space else cut
    return cut.rstrip()


def strip_label(text: str, labels: tuple[str, ...] = ("reference", "moshi", "answer")) -> str:
    """Drop a leading `Reference:` (or the like) that models repeat from their prompt."""
    head, colon, rest = text.partition(":")
    if colon and head.strip(" *#_").lower() in labels:
        return rest.strip(" *_")
    return text
