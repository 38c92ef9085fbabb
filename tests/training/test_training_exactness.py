"""Layers that a machine computes wrongly in low precision are found and kept out of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from duologue.training.exactness import keep_exact

CPU = torch.device("cpu")


def model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = CausalConv1d(4, 16, 3), CausalConv1d(16, 8, 8, 4), CausalConvTranspose1d(8, 4, 8, 4)
    return nn.Sequential(*layers)


def off_by(one: Tensor, other: Tensor) -> float:
    return float(((one - other).norm() / other.norm()).detach())


def wrong(function: Any, gradient: bool) -> Any:
    """As `function`, but wrong in bfloat16: what it gives, or the gradient of its input."""

    def call(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        low = torch.is_autocast_enabled("cpu")
        if low and gradient and x.requires_grad:
            x = x * 2 - x.detach()
        y: Tensor = function(x, *args, **kwargs)
        return -y if low and not gradient else y

    return call


def test_what_is_right_stays_as_it_is() -> None:
    one = model()
    assert keep_exact(one, None, CPU) == []
    assert keep_exact(one, torch.bfloat16, torch.device("meta")) == []
    found = keep_exact(one, torch.bfloat16, CPU)
    assert "0" not in found, "a plain convolution of few channels"


@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_wrong_is_computed_in_float32(
    gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, x = model(), torch.randn(2, 4, 64)
    plain = one(x)
    monkeypatch.setattr(F, "conv_transpose1d", wrong(F.conv_transpose1d, gradient))
    assert "2" in keep_exact(one, torch.bfloat16, CPU)
    assert not one[0].exact
    assert one[2].exact
    with torch.autocast("cpu", torch.bfloat16):
        within = one(x)
        streamed = one[2].step(one[:2](x), one[2].init_state(2))
    assert within.dtype == torch.float32
    assert off_by(within, plain) < 0.02
    assert off_by(streamed, plain) < 0.02


def test_a_codec_learns_alike_in_both_precisions() -> None:
    """Gradients of the layers of wren's decoder that are nearest to the sound."""
    torch.manual_seed(0)
    one = nn.Sequential(CausalConvTranspose1d(32, 16, 8, 4), nn.ELU(), CausalConv1d(16, 32, 8, 4))
    x = torch.randn(6, 32, 60, requires_grad=True)

    def gradient() -> Tensor:
        [found] = torch.autograd.grad(one(x).float().square().mean(), x)
        return found

    exact = gradient()
    keep_exact(one, torch.bfloat16, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        assert off_by(gradient(), exact) < 0.05
