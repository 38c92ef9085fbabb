"""Linear maps: plain, quantised to 8 or 4 bits, with a low-rank adapter, and one per depth step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """y = W x without bias, W [out, in]: the only linear map of these models."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.trunc_normal_(
            self.weight, std=in_features**-0.5, a=-3 * in_features**-0.5, b=3 * in_features**-0.5
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


@dataclass(frozen=True)
class QuantizedWeight:
    """Matrix [out, in] of integer codes: w = code * scale + offset, per row and group of columns.

    One type holds all layouts met in published files: row-wise 8 bit (one group per row), GGUF
    Q8_0 (groups of 32), MLX 8 bit (groups of 64) and 4 bit (groups of 32).
    """

    codes: Tensor
    """[out, in] int8 or uint8; with 4 bits [out, in / 2] uint8, two a byte, the low half first."""
    scales: Tensor
    """[out, groups] floating point."""
    offsets: Tensor | None = None
    """As `scales`, or `None` for symmetric codes (4-bit ones count from -8: code 8 is zero)."""
    bits: int = 8

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits: {self.bits} is neither 4 nor 8")
        rows, columns = self.shape
        fit = self.scales.dim() == 2 and self.scales.shape[0] == rows
        if not fit or not self.scales.shape[1] or columns % self.scales.shape[1]:
            raise ValueError(
                f"scales {tuple(self.scales.shape)} do not fit a matrix of {(rows, columns)}"
            )
        if self.codes.dtype not in (torch.int8, torch.uint8):
            raise ValueError(f"codes of {self.codes.dtype} are no bytes")
        for name, of in (("scales", self.scales), ("offsets", self.offsets)):
            if of is not None and (of.shape != self.scales.shape or not of.is_floating_point()):
                raise ValueError(f"{name} are {of.dtype} {tuple(of.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return self.codes.shape[0], self.codes.shape[1] * (8 // self.bits)

    def rows(self, start: int, count: int) -> QuantizedWeight:
        """The matrix of some consecutive rows."""
        codes, scales = self.codes[start : start + count], self.scales[start : start + count]
        offsets = None if self.offsets is None else self.offsets[start : start + count]
        return QuantizedWeight(codes, scales, offsets, self.bits)

    def copy_to(self, device: torch.device) -> QuantizedWeight:
        """A copy with memory of its own."""
        parts = (self.codes, self.scales, self.offsets)
        codes, scales, offsets = (t if t is None else t.to(device, copy=True) for t in parts)
        assert codes is not None
        assert scales is not None
        return QuantizedWeight(codes, scales, offsets, self.bits)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix as floats."""
        codes = self.codes
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(1)
        grouped = codes.unflatten(1, (self.scales.shape[1], -1)).float()
        if self.bits == 4 and self.offsets is None:
            grouped = grouped - 8
        weight = grouped * self.scales.float()[..., None]
        if self.offsets is not None:
            weight = weight + self.offsets.float()[..., None]
        return weight.flatten(1).to(dtype)


class QuantizedLinear(nn.Module):
    """Linear map with integer weights, widened to the input's dtype in each call."""

    codes: Tensor
    scales: Tensor
    offsets: Tensor | None

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        self.bits = weight.bits
        self.out_features, self.in_features = weight.shape
        self.register_buffer("codes", weight.codes)
        self.register_buffer("scales", weight.scales)
        self.register_buffer("offsets", weight.offsets)

    @property
    def quantized_weight(self) -> QuantizedWeight:
        """The matrix behind this map."""
        return QuantizedWeight(self.codes, self.scales, self.offsets, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.bits == 8 and self.scales.shape[1] == 1 and self.offsets is None
        if rows and x.dtype != torch.float16:  # sums of unscaled codes do not fit into that
            return F.linear(x, self.codes.to(x.dtype)) * self.scales[:, 0].to(x.dtype)
        return F.linear(x, self.quantized_weight.dequantize(x.dtype))


class LoRALinear(nn.Module):
    """Frozen linear map plus a trainable low-rank one: y = W x + scaling * B (A x)."""

    def __init__(self, frozen: Linear, rank: int, scaling: float) -> None:
        super().__init__()
        self.in_features, self.out_features = frozen.in_features, frozen.out_features
        self.scaling = scaling
        self.frozen = frozen.requires_grad_(False)
        like = frozen.weight
        self.lora_A = nn.Parameter(like.new_empty(rank, frozen.in_features))
        self.lora_B = nn.Parameter(like.new_zeros(frozen.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def fuse(self) -> Linear:
        """The same map as one plain linear, in the frozen weight's dtype."""
        fused = self.frozen.requires_grad_(True)
        with torch.no_grad():
            update = self.scaling * (self.lora_B @ self.lora_A)
            fused.weight.add_(update.to(fused.weight.dtype))
        return fused


class PerStep(nn.ModuleList):
    """One module for each depth step, or several steps sharing one by a schedule.

    `modules[schedule[k]]` serves step k ("weights per step", Moshi paper section 3.4.1; the
    schedule is from delayed-streams TTS, arXiv 2509.08753).
    """

    def __init__(self, schedule: Sequence[int], build: Callable[[], nn.Module]) -> None:
        super().__init__(build() for _ in range(max(schedule) + 1))
        self.schedule = tuple(schedule)

    def at(self, step: int) -> nn.Module:
        return self[self.schedule[step]]

    def forward(self, x: Tensor) -> Tensor:
        """[K, N, in] -> [K, N, out], row k through the module of step k."""
        runs = [(which, len(list(run))) for which, run in groupby(self.schedule[: len(x)])]
        parts = x.split([length for _, length in runs])
        return torch.cat([self[which](part) for (which, _), part in zip(runs, parts, strict=True)])


def replace_linears(root: nn.Module, build: Callable[[str, Linear], nn.Module | None]) -> None:
    """Swap each `Linear` below `root` for `build(dotted name, linear)`; `None` leaves it."""
    for name, module in list(root.named_modules()):
        if isinstance(module, Linear):
            replacement = build(name, module)
            if replacement is not None:
                parent, _, leaf = name.rpartition(".")
                setattr(root.get_submodule(parent), leaf, replacement)


def add_lora(root: nn.Module, rank: int, scaling: float) -> None:
    """Give each linear map below `root` a trainable adapter; their own weights are frozen."""
    replace_linears(root, lambda _, linear: LoRALinear(linear, rank, scaling))


def fuse_lora(root: nn.Module) -> None:
    """Fold each adapter below `root` into the weights it was added to."""
    for name, module in list(root.named_modules()):
        if isinstance(module, LoRALinear):
            parent, _, leaf = name.rpartition(".")
            setattr(root.get_submodule(parent), leaf, module.fuse())


def quantize_rows(weight: Tensor) -> QuantizedWeight:
    """8-bit symmetric codes with one scale per row (the published `q8` layout)."""
    largest = weight.float().abs().amax(dim=1).clamp(min=1e-12)
    codes = (weight.float() * (127.0 / largest)[:, None]).round().to(torch.int8)
    return QuantizedWeight(codes, (largest / 127.0)[:, None])


GROUP = 32
"""Columns that share a scale in `quantize_groups`."""
_TRIED_SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Shares of a group's full range that are tried: clipping the largest weight can pay."""


def quantize_groups(weight: Tensor) -> QuantizedWeight:
    """4-bit symmetric codes with a float16 scale per `GROUP` columns, of least squared error.

    The weight of largest magnitude gets code -8 (of -8 to 7), whatever its sign: scales are signed.
    """
    rows, columns = weight.shape
    if columns % GROUP:
        raise ValueError(f"a matrix of {columns} columns does not split into groups of {GROUP}")
    grouped = weight.float().view(rows, -1, GROUP)
    largest = grouped.gather(2, grouped.abs().argmax(dim=2, keepdim=True))
    best_error = torch.full(largest.shape, float("inf"), device=weight.device)
    best_scale = torch.zeros_like(largest)
    for share in _TRIED_SCALES:
        scale = (largest * (share / -8)).half().float()
        divisor = torch.where(scale == 0, 1.0, scale)
        codes = (grouped / divisor).round().clamp(-8, 7)
        error = (codes * scale - grouped).square().sum(dim=2, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
    divisor = torch.where(best_scale == 0, 1.0, best_scale)
    codes = ((grouped / divisor).round().clamp(-8, 7) + 8).to(torch.uint8).view(rows, columns)
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return QuantizedWeight(packed.contiguous(), best_scale[..., 0].half(), bits=4)
