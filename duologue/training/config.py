"""TOML tables -> frozen dataclasses. Unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")

_LENGTHS = ("steps", "_step", "evaluate_every")
"""How what counts an optimiser's steps is called."""


class TrainingConfigError(ValueError):
    """A training configuration is not usable; names the key."""


def read_toml(paths: Iterable[Path], overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Tables of some files, later ones over earlier ones, then `a.b=value` (in TOML notation)."""
    tables: dict[str, Any] = {}
    for path in paths:
        try:
            _merge(tables, tomllib.loads(path.read_text(encoding="utf-8")))
        except tomllib.TOMLDecodeError as error:
            raise TrainingConfigError(f"{path}: {error}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise TrainingConfigError(f"override {override!r} is not of the form key=value")
        _assign(tables, key.strip(), _parse_value(text.strip()))
    return tables


def parse(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass, and those nested in it, from a table.

    A class with a `from_dict` of its own reads its table itself.
    """
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for key, value in values.items():
        place = f"{where}.{key}" if where else key
        if key not in known:
            raise TrainingConfigError(f"{place}: unknown key; known are {', '.join(known)}")
        given[key] = _convert(hints[key], value, place)
    for name, item in known.items():
        if name not in given and item.default is MISSING and item.default_factory is MISSING:
            raise TrainingConfigError(f"{where}.{name}".lstrip(".") + ": missing")
    try:
        return kind(**given)
    except ValueError as error:
        raise TrainingConfigError(f"{where}: {error}".lstrip(": ")) from error


def shortened(config: T, factor: float) -> T:
    """A configuration with every length in steps times `factor`: a first look at a recipe.

    Schedules shrink with the run, so that each of its phases still happens. No length becomes 0.
    """
    changes: dict[str, Any] = {}
    for item in fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if is_dataclass(value):
            changes[item.name] = shortened(value, factor)
        elif isinstance(value, int) and value and item.name.endswith(_LENGTHS):
            changes[item.name] = max(1, round(value * factor))
    return replace(config, **changes)  # type: ignore[type-var]


def _convert(hint: Any, value: Any, place: str) -> Any:
    if isinstance(hint, UnionType):  # with None, which TOML has no word for
        kinds = [one for one in hint.__args__ if one is not NoneType]
        hint = kinds[0] if len(kinds) == 1 else Any
    if isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise TrainingConfigError(f"{place}: expected a table")
        if hasattr(hint, "from_dict"):
            try:
                return hint.from_dict(value)
            except ValueError as error:
                raise TrainingConfigError(f"{place}: {error}") from error
        return parse(hint, value, place)
    if isinstance(value, list):
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise TrainingConfigError(f"{place}: expected {hint.__name__}, got {value!r}")
    return value


def _merge(tables: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(tables.get(key), dict):
            _merge(tables[key], value)
        else:
            tables[key] = value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(tables: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        tables = tables.setdefault(parent, {})
        if not isinstance(tables, dict):
            raise TrainingConfigError(f"override {key}: {parent} is not a table")
    tables[leaf] = value
