"""A server's messages as events. One reader serves one conversation; it never raises on text.

Our own servers send their events as they are (kind 10). Published servers send text in pieces
(kind 2), or in colours, with marks for lookups (kinds 7 and 9, MoshiRAG); of these the same events
are made as well as they allow: frames are counted by the audio that came before, and a reference
has no sources. Unknown kinds, events and text that is not UTF-8 are passed over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from duologue.client.events import FRAME_SAMPLES, Event, Opened, Sound, stats_from
from duologue.client.link import MAX_REASON_CHARACTERS
from duologue.dialogue import (
    Outcome,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
    Role,
    TextToken,
    TurnStarted,
    event_from_dict,
)
from duologue.dialogue.records import RecordError
from duologue.dialogue.transcript import spoken_line
from duologue.server.protocols.kyutai.audio import AudioCoder
from duologue.server.protocols.kyutai.render import (
    CLEAR_REFERENCE,
    RETRIEVAL_FAILED,
    RETRIEVAL_STARTED,
    ROLE_PREFIX,
)
from duologue.server.protocols.kyutai.wire import Colour, Kind

logger = logging.getLogger(__name__)

MAX_RESUME_S = 3600.0


class Reader:
    """See the module. `coder` belongs to a connection and is replaced with it."""

    def __init__(self) -> None:
        self.coder: AudioCoder | None = None
        self.samples = 0
        self.fault = ""
        """What the server said was wrong; it closes after that."""
        self.resume_token: str | None = None
        self.resume_s = 0.0
        self._turns = 0
        self._lookups = 0
        self._lookup_frame = 0

    @property
    def frame(self) -> int:
        """The frame that was heard last."""
        return max(0, self.samples // FRAME_SAMPLES - 1)

    def read(self, message: bytes | str) -> Iterator[Event]:
        """The events of a message; AudioError when its audio cannot be decoded."""
        if isinstance(message, str) or not message:
            return
        kind, payload = message[0], message[1:]
        match kind:
            case Kind.AUDIO if self.coder is not None:
                pcm = self.coder.decode(payload)
                if len(pcm):
                    yield Sound(pcm, self.samples)
                    self.samples += len(pcm)
            case Kind.TEXT:
                yield self._text(Role.MODEL, _decoded(payload))
            case Kind.COLOURED_TEXT if payload:
                role = Role.USER if payload[0] == Colour.USER else Role.MODEL
                yield from self._coloured(role, _decoded(payload[1:]))
            case Kind.COLOURED_REFERENCE if payload:
                yield from self._reference(_decoded(payload[1:]))
            case Kind.ERROR:
                self.fault = spoken_line(_decoded(payload))[:MAX_REASON_CHARACTERS]
            case Kind.EVENT:
                yield from self._event(payload)

    def _event(self, payload: bytes) -> Iterator[Event]:
        try:
            values = json.loads(payload)
        except (ValueError, RecursionError):
            return
        if not isinstance(values, dict):
            return
        match values.get("type"):
            case "session":
                yield self._opened(values)
            case "stats":
                yield stats_from(values)
            case "pong":
                return
            case name:
                try:
                    yield event_from_dict(values)
                except RecordError:
                    # A newer server may say more than this client knows.
                    logger.debug("an event of type %.40r was passed over", name)

    def _opened(self, values: dict[str, Any]) -> Opened:
        token, wait = values.get("resume_token"), values.get("resume_s")
        self.resume_token = token if isinstance(token, str) else None
        self.resume_s = min(float(wait), MAX_RESUME_S) if isinstance(wait, int | float) else 0.0
        backends = values.get("retrieval_backends")
        named = [entry.get("id") for entry in backends if isinstance(entry, dict)] if isinstance(
            backends, list
        ) else []  # fmt: skip
        return Opened(
            id=str(values.get("id", "")),
            model=spoken_line(str(values.get("model", "")))[:80],
            resumed=values.get("resumed") is True,
            resume_s=self.resume_s,
            retrieval_backends=tuple(name for name in named if isinstance(name, str)),
        )

    # Published servers.

    def _text(self, role: Role, text: str) -> TextToken:
        return TextToken(self.frame, role, text, self.frame)

    def _coloured(self, role: Role, text: str) -> Iterator[Event]:
        if text == RETRIEVAL_STARTED:
            self._lookups += 1
            self._lookup_frame = self.frame
            yield RetrievalStarted(self._lookups, self.frame)
        elif text == RETRIEVAL_FAILED:
            yield RetrievalFailed(
                self._lookups, self.frame, self._waited(), None, "", Outcome.EMPTY, ""
            )
        else:
            line = text.lstrip("\n")
            if line.startswith(ROLE_PREFIX[role]):
                yield TurnStarted(self.frame, role, self._turns)
                self._turns += 1
                text = line.removeprefix(ROLE_PREFIX[role])
            if text:
                yield self._text(role, text)

    def _reference(self, text: str) -> Iterator[Event]:
        if text == CLEAR_REFERENCE:
            return
        label, tab, reference = text.partition("\t")
        waited = self._waited()
        yield RetrievalSucceeded(
            self._lookups, self.frame, waited, waited, "", label if tab else "",
            reference if tab else text,
        )  # fmt: skip

    def _waited(self) -> int:
        return max(0, self.frame - self._lookup_frame)


def _decoded(payload: bytes) -> str:
    return payload.decode("utf-8", "ignore")
