"""How one file format lays out the tensors of one of our modules.

A layout maps each of our tensor names to the keys of the file that hold it and to the (reversible)
rearrangement between the two. Reading with a layout is strict: a key that is missing, left over,
of a wrong shape or of a wrong kind of dtype is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.tensorfile import TensorSource
from duologue.nn.linear import QuantizedWeight

Tensors = Sequence[Tensor]
Weight = Tensor | QuantizedWeight
Weights = dict[str, Weight]


@dataclass(frozen=True)
class Entry:
    """Where one of our tensors lives in a file."""

    keys: tuple[str, ...]
    """Keys in the file; usually one."""
    read: Callable[[Tensors], Tensor] | None = None
    """From the file's tensors to ours; `None` where they are the same."""
    write: Callable[[Tensor], Tensors] | None = None
    """From ours to the file's."""
    block: tuple[int, int] = (0, 1)
    """(i, n): ours is the i-th of n equal row blocks of the file's tensor."""
    order: int = 0
    """Place among those of ours that are written below one another into the same key."""
    copies: bool = False
    """The keys hold one and the same tensor (formats that share no weights repeat them)."""


@dataclass
class Layout:
    """All entries of a module. Each of our names has one entry or alternatives, preferred first."""

    entries: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    """Keys of the file that say nothing that we need."""

    def add(self, ours: str, *alternatives: Entry) -> None:
        self.entries[ours] = alternatives

    def read(self, source: TensorSource, expected: Mapping[str, Tensor]) -> Weights:
        """Our tensors from a file; `expected` (meta tensors do) gives names and shapes."""
        unclaimed = set(source) - self.ignored
        chosen: dict[str, Entry] = {}
        missing: list[str] = []
        for ours in expected:
            entry = self._choose(ours, source)
            if entry is None:
                present, absent = self._nearest(ours, source)
                missing += absent
                unclaimed -= set(present)
            else:
                chosen[ours] = entry
                unclaimed -= set(entry.keys)
        _report(source.name, missing, sorted(unclaimed))
        return {
            ours: _read_entry(entry, ours, source, expected[ours]) for ours, entry in chosen.items()
        }

    def write(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors from ours."""
        stacks: dict[str, dict[int, Tensor]] = {}
        for ours, tensor in tensors.items():
            entry = self.entries[ours][0]
            values = [tensor] if entry.write is None else entry.write(tensor)
            if entry.copies:
                values = [values[0]] * len(entry.keys)
            for key, value in zip(entry.keys, values, strict=True):
                stacks.setdefault(key, {})[entry.order or entry.block[0]] = value
        return {
            key: torch.cat([parts[i] for i in sorted(parts)]).contiguous()
            for key, parts in stacks.items()
        }

    def _choose(self, ours: str, source: TensorSource) -> Entry | None:
        for entry in self.entries.get(ours, ()):
            if all(key in source for key in entry.keys):
                return entry
        return None

    def _nearest(self, ours: str, source: TensorSource) -> tuple[list[str], list[str]]:
        """Keys that are there and keys that are not, of the alternative that lacks least."""
        split = [
            ([k for k in entry.keys if k in source], [k for k in entry.keys if k not in source])
            for entry in self.entries.get(ours, ())
        ]
        return max(split, key=lambda pair: len(pair[0]), default=([], [ours]))


def renamed(key: str, *others: str) -> tuple[Entry, ...]:
    """Entries for a tensor stored as it is, under the first of these keys that exists."""
    return tuple(Entry((name,)) for name in (key, *others))


def stacked(key: str, index: int, count: int) -> Entry:
    """Entry for the `index`-th of `count` equal row blocks of a tensor."""
    return Entry((key,), block=(index, count))


def unsqueezed(key: str) -> Entry:
    """Entry for a matrix that the file keeps as a convolution of kernel 1, [out, in, 1]."""
    return Entry((key,), lambda tensors: tensors[0][..., 0], lambda ours: [ours[..., None]])


def _read_entry(entry: Entry, ours: str, source: TensorSource, like: Tensor) -> Weight:
    key = entry.keys[0]
    for name in entry.keys:
        if like.is_floating_point() and not source.info(name).dtype.is_floating_point:
            raise CheckpointError(
                f"{source.name}: {name} is {source.info(name).dtype}, expected floating point"
            )
    index, count = entry.block
    rows, rest = divmod(source.info(key).shape[0], count) if count > 1 else (0, 0)
    if rest:
        raise CheckpointError(
            f"{source.name}: {key} has {source.info(key).shape[0]} rows, no multiple of {count}"
        )
    if entry.copies:
        _check_copies(entry.keys, source)
    quantized = source.quantized(key) if entry.read is None else None
    value: Weight
    if quantized is not None:
        value = quantized.rows(index * rows, rows) if count > 1 else quantized
    else:
        tensors = [source[name] for name in (entry.keys[:1] if entry.copies else entry.keys)]
        if count > 1:
            tensors = [tensors[0].narrow(0, index * rows, rows)]
        try:
            value = tensors[0] if entry.read is None else entry.read(tensors)
        except (RuntimeError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"{source.name}: {_shapes(entry, source)}, which does not make {ours}: {error}"
            ) from error
    if tuple(value.shape) != tuple(like.shape):
        raise CheckpointError(
            f"{source.name}: {_shapes(entry, source)}, which gives {tuple(value.shape)} for {ours} "
            f"where the configuration needs {tuple(like.shape)}"
        )
    return value


def _shapes(entry: Entry, source: TensorSource) -> str:
    return ", ".join(f"{name} has shape {source.info(name).shape}" for name in entry.keys)


def _check_copies(keys: Sequence[str], source: TensorSource) -> None:
    first = source[keys[0]]
    for other in keys[1:]:
        copy = source[other]
        same = copy.shape == first.shape and copy.dtype == first.dtype
        # Meta tensors stand for a file of which only the header was read.
        if not same or not (first.is_meta or copy.equal(first)):
            raise CheckpointError(
                f"{source.name}: {other} differs from {keys[0]}, but this model has one weight "
                "for both"
            )


def _report(name: str, missing: Sequence[str], extra: Sequence[str]) -> None:
    complaints = [
        f"{verb} {_listed(keys)}"
        for verb, keys in (("lacks", missing), ("has the unexpected", extra))
        if keys
    ]
    if complaints:
        raise CheckpointError(f"{name} {' and '.join(complaints)}")


def _listed(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    return f"tensor{'s' * (len(keys) > 1)} {shown}"
