"""The picture: everything is in it, and nothing is drawn over anything else."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from support.conversations import speech

pytest.importorskip("matplotlib")

from duologue.offline.style import MODEL, USER, quiet
from duologue.offline.timeline import MAX_LINES, line_times, make_figure

RATE = 24_000


def words(text: str, step: int, every: int = 4) -> list[dict[str, Any]]:
    return [{"text": word, "step": step + every * k} for k, word in enumerate(text.split())]


def lookup(**values: Any) -> dict[str, Any]:
    return {
        "trigger_step": 20, "start_step": 24, "asked_step": 24, "ended_step": 30,
        "conditioning_step": 31, "rows": 5, "outcome": "answered", "reason": "",
        "reference": "Lima", "question": "the capital of Peru", "label": "knowledge",
        "sources": [{"title": "facts.md, line 3", "location": ""}], "lookup_s": 0.001,
        "encoding_s": 0.009, **values,
    }  # fmt: skip


def trace(frames: int, **values: Any) -> dict[str, Any]:
    return {
        "question_end_step": frames // 2,
        "model_text": ["<pad>"] * frames,
        "transcript": [{"role": "user", "step": 0}, {"role": "model", "step": 30}],
        "words": {"user": [], "model": []},
        "lookups": [],
        "barge_ins": [],
        "run": {"input": "a/question.wav", "model": "wren", "settings": {"seed": 3}},
        **values,
    }


def test_all_is_there_and_words_never_overlap() -> None:
    frames = 300
    user = words("what is the capital of Peru and what does a dinner cost there", 5, 2)
    model = words("let me look this costs exactly $5 or $6 at the very most " * 4, 60)
    values = trace(
        frames,
        words={"user": user, "model": model},
        lookups=[
            lookup(),
            lookup(trigger_step=110, ended_step=130, conditioning_step=None, rows=0,
                   outcome="timed_out", reason="no answer before the deadline", reference="",
                   sources=[], encoding_s=None),
        ],
        barge_ins=[{"step": 100, "stopped_step": 130, "overlap_frames": 30}],
    )  # fmt: skip
    voice = speech(frames)
    figure = make_figure(values, voice, voice, RATE)
    with quiet():
        figure.canvas.draw()
    texts = figure.axes[0].texts
    shown = [text.get_text() for text in texts]
    for expected in (
        "question", "1", "2", "the capital of Peru", "Lima", "0:20",
        "timed out: no answer before the deadline",
        "facts.md, line 3, lookup 1 ms, encoding 9 ms, first row 0.96 s after the trigger",
    ):  # fmt: skip
        assert expected in shown
    said = [text for text in texts if text.get_style() == "italic"]
    for colour, spoken in ((USER, user), (MODEL, model)):
        mine = [text.get_text() for text in said if text.get_color() == colour]
        assert mine == [word["text"] for word in spoken]
    boxes = [text.get_window_extent() for text in said]
    assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)


def test_a_torrent_of_words_is_thinned_out_and_strange_scripts_are_no_trouble() -> None:
    many = words("\u5229\u9a6c " + "extraordinarily " * 120, 0, 1)
    values = trace(130, words={"user": many, "model": []})
    silence = np.zeros(130 * 1920, np.float32)
    figure = make_figure(values, silence, silence, RATE)
    said = [text for text in figure.axes[0].texts if text.get_style() == "italic"]
    assert 10 < len(said) < len(many)


@pytest.mark.parametrize(
    ("seconds", "count", "length"),
    [(0.08, 1, 6), (7.2, 1, 8), (10.0, 1, 10), (10.16, 2, 10), (26, 3, 10), (600, MAX_LINES, 25)],
)
def test_lines(seconds: float, count: int, length: float) -> None:
    lines = line_times(seconds)
    assert len(lines) == count
    assert all(end - begin == pytest.approx(length) for begin, end in lines)
    assert lines[0][0] == 0
    assert lines[-1][1] >= seconds
