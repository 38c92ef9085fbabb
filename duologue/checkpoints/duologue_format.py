"""Our own file layout: the names of our modules' tensors, quantised matrices beside them.

A quantised matrix `x.weight` is stored as `x.codes` (8 bit) or `x.codes4` (two codes a byte),
`x.scales` and, unless the codes are symmetric, `x.offsets`. A file may also hold any tensor `x` as
`x.rows8` and `x.rows8_scales`, to be small: such a tensor is made whole again when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.layout import Entry, Layout, Weight, Weights
from duologue.checkpoints.sources import SourceView
from duologue.checkpoints.tensorfile import TensorInfo
from duologue.nn.linear import QuantizedLinear, QuantizedWeight, quantize_rows

FORMAT = "duologue"
"""Value of `format` in the metadata of our files and in `config.json`."""

_CODES = {".codes": 8, ".codes4": 4}
_STORED, _STORED_SCALES = ".rows8", ".rows8_scales"
_WORTH_STORING = 4096
"""Elements from which on a tensor is stored in rows of bytes."""


def identity_layout(module: nn.Module) -> Layout:
    """Layout of a file that has our own names."""
    layout = Layout()
    for name in module.state_dict():
        layout.add(name, Entry((name,)))
    return layout


def weights_of(module: nn.Module) -> Weights:
    """A module's tensors, each quantised map's matrix as one."""
    weights: Weights = dict(module.state_dict())
    for name, child in module.named_modules():
        if isinstance(child, QuantizedLinear):
            for part in ("codes", "scales", "offsets"):
                weights.pop(f"{name}.{part}", None)
            weights[f"{name}.weight"] = child.quantized_weight
    return weights


def pack(weights: Mapping[str, Weight]) -> dict[str, Tensor]:
    """Tensors of a file in our layout, quantised matrices split into their parts."""
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if isinstance(weight, Tensor):
            tensors[name] = weight
            continue
        stem = name.removesuffix(".weight")
        tensors[f"{stem}.codes" + ("4" if weight.bits == 4 else "")] = weight.codes
        tensors[f"{stem}.scales"] = weight.scales
        if weight.offsets is not None:
            tensors[f"{stem}.offsets"] = weight.offsets
    return tensors


def stored_compactly(
    tensors: Mapping[str, Tensor], exact: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Tensors of a small file: matrices and kernels as one byte an element and a scale a row.

    Args:
        exact: names of tensors that stay as they are, besides short ones.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        is_large = tensor.dim() > 1 and tensor.numel() >= _WORTH_STORING
        if not is_large or not tensor.is_floating_point() or exact(name):
            packed[name] = tensor
            continue
        rows = quantize_rows(tensor.flatten(1))
        packed[name + _STORED] = rows.codes.view(tensor.shape)
        packed[name + _STORED_SCALES] = rows.scales[:, 0].to(torch.float32)
    return packed


def stored_rows(tensors: Mapping[str, Tensor], name: str) -> QuantizedWeight | None:
    """A matrix that a small file stores in rows of bytes, as it is there."""
    if name + _STORED not in tensors:
        return None
    scales = tensors[name + _STORED_SCALES].float()[:, None]
    return QuantizedWeight(tensors[name + _STORED].clone(), scales)


class DuologueSource(SourceView):
    """A file in our layout, with each quantised matrix under its plain name."""

    def __iter__(self) -> Iterator[str]:
        for key in self.inner:
            stem, dot, leaf = key.rpartition(".")
            if dot + leaf in _CODES:
                yield f"{stem}.weight"
            elif dot + leaf == _STORED:
                yield stem
            elif dot + leaf == _STORED_SCALES:
                continue
            elif leaf not in ("scales", "offsets") or self._codes_key(f"{stem}.weight") is None:
                yield key

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        return key in self.inner or key + _STORED in self.inner or self._codes_key(key) is not None

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, key: str) -> Tensor:
        if key + _STORED in self.inner:
            return self._whole(key)
        quantized = self.quantized(key)
        return self.inner[key] if quantized is None else quantized.dequantize()

    def info(self, key: str) -> TensorInfo:
        if key + _STORED in self.inner:
            return TensorInfo(self.inner.info(key + _STORED).shape, torch.float32)
        codes = self._codes_key(key)
        if codes is None:
            return self.inner.info(key)
        rows, columns = self._matrix_shape(codes)
        return TensorInfo((rows, columns * (2 if codes.endswith("4") else 1)), torch.float32)

    def _whole(self, key: str) -> Tensor:
        """A tensor that is stored in rows of bytes, in float32."""
        codes = self.inner[key + _STORED]
        scales = self.inner.get(key + _STORED_SCALES)
        if codes.dtype != torch.int8 or scales is None or scales.shape != codes.shape[:1]:
            raise CheckpointError(f"{self.name}: {key}{_STORED} has no fitting scales beside it")
        return codes.float() * scales.float().view(-1, *[1] * (codes.dim() - 1))

    def quantized(self, key: str) -> QuantizedWeight | None:
        codes = self._codes_key(key)
        if codes is None:
            return None
        self._matrix_shape(codes)
        stem = key.removesuffix(".weight")
        if f"{stem}.scales" not in self.inner:
            raise CheckpointError(f"{self.name}: {codes} has no {stem}.scales beside it")
        offsets = self.inner.get(f"{stem}.offsets")
        bits = 4 if codes.endswith("4") else 8
        try:
            return QuantizedWeight(
                self.inner[codes], self.inner[f"{stem}.scales"], offsets, bits=bits
            )
        except ValueError as error:
            raise CheckpointError(f"{self.name}: {codes}: {error}") from error

    def _codes_key(self, key: str) -> str | None:
        stem = key.removesuffix(".weight")
        if stem == key:
            return None
        return next((stem + leaf for leaf in _CODES if stem + leaf in self.inner), None)

    def _matrix_shape(self, codes: str) -> tuple[int, int]:
        info = self.inner.info(codes)
        wanted = (torch.uint8,) if codes.endswith("4") else (torch.int8, torch.uint8)
        if len(info.shape) != 2 or info.dtype not in wanted:
            raise CheckpointError(
                f"{self.name}: {codes} is {info.dtype} {info.shape}, expected a matrix of bytes"
            )
        return info.shape[0], info.shape[1]
