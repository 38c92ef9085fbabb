"""Dataclasses to plain JSON-able data and back, strictly.

One pair of functions serves event logs, replay files, configurations and snapshots. A dataclass
becomes a dict whose `type` is its class name in snake case; reading checks every key and type and
names the path of the first thing that does not fit. Floats survive unchanged (JSON writes the
shortest digits that read back the same).

Supported: bool, int, float, str, None, enums, lists, tuples of one type, dicts with string keys,
dataclasses, unions of those, and opaque payloads (`object`), of which only bytes and plain scalars
can be written.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Self

TAG = "type"


class RecordError(ValueError):
    """A value can not be written as plain data, or data does not fit the type it is read as."""


class Record:
    """Base of the dataclasses that are logged: adds `to_dict` and `from_dict`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal record."""
        data: dict[str, Any] = to_data(self)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a record of exactly this class; raises `RecordError` with the path at fault."""
        record: Self = from_data(cls, data)
        return record


@functools.cache
def tag_of(cls: type) -> str:
    """Return a dataclass's name in snake case, as written under `type`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def to_data(value: Any, where: str = "") -> Any:
    """Return `value` as dicts, lists and scalars that `json.dumps` accepts."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, (list, tuple)):
        return [to_data(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: to_data(item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = tag_of(type(value))
        data: dict[str, Any] = {TAG: name}
        for field in dataclasses.fields(value):
            path = f"{where or name}.{field.name}"
            data[field.name] = to_data(getattr(value, field.name), path)
        return data
    raise RecordError(f"{where or 'value'}: a {type(value).__name__} has no plain form")


def from_data(kind: Any, data: Any, where: str = "") -> Any:
    """Read what `to_data` wrote for a value of type `kind`."""
    if kind is object:
        return _read_opaque(data, where)
    if kind is None or kind is type(None):
        return None if data is None else _misfit("null", data, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError:
            choices = ", ".join(repr(member.value) for member in kind)
            return _misfit(f"one of {choices}", data, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, data, where)
    if origin in (list, tuple):
        if not isinstance(data, list):
            _misfit("a list", data, where)
        return origin(from_data(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            _misfit("an object", data, where)
        return {key: from_data(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    return _read_scalar(kind, data, where)


def _read_dataclass(kind: type, data: Any, where: str) -> Any:
    where = where or tag_of(kind)
    if not isinstance(data, Mapping) or data.get(TAG) != tag_of(kind):
        _misfit(f"an object of type {tag_of(kind)!r}", data, where)
    hints = _hints(kind)
    strange = sorted(map(str, data.keys() - hints.keys() - {TAG}))
    missing = sorted(hints.keys() - data.keys())
    if strange or missing:
        raise RecordError(f"{where}: unknown keys {strange}, missing keys {missing}")
    return kind(**{name: from_data(hints[name], data[name], f"{where}.{name}") for name in hints})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    resolved = typing.get_type_hints(kind)
    return {field.name: resolved[field.name] for field in dataclasses.fields(kind)}


def _read_union(arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in arguments:
        return None
    options = [argument for argument in arguments if argument is not type(None)]
    if len(options) == 1:
        return from_data(options[0], data, where)
    for option in options:
        if isinstance(data, Mapping) and data.get(TAG) == tag_of(option):
            return from_data(option, data, where)
    names = ", ".join(tag_of(option) for option in options)
    return _misfit(f"an object whose type is one of {names}", data, where)


def _read_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind not in (bool, int, float, str):
        raise RecordError(f"{where}: fields of type {kind!r} are not supported")
    if type(data) is not kind:
        _misfit(kind.__name__, data, where)
    return data


def _read_opaque(data: Any, where: str) -> object:
    if isinstance(data, Mapping) and set(data) == {"base64"}:
        try:
            return base64.b64decode(data["base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            _misfit("base64 text", data, where)
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    return _misfit("base64 bytes or a scalar", data, where)


def _misfit(wanted: str, data: Any, where: str) -> typing.NoReturn:
    shown = repr(data)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    raise RecordError(f"{where or 'value'}: expected {wanted}, got {shown}")
