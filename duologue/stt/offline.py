"""Whole recordings to words with times, a batch at a time: the streaming recogniser, run dry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from duologue.stt.ports import Transcription, Word
from duologue.stt.recogniser import Recogniser
from duologue.stt.words import with_ends

TAIL_S = 1.0
"""Silence after a recording beyond the model's delay, so that its last word comes out
(published)."""
CHUNK_FRAMES = 125
"""Frames encoded at a time: ten seconds."""


@torch.no_grad()
def transcribe(
    recogniser: Recogniser,
    recordings: Sequence[Tensor],
    on_frames: Callable[[int], None] | None = None,
) -> list[Transcription]:
    """Transcribe recordings, float32 [T] each at the codec's rate, all in one batch.

    Args:
        on_frames: told how many frames, over all recordings, were done since the last call.
    """
    if not recordings:
        return []
    tail_frames = recogniser.delay_frames + math.ceil(TAIL_S * recogniser.frame_rate)
    frames = frames_of(recogniser, recordings, tail_frames)
    assemblers = [recogniser.assembler() for _ in recordings]
    words: list[list[Word]] = [[] for _ in recordings]
    start = 0
    for _, drawn in recognise(recogniser, recordings, frames, CHUNK_FRAMES):
        tokens = drawn.tolist()
        for row, assembler, found, count in zip(tokens, assemblers, words, frames, strict=True):
            for token in row[: max(0, count - start)]:
                found.extend(assembler.push(token).completed)
        if on_frames is not None:
            on_frames(sum(min(max(0, count - start), CHUNK_FRAMES) for count in frames))
        start += CHUNK_FRAMES
    results = []
    for pcm, assembler, found in zip(recordings, assemblers, words, strict=True):
        found.extend(assembler.finish().completed)
        duration_s = len(pcm) / recogniser.sample_rate
        results.append(Transcription(tuple(with_ends(found, duration_s)), duration_s))
    return results


def frames_of(recogniser: Recogniser, recordings: Sequence[Tensor], tail_frames: int) -> list[int]:
    """Frames of each recording, with so many of silence after it."""
    return [-(-len(pcm) // recogniser.frame_size) + tail_frames for pcm in recordings]


@torch.no_grad()
def recognise(
    recogniser: Recogniser,
    recordings: Sequence[Tensor],
    frames: Sequence[int],
    chunk_frames: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hear recordings in one batch, so many frames of each.

    Args:
        chunk_frames: frames heard at a time. With one, a front end runs as in live conversations,
            and needs no program for another length (`duologue.runtime.front_end`).

    Yields:
        For each chunk what was heard [B, ..., n] and the text tokens drawn, int64 [B, n].
    """
    size, longest = recogniser.frame_size, max(frames)
    sound = torch.stack(
        [torch.nn.functional.pad(pcm, (0, longest * size - len(pcm))) for pcm in recordings]
    )[:, None]
    state = recogniser.init_state(len(recordings))
    lengths = torch.tensor(frames, device=recogniser.lm.device)
    for start in range(0, longest, chunk_frames):
        chunk = sound[..., start * size : (start + chunk_frames) * size].to(lengths.device)
        encoded = recogniser.encode(chunk, state)
        drawn = [
            recogniser.read(encoded[..., k : k + 1], state, lengths > start + k).text
            for k in range(encoded.shape[-1])
        ]
        yield encoded, torch.stack(drawn, dim=1)
