"""Events as messages, in the three dialects that clients of `/api/chat` speak. Pure.

- `moshi`: what the model says, kind 2, piece by piece. Every published client shows it.
- `moshirag`: both sides in colours, a line for each turn, `[RET]` and `[RET_FAILED]`, references
  with a label; kinds 7 and 9. Published browser clients of MoshiRAG show it.
- `events`: everything, as JSON of kind 10. Ours, and only for those who ask.

Audio is not rendered here: it goes out first, and its coding is not a matter of dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from duologue.dialogue import (
    AudioFrame,
    Event,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
    Role,
    TextToken,
    TurnStarted,
)
from duologue.server.protocols.kyutai import wire

RETRIEVAL_STARTED = "[RET]"
RETRIEVAL_FAILED = "[RET_FAILED]"
CLEAR_REFERENCE = "\0"
ROLE_PREFIX = {Role.MODEL: "moshi: ", Role.USER: "user: "}
ROLE_COLOUR = {Role.MODEL: wire.Colour.MODEL, Role.USER: wire.Colour.USER}


class Renderer(Protocol):
    """What a dialect makes of events; an empty list for those it does not show."""

    def render(self, event: Event) -> list[bytes]: ...

    def note(self, values: Mapping[str, Any]) -> list[bytes]:
        """Something the server says by itself: session, statistics, pong."""
        ...


class MoshiRenderer:
    """The dialect `moshi`."""

    def render(self, event: Event) -> list[bytes]:
        match event:
            case TextToken(role=Role.MODEL, text=text) if text:
                return [wire.text(text)]
        return []

    def note(self, values: Mapping[str, Any]) -> list[bytes]:
        return []


class MoshiRagRenderer:
    """The dialect `moshirag`."""

    def __init__(self) -> None:
        self._begun = False

    def render(self, event: Event) -> list[bytes]:
        match event:
            case TurnStarted(role=role):
                prefix = ROLE_PREFIX[role]
                line, self._begun = f"\n{prefix}" if self._begun else prefix, True
                return [wire.coloured_text(ROLE_COLOUR[role], line)]
            case TextToken(role=role, text=text) if text:
                return [wire.coloured_text(ROLE_COLOUR[role], text)]
            case RetrievalStarted():
                return [wire.coloured_text(wire.Colour.MODEL, RETRIEVAL_STARTED)]
            case RetrievalFailed():
                return [wire.coloured_text(wire.Colour.MODEL, RETRIEVAL_FAILED)]
            case RetrievalSucceeded(label=label, text=text):
                shown = f"{label.replace(chr(9), ' ')}\t{text}"
                return [
                    wire.coloured_reference(wire.Colour.MODEL, CLEAR_REFERENCE),
                    wire.coloured_reference(wire.Colour.MODEL, shown),
                ]
        return []

    def note(self, values: Mapping[str, Any]) -> list[bytes]:
        return []


class EventsRenderer:
    """The dialect `events`."""

    def render(self, event: Event) -> list[bytes]:
        return [] if isinstance(event, AudioFrame) else [wire.event(event.to_dict())]

    def note(self, values: Mapping[str, Any]) -> list[bytes]:
        return [wire.event(values)]
