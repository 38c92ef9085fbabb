"""Model shapes as frozen dataclasses, read strictly from the published JSON layouts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from duologue.errors import DuologueError

C = TypeVar("C")


class ConfigError(DuologueError, ValueError):
    """A configuration is not one that a model can be built from; names the field."""


def parse_config(
    kind: type[C],
    values: Mapping[str, Any],
    *,
    prefix: str = "",
    fixed: Mapping[str, Any] | None = None,
    inert: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
) -> C:
    """Build the dataclass `kind` from a JSON object.

    Args:
        prefix: put before field names in errors.
        fixed: entries that files may have, but with one value only.
        inert: entries that files may have and that change nothing.
        given: fields that are known already.

    Raises:
        ConfigError: an entry is unknown, missing or unsupported.
    """
    fixed = fixed or {}
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    arguments = dict(given or {})
    for name, value in values.items():
        if name in fixed:
            if value != fixed[name]:
                raise ConfigError(
                    f"{prefix}{name}: {value!r} is not supported, only {fixed[name]!r}"
                )
        elif name in inert:
            continue
        elif name not in known:
            raise ConfigError(f"{prefix}{name}: unknown entry")
        else:
            arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{prefix.rstrip('.') or kind.__name__}: {error}") from error
