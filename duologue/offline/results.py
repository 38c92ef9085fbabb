"""Results of a run on their way to disk: sound, picture, trace, and a line about each.

All files of a result are made in a hidden folder beside their places and moved there together, the
trace last; whoever interrupts that finds either all of them or none.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from duologue.audio import read_audio, write_wav
from duologue.checkpoints.save import write_json
from duologue.offline.files import Outputs, Recording, belongs, read_trace
from duologue.offline.run import Talked
from duologue.offline.timeline import draw_timeline
from duologue.session.inputs import playable


def write_results(
    outputs: Outputs, talked: Talked, trace: Mapping[str, Any], sample_rate: int
) -> None:
    """Write everything of a conversation."""
    user, model = talked.heard, talked.log.pcm
    folder = outputs.wav.parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".talk-") as hidden:
        made: list[tuple[Path, Path]] = []

        def place(path: Path) -> Path:
            made.append((Path(hidden) / path.name, path))
            return made[-1][0]

        write_wav(place(outputs.wav), model, sample_rate)
        if outputs.stereo is not None:
            write_wav(place(outputs.stereo), np.stack([model, user]), sample_rate)
        if outputs.picture is not None:
            draw_timeline(place(outputs.picture), trace, user, model, sample_rate)
        write_json(place(outputs.trace), trace)
        for temporary, path in made:
            os.replace(temporary, path)


def complete_results(outputs: Outputs, recording: Recording, sample_rate: int) -> dict[str, Any]:
    """Draw the picture of a result that has none yet; returns its trace."""
    trace = read_trace(outputs.trace)
    if outputs.picture is not None and not belongs(outputs.picture, outputs.wav):
        model = read_audio(outputs.wav, sample_rate)
        user = playable(read_audio(recording.path, sample_rate))[: len(model)]
        user = np.pad(user, (0, len(model) - len(user)))
        with tempfile.TemporaryDirectory(dir=outputs.picture.parent, prefix=".talk-") as hidden:
            temporary = Path(hidden) / outputs.picture.name
            draw_timeline(temporary, trace, user, model, sample_rate)
            os.replace(temporary, outputs.picture)
    return trace


def summarise(
    outputs: Outputs, recording: Recording, trace: Mapping[str, Any], *, skipped: bool
) -> dict[str, Any]:
    """What a program wants to know of a result at once."""
    timings = trace["timings"]
    return {
        "input": str(recording.path),
        "output": str(outputs.wav),
        "trace": str(outputs.trace),
        "stereo": _name(outputs.stereo),
        "picture": _name(outputs.picture),
        "skipped": skipped,
        "text": trace["text"],
        "lookups": [
            {
                "outcome": lookup["outcome"],
                "reference": lookup["reference"],
                "sources": [source["title"] for source in lookup["sources"]],
            }
            for lookup in trace["lookups"]
        ],
        "notes": trace["notes"],
        **{key: timings[key] for key in timings if key != "stages"},
    }


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
