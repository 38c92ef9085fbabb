"""A small template language for phrasings.

`[please|kindly]` is one of the options or nothing, `(a|b)` exactly one of them, `{e}` a slot. Both
may be nested. A template is its own name: what is held out is listed by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from duologue.synthesis.draw import Draw
from duologue.synthesis.splits import Split, allowed_phrasings

_INNERMOST = re.compile(r"\[([^\[\]()]*)\]|\(([^\[\]()]*)\)")
_OPTION_CHANCE = 0.45


@dataclass(frozen=True)
class Phrase:
    """A text and the template it was made from."""

    text: str
    template: str


def expand(template: str, draw: Draw, **slots: str) -> str:
    """One text of a template, slots filled, spaces and capitals put right."""

    def resolve(match: re.Match[str]) -> str:
        optional, required = match.groups()
        if optional is None:
            return draw.choice(required.split("|"))
        return draw.choice(optional.split("|")) if draw.chance(_OPTION_CHANCE) else ""

    text, found = template, 1
    while found:
        text, found = _INNERMOST.subn(resolve, text)
    return tidy(text.format(**slots))


def tidy(text: str) -> str:
    """Single spaces, none before punctuation, a capital at the start of each sentence."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.?!])", r"\1", text)
    text = re.sub(r",(?=[.?!])", "", text)
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)


def pick(templates: tuple[str, ...], draw: Draw, split: Split, **slots: str) -> Phrase:
    """A phrasing that `split` may use."""
    template = draw.choice(allowed_phrasings(templates, split))
    return Phrase(expand(template, draw, **slots), template)


def variants(template: str) -> int:
    """How many texts a template has before its slots are filled."""
    counts: list[int] = []

    def count(match: re.Match[str]) -> str:
        optional, required = match.groups()
        options = (optional if optional is not None else required).split("|")
        total = sum(_product(option, counts) for option in options) + (optional is not None)
        counts.append(total)
        return f"\0{len(counts) - 1}\0"

    text, found = template, 1
    while found:
        text, found = _INNERMOST.subn(count, text)
    return _product(text, counts)


def _product(text: str, counts: list[int]) -> int:
    product = 1
    for mark in re.findall("\0(\\d+)\0", text):
        product *= counts[int(mark)]
    return product
