"""A conversation as JSON: the published schema, key for key, with more keys beside.

Published keys (MoshiRAG offline inference): `rag_trigger_step`, `retrieval_step`,
`conditioning_step`, `question_end_step`, `reference_text`, `model_text`, `user_text`,
`gt_user_text`, `gt_reference_text`, `answer`. Judges written for them read these files. Steps are
frame numbers, -1 where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from duologue.dialogue import Event, TextToken, TurnStarted
from duologue.engine.api import FRAME_S
from duologue.engine.model import LoadedModel
from duologue.offline.activity import barge_ins, speech_runs
from duologue.offline.log import Measured, TalkLog
from duologue.offline.lookups import LookupRecord, retrievals
from duologue.offline.run import Talked
from duologue.offline.settings import TalkSettings
from duologue.session.text import TextReader
from duologue.stt.words import with_ends

FORMAT = "duologue talk 1"
PAD = "<pad>"
NONE = -1
_ROUNDING = 1e-6


def make_trace(
    talked: Talked,
    model: LoadedModel,
    settings: TalkSettings,
    run: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """All that is to be known of a conversation; `run` is what it depended on."""
    log, sidecar = talked.log, talked.recording.sidecar
    lookups = retrievals(log)
    spoken = _spoken(log, model)
    return {
        "rag_trigger_step": _last_trigger(log, model),
        "retrieval_step": _retrieval_step(lookups, settings, talked.waiting_frames),
        "conditioning_step": _step(lookups[-1].conditioning_step if lookups else None),
        "question_end_step": talked.question_frames - 1,
        "reference_text": lookups[-1].reference if lookups else "",
        "model_text": _model_text(log, model),
        "user_text": [piece or PAD for piece in log.heard],
        "gt_user_text": sidecar.topic,
        "gt_reference_text": sidecar.gt_reference_text,
        "answer": sidecar.answer,
        "format": FORMAT,
        "run": dict(run),
        "notes": list(notes),
        "text": "".join(text for _, text in spoken).strip(),
        "text_tokens": log.text_tokens,
        "transcript": _transcript(log.events),
        "words": {"user": _user_words(talked), "model": _words(spoken)},
        "lookups": [lookup.to_data() for lookup in lookups],
        "barge_ins": _barge_ins(talked),
        "events": [event.to_dict() for event in log.events],
        "timings": _timings(log),
    }


def _last_trigger(log: TalkLog, model: LoadedModel) -> int:
    token = model.lm.config.rag_token_id
    frames = [frame for frame, text in enumerate(log.text_tokens) if text == token]
    return frames[-1] if token is not None and frames else NONE


def _retrieval_step(
    lookups: Sequence[LookupRecord], settings: TalkSettings, waiting_frames: int
) -> int:
    """Published: the trigger and the whole wait. Otherwise when the lookup really began."""
    if not lookups:
        return NONE
    if settings.counts_as_published:
        return lookups[-1].trigger_step + waiting_frames
    return _step(lookups[-1].start_step)


def _step(frame: int | None) -> int:
    return NONE if frame is None else frame


def _model_text(log: TalkLog, model: LoadedModel) -> list[str]:
    """One raw piece a frame."""
    piece = getattr(model.tokenizer, "piece", None)
    silent = model.silent_tokens
    return [
        PAD if token < 0 or token in silent else piece(token) if piece else f"<{token}>"
        for token in log.text_tokens
    ]


def _spoken(log: TalkLog, model: LoadedModel) -> list[tuple[int, str]]:
    """What the model said: pieces of text with their frames."""
    reader = TextReader(model)
    pieces = ((frame, reader.push(token)) for frame, token in enumerate(log.text_tokens))
    return [(frame, text) for frame, text in pieces if text]


def _words(pieces: Iterable[tuple[int, str]]) -> list[dict[str, Any]]:
    """Whole words, each with the frame of its first piece."""
    words: list[dict[str, Any]] = []
    for frame, text in pieces:
        for place, part in enumerate(text.split(" ")):
            if place or not words:
                words.append({"text": part, "step": frame})
            else:
                words[-1]["text"] += part
    return [word for word in words if word["text"]]


def _user_words(talked: Talked) -> list[dict[str, Any]]:
    """The user's words at the frames in which they were said, to the best of our knowledge."""
    log, delay = talked.log, talked.stt_delay_frames
    pieces = [(frame, text) for frame, text in enumerate(log.heard) if text]
    words = [
        {**word, "step": max(0, word["step"] - delay), "heard_step": word["step"]}
        for word in _words(pieces)
    ]
    for word, timed in zip(words, with_ends(log.words), strict=False):
        if word["text"] == timed.text:
            word["step"] = int(timed.start_s / FRAME_S + _ROUNDING)
    return words


def _transcript(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The turns with their whole text."""
    turns: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, TurnStarted):
            turns.append({"role": event.role.value, "step": event.frame, "text": ""})
        elif isinstance(event, TextToken) and turns:
            turns[-1]["text"] += event.text
    return [{**turn, "text": turn["text"].strip()} for turn in turns]


def _barge_ins(talked: Talked) -> list[dict[str, Any]]:
    user, model = speech_runs(talked.heard), speech_runs(talked.log.pcm)
    found = barge_ins(user, model, len(talked.log.said))
    return [
        {"step": one.frame, "stopped_step": one.stopped, "overlap_frames": one.overlap_frames}
        for one in found
    ]


def _timings(log: TalkLog) -> dict[str, Any]:
    """What took how long, in wall time."""
    seconds = len(log.said) * FRAME_S
    model = Measured(sum(log.frame_seconds), len(log.frame_seconds))
    stages = {
        "preparing": log.preparing,
        "recognising": log.recognising,
        "model": model,
        "looking_up": log.looking_up,
        "encoding": log.encoding,
    }
    return {
        "seconds": seconds,
        "frame_ms_p50": _quantile_ms(log.frame_seconds, 0.5),
        "frame_ms_p95": _quantile_ms(log.frame_seconds, 0.95),
        "real_time_factor": model.seconds / seconds if seconds else 0.0,
        "stages": {name: asdict(stage) for name, stage in stages.items()},
    }


def _quantile_ms(seconds: Sequence[float], q: float) -> float:
    """The smallest value that a share of `q` does not exceed."""
    ordered = sorted(seconds)
    return 1000 * ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0
