"""How loud samples are, and the two checks that stand before the models.

The power gate is part of what the dialogue models were trained on (user audio below -65 dBFS is
digital silence), not a convenience: the same 80 ms windows and the same formula are used live and
in data preparation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from duologue.audio.errors import AudioError

FRAME_SIZE = 1920
"""Samples per gate window: 80 ms at 24 kHz."""
_FLOOR = 1e-16


def power_db(pcm: Tensor, *, frame_size: int = FRAME_SIZE) -> Tensor:
    """Mean power of each window in dB of full scale: [..., T] -> [..., ceil(T / frame_size)].

    10 * log10(mean(x^2) + 1e-16), so digital silence is -160 dB. A shorter last window is judged
    by its own samples.
    """
    length = pcm.shape[-1]
    windows = -(-length // frame_size)
    padded = F.pad(pcm, (0, windows * frame_size - length))
    energy = padded.reshape(*pcm.shape[:-1], windows, frame_size).square().sum(dim=-1)
    starts = torch.arange(windows, device=pcm.device) * frame_size
    return 10 * torch.log10(energy / (length - starts).clamp(max=frame_size) + _FLOOR)


def frame_db(pcm: NDArray[np.float32]) -> float:
    """Mean power of one frame [T] in dB of full scale, as `power_db` has it, without tensors."""
    return 10.0 * math.log10(float(np.square(pcm, dtype=np.float64).mean()) + _FLOOR)


def power_gate(pcm: Tensor, threshold_db: float = -65.0, *, frame_size: int = FRAME_SIZE) -> Tensor:
    """Samples [..., T] with zeros in place of each window whose power is below the threshold."""
    quiet = power_db(pcm, frame_size=frame_size) < threshold_db
    quiet = quiet.repeat_interleave(frame_size, dim=-1)[..., : pcm.shape[-1]]
    return pcm.masked_fill(quiet, 0)


def check_pcm(
    pcm: Tensor | np.ndarray,
    *,
    dims: int | None = None,
    frame_size: int | None = None,
    name: str = "pcm",
) -> None:
    """Check samples at a border, before they reach a model. Reads the values: not for hot paths.

    Args:
        dims: number of dimensions that the array must have.
        frame_size: the last dimension must be a multiple of it.
        name: what to call the array in the error.

    Raises:
        AudioError: not floating point, wrong shape, empty, or NaN or Inf inside.
    """
    samples = torch.as_tensor(pcm)
    shape = tuple(samples.shape)
    if not samples.is_floating_point():
        raise AudioError(f"{name} must be float samples in [-1, 1], got {samples.dtype}")
    if not shape or (dims is not None and len(shape) != dims):
        raise AudioError(f"{name} must have {dims or 'some'} dimensions, got shape {shape}")
    if samples.numel() == 0:
        raise AudioError(f"{name} is empty (shape {shape})")
    if frame_size is not None and shape[-1] % frame_size:
        raise AudioError(f"{name} must hold whole frames of {frame_size} samples, got {shape}")
    wrong = int((~torch.isfinite(samples)).sum())
    if wrong:
        raise AudioError(f"{name} has {wrong} samples that are NaN or Inf")
