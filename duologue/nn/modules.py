"""Typed lists of modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, overload

from torch import nn

M = TypeVar("M", bound=nn.Module)


class ModuleSequence(nn.ModuleList, Generic[M]):
    """`nn.ModuleList` that tells a type checker what it holds."""

    def __iter__(self) -> Iterator[M]:
        return super().__iter__()  # type: ignore[return-value]

    @overload
    def __getitem__(self, index: slice) -> ModuleSequence[M]: ...
    @overload
    def __getitem__(self, index: int) -> M: ...
    def __getitem__(self, index: int | slice) -> M | ModuleSequence[M]:
        return super().__getitem__(index)  # type: ignore[return-value]
