"""Errors of this package and the checks that raise them; each error names the field at fault."""

from __future__ import annotations

import math
from typing import Any

from duologue.errors import DuologueError


class ConfigError(DuologueError, ValueError):
    """A setting is out of its range; the message starts with `Class.field`."""


class InputError(ValueError):
    """Something handed to a conversation is malformed; the conversation is unchanged."""


class IllegalMove(RuntimeError):
    """A state machine was asked for a transition that it does not have."""


def check_int(owner: Any, field: str, low: int, high: int) -> None:
    """Require that an attribute is an integer in `low..high`."""
    value = getattr(owner, field)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _refuse(owner, field, f"an integer in {low}..{high}")


def check_fraction(owner: Any, field: str) -> None:
    """Require that an attribute is a number in [0, 1]."""
    value = getattr(owner, field)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1:
        _refuse(owner, field, "a number in [0, 1]")


def check_number(owner: Any, field: str, low: float, high: float) -> None:
    """Require that an attribute is a number in `low..high`."""
    value = getattr(owner, field)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        _refuse(owner, field, f"a number in {low:g}..{high:g}")


def check_type(owner: Any, field: str, kind: type) -> None:
    """Require that an attribute is an instance of `kind`."""
    if not isinstance(getattr(owner, field), kind):
        _refuse(owner, field, f"a {kind.__name__}")


def _refuse(owner: Any, field: str, wanted: str) -> None:
    value = getattr(owner, field)
    raise ConfigError(f"{type(owner).__name__}.{field} must be {wanted}, got {value!r}")
