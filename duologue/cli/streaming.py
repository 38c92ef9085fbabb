"""Recordings of any length through the codec, a stretch at a time, under a progress bar."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from duologue.mimi.codec import Mimi

CHUNK_FRAMES = 125
"""Frames coded at a time: ten seconds."""


def progress_bar(quiet: bool) -> Progress:
    """A bar on the error stream, which disappears when it is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )


@torch.no_grad()
def encode_recording(codec: Mimi, pcm: NDArray[np.float32], *, quiet: bool) -> NDArray[np.int64]:
    """Samples [T] -> codes [K, ceil(T / frame_size)]."""
    size = codec.frame_size
    samples = torch.from_numpy(np.pad(pcm, (0, -len(pcm) % size)))[None, None]
    state = codec.init_encoder_state(1)
    device = next(codec.parameters()).device
    parts = []
    with progress_bar(quiet) as bar:
        task = bar.add_task("encoding", total=samples.shape[-1] / codec.sample_rate)
        for chunk in samples.split(CHUNK_FRAMES * size, dim=-1):
            parts.append(codec.encode_step(chunk.to(device), state).cpu())
            bar.advance(task, chunk.shape[-1] / codec.sample_rate)
    return torch.cat(parts, dim=-1)[0].numpy()


@torch.no_grad()
def decode_recording(codec: Mimi, codes: NDArray[np.int64], *, quiet: bool) -> NDArray[np.float32]:
    """Codes [K, F] -> samples [F * frame_size]."""
    state = codec.init_decoder_state(1)
    device = next(codec.parameters()).device
    tokens = torch.from_numpy(codes)[None]
    parts = []
    with progress_bar(quiet) as bar:
        task = bar.add_task("decoding", total=tokens.shape[-1] / codec.frame_rate)
        for chunk in tokens.split(CHUNK_FRAMES, dim=-1):
            parts.append(codec.decode_step(chunk.to(device), state).float().cpu())
            bar.advance(task, chunk.shape[-1] / codec.frame_rate)
    return torch.cat(parts, dim=-1)[0, 0].numpy()
