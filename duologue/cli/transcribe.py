"""`duologue transcribe`: recordings to words with times."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duologue.cli.options import DEFAULT_MODEL, Device, Json, Model, Threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from duologue.stt.ports import Transcription

    Pcm = NDArray[np.float32]
    Batch = list[tuple[Path, Pcm]]
    Transcribe = Callable[[list[Pcm], Callable[[int], None]], list[Transcription]]

MAX_VOCABULARY = 5_000
"""Names taken from documents: the most telling ones."""


def transcribe(
    sources: Annotated[
        list[Path], typer.Argument(help="Recordings: WAV, FLAC, Ogg or MP3, any rate.")
    ],
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    quantization: Annotated[
        str | None, typer.Option(help="`int8` or `int4`; the file's own precision if not given.")
    ] = None,
    channel: Annotated[
        int | None,
        typer.Option(min=0, help="Channel to transcribe, from 0; their mean if not given."),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="Text file of words and phrases to lean towards, one a line."),
    ] = None,
    knowledge: Annotated[
        list[Path] | None,
        typer.Option(help="Documents or an index, whose names to lean towards. May be repeated."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Recordings transcribed at a time.")] = 4,
    service: Annotated[
        bool,
        typer.Option("--service", help="Ask the service of STT_URL and STT_API_KEY instead."),
    ] = False,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Write down what is said in recordings, word by word.

    Times are in seconds, to 0.08 s; an end before a pause is an upper bound. Recordings that cannot
    be read are named and left out, and end it with 2.

    Examples:

        duologue transcribe question.wav

        duologue transcribe *.wav --knowledge facts.md --json

        STT_URL=ws://localhost:8080 duologue transcribe question.wav --service
    """
    words = [*_lines(vocabulary), *_names(knowledge or [])]
    if service:
        recognise, frame_size, batch = *_remote(words), 1
    else:
        recognise, frame_size = _local(model, device, quantization, words, threads)
    reading = _Reading(sources, channel)
    for group in reading.batches(batch):
        began = time.perf_counter()
        results = _with_progress(group, recognise, frame_size, quiet=json_output)
        elapsed_s = time.perf_counter() - began
        total_s = sum(result.duration_s for result in results)
        for (source, _), result in zip(group, results, strict=True):
            if json_output:
                typer.echo(json.dumps(_record(source, result, elapsed_s, total_s)))
            else:
                typer.echo(_page(source, result))
    if reading.failed:
        raise typer.Exit(2)


def _local(
    model: str, device: str, quantization: str | None, words: list[str], threads: int | None
) -> tuple[Transcribe, int]:
    import torch

    from duologue.cli.options import use_threads
    from duologue.stt import load_recogniser
    from duologue.stt import transcribe as transcribe_batch

    recogniser = load_recogniser(
        model, device=device, quantization=quantization, vocabulary=words or None
    )
    use_threads(threads, recogniser.lm)

    def recognise(group: list[Pcm], on_frames: Callable[[int], None]) -> list[Transcription]:
        return transcribe_batch(recogniser, [torch.from_numpy(pcm) for pcm in group], on_frames)

    return recognise, recogniser.frame_size


def _remote(words: list[str]) -> tuple[Transcribe, int]:
    import asyncio
    import os
    from dataclasses import replace

    from duologue.stt import ServiceError, ServiceSettings, connect_service
    from duologue.stt.ports import FRAME_SIZE
    from duologue.stt.remote.offline import transcribe_remotely

    settings = ServiceSettings.from_environment(os.environ)
    if settings is None:
        raise ServiceError("--service needs the service's address in STT_URL")
    remote = connect_service(replace(settings, vocabulary=tuple(words)))

    def recognise(group: list[Pcm], on_frames: Callable[[int], None]) -> list[Transcription]:
        return [asyncio.run(transcribe_remotely(remote, pcm, on_frames)) for pcm in group]

    return recognise, FRAME_SIZE


class _Reading:
    """Recordings at 24 kHz; tells which cannot be read, and counts them."""

    def __init__(self, sources: list[Path], channel: int | None) -> None:
        self._sources, self._channel = sources, channel
        self.failed = 0

    def batches(self, size: int) -> Iterator[Batch]:
        """A few at a time."""
        readable = self._read()
        while group := list(islice(readable, size)):
            yield group

    def _read(self) -> Iterator[tuple[Path, Pcm]]:
        from duologue.errors import DuologueError

        for source in self._sources:
            try:
                pcm = _read(source, self._channel)
            except (DuologueError, OSError) as error:
                self.failed += 1
                reason = getattr(error, "strerror", None) or str(error)
                if source.name not in reason:
                    reason = f"{source}: {reason}"
                typer.secho(f"error: {reason}", err=True, fg="red")
            else:
                yield source, pcm


def _read(source: Path, channel: int | None) -> Pcm:
    from duologue.audio import read_audio, read_channels
    from duologue.errors import DuologueError

    if channel is None:
        return read_audio(source)
    channels = read_channels(source)
    if channel >= len(channels):
        raise DuologueError(f"{source}: has {len(channels)} channels, so no channel {channel}")
    return channels[channel]


def _with_progress(
    group: Batch, recognise: Transcribe, frame_size: int, *, quiet: bool
) -> list[Transcription]:
    from duologue.cli.streaming import progress_bar
    from duologue.stt.ports import SAMPLE_RATE

    first, *rest = [source.name for source, _ in group]
    label = f"transcribing {first}" + (f" and {len(rest)} more" if rest else "")
    total_s = sum(len(pcm) for _, pcm in group) / SAMPLE_RATE
    with progress_bar(quiet) as bar:
        task = bar.add_task(label, total=total_s)
        return recognise(
            [pcm for _, pcm in group],
            lambda frames: bar.advance(task, frames * frame_size / SAMPLE_RATE),
        )


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _names(paths: list[Path]) -> list[str]:
    if not paths:
        return []
    from duologue.errors import DuologueError
    from duologue.retrieval.settings import documents_at, open_knowledge

    for path in paths:
        if not documents_at(path).exists():
            raise DuologueError(f"{path}: there is no such file or folder")
    return list(open_knowledge(paths).vocabulary(MAX_VOCABULARY))


def _record(
    source: Path, result: Transcription, elapsed_s: float, total_s: float
) -> dict[str, Any]:
    return {
        "input": str(source),
        "text": result.text,
        "seconds": result.duration_s,
        "words": [
            {
                "text": word["text"],
                "start": round(word["start_s"], 3),
                "end": round(word["end_s"], 3),
            }
            for word in map(asdict, result.words)
        ],
        "real_time_factor": elapsed_s / total_s if total_s else 0.0,
    }


def _page(source: Path, result: Transcription) -> str:
    lines = [f"{source}: {result.duration_s:.2f} s: {result.text or '(nothing)'}"]
    lines += [f"{word.start_s:8.2f} {word.end_s or 0.0:8.2f}  {word.text}" for word in result.words]
    return "\n".join(lines)
