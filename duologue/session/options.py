"""From options to the two halves of a conversation: how its slot starts, and its brain."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

from duologue.dialogue import (
    Conversation,
    ConversationConfig,
    FloorRules,
    LatencyHistogram,
    LatencyMode,
    Role,
)
from duologue.dialogue.checks import ConfigError
from duologue.dialogue.clock import MAX_FRAMES, frames_covering
from duologue.engine.api import EngineError, SessionOptions, Wording
from duologue.engine.model import LoadedModel
from duologue.engine.slots import SlotSetup
from duologue.engine.voice import load_prompt
from duologue.moshi.sampling import Sampling


def slot_setup(
    model: LoadedModel, options: SessionOptions, default_seed: int | None = None
) -> SlotSetup:
    """How the options' conversation starts; reads the voice, so not for the event loop.

    Raises:
        DuologueError: the model takes no voice, or the file is none.
    """
    seed = options.seed if options.seed is not None else default_seed
    role = options.system_prompt if model.takes_prompts else None
    if options.voice is not None and not model.takes_prompts:
        raise EngineError(f"{model.name} speaks in its own voice; leave the voice out")
    return SlotSetup(
        seed=secrets.randbits(62) if seed is None else seed,
        text=options.text,
        audio=options.audio,
        wording=options.wording,
        init_speaker=options.init_speaker,
        prompt=load_prompt(model, options.voice, role),
    )


def conversation(
    options: SessionOptions,
    backends: tuple[str, ...],
    *,
    floor: FloorRules | None = None,
    stt_delay_frames: int | None = None,
    max_session_s: float | None = None,
    simulated: bool = False,
    latencies: Mapping[str, LatencyHistogram] | None = None,
) -> Conversation:
    """The brain of such a conversation.

    Args:
        floor: from `floor_rules`.
        stt_delay_frames: how far words come behind the audio, if that is known.
        simulated: whether lookups take their time in model time (offline).
    """
    config = ConversationConfig.improved(
        initial_speaker=Role(options.init_speaker),
        latency=LatencyMode.SIMULATED if simulated else LatencyMode.REAL,
        backends=backends,
    )
    retrieval = config.retrieval
    if stt_delay_frames is not None:
        retrieval = replace(retrieval, wait=retrieval.wait.behind(stt_delay_frames))
    limit = MAX_FRAMES if max_session_s is None else max(1, frames_covering(max_session_s))
    config = replace(config, retrieval=retrieval, max_frames=limit, floor=floor)
    return Conversation(config, latencies=latencies)


def floor_rules(model: LoadedModel, wanted: bool | None) -> FloorRules | None:
    """The floor policy of a model's conversations: as `wanted`, or as its folder says.

    Raises:
        EngineError: what its folder says is no policy.
    """
    own = None if model.folder is None else model.folder.config.floor
    if wanted is False or (wanted is None and own is None):
        return None
    try:
        return FloorRules.from_dict({} if own is None else dict(own))
    except ConfigError as error:
        raise EngineError(f"{model.name}: config.json: {error}") from error


def options_to_data(options: SessionOptions) -> dict[str, Any]:
    """Plain data for snapshots and logs."""
    return {
        "seed": options.seed,
        "text": _sampling_to_data(options.text),
        "audio": _sampling_to_data(options.audio),
        "wording": asdict(options.wording),
        "init_speaker": options.init_speaker,
        "backend": options.backend,
        "voice": None if options.voice is None else str(options.voice),
        "system_prompt": options.system_prompt,
        "knowledge": None if options.knowledge is None else str(options.knowledge),
        "metadata": dict(options.metadata),
        "floor": options.floor,
    }


def options_from_data(data: Mapping[str, Any]) -> SessionOptions:
    """What `options_to_data` was given."""
    values = dict(data)
    for name in ("text", "audio"):
        if values[name] is not None:
            values[name] = Sampling(*values[name])
    values["wording"] = Wording(**values.get("wording", {}))
    for name in ("voice", "knowledge"):
        if values[name] is not None:
            values[name] = Path(values[name])
    return SessionOptions(**values)


def _sampling_to_data(sampling: Sampling | None) -> list[float] | None:
    return None if sampling is None else list(astuple(sampling))
