"""A trace as a picture: both voices, both sides' words, who has the floor, what was looked up.

Drawn from the trace and the two recordings alone, so a picture can be made at any time. A
conversation is set like music, in lines of `LINE_S` seconds (`score`), longer ones where there
would be more than `MAX_LINES` of them; under them stands what was looked up.

Needs matplotlib: `pip install 'duologue[plots]'`.
"""

from __future__ import annotations

import importlib.util
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from duologue.engine.api import FRAME_S
from duologue.offline.log import Samples
from duologue.offline.score import HEIGHT, ScoreLine
from duologue.offline.settings import TalkError
from duologue.offline.style import DPI, FAINT, INK, MARGIN, PAPER, SERIF, WIDTH, WORDS, quiet, write

LINE_S = 10.0
SHORTEST_LINE_S = 6.0
MAX_LINES = 24
MAX_NOTES = 12
"""Lookups told in words."""
_HEAD, _NOTE, _FOOT = 0.75, 0.42, 0.38


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_can_draw() -> None:
    """Say what to install.

    Raises:
        TalkError: matplotlib is not there.
    """
    if not can_draw():
        raise TalkError("pictures need matplotlib: pip install 'duologue[plots]'")


def draw_timeline(
    path: Path, trace: Mapping[str, Any], user: Samples, model: Samples, sample_rate: int
) -> None:
    """Write a PNG of a conversation; `user` and `model` are its voices [T]."""
    figure = make_figure(trace, user, model, sample_rate)
    with quiet():
        figure.savefig(path, dpi=DPI, facecolor=PAPER)


def make_figure(trace: Mapping[str, Any], user: Samples, model: Samples, sample_rate: int) -> Any:
    """The same as a matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = max(len(user), len(model)) / sample_rate
    lines = line_times(seconds)
    words = {role: list(said) for role, said in trace["words"].items()}
    notes = trace["lookups"][:MAX_NOTES]
    height = _HEAD + HEIGHT * len(lines) + _NOTE * len(notes) + _FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, WIDTH), ylim=(height, 0))
    page.axis("off")
    _head(page, trace, seconds)
    for number, (begin_s, end_s) in enumerate(lines):
        top = _HEAD + number * HEIGHT
        line = ScoreLine(page, top, begin_s, end_s, min(end_s, seconds))
        line.draw(trace, words, user, model, sample_rate)
    _notes(page, notes, _HEAD + HEIGHT * len(lines) + 0.18)
    return figure


def line_times(seconds: float) -> list[tuple[float, float]]:
    """Beginning and end of each line; all are equally long."""
    length = max(LINE_S, seconds / MAX_LINES)
    if seconds <= LINE_S:
        length = max(SHORTEST_LINE_S, math.ceil(seconds))
    # A last line of less than a frame is none.
    count = max(1, math.ceil((seconds - FRAME_S / 2) / length))
    return [(number * length, (number + 1) * length) for number in range(count)]


def _head(page: Any, trace: Mapping[str, Any], seconds: float) -> None:
    run = trace["run"]
    write(page, MARGIN, 0.38, Path(run["input"]).stem, INK, family=SERIF, size=17)
    told = f"{Path(run['model']).name}, seed {run['settings']['seed']}, {seconds:.1f} s"
    write(page, WIDTH - MARGIN, 0.40, told, FAINT, ha="right")
    page.plot([MARGIN, WIDTH - MARGIN], [0.62, 0.62], color=FAINT, lw=0.5, alpha=0.6)


def _notes(page: Any, lookups: Sequence[Mapping[str, Any]], top: float) -> None:
    """What was asked, what was found, where, and how long it took."""
    for number, lookup in enumerate(lookups):
        y = top + number * _NOTE
        write(page, MARGIN - 0.12, y, str(number + 1), INK, weight="bold", ha="right")
        asked = _short(lookup["question"] or "(no words known)", 90)
        write(page, MARGIN, y, asked, FAINT, **WORDS)
        told = _short(lookup["reference"] or _failure(lookup), 130)
        write(page, MARGIN, y + 0.18, told, INK, family=SERIF, size=10.5)
        facts = ", ".join(_facts(lookup))
        write(page, WIDTH - MARGIN, y, facts, FAINT, size=7, ha="right")


def _failure(lookup: Mapping[str, Any]) -> str:
    outcome = lookup["outcome"].replace("_", " ")
    return f"{outcome}: {lookup['reason']}" if lookup["reason"] else outcome


def _facts(lookup: Mapping[str, Any]) -> Iterator[str]:
    if lookup["sources"]:
        more = len(lookup["sources"]) - 1
        title = _short(lookup["sources"][0]["title"], 40)
        yield f"{title} (+{more})" if more else title
    elif lookup["label"]:
        yield _short(lookup["label"], 40)
    if lookup["lookup_s"] is not None:
        yield f"lookup {1000 * lookup['lookup_s']:.0f} ms"
    if lookup["encoding_s"] is not None:
        yield f"encoding {1000 * lookup['encoding_s']:.0f} ms"
    if lookup["conditioning_step"] is not None and lookup["rows"]:
        frames = lookup["conditioning_step"] + 1 - lookup["trigger_step"]
        yield f"first row {frames * FRAME_S:.2f} s after the trigger"


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" …")
