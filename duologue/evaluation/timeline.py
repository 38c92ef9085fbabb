"""A conversation as a picture: two waveforms, words, retrieval and interruption on one time axis.

Plain SVG, drawn to be read beside a player: the user above, the system below, and between them
what the system did with its knowledge (trigger, lookup, rows added to its input).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duologue.evaluation.talker import FRAME_S

WIDTH, HEIGHT = 1000, 190
_USER_Y, _SYSTEM_Y, _LANE = 52, 138, 30
_BINS = 500
_WORD_GAP = 5.0
_LETTER = 6.0


def timeline(pcm: NDArray[np.float32], sample_rate: int, details: Mapping[str, Any]) -> str:
    """SVG of samples [2, T] (system, user) and the stored details of their conversation."""
    seconds = pcm.shape[1] / sample_rate
    scale = WIDTH / max(seconds, 1e-3)
    parts = [
        _shades(details.get("pauses") or (), scale),
        _wave(pcm[1], _USER_Y, "user"),
        _wave(pcm[0], _SYSTEM_Y, "system"),
        _ruler(seconds, scale),
        _words(((w, s) for w, s, _ in details["user"]), scale, 14, "user"),
        _words(spoken(details["text"]), scale, 184, "system"),
        *(_lookup(lookup, seconds, scale) for lookup in details["lookups"]),
    ]
    if (end_s := details.get("question_end")) is not None:
        parts.append(_mark(end_s * scale, "end", "end of question"))
    if (at_s := details.get("interrupted")) is not None:
        parts.append(_mark(at_s * scale, "interruption", "interruption"))
    parts.append(f'<line class="head" x1="0" x2="0" y1="0" y2="{HEIGHT}"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" data-seconds="{seconds:.3f}" role="img">'
        f"{''.join(parts)}</svg>"
    )


def spoken(pieces: Iterable[Sequence[Any]]) -> list[tuple[str, float]]:
    """Words and their times from pieces at frames."""
    words: list[tuple[str, float]] = []
    for frame, text in pieces:
        for place, part in enumerate(str(text).split(" ")):
            if place or not words:
                words.append((part, float(frame) * FRAME_S))
            else:
                words[-1] = (words[-1][0] + part, words[-1][1])
    return [(word, start_s) for word, start_s in words if word]


def _wave(pcm: NDArray[np.float32], y: int, side: str) -> str:
    size = max(1, -(-len(pcm) // _BINS))
    padded = np.pad(np.abs(pcm), (0, -len(pcm) % size)).reshape(-1, size)
    peaks = padded.max(axis=1)
    heights = _LANE * np.sqrt(np.clip(peaks, 0, 1))
    step = WIDTH / len(peaks)
    xs = (np.arange(len(peaks)) + 0.5) * step
    above = [f"{x:.1f},{y - h:.1f}" for x, h in zip(xs, heights, strict=True)]
    below = [f"{x:.1f},{y + h:.1f}" for x, h in zip(xs[::-1], heights[::-1], strict=True)]
    return f'<polygon class="wave {side}" points="{" ".join([*above, *below])}"/>'


def _words(words: Iterable[tuple[str, float]], scale: float, y: int, side: str) -> str:
    """Words at their times; those that would run into each other are moved on a little."""
    parts, free_x = [], 0.0
    for word, start_s in words:
        x = max(start_s * scale, free_x)
        free_x = x + _LETTER * len(word) + _WORD_GAP
        parts.append(f'<text class="{side}" x="{x:.1f}" y="{y}">{escape(word)}</text>')
    return "".join(parts)


def _lookup(lookup: Mapping[str, Any], seconds: float, scale: float) -> str:
    trigger_s = lookup["trigger_frame"] * FRAME_S
    arrival = lookup.get("arrival_frame")
    arrival_s = seconds if arrival is None else arrival * FRAME_S
    rows_s = lookup.get("rows", 0) * FRAME_S
    said = escape(f"{lookup['outcome']}: {lookup['reference'] or 'nothing'}")
    middle = (_USER_Y + _SYSTEM_Y) // 2
    parts = [
        f'<line class="trigger" x1="{trigger_s * scale:.1f}" x2="{trigger_s * scale:.1f}" '
        f'y1="{middle - 14}" y2="{middle + 14}"><title>retrieval token</title></line>',
        _bar("lookup", trigger_s, arrival_s, middle, scale, said),
    ]
    if rows_s:
        parts.append(_bar("rows", arrival_s, arrival_s + rows_s, middle, scale, "reference added"))
    return "".join(parts)


def _bar(kind: str, start_s: float, end_s: float, y: int, scale: float, title: str) -> str:
    width = max(1.0, (end_s - start_s) * scale)
    return (
        f'<rect class="{kind}" x="{start_s * scale:.1f}" y="{y - 5}" width="{width:.1f}" '
        f'height="10"><title>{title}</title></rect>'
    )


def _mark(x: float, kind: str, title: str) -> str:
    return (
        f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{HEIGHT - 18}">'
        f"<title>{title}</title></line>"
    )


def _shades(spans: Iterable[Sequence[float]], scale: float) -> str:
    return "".join(
        f'<rect class="pause" x="{start * scale:.1f}" width="{(end - start) * scale:.1f}" y="18" '
        f'height="{HEIGHT - 36}"/>'
        for start, end in spans
    )


def _ruler(seconds: float, scale: float) -> str:
    middle = (_USER_Y + _SYSTEM_Y) // 2
    marks = "".join(
        f'<text class="time" x="{second * scale:.1f}" y="{middle + 22}">{second} s</text>'
        for second in range(1, int(seconds) + 1)
    )
    return f'<line class="axis" x1="0" x2="{WIDTH}" y1="{middle}" y2="{middle}"/>{marks}'
