"""Views of a checkpoint: part of it, parts of it widened, or our own quantised spelling."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from duologue.checkpoints.tensorfile import TensorInfo, TensorSource
from duologue.nn.linear import QuantizedWeight


class SourceView(TensorSource):
    """The tensors of `inner`; what a kind of view changes, it overrides."""

    def __init__(self, inner: TensorSource) -> None:
        super().__init__(inner.name)
        self.inner = inner

    def __getitem__(self, key: str) -> Tensor:
        return self.inner[key]

    def __contains__(self, key: object) -> bool:
        return key in self.inner

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)

    def info(self, key: str) -> TensorInfo:
        return self.inner.info(key)

    def quantized(self, key: str) -> QuantizedWeight | None:
        return self.inner.quantized(key)


class SelectedSource(SourceView):
    """Only the keys that `choose` accepts; the others are not there."""

    def __init__(self, inner: TensorSource, choose: Callable[[str], bool]) -> None:
        super().__init__(inner)
        self._choose = choose

    def __getitem__(self, key: str) -> Tensor:
        if key not in self:
            raise KeyError(key)
        return self.inner[key]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._choose(key) and key in self.inner

    def __iter__(self) -> Iterator[str]:
        return filter(self._choose, self.inner)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class WidenedSource(SourceView):
    """Gives integer codes only for the keys in `linear`; other quantised tensors are widened."""

    def __init__(self, inner: TensorSource, linear: frozenset[str]) -> None:
        super().__init__(inner)
        self._linear = linear

    def quantized(self, key: str) -> QuantizedWeight | None:
        return self.inner.quantized(key) if key in self._linear else None


class HeaderSource(SourceView):
    """What the header says and no more: tensors are on the meta device, nothing is read."""

    def __getitem__(self, key: str) -> Tensor:
        info = self.inner.info(key)
        return torch.empty(info.shape, dtype=info.dtype, device="meta")

    def quantized(self, key: str) -> QuantizedWeight | None:
        return None
