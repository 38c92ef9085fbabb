"""One line of a timeline: two voices, the words of both, the floor, and what was looked up.

Top to bottom: the user's words and voice, who has the floor, the model's voice and words, then each
lookup (a dot at the trigger, dots while it waits, a line while it runs, a stroke for every row that
is added), and the clock. Whoever is talked into is shaded until they stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duologue.engine.api import FRAME_S
from duologue.offline.log import Samples
from duologue.offline.style import (
    BOTH,
    FAINT,
    INK,
    MARGIN,
    MODEL,
    PAPER,
    USER,
    WIDTH,
    WORDS,
    text_width,
    write,
)

HEIGHT = 2.62
MAX_DRIFT = 1.2
"""Furthest that a word may be from its time; one that would be further is left out."""
_ROW_DRIFT = 0.4
"""From here on the other row is taken, if it is nearer."""
_SPACE = 0.055
# From the top of a line.
_USER_ROWS, _USER_Y, _FLOOR_Y, _MODEL_Y = (0.34, 0.18), 0.80, 1.19, 1.58
_MODEL_ROWS, _LOOKUP_Y, _RULER_Y = (2.10, 2.26), 2.42, 2.56
_LANE = 0.34
_BIN_S = 0.02


@dataclass(frozen=True)
class ScoreLine:
    """`begin_s` to `end_s`, of which all up to `last_s` is there; `top` is where it begins."""

    page: Any
    top: float
    begin_s: float
    end_s: float
    last_s: float

    def draw(
        self,
        trace: Mapping[str, Any],
        words: Mapping[str, list[Mapping[str, Any]]],
        user: Samples,
        model: Samples,
        sample_rate: int,
    ) -> None:
        """All that happens in it, background first; what is drawn is taken from `words`."""
        self._ruler()
        for barge_in in trace["barge_ins"]:
            self._barge_in(barge_in, len(trace["model_text"]))
        self._floor(trace["transcript"])
        for name, pcm, y, colour in (
            ("USER", user, _USER_Y, USER),
            ("MODEL", model, _MODEL_Y, MODEL),
        ):
            self._voice(pcm, sample_rate, y, colour)
            self._write(MARGIN - 0.12, y, name, colour, size=6.5, ha="right", weight="bold")
        self._words(words["user"], _USER_ROWS, USER)
        self._words(words["model"], _MODEL_ROWS, MODEL)
        self._end_of_question(trace["question_end_step"])
        for number, lookup in enumerate(trace["lookups"], 1):
            self._lookup(number, lookup)

    def _x(self, second: float) -> float:
        scale = (WIDTH - 2 * MARGIN) / (self.end_s - self.begin_s)
        return MARGIN + (second - self.begin_s) * scale

    def _has(self, second: float) -> bool:
        return self.begin_s <= second < self.end_s

    def _cut(self, start_s: float, end_s: float) -> tuple[float, float] | None:
        """The part of a stretch of time that is in this line, as x."""
        start_s, end_s = max(start_s, self.begin_s), min(end_s, self.end_s)
        return (self._x(start_s), self._x(end_s)) if start_s < end_s else None

    def _write(self, x: float, y: float, text: str, colour: str, **style: Any) -> None:
        write(self.page, x, self.top + y, text, colour, **style)

    def _rule(self, ends: tuple[float, float], y: float, colour: str, **style: Any) -> None:
        self.page.plot(ends, [self.top + y] * 2, color=colour, **{"lw": 0.9, **style})

    def _post(self, x: float, y0: float, y1: float, colour: str, **style: Any) -> None:
        ys = [self.top + y0, self.top + y1]
        self.page.plot([x, x], ys, color=colour, **{"lw": 0.7, **style})

    def _ruler(self) -> None:
        step = 5 if self.end_s - self.begin_s > 8 else 2
        for second in range(int(np.ceil(self.begin_s)), int(min(self.end_s, self.last_s)) + 1):
            told = second % step == 0
            x = self._x(second)
            self._post(x, _RULER_Y - (0.05 if told else 0.025), _RULER_Y, FAINT, lw=0.6)
            if told:
                label = f"{second // 60}:{second % 60:02d}"
                self._write(x + 0.04, _RULER_Y - 0.015, label, FAINT, size=6)

    def _voice(self, pcm: Samples, sample_rate: int, y: float, colour: str) -> None:
        self._rule((self._x(self.begin_s), self._x(self.last_s)), y, colour)
        times, heights = envelope(pcm, sample_rate, self.begin_s, self.last_s)
        xs, middle = [self._x(second) for second in times], self.top + y
        above, below = middle - _LANE * heights, middle + _LANE * heights
        self.page.fill_between(xs, above, below, color=colour, lw=0, alpha=0.92)

    def _words(
        self, words: list[Mapping[str, Any]], rows: tuple[float, float], colour: str
    ) -> None:
        """The words up to the line's end, taken from `words`; text that lags changes its row."""
        free, row = [MARGIN - 0.1] * 2, 0
        while words and words[0]["step"] * FRAME_S < self.end_s:
            text = words[0]["text"]
            x, width = self._x(words[0]["step"] * FRAME_S), text_width(self.page, text, WORDS)
            at = [max(x, one) for one in free]
            if at[row] - x > _ROW_DRIFT and at[1 - row] < at[row]:
                row = 1 - row
            elif row and free[0] + _ROW_DRIFT <= x:
                row = 0
            if at[row] + width > WIDTH - MARGIN + 0.3 and x > MARGIN:
                return  # to the next line with it
            words.pop(0)
            if at[row] - x <= MAX_DRIFT:
                free[row] = at[row] + width + _SPACE
                self._write(at[row], rows[row], text, colour, **WORDS)

    def _floor(self, turns: Sequence[Mapping[str, Any]]) -> None:
        """Whose turn it is, between the voices."""
        colours = {"user": USER, "model": MODEL}
        steps = [turn["step"] * FRAME_S for turn in turns]
        for turn, start_s, end_s in zip(turns, steps, [*steps[1:], self.last_s], strict=True):
            if cut := self._cut(start_s, min(end_s, self.last_s)):
                style = {"lw": 2.2, "alpha": 0.45, "solid_capstyle": "butt"}
                self._rule(cut, _FLOOR_Y, colours[turn["role"]], **style)

    def _barge_in(self, barge_in: Mapping[str, Any], frames: int) -> None:
        stopped = barge_in["stopped_step"]
        end = frames if stopped is None else stopped
        if cut := self._cut(barge_in["step"] * FRAME_S, end * FRAME_S):
            top, bottom = _USER_Y - _LANE - 0.03, _MODEL_Y + _LANE + 0.03
            ys = (self.top + top, self.top + bottom)
            self.page.fill_between(cut, *ys, color=BOTH, alpha=0.10, lw=0)
            for x in cut:
                self._post(x, top, bottom, BOTH, alpha=0.8)

    def _end_of_question(self, step: int) -> None:
        second = (step + 1) * FRAME_S
        if self._has(second):
            style = {"ls": (0, (1, 2))}
            self._post(self._x(second), _USER_Y - _LANE, _MODEL_Y + _LANE, FAINT, **style)

    def _lookup(self, number: int, lookup: Mapping[str, Any]) -> None:
        """Trigger, wait, lookup and rows, in the order in which they happen."""
        trigger_s = lookup["trigger_step"] * FRAME_S
        start_s = _seconds(lookup["start_step"], trigger_s)
        end_s = _seconds(lookup["ended_step"], self.last_s)
        told_s = _seconds(lookup["conditioning_step"], end_s)
        y = self.top + _LOOKUP_Y
        if cut := self._cut(trigger_s, start_s):
            style = {"ls": (0, (0.1, 2.6)), "dash_capstyle": "round", "lw": 1.4}
            self._rule(cut, _LOOKUP_Y, INK, **style)
        if cut := self._cut(start_s, max(told_s, end_s)):
            self._rule(cut, _LOOKUP_Y, INK, lw=1.2)
        if self._has(trigger_s):
            x = self._x(trigger_s)
            self._post(x, _MODEL_Y, _LOOKUP_Y, INK, lw=0.6, alpha=0.55)
            self.page.plot([x], [y], "o", ms=3.0, color=INK)
            style = {"size": 7, "ha": "right", "weight": "bold"}
            self._write(x - 0.07, _LOOKUP_Y, str(number), INK, **style)
        if lookup["ended_step"] is not None and self._has(end_s):
            face = INK if lookup["outcome"] == "answered" else PAPER
            self.page.plot([self._x(end_s)], [y], "o", ms=5.0, mfc=face, mec=INK, mew=1.0)
        for row in range(lookup["rows"]):
            row_s = told_s + (row + 1) * FRAME_S
            if self._has(row_s) and row_s < self.last_s:
                self._post(self._x(row_s), _LOOKUP_Y - 0.055, _LOOKUP_Y + 0.055, MODEL, lw=1.1)


def envelope(
    pcm: Samples, sample_rate: int, begin_s: float, end_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and heights in [0, 1] of a voice; the square root lets quiet speech be seen."""
    size = int(_BIN_S * sample_rate)
    part = np.abs(pcm[int(begin_s * sample_rate) : int(end_s * sample_rate)])
    if len(part) < size:
        return np.zeros(0), np.zeros(0)
    peaks = part[: len(part) - len(part) % size].reshape(-1, size).max(axis=1)
    smooth = np.convolve(np.pad(peaks, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    times = begin_s + (np.arange(len(smooth)) + 0.5) * size / sample_rate
    return times, np.sqrt(np.clip(smooth, 0, 1))


def _seconds(step: int | None, otherwise_s: float) -> float:
    return otherwise_s if step is None else step * FRAME_S
