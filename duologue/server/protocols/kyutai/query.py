"""Query parameters of `/api/chat`: published names, PersonaPlex's and ours, checked once.

Parameters that are not listed are ignored, for published clients send many that mean nothing to a
server (`email`, `image_url`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from duologue.server.refusals import Refusal

if TYPE_CHECKING:
    from duologue.engine.api import Wording

MAX_PROMPT_CHARACTERS = 8_000

Temperature = Annotated[float, Meta(ge=0.0, le=10.0)]
TopK = Annotated[int, Meta(ge=0, le=1_000_000)]
Seed = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
Name = Annotated[str, Meta(max_length=200)]
Text = Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]


class Dialect(StrEnum):
    """How text and events are shown; see `render`."""

    MOSHI = "moshi"
    MOSHIRAG = "moshirag"
    EVENTS = "events"


class AudioFormat(StrEnum):
    """What the payload of an audio message is; see `audio`."""

    OPUS = "opus"
    PCM16 = "pcm16"
    PCMF32 = "pcmf32"


class Handshake(StrEnum):
    """Form of the handshake: the Python servers' one byte, or the Rust server's nine."""

    SHORT = "short"
    FULL = "full"


class Speaker(StrEnum):
    MODEL = "model"
    USER = "user"


class ChatQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for in its URL; None where it did not."""

    dialect: Dialect | None = None
    audio: AudioFormat = AudioFormat.OPUS
    handshake: Handshake | None = None
    resume: Name | None = None
    backend: Name | None = None
    voice: Name | None = None
    voice_prompt: Name | None = None
    system_prompt: Text | None = None
    text_prompt: Text | None = None
    init_speaker: Speaker = Speaker.MODEL
    seed: Seed | None = None
    text_seed: Seed | None = None
    audio_seed: Seed | None = None
    text_temperature: Temperature | None = None
    text_topk: TopK | None = None
    audio_temperature: Temperature | None = None
    audio_topk: TopK | None = None
    max_steps: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    pad_mult: Annotated[float, Meta(ge=-100.0, le=100.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=100.0)] | None = None
    repetition_penalty_context: Annotated[int, Meta(ge=0, le=2**31)] | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> ChatQuery:
        """Read the parameters of a URL; empty ones count as absent.

        Raises:
            Refusal: 400, naming the parameter.
        """
        known = {
            name: parameters[name]
            for name in cls.__struct_fields__
            if parameters.get(name, "").strip()
        }
        try:
            return msgspec.convert(known, cls, strict=False)
        except msgspec.ValidationError as error:
            reason, _, where = str(error).partition(" - at ")
            name = where.strip("`$.") or "query"
            raise Refusal(400, "parameters", f"{name}: {reason}") from None

    @property
    def wording(self) -> Wording:
        """How text is steered; a penalty needs its context too, as published."""
        from duologue.engine.api import MAX_REPETITION_CONTEXT, Wording  # loads torch

        penalty, context = self.repetition_penalty, self.repetition_penalty_context
        if penalty is None or context is None:
            penalty, context = 1.0, 0
        return Wording(self.pad_mult or 0.0, penalty, min(context, MAX_REPETITION_CONTEXT))

    @property
    def combined_seed(self) -> int | None:
        """One seed of 63 bits from those given; None for a random one."""
        if self.seed is not None:
            return self.seed if self.seed >= 0 else None
        text, audio = self.text_seed, self.audio_seed
        if (text is None or text < 0) and (audio is None or audio < 0):
            return None
        low, high = max(text or 0, 0), max(audio or 0, 0)
        return (high << 32 ^ low) & (2**63 - 1)

    @property
    def voice_id(self) -> str | None:
        """The voice asked for, under either name; PersonaPlex sends file names."""
        name = self.voice or self.voice_prompt
        return name.rsplit(".", 1)[0] if name and "." in name else name
