"""Voice prompts from recordings."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.audio.loudness import normalise_loudness
from duologue.mimi.codec import Mimi

VOICE_LUFS = -24.0
"""Loudness that PersonaPlex gives voice samples."""


def voice_codes(codec: Mimi, pcm: NDArray[np.float32], num_codebooks: int) -> Tensor:
    """Codes int64 [K, frames] of a voice sample [T] at the codec's rate, brought to VOICE_LUFS.

    The last frame is filled up with silence.
    """
    level = torch.from_numpy(normalise_loudness(pcm, codec.sample_rate, VOICE_LUFS))
    device = next(codec.parameters()).device
    return codec.encode(level.to(device)[None, None], num_codebooks=num_codebooks)[0]


def frame_codes(codec: Mimi, pcm: Tensor, num_codebooks: int, settle_frames: int = 25) -> Tensor:
    """Codes int64 [K] that a steady sound [frame_size] has once the codec has settled on it."""
    state = codec.init_encoder_state(1)
    for _ in range(settle_frames):
        codes = codec.encode_step(pcm[None, None], state, num_codebooks=num_codebooks)
    return codes[0, :, 0]
