"""The door that published Moshi and MoshiRAG clients, and our page, come through.

Audio goes out first, then what its frame says (as published). Nothing is sent that the client's
dialect does not have; see `render` for the dialects and `docs/server.md` for the additions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from duologue.dialogue import AudioFrame, Event, Interrupt, Reset, SelectBackend
from duologue.engine.api import FRAME_S, UNSTEERED, Wording
from duologue.server.door import Answer, Heard, Leave, Message, Nothing, Samples
from duologue.server.protocols.kyutai import wire
from duologue.server.protocols.kyutai.audio import SAMPLE_RATE, audio_coder
from duologue.server.protocols.kyutai.query import ChatQuery, Dialect, Handshake
from duologue.server.protocols.kyutai.render import (
    EventsRenderer,
    MoshiRagRenderer,
    MoshiRenderer,
    Renderer,
)

if TYPE_CHECKING:
    from duologue.moshi.sampling import Sampling

SLICE_BYTES = 4096
"""Audio is decoded in slices of so many bytes, so that one large message holds nobody up."""
PUBLISHED_CONTEXT = 32
"""What the Rust server tells where no repetition penalty was asked for."""
MAX_PING_CHARACTERS = 64
MAX_PING_NUMBER = 2**53
BUILD_KEYS = (
    "build_timestamp", "build_date", "git_branch", "git_timestamp", "git_date", "git_hash",
    "git_describe", "rustc_host_triple", "rustc_version", "cargo_target_triple",
)  # fmt: skip
"""What the Rust server tells about its build; shown by its own page only."""
RENDERERS: Mapping[Dialect, type[Renderer]] = {
    Dialect.MOSHI: MoshiRenderer,
    Dialect.MOSHIRAG: MoshiRagRenderer,
    Dialect.EVENTS: EventsRenderer,
}


@dataclass(frozen=True)
class About:
    """What a door may tell its client of the server and the session."""

    session: str
    resume_token: str
    resumed: bool
    resume_s: float
    model: str
    backends: Sequence[str]
    text: Sampling
    audio: Sampling
    wording: Wording = UNSTEERED


class KyutaiDoor:
    """One connection's translation; see the module."""

    name = "kyutai"

    def __init__(
        self, query: ChatQuery, dialect: Dialect, handshake: Handshake, about: About
    ) -> None:
        self._query, self._about = query, about
        self._dialect, self._handshake = dialect, handshake
        self._renderer = RENDERERS[dialect]()
        self._coder = audio_coder(query.audio)
        self._introduced = about.resumed

    @property
    def resumable(self) -> bool:
        return self._introduced and self._dialect is Dialect.EVENTS

    def opening(self) -> Iterable[bytes]:
        """Handshake and metadata, in the order of the server whose form was asked for."""
        if self._handshake is Handshake.FULL:
            yield wire.metadata({**self._published_metadata(), **self._choices()})
            yield wire.full_handshake()
        else:
            yield wire.SHORT_HANDSHAKE
            if self._dialect is Dialect.MOSHIRAG and (choices := self._choices()):
                yield wire.metadata(choices)
        yield from self._renderer.note(self._introduction())
        self._introduced = True

    def hear(self, message: Message) -> Iterator[Heard]:
        if isinstance(message, str):
            yield Nothing("text message")
            return
        match wire.decode(message):
            case wire.Audio(data):
                for at in range(0, max(1, len(data)), SLICE_BYTES):
                    yield Samples(self._coder.decode(data[at : at + SLICE_BYTES]))
            case wire.Metadata(values):
                yield self._choose(values.get("retrieval_backend_id"), least=2)
            case wire.Command(name, values):
                yield self._command(name, values)
            case wire.Ignored(reason):
                yield Nothing(reason)

    def render(self, event: Event) -> Iterable[bytes]:
        if isinstance(event, AudioFrame):
            payload = self._coder.encode(cast(NDArray[np.float32], event.payload))
            return [wire.audio(payload)] if payload else []
        return self._renderer.render(event)

    def note(self, values: Mapping[str, Any]) -> Iterable[bytes]:
        return self._renderer.note(values)

    def fault(self, reason: str) -> Iterable[bytes]:
        return [wire.error(reason)]

    def _command(self, name: str, values: Mapping[str, Any]) -> Heard:
        if self._dialect is not Dialect.EVENTS:
            return Nothing("unknown kind")
        match name:
            case "interrupt":
                return Interrupt()
            case "reset":
                return Reset()
            case "end":
                return Leave()
            case "select_backend":
                return self._choose(values.get("backend"), least=1)
            case "ping":
                identity = _identity(values.get("id"))
                return Answer(tuple(self._renderer.note({"type": "pong", "id": identity})))
        return Nothing("unknown command")

    def _choose(self, backend: object, *, least: int) -> Heard:
        """A back end's choice; published servers have none to choose from with fewer than two."""
        if isinstance(backend, str) and len(self._about.backends) >= least:
            if backend in self._about.backends:
                return SelectBackend(backend)
            return Nothing("unknown back end")
        return Nothing("metadata")

    def _choices(self) -> dict[str, Any]:
        backends = self._about.backends
        if len(backends) < 2:
            return {}
        return {
            "retrieval_backends": [{"id": backend} for backend in backends],
            "retrieval_backend_default": backends[0],
        }

    def _published_metadata(self) -> dict[str, Any]:
        """The Rust server's keys; what has no counterpart here has its neutral value."""
        text, audio, wording = self._about.text, self._about.audio, self._about.wording
        return {
            "text_temperature": text.temperature,
            "text_topk": text.top_k,
            "audio_temperature": audio.temperature,
            "audio_topk": audio.top_k,
            "pad_mult": wording.pad_mult,
            "repetition_penalty_context": wording.repetition_context or PUBLISHED_CONTEXT,
            "repetition_penalty": wording.repetition_penalty,
            "lm_model_file": self._about.model,
            "mimi_model_file": self._about.model,
            "instance_name": "duologue",
            "build_info": dict.fromkeys(BUILD_KEYS, ""),
        }

    def _introduction(self) -> dict[str, Any]:
        about = self._about
        return {
            "type": "session",
            "id": about.session,
            "resume_token": about.resume_token,
            "resumed": about.resumed,
            "resume_s": about.resume_s,
            "model": about.model,
            "audio": self._query.audio.value,
            "sample_rate": SAMPLE_RATE,
            "frame_ms": round(FRAME_S * 1000),
            "retrieval_backends": [{"id": backend} for backend in about.backends],
            "retrieval_backend_default": about.backends[0],
            "sampling": {"text": asdict(about.text), "audio": asdict(about.audio)},
        }


def _identity(given: object) -> str | float | None:
    """What a client calls its ping, within bounds."""
    if isinstance(given, str):
        return given[:MAX_PING_CHARACTERS]
    if isinstance(given, int | float) and -MAX_PING_NUMBER <= given <= MAX_PING_NUMBER:
        return given
    return None
