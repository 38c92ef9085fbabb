"""One file of a data set: samples and the side-car that describes them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duologue.audio.wav import write_wav
from duologue.synthesis.engines.program import Pcm
from duologue.synthesis.samples import RATE
from duologue.synthesis.utterance import Word

Alignment = list[Any]
"""[word, [start, end], speaker] of the published fine-tuning format."""


@dataclass(frozen=True)
class Item:
    """Samples [T] or [2, T] (left wren, right user) at 24 kHz and the side-car."""

    samples: Pcm
    sidecar: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.samples.shape[-1] / RATE


def alignments(words: tuple[Word, ...], speaker: str) -> list[Alignment]:
    """Words in the published form; times in seconds, to the millisecond."""
    return [
        [
            word.text,
            [round(word.start_s, 3), round(max(word.end_s, word.start_s + 0.001), 3)],
            speaker,
        ]
        for word in words
    ]


def save(item: Item, wav: Path) -> None:
    """Write the sound, then the side-car: an item is complete when its side-car is there."""
    wav.parent.mkdir(parents=True, exist_ok=True)
    write_wav(wav, item.samples, RATE)
    sidecar = wav.with_suffix(".json")
    partial = sidecar.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(item.sidecar | {"duration": round(item.seconds, 6)}))
    partial.replace(sidecar)


def saved_seconds(wav: Path) -> float | None:
    """Length of a complete item, None where there is none."""
    try:
        return float(json.loads(wav.with_suffix(".json").read_text())["duration"])
    except (OSError, ValueError, KeyError):
        return None
