"""Attention over whole sequences, with and without gradients."""

from __future__ import annotations

import pytest
import torch

from duologue.nn.attention import attend


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_learnt_is_what_is_computed_later(kv_heads: int, masked: bool) -> None:
    """Where gradients are wanted other code runs; it must give the same."""
    torch.manual_seed(0)
    q = torch.randn(2, 4, 9, 8, requires_grad=True)
    k, v = (torch.randn(2, kv_heads, 9, 8, requires_grad=True) for _ in range(2))
    mask = None
    if masked:
        mask = torch.rand(9, 9) < 0.5
        mask.fill_diagonal_(True)
    learnt = attend(q, k, v, mask)
    assert learnt.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(learnt.detach(), attend(q, k, v, mask), atol=1e-6, rtol=1e-5)
    wide = [x.detach().repeat_interleave(4 // x.shape[1], 1).requires_grad_() for x in (q, k, v)]
    seen = torch.ones(9, 9, dtype=torch.bool).tril() if mask is None else mask
    scores = (wide[0] @ wide[1].mT / 8**0.5).masked_fill(~seen, float("-inf"))
    weight = torch.randn_like(learnt)
    (learnt * weight).sum().backward()
    (scores.softmax(-1) @ wide[2] * weight).sum().backward()
    for mine, right in zip((q, k, v), wide, strict=True):
        grouped = right.grad.unflatten(1, (mine.shape[1], -1)).sum(2)
        torch.testing.assert_close(mine.grad, grouped, atol=1e-5, rtol=1e-4)
