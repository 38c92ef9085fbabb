"""A recorder of device work for the CPU, as strict as a CUDA graph, and other strict company.

`HostRecorder` writes down each kernel with the tensors and numbers that it was given, and replays
them without any Python of the recorded code: what was decided then is decided for ever, and who
looks at a tensor that is not the recorded one is left behind. `without_numbers` copies an object to
a device where each look at a value is an error, and so is company of tensors left on the host.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from duologue.runtime.graph import Recording

T = TypeVar("T")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal")
"""Kernels whose result, or its shape, the host must wait for."""


class HostRecorder:
    """See the module."""

    def record(self, work: Callable[[], Tensor]) -> Recording:
        tape = _Tape()
        with tape:
            outputs = work()
        return Recording(tape.replay, outputs)


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        if not _is_view(func):
            self._calls.append((func, args, given, result))
        return result

    def replay(self) -> None:
        for func, args, given, recorded in self._calls:
            again = func(*args, **given)
            for old, new in zip(tree_leaves(recorded), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _is_view(func: Any) -> bool:
    """Whether the result is its argument's memory, seen otherwise."""
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


class NoWaiting(TorchDispatchMode):
    """Fails at a kernel that the host would have to wait for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert name not in WAITS, f"{name} waits for the device"
        if name in ("index", "index_put_", "index_put"):
            masks = [at for at in args[1] if at is not None and at.dtype == torch.bool]
            assert not masks, f"{name} by a mask waits for the device"
        return func(*args, **(kwargs or {}))


class _WithoutNumbers(TorchFunctionMode):
    """Has copies of tensors made without numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in (Tensor.clone, Tensor.__deepcopy__):
            return func(*args, **(kwargs or {}))
        made = args[0].detach().to("meta")
        if func is Tensor.__deepcopy__:
            args[1][id(args[0])] = made
        return made


def without_numbers(value: T) -> T:
    """A copy on a device where tensors have shapes alone, as if on an accelerator."""
    with _WithoutNumbers():
        return copy.deepcopy(value)
