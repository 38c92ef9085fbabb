"""What pictures are made of: colours and fonts of the web page, in inches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PAPER, INK, FAINT = "#f4efe6", "#211c17", "#6b6256"
USER, MODEL, BOTH = "#c43c20", "#0e6069", "#6b2340"
SERIF, SANS = ["STIXGeneral", "DejaVu Serif"], ["DejaVu Sans"]
WORDS = {"family": SERIF, "style": "italic", "size": 10.0}
DPI = 144
WIDTH, MARGIN = 13.0, 0.75


def write(page: Any, x: float, y: float, text: str, colour: str, **style: Any) -> None:
    """Put text on the page as it is, dollar signs included; y is its middle."""
    style = {"va": "center", "ha": "left", "family": SANS, "size": 7.5, **style}
    page.text(x, y, text, color=colour, parse_math=False, **style)


def text_width(page: Any, text: str, style: Mapping[str, Any]) -> float:
    """Inches that a text takes."""
    from matplotlib.font_manager import FontProperties

    renderer = page.figure.canvas.get_renderer()
    with quiet():
        width, _, _ = renderer.get_text_width_height_descent(
            text, FontProperties(**style), ismath=False
        )
    return float(width) / DPI


@contextmanager
def quiet() -> Iterator[None]:
    """Scripts that the fonts lack are drawn as boxes, and nobody is told for each letter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        yield
