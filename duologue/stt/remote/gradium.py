"""Gradium's recognition protocol: JSON text messages, 16-bit samples in base64.

Source: Gradium's documentation of `/api/speech/asr`. The key travels in a header (`stream.py`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from duologue.stt.ports import FRAME_RATE
from duologue.stt.remote.wire import (
    WORD_FRAMES,
    Ended,
    Flushed,
    Message,
    Pcm,
    Progress,
    Ready,
    Refused,
    Text,
    TextEnd,
    WireError,
    WireEvent,
    clean_text,
    probability,
    seconds,
)

ENDPOINT = "wss://eu.api.gradium.ai/api/speech/asr"
PATH = "/api/speech/asr"
KEY_HEADER = "x-api-key"
DELAY_FRAMES = 16
"""What the published server asks for."""
PAUSE_HORIZON = 2
"""Element of the pause estimates that tells the end of a turn (two seconds)."""
MAX_KEYWORDS = 200


class _Pause(msgspec.Struct):
    inactivity_prob: float = float("nan")


class _Message(msgspec.Struct):
    """Fields of all messages together; those of other kinds stay at their defaults."""

    type: str
    text: str = ""
    start_s: float = 0.0
    stop_s: float = 0.0
    vad: list[_Pause] = []
    total_duration_s: float | None = None
    delay_in_frames: int | None = None
    flush_id: int | None = None
    message: str = ""


class GradiumWire:
    """One connection to Gradium."""

    _decoder: ClassVar[msgspec.json.Decoder[_Message]] = msgspec.json.Decoder(_Message)

    def __init__(
        self,
        *,
        language: str = "en",
        delay_frames: int = DELAY_FRAMES,
        model: str = "default",
        keywords: Sequence[str] = (),
        boost: float = 3.0,
    ) -> None:
        self._delay_frames = delay_frames
        options: dict[str, Any] = {"language": language, "delay_in_frames": delay_frames}
        if keywords:
            options["keywords"] = {"words": list(keywords[:MAX_KEYWORDS]), "boost": boost}
        self._setup = {
            "type": "setup",
            "model_name": model,
            "input_format": "pcm",
            "json_config": options,
            "close_ws_on_eos": True,
        }

    def greeting(self) -> Sequence[Message]:
        return [json.dumps(self._setup)]

    def audio(self, pcm: Pcm) -> Sequence[Message]:
        samples = np.rint(np.clip(pcm, -1.0, 1.0) * 32767.0).astype("<i2")
        encoded = base64.b64encode(samples.tobytes()).decode("ascii")
        return [f'{{"type": "audio", "audio": "{encoded}"}}']

    def flush(self, number: int) -> tuple[Sequence[Message], int]:
        return [json.dumps({"type": "flush", "flush_id": number})], 0

    def receive(self, message: Message) -> Sequence[WireEvent]:
        try:
            given = self._decoder.decode(message)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WireError("a message is not the JSON that was expected") from error
        match given.type:
            case "ready":
                if given.delay_in_frames:
                    self._delay_frames = given.delay_in_frames
                return [Ready()]
            case "text":
                text = clean_text(given.text)
                return [Text(text, seconds(given.start_s))] if text else []
            case "end_text":
                return [TextEnd(seconds(given.stop_s))]
            case "step":
                return [self._progress(given)]
            case "flushed" if given.flush_id is not None:
                return [Flushed(given.flush_id)]
            case "end_of_stream":
                return [Ended()]
            case "error":
                return [Refused(clean_text(given.message))]
        return []

    def _progress(self, given: _Message) -> Progress:
        pause = given.vad[min(PAUSE_HORIZON, len(given.vad) - 1)] if given.vad else _Pause()
        inactivity = probability(pause.inactivity_prob)
        if given.total_duration_s is None:
            return Progress(inactivity=inactivity)
        processed = round(seconds(given.total_duration_s) * FRAME_RATE)
        return Progress(processed - self._delay_frames - WORD_FRAMES, inactivity, processed)
