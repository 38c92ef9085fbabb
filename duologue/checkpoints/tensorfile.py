"""Files of named tensors, read without trusting them.

A safetensors header is checked byte by byte before the library sees the file, so that a truncated,
foreign or hostile file gives an error that says what is wrong with it. Nothing is unpickled.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.nn.linear import QuantizedWeight

MAX_HEADER_BYTES = 64 * 2**20
"""Longest header accepted. The largest published checkpoints need about 0.1 MB."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U32": torch.uint32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorSource(Mapping[str, Tensor]):
    """Named tensors of one checkpoint, read one at a time; `info` tells shapes without reading."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __contains__(self, key: object) -> bool:
        """Whether there is such a tensor; unlike `Mapping`'s own, this reads none."""
        try:
            return isinstance(key, str) and self.info(key) is not None
        except KeyError:
            return False

    def info(self, key: str) -> TensorInfo:
        """Shape and dtype that `self[key]` will have; `KeyError` where there is none."""
        raise NotImplementedError

    def quantized(self, key: str) -> QuantizedWeight | None:
        """The matrix as integer codes, where the file has it so; `self[key]` then widens it."""
        return None


class TensorDict(TensorSource):
    """Tensors already in memory, under the name of where they came from."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(name)
        self._tensors = dict(tensors)

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def info(self, key: str) -> TensorInfo:
        tensor = self._tensors[key]
        return TensorInfo(tuple(tensor.shape), tensor.dtype)


class SafetensorsFile(TensorSource):
    """One safetensors file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.metadata, self._infos = _read_header(path)
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._infos:
            raise KeyError(key)
        return self._file.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def info(self, key: str) -> TensorInfo:
        return self._infos[key]


class MergedSource(TensorSource):
    """Several files as one; a key in two of them is an error."""

    def __init__(self, parts: list[TensorSource]) -> None:
        super().__init__(parts[0].name if len(parts) == 1 else str(Path(parts[0].name).parent))
        self._home: dict[str, TensorSource] = {}
        for part in parts:
            for key in part:
                if key in self._home:
                    raise CheckpointError(
                        f"{key} is in both {self._home[key].name} and {part.name}"
                    )
                self._home[key] = part

    def __getitem__(self, key: str) -> Tensor:
        return self._home[key][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def info(self, key: str) -> TensorInfo:
        return self._home[key].info(key)

    def quantized(self, key: str) -> QuantizedWeight | None:
        return self._home[key].quantized(key)


def open_tensors(path: Path) -> TensorSource:
    """Open a checkpoint file by its kind: safetensors (also a sharded index) or GGUF."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder, expected a checkpoint file")
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix == ".gguf":
        from duologue.checkpoints.gguf import open_gguf

        return open_gguf(path)
    if path.suffix in {".pt", ".pth", ".bin", ".ckpt", ".pkl"}:
        raise CheckpointError(
            f"{path}: pickled checkpoints can run code when opened and are never read; "
            "use the model's safetensors file"
        )
    return SafetensorsFile(path)


def _open_shards(path: Path) -> TensorSource:
    try:
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: not an index of shards: {error}") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{path}: shard {shard!r} is not a plain file name")
    return MergedSource([open_tensors(path.parent / shard) for shard in shards])


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise CheckpointError(f"{path}: {size} bytes is too short for a safetensors file")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: not a safetensors file: its first eight bytes announce a header of "
                f"{length} bytes (at most {MAX_HEADER_BYTES} are accepted)"
            )
        if length > size - 8:
            raise CheckpointError(
                f"{path}: truncated: the header should have {length} bytes, the file has {size - 8}"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {}) or {}
        infos = {key: _parse_entry(path, key, entry) for key, entry in header.items()}
    except CheckpointError:
        raise
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: bad header: {error}") from error
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if (have := size - 8 - length) < end:
        raise CheckpointError(
            f"{path}: truncated: tensors need {end} bytes, the file has {have}; download it again"
        )
    return metadata, infos


def _parse_entry(path: Path, key: str, entry: Any) -> TensorInfo:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(f"{path}: {key} has the unsupported dtype {entry['dtype']!r}")
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)) or begin > end:
        raise CheckpointError(f"{path}: {key} has an impossible shape or position")
    return TensorInfo(shape, dtype)
