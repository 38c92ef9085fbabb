"""How conversations over recordings go: the published rules, or the better ones.

`None` stands for what the rules say: the fixed waits and limits of MoshiRAG's offline inference
(`published`), or those that live sessions have (`improved`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duologue.dialogue import (
    ConversationConfig,
    FloorRules,
    LatencyMode,
    Role,
    frames_covering,
    frames_within,
)
from duologue.dialogue.clock import MAX_FRAMES
from duologue.dialogue.session import NEVER_FRAMES
from duologue.errors import DuologueError

if TYPE_CHECKING:
    from duologue.moshi.sampling import GenerationDefaults, Sampling

PUBLISHED_STT_WAIT_S = 0.5
PUBLISHED_TIMEOUT_S = 10.0
PUBLISHED_REFERENCE_TOKENS = 64
SILENCE_FRAMES = 40
"""Silent text tokens in a row after which the model is taken to have finished (3.2 s)."""
MAX_TAIL_S = 30.0
"""Longest time after a recording that the model's silence is waited for."""


class TalkError(DuologueError):
    """Recordings, settings or outputs that do not fit; the message says what to do."""


class Rules(StrEnum):
    """Whose rules turns and lookups follow."""

    PUBLISHED = "published"
    IMPROVED = "improved"


@dataclass(frozen=True)
class Drawing:
    """Wishes about how tokens are drawn; what is left open is as the model has it."""

    temperature: float | None = None
    """For text and audio, where they have none of their own."""
    text_temperature: float | None = None
    text_topk: int | None = None
    audio_temperature: float | None = None
    audio_topk: int | None = None

    def samplings(self, defaults: GenerationDefaults) -> tuple[Sampling, Sampling]:
        """For text and for audio."""
        text = _drawn(defaults.text, self.temperature, self.text_temperature, self.text_topk)
        audio = _drawn(defaults.audio, self.temperature, self.audio_temperature, self.audio_topk)
        return text, audio


@dataclass(frozen=True)
class TalkSettings:
    """The same for all recordings of a run, and enough to tell whether a result is still good."""

    seed: int = 0
    text: Sampling | None = None
    """How text is drawn; the model's own way when `None`, likewise for `audio`."""
    audio: Sampling | None = None
    init_speaker: str = "user"
    rules: Rules = Rules.IMPROVED
    stt_wait_s: float | None = None
    """Longest wait for recognition after a trigger; always waited out by the published rules."""
    rag_timeout_s: float | None = None
    """Patience with back ends; 0 for six minutes."""
    max_reference_tokens: int | None = None
    vad_window: int = 4
    vad_threshold: float = 0.5
    power_threshold_db: float = -65.0
    """Quieter frames of the user are heard as digital silence."""
    retrieval_delay_s: float | None = None
    """What a lookup counts as, its encoding included; as long as it really took when `None`."""
    use_gt_reference: bool = False
    """Answer lookups with the side-car's reference."""
    stop_at_end: bool = False
    silence_frames: int = SILENCE_FRAMES
    """Stop when more silent text tokens in a row follow the recording."""
    tail_s: float | None = None
    """Go on for exactly so long after the recording instead."""
    max_tail_s: float = MAX_TAIL_S
    floor: bool | None = None
    """Whether a floor policy decides when the model may speak; as its folder says when `None`, and
    never by the published rules unless it is asked for."""
    voice: Path | None = None
    role: str = ""

    def to_data(self) -> dict[str, Any]:
        """Plain data, as traces hold it."""
        data = asdict(self)
        data["rules"] = self.rules.value
        data["voice"] = None if self.voice is None else str(self.voice)
        return data

    @property
    def counts_as_published(self) -> bool:
        return self.rules is Rules.PUBLISHED

    @property
    def wants_floor(self) -> bool | None:
        """As `SessionOptions.floor`."""
        return False if self.floor is None and self.counts_as_published else self.floor

    @property
    def reference_tokens(self) -> int | None:
        """Tokens that a language model may answer with; `None` for its retriever's own limit."""
        if self.max_reference_tokens is None and self.counts_as_published:
            return PUBLISHED_REFERENCE_TOKENS
        return self.max_reference_tokens


def conversation_config(
    settings: TalkSettings,
    backends: tuple[str, ...],
    stt_delay_frames: int | None = None,
    floor: FloorRules | None = None,
) -> ConversationConfig:
    """The dialogue brain's settings.

    Args:
        floor: the model's, as `session.options.floor_rules` has it.
        stt_delay_frames: how far words come behind the audio, if that is known.
    """
    config = _config(settings, backends)
    turns = replace(
        config.turns, vad_window=settings.vad_window, vad_threshold=settings.vad_threshold
    )
    retrieval = replace(config.retrieval, needs_words=not settings.use_gt_reference)
    if stt_delay_frames is not None:
        known = retrieval.wait.behind(stt_delay_frames)
        if settings.stt_wait_s is not None:
            known = replace(known, steps=retrieval.wait.steps)
        retrieval = replace(retrieval, wait=known)
    return replace(config, turns=turns, retrieval=retrieval, max_frames=MAX_FRAMES, floor=floor)


def _drawn(
    default: Sampling, common: float | None, temperature: float | None, top_k: int | None
) -> Sampling:
    given = next((one for one in (temperature, common) if one is not None), default.temperature)
    return replace(default, temperature=given, top_k=default.top_k if top_k is None else top_k)


def _config(settings: TalkSettings, backends: tuple[str, ...]) -> ConversationConfig:
    speaker = Role(settings.init_speaker)
    wait_s, timeout_s = settings.stt_wait_s, settings.rag_timeout_s
    if settings.counts_as_published:
        return ConversationConfig.published_offline(
            stt_wait_s=PUBLISHED_STT_WAIT_S if wait_s is None else wait_s,
            rag_timeout_s=PUBLISHED_TIMEOUT_S if timeout_s is None else timeout_s,
            initial_speaker=speaker,
            backends=backends,
        )
    config = ConversationConfig.improved(
        initial_speaker=speaker, latency=LatencyMode.SIMULATED, backends=backends
    )
    retrieval = config.retrieval
    if wait_s is not None:
        retrieval = replace(retrieval, wait=replace(retrieval.wait, steps=frames_within(wait_s)))
    if timeout_s is not None:
        deadline = frames_covering(timeout_s) or NEVER_FRAMES
        retrieval = replace(retrieval, deadline_frames=deadline)
    return replace(config, retrieval=retrieval)
