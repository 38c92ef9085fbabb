"""Attention over whole sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, [B, H, T, D] -> [B, H, T, D].

    Args:
        k, v: [B, H or a divisor of it, S, D].
        mask: bool [T, S] or what spreads to [B, H, T, S]; what may be seen. `None`: plain causal.
    """
    shared = q.shape[1] != k.shape[1]
    # On a CPU torch's fused backward pass takes ten times as long as that of these few products.
    if q.requires_grad and q.device.type == "cpu":
        return _unfused(q, *((_repeated(k, q), _repeated(v, q)) if shared else (k, v)), mask)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=shared
    )


def _unfused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)
    return weights.to(v.dtype) @ v


def _repeated(x: Tensor, q: Tensor) -> Tensor:
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)
