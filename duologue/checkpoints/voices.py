"""Saved voices: how a PersonaPlex agent sounds, as what the model is given at a session's start.

Ours is a safetensors file with either `codes` (the voice's Mimi codes: small, any model) or
`embeddings` and `cache` (the model's own summed inputs). NVIDIA's `.pt` files hold the latter in a
pickle. A pickle is a program; this reader runs none. It follows the few instructions that plain
dictionaries of tensors consist of, on symbols of its own, and refuses all others.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.save import write_tensors
from duologue.checkpoints.tensorfile import SafetensorsFile

MAX_VOICE_BYTES = 256 * 2**20
MAX_PICKLE_BYTES = 2**20
MAX_ENTRIES = 256
MAX_TENSORS = 16


@dataclass(frozen=True)
class Voice:
    """What to play into the model before a session; either `codes`, or the other two."""

    codes: Tensor | None = None
    """int64 [K, frames]: Mimi codes of the voice."""
    embeddings: Tensor | None = None
    """[steps, dim]: summed input embeddings, one for each step."""
    cache: Tensor | None = None
    """int64 [1 + n_q, columns]: token columns after the last step."""

    def __post_init__(self) -> None:
        if (self.codes is None) == (self.embeddings is None):
            raise CheckpointError("a voice has either codes or embeddings")
        if (self.embeddings is None) != (self.cache is None):
            raise CheckpointError("a voice's embeddings and cache go together")
        shapes = (("codes", self.codes), ("embeddings", self.embeddings), ("cache", self.cache))
        for name, tensor in shapes:
            if tensor is None:
                continue
            if tensor.dim() != 2 or 0 in tensor.shape:
                raise CheckpointError(f"a voice's {name} have shape {tuple(tensor.shape)}")
            if tensor.is_floating_point() != (name == "embeddings"):
                raise CheckpointError(f"a voice's {name} are {tensor.dtype}")


def load_voice(path: Path) -> Voice:
    """Read a saved voice, ours or a `.pt` file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.suffix in (".pt", ".pth"):
            return _from_published(_read_torch_archive(path))
        file = SafetensorsFile(path)
        if unknown := set(file) - {"codes", "embeddings", "cache"}:
            raise CheckpointError(f"is no voice: it has the tensor {min(unknown)}")
        tensors = {key: file[key] for key in file}
        for key in ("codes", "cache"):
            if key in tensors and not tensors[key].is_floating_point():
                tensors[key] = tensors[key].long()
        return Voice(**tensors)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if str(path) in text else f"{path}: {text}") from error


def save_voice(path: Path, voice: Voice) -> None:
    """Write a voice as safetensors."""
    parts = {"codes": voice.codes, "embeddings": voice.embeddings, "cache": voice.cache}
    tensors = {key: tensor for key, tensor in parts.items() if tensor is not None}
    write_tensors(path, tensors, {"format": "duologue", "kind": "voice"})


def _from_published(values: Any) -> Voice:
    if not isinstance(values, dict) or values.keys() != {"embeddings", "cache"}:
        raise CheckpointError("is no voice: expected a dictionary with embeddings and cache")
    embeddings, cache = values["embeddings"], values["cache"]
    if not isinstance(embeddings, Tensor) or not isinstance(cache, Tensor):
        raise CheckpointError("is no voice: embeddings and cache are not tensors")
    if cache.dim() != 3 or cache.shape[0] != 1 or cache.is_floating_point() or embeddings.dim() < 2:
        raise CheckpointError(
            f"is no voice: embeddings {tuple(embeddings.shape)}, cache {tuple(cache.shape)}"
        )
    steps = embeddings.reshape(-1, embeddings.shape[-1])
    if steps.shape[0] != embeddings.shape[0]:
        raise CheckpointError(f"embeddings of several voices, {tuple(embeddings.shape)}")
    return Voice(embeddings=steps, cache=cache[0].long())


@dataclass(frozen=True)
class _Symbol:
    """A name that the pickle wants to import."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the archive."""

    key: str
    dtype: torch.dtype
    count: int


class _Mark:
    """The pickle machine's mark."""


_STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_ORDERED = "collections OrderedDict"

_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "MARK": _Mark,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _read_torch_archive(path: Path) -> Any:
    """The dictionary in a file of `torch.save`, tensors included."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = archive.infolist()
            if len(files) > MAX_ENTRIES or sum(file.file_size for file in files) > MAX_VOICE_BYTES:
                raise CheckpointError("too large for a voice")
            pickles = [file for file in files if file.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
                raise CheckpointError("is no voice saved by torch")
            root = pickles[0].filename.removesuffix("data.pkl")
            names = {file.filename for file in files}
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
            if order != b"little":
                raise CheckpointError("big-endian numbers are not supported")

            reads = 0

            def storage(key: str) -> bytes:
                nonlocal reads
                reads += 1
                if reads > MAX_TENSORS:
                    raise CheckpointError("too many tensors for a voice")
                name = f"{root}data/{key}"
                if name not in names:
                    raise CheckpointError(f"lacks the data of storage {key}")
                return archive.read(name)

            return _interpret(archive.read(pickles[0]), storage)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise CheckpointError(f"not a readable archive of torch: {error}") from error


def _interpret(program: bytes, storage: Callable[[str], bytes]) -> Any:
    """Follow a pickle that only builds dictionaries and tensors."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(program):
            name = opcode.name
            if name == "STOP":
                (result,) = stack
                return result
            _follow(name, argument, stack, memo, storage)
    except CheckpointError:
        raise
    except Exception as error:
        # Whatever a made-up program trips over, it is a malformed file and nothing else.
        raise CheckpointError(f"malformed pickle: {error}") from error
    raise CheckpointError("malformed pickle: it does not end")


def _follow(
    name: str, argument: Any, stack: list[Any], memo: dict[int, Any],
    storage: Callable[[str], bytes],
) -> None:  # fmt: skip
    if name in _LITERALS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name]())
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "TUPLE":
        stack.append(tuple(_pop_to_mark(stack)))
    elif name in _TUPLES:
        items = [stack.pop() for _ in range(_TUPLES[name])]
        stack.append(tuple(reversed(items)))
    elif name == "GLOBAL":
        if argument not in (*_STORAGES, _REBUILD, _ORDERED):
            raise CheckpointError(f"refused: the pickle asks for {argument.replace(' ', '.')}")
        stack.append(_Symbol(argument))
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif name == "REDUCE":
        arguments = stack.pop()
        stack.append(_call(stack.pop(), arguments, storage))
    elif name == "SETITEM":
        value, key = stack.pop(), stack.pop()
        _fill(stack[-1], {key: value})
    elif name == "SETITEMS":
        items = _pop_to_mark(stack)
        _fill(stack[-1], dict(zip(items[::2], items[1::2], strict=True)))
    elif name != "PROTO":
        raise CheckpointError(f"refused: the pickle has the instruction {name}")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    at = max(i for i, item in enumerate(stack) if isinstance(item, _Mark))
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _fill(target: Any, items: Mapping[Any, Any]) -> None:
    if not isinstance(target, dict) or not all(isinstance(key, str) for key in items):
        raise CheckpointError("malformed pickle: items for what is no dictionary of names")
    target.update(items)


def _storage(identifier: Any) -> _Storage:
    tag, kind, key, _, count = identifier
    if tag != "storage" or not isinstance(kind, _Symbol) or kind.name not in _STORAGES:
        raise CheckpointError("refused: a storage of an unknown kind")
    if not isinstance(key, str) or not key.isalnum() or not isinstance(count, int):
        raise CheckpointError("malformed pickle: a storage without a name or size")
    return _Storage(key, _STORAGES[kind.name], count)


def _call(function: Any, arguments: Any, storage: Callable[[str], bytes]) -> Any:
    name = function.name if isinstance(function, _Symbol) else None
    if name == _ORDERED and arguments == ():
        return {}
    if name != _REBUILD:
        raise CheckpointError("refused: the pickle calls something")
    home, offset, size, stride, _, _ = arguments
    if not isinstance(home, _Storage) or len(size) != len(stride) or len(size) > 8:
        raise CheckpointError("malformed pickle: a tensor without storage or shape")
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
        raise CheckpointError("malformed pickle: a tensor with an impossible shape")
    data = storage(home.key)
    count = len(data) // home.dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if len(data) % home.dtype.itemsize or count != home.count:
        raise CheckpointError(f"storage {home.key} has {len(data)} bytes for {home.count} numbers")
    if prod(size) == 0 or prod(size) > count or last >= count:
        raise CheckpointError(f"a tensor of shape {size} reaches out of its storage of {count}")
    flat = torch.frombuffer(bytearray(data), dtype=home.dtype)
    return flat.as_strided(size, stride, offset).contiguous()
