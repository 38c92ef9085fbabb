"""The table as a picture: every share with its interval and its bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from duologue.evaluation.table import Figure

_GOOD, _BAD, _PLAIN = "#2e8b57", "#c0392b", "#555555"


def draw(figures: Sequence[Figure], path: Path, title: str) -> None:
    """Write a PNG of all figures in per cent."""
    shown = [f for f in figures if f.unit == "%" and f.estimate.value is not None]
    canvas = Canvas(figsize=(9, 1.2 + 0.32 * max(1, len(shown))), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    for row, figure in enumerate(reversed(shown)):
        value = figure.estimate.value or 0.0
        colour = {None: _PLAIN, True: _GOOD, False: _BAD}[figure.reached]
        axes.barh(row, value, color=colour, alpha=0.7, height=0.62)
        if figure.estimate.low is not None and figure.estimate.high is not None:
            axes.plot([figure.estimate.low, figure.estimate.high], [row, row], color="black", lw=1)
        if figure.bar is not None:
            mark = ">" if figure.bar.at_least else "<"
            axes.plot(figure.bar.value, row, marker=mark, color="black", ms=5)
    axes.set_yticks(range(len(shown)), [figure.title for figure in reversed(shown)], fontsize=8)
    axes.set_xlim(left=0)
    axes.set_xlabel("per cent; line: 95 % interval; arrow head: bar")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=130)
