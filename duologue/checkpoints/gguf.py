"""GGUF files: just as much of the format as speech models need, read without trusting the file.

The header names tensors, their types and places; F32, F16, BF16 and Q8_0 (blocks of 32 int8 codes
with one float16 scale) are read. Key-value metadata is skipped over but for the alignment.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.tensorfile import MAX_HEADER_BYTES, TensorInfo, TensorSource
from duologue.nn.linear import QuantizedWeight

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMS = 4
_MAX_NESTING = 4
_DEFAULT_ALIGNMENT = 32
_BLOCK = 32
_BLOCK_BYTES = 2 + _BLOCK

_PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
_Q8_0 = 8

# Kinds of metadata values: bytes each takes, by the format's numbers.
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9


def open_gguf(path: Path) -> TensorSource:
    """Open a GGUF file; a truncated or foreign one is an error that says so."""
    return GGUFFile(path)


@dataclass(frozen=True)
class _Entry:
    shape: tuple[int, ...]
    kind: int
    start: int
    bytes: int


class GGUFFile(TensorSource):
    """One GGUF file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        size = path.stat().st_size
        if size < len(_MAGIC) + 20:
            raise CheckpointError(f"{path}: {size} bytes is too short for a GGUF file")
        with path.open("rb") as file:
            self._bytes = np.frombuffer(
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=np.uint8
            )
        self._entries = _read_header(str(path), self._bytes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def info(self, key: str) -> TensorInfo:
        entry = self._entries[key]
        return TensorInfo(entry.shape, _PLAIN.get(entry.kind, torch.float32))

    def stored_as(self, key: str) -> tuple[str, int]:
        """Type and bytes of a tensor in the file; `info` tells what it widens to."""
        entry = self._entries[key]
        name = "q8_0" if entry.kind == _Q8_0 else str(_PLAIN[entry.kind]).removeprefix("torch.")
        return name, entry.bytes

    def __getitem__(self, key: str) -> Tensor:
        entry = self._entries[key]
        if entry.kind == _Q8_0:
            return self._blocks(entry).dequantize().view(entry.shape)
        return self._raw(entry).view(_PLAIN[entry.kind]).view(entry.shape)

    def quantized(self, key: str) -> QuantizedWeight | None:
        entry = self._entries[key]
        return self._blocks(entry) if entry.kind == _Q8_0 and len(entry.shape) == 2 else None

    def _raw(self, entry: _Entry) -> Tensor:
        return torch.from_numpy(self._bytes[entry.start : entry.start + entry.bytes])

    def _blocks(self, entry: _Entry) -> QuantizedWeight:
        blocks = self._raw(entry).view(-1, entry.shape[-1] // _BLOCK, _BLOCK_BYTES)
        scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0]
        return QuantizedWeight(blocks[..., 2:].contiguous().view(torch.int8).flatten(1), scales)


class _Cursor:
    """Reads a header front to back; running past its end is an error."""

    def __init__(self, name: str, data: np.ndarray) -> None:
        self.name, self.at = name, 0
        self._data = data
        self._end = min(len(data), MAX_HEADER_BYTES)

    def take(self, count: int) -> bytes:
        start = self.at
        self.skip(count)
        return self._data[start : self.at].tobytes()

    def skip(self, count: int) -> None:
        if count > self._end - self.at:
            what = "truncated" if self._end == len(self._data) else "its header is too long"
            raise CheckpointError(f"{self.name}: not a readable GGUF file: {what}")
        self.at += count

    def uint32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def uint64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def text(self) -> str:
        try:
            return self.take(self.uint64()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.name}: not a readable GGUF file: {error}") from error

    def skip_value(self, kind: int, nesting: int = 0) -> None:
        if kind in _VALUE_BYTES:
            self.skip(_VALUE_BYTES[kind])
        elif kind == _STRING:
            self.skip(self.uint64())
        elif kind == _ARRAY and nesting < _MAX_NESTING:
            inner, count = self.uint32(), self.uint64()
            if inner in _VALUE_BYTES:
                self.skip(count * _VALUE_BYTES[inner])
            else:
                for _ in range(count):
                    self.skip_value(inner, nesting + 1)
        else:
            raise CheckpointError(
                f"{self.name}: not a readable GGUF file: unknown kind of metadata {kind}"
            )


def _read_header(name: str, data: np.ndarray) -> dict[str, _Entry]:
    cursor = _Cursor(name, data)
    if (magic := cursor.take(4)) != _MAGIC:
        raise CheckpointError(f"{name}: not a GGUF file: it starts with {magic!r}")
    if (version := cursor.uint32()) not in _VERSIONS:
        raise CheckpointError(f"{name}: GGUF version {version} is not supported, only 2 and 3")
    tensors, values = cursor.uint64(), cursor.uint64()
    alignment = _DEFAULT_ALIGNMENT
    for _ in range(values):
        key, kind = cursor.text(), cursor.uint32()
        if key == "general.alignment" and kind == _UINT32:
            alignment = cursor.uint32()
        else:
            cursor.skip_value(kind)
    if alignment < 8 or alignment % 8:
        raise CheckpointError(f"{name}: general.alignment is {alignment}, no multiple of 8")
    entries: dict[str, _Entry] = {}
    for _ in range(tensors):
        key, entry = _read_entry(cursor, alignment)
        if key in entries:
            raise CheckpointError(f"{name}: {key} is there twice")
        entries[key] = entry
    start = -(-cursor.at // alignment) * alignment
    end = max((start + entry.start + entry.bytes for entry in entries.values()), default=0)
    if end > len(data):
        raise CheckpointError(
            f"{name}: truncated: tensors end at byte {end}, the file has {len(data)}; "
            "download it again"
        )
    return {
        key: _Entry(entry.shape, entry.kind, start + entry.start, entry.bytes)
        for key, entry in entries.items()
    }


def _read_entry(cursor: _Cursor, alignment: int) -> tuple[str, _Entry]:
    key, dims = cursor.text(), cursor.uint32()
    if dims > _MAX_DIMS:
        raise CheckpointError(f"{cursor.name}: {key} has {dims} dimensions")
    # The file counts dimensions from the innermost.
    shape = tuple(reversed([cursor.uint64() for _ in range(dims)]))
    kind, start = cursor.uint32(), cursor.uint64()
    count = prod(shape)
    if kind in _PLAIN:
        size = count * _PLAIN[kind].itemsize
    elif kind == _Q8_0 and shape and shape[-1] % _BLOCK == 0:
        size = count // _BLOCK * _BLOCK_BYTES
    elif kind == _Q8_0:
        raise CheckpointError(f"{cursor.name}: {key} {shape} does not split into blocks of 32")
    else:
        raise CheckpointError(
            f"{cursor.name}: {key} has GGML type {kind}; only F32, F16, BF16 and Q8_0 are read"
        )
    if start % alignment:
        raise CheckpointError(f"{cursor.name}: {key} starts at {start}, off the alignment")
    return key, _Entry(shape, kind, start, size)
