"""Delays, cross-entropies and teacher-forced scores of the language models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from duologue.moshi.config import LMConfig
from duologue.training.text_stream import END_OF_PADDING, PADDING

IGNORED = -1


def delayed(codes: Tensor, config: LMConfig) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a sequence pass, each row shifted right by its delay.

    Args:
        codes: int64 [B, 1 + n_q, T], -1 where there is nothing.
    Returns:
        Inputs [B, 1 + n_q, T], the initial column first, and targets [B, 1 + n_q, T], -1 where
        there is nothing to predict.
    """
    length = codes.shape[2]
    inputs, targets = torch.empty_like(codes), torch.full_like(codes, IGNORED)
    for row, delay in enumerate(config.delays):
        shift = min(delay, length)
        inputs[:, row, : shift + 1] = config.text_initial if row == 0 else config.audio_initial
        inputs[:, row, shift + 1 :] = codes[:, row, : max(0, length - shift - 1)]
        targets[:, row, shift:] = codes[:, row, : length - shift]
    return inputs, targets


def text_loss(
    logits: Tensor, targets: Tensor, *, padding_weight: float, special: dict[int, float]
) -> Tensor:
    """Weighted cross-entropy of the text row.

    Args:
        logits: [B, T, classes]; `targets` int64 [B, T], -1 left out.
        padding_weight: of the two padding tokens; others weigh 1, unless `special` says more.
    """
    weights = torch.ones(logits.shape[-1], device=logits.device)
    for token, weight in (
        {END_OF_PADDING: padding_weight, PADDING: padding_weight} | special
    ).items():
        weights[token] = weight
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    each = weights[targets.flatten().clamp(min=0)] * (targets.flatten() != IGNORED)
    return (losses * each).sum() / each.sum().clamp(min=1e-6)


def audio_loss(logits: Tensor, targets: Tensor, *, first_weight: float) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of the codes, and the plain one of each codebook.

    Args:
        logits: [B, K, T, card]; `targets` int64 [B, K, T], -1 left out.
        first_weight: of the first codebook; the others weigh 1.
    Returns:
        Scalar, and [K].
    """
    levels = targets.shape[1]
    losses = F.cross_entropy(
        logits.float().flatten(0, 2), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(targets)
    counts = (targets != IGNORED).sum(dim=(0, 2)).clamp(min=1)
    each = losses.sum(dim=(0, 2)) / counts
    weights = torch.ones(levels, device=logits.device)
    weights[0] = first_weight
    weights = weights * (targets != IGNORED).any(dim=2).any(dim=0)
    return (each * weights).sum() / weights.sum().clamp(min=1e-6), each


def pause_loss(logits: Sequence[Tensor], quiet: Tensor, horizons_s: Sequence[float]) -> Tensor:
    """Cross-entropy of the pause heads: class 0 where it stays silent for the head's horizon.

    Args:
        logits: per head [B, T, classes]; `quiet` float [B, T] seconds of silence from here on.
    """
    losses = []
    for head, horizon in zip(logits, horizons_s, strict=True):
        target = (quiet < horizon).long()
        losses.append(F.cross_entropy(head.float().flatten(0, 1), target.flatten()))
    return torch.stack(losses).mean()


def hint_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of classes told aside; 0 where nothing is known.

    Args:
        logits: [B, T, n * classes]; `targets` int64 [B, T, n], -1 left out.
    """
    split = logits.float().unflatten(-1, (targets.shape[-1], -1))
    losses = F.cross_entropy(
        split.flatten(0, 2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return losses / (targets != IGNORED).sum().clamp(min=1)


def recall(guesses: Tensor, targets: Tensor, where: Tensor) -> tuple[float, float]:
    """How many of the targets at `where` are guessed, and how many there are."""
    return float(((guesses == targets) & where).sum()), float(where.sum())
