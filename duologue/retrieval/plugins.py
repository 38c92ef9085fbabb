"""Retrievers from other packages.

A package offers one under the entry-point group `duologue.retrievers`; the entry names a function
that takes the user's settings for it (a mapping) and returns a `Retriever`. Nothing is loaded
unless asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from duologue.errors import DuologueError
from duologue.retrieval.protocol import Retriever

GROUP = "duologue.retrievers"
Factory = Callable[[Mapping[str, Any]], Retriever]


class PluginError(DuologueError, RuntimeError):
    """A plug-in that is not there, cannot be imported, or is no retriever."""


def available_plugins(entries: Iterable[EntryPoint] | None = None) -> dict[str, EntryPoint]:
    """Installed plug-ins by name, without importing them."""
    found = entry_points(group=GROUP) if entries is None else entries
    return {entry.name: entry for entry in found}


def load_plugin(
    name: str, settings: Mapping[str, Any], entries: Iterable[EntryPoint] | None = None
) -> Retriever:
    """Make the retriever that a plug-in offers."""
    plugins = available_plugins(entries)
    if name not in plugins:
        known = ", ".join(sorted(plugins)) or "none"
        raise PluginError(f"no retriever plug-in {name!r} is installed (installed: {known})")
    try:
        factory: Factory = plugins[name].load()
        retriever = factory(settings)
    except Exception as error:
        raise PluginError(f"retriever plug-in {name!r} failed: {error}") from error
    if not isinstance(retriever, Retriever):
        raise PluginError(f"retriever plug-in {name!r} gives a {type(retriever).__name__}")
    return retriever
