"""A whole conversation from a recording, faster or slower than real time as the machine allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from duologue.engine.duplex import Duplex


@dataclass
class Reply:
    """What the model said to a recording; frame k answers frame k of the input."""

    pcm: Tensor
    """float32 [T] at the codec's rate."""
    text_tokens: list[int]
    """One per frame."""
    frame_seconds: list[float] = field(default_factory=list)
    """Wall time of each frame."""


def converse(
    duplex: Duplex,
    pcm: Tensor,
    *,
    tail_frames: int = 0,
    on_frame: Callable[[int, int], None] | None = None,
) -> Reply:
    """Play a recording to the model as the user's voice.

    A fresh slot is given the first frame's codes twice: those of its very first step never reach
    the model, and this is how none of the recording is lost.

    Args:
        pcm: float32 [T] at the codec's rate; the last frame is filled up with silence.
        tail_frames: frames of silence to go on listening for after the recording.
        on_frame: called with (frames done, frames in all).
    """
    if duplex.generator.batch_size != 1:
        raise ValueError("a recording is played to a batch of one")
    size, delay = duplex.codec.frame_size, duplex.lm.config.max_delay
    frames = -(-pcm.shape[-1] // size) + tail_frames
    heard = torch.nn.functional.pad(pcm, (0, (frames + delay) * size - pcm.shape[-1]))
    chunks = heard.to(duplex.lm.device).split(size)
    spoken: list[Tensor] = []
    reply = Reply(torch.zeros(0), [])
    # A fresh slot hears frame 0 at steps 0 and 1, frame s - 1 at step s, and finishes its own
    # frame s - delay there. A prompted one hears frame s at step s; what it first finishes belongs
    # to the prompt.
    fresh = int(duplex.state.lm.offset[0]) == 0
    late = 0 if fresh else max(delay - 1, 0)
    for step in range(frames + delay if fresh else frames + late):
        begin = time.perf_counter()
        if not (fresh and step == 1):
            heard_frame = max(step - 1, 0) if fresh else step
            codes = duplex.encode(chunks[heard_frame][None, None])
        out = duplex.step(codes)
        if step >= late and bool(out.ready[0]):
            spoken.append(out.pcm[0, 0].float().cpu())
            reply.text_tokens.append(int(out.text[0]))
        reply.frame_seconds.append(time.perf_counter() - begin)
        if on_frame is not None:
            on_frame(len(spoken), frames)
    reply.pcm = torch.cat(spoken) if spoken else reply.pcm
    return reply
