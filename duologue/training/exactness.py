"""What is computed in float32 amid lower precision: what a machine gets wrong there, and codes.

On CPUs with AMX, torch 2.13 (oneDNN 3.12) gets some strided bfloat16 convolutions wrong: of 16
channels with kernel 8 and stride 4, say, the forward pass, and of the transposed one the gradient
of its input, by more than they are large. A codec trained there seems to learn for a hundred steps
and falls apart. So each layer is tried before it is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d

logger = logging.getLogger(__name__)

_POSITIONS = 64
_OFF = 0.05
"""Rounding to bfloat16 is off by 0.003 of the size; what is wrong is off by all of it."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in float32 on GPUs, too, whatever is allowed around."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = allowed


def keep_exact(model: nn.Module, dtype: torch.dtype | None, device: torch.device) -> list[str]:
    """Have the convolutions of a model that go wrong in `dtype` on this device run in float32.

    Returns:
        Their names. None in float32 (`dtype` is None), and none where the device is no CPU.
    """
    if dtype is None or device.type != "cpu":
        return []
    found = []
    for name, layer in model.named_modules():
        if isinstance(layer, CausalConv1d | CausalConvTranspose1d) and _is_wrong(layer, dtype):
            layer.exact = True
            found.append(name)
    if found:
        logger.warning("wrong in %s on this machine, kept in float32: %s", dtype, ", ".join(found))
    return found


def _is_wrong(layer: CausalConv1d | CausalConvTranspose1d, dtype: torch.dtype) -> bool:
    """Whether output or gradients in `dtype` are something else than in float32."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(2, layer.in_channels, _POSITIONS * layer.stride, generator=source)
    exact = _values(layer, x, None)
    return any(
        bool((a - b).norm() > _OFF * b.norm())
        for a, b in zip(_values(layer, x, dtype), exact, strict=True)
    )


@torch.enable_grad()
def _values(
    layer: CausalConv1d | CausalConvTranspose1d, x: Tensor, dtype: torch.dtype | None
) -> list[Tensor]:
    """Output, and the gradients of input and weights."""
    x, weight = x.clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    given = {"weight": weight, **({} if layer.bias is None else {"bias": layer.bias.detach()})}
    with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        y = torch.func.functional_call(layer, given, (x,))
    source = torch.Generator().manual_seed(1)
    gradients = torch.autograd.grad(y, (x, weight), torch.randn(y.shape, generator=source).to(y))
    return [tensor.detach().float() for tensor in (y, *gradients)]
