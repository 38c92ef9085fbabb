"""moshi-server's recognition protocol: MessagePack maps, float samples, markers.

Source: kyutai-labs/moshi, `rust/moshi-server` (protocol and client scripts). A marker comes back
once the words of all audio before it are out, provided that audio keeps coming; so one is sent
each second (the server takes one message of a client per step, which forbids more), and a flush is
a marker with silence behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np

from duologue.stt.ports import FRAME_SIZE
from duologue.stt.remote.wire import (
    WORD_FRAMES,
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

PATH = "/api/asr-streaming"
KEY_HEADER = "kyutai-api-key"
PUBLIC_KEY = "public_token"
"""What the published configurations accept."""
DELAY_FRAMES = 6
"""Of the published 1B model."""
PAUSE_HEAD = 2
MARKER_FRAMES = 12
_FLUSH_BASE = 1 << 40
"""Numbers of flushes as markers; those below are frame counts."""


class _Message(msgspec.Struct):
    """Fields of all messages together; those of other kinds stay at their defaults."""

    type: str
    text: str = ""
    start_time: float = 0.0
    stop_time: float = 0.0
    prs: list[float] = []
    id: int = -1
    message: str = ""


class KyutaiWire:
    """One connection to a moshi-server."""

    _decoder: ClassVar[msgspec.msgpack.Decoder[_Message]] = msgspec.msgpack.Decoder(_Message)

    def __init__(self, *, delay_frames: int = DELAY_FRAMES) -> None:
        self._delay_frames = delay_frames
        self._sent = 0
        self._steps = 0

    def greeting(self) -> Sequence[Message]:
        return []

    def audio(self, pcm: Pcm) -> Sequence[Message]:
        self._sent += 1
        message = _audio(pcm)
        if self._sent % MARKER_FRAMES:
            return [message]
        return [message, _marker(self._sent)]

    def flush(self, number: int) -> tuple[Sequence[Message], int]:
        frames = self._delay_frames + 1
        self._sent += frames
        silence = _audio(np.zeros(frames * FRAME_SIZE, dtype=np.float32))
        return [_marker(_FLUSH_BASE + number), silence], frames

    def receive(self, message: Message) -> Sequence[WireEvent]:
        if isinstance(message, str):
            raise WireError("a text message, where only binary ones were expected")
        try:
            given = self._decoder.decode(message)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise WireError("a message is not the MessagePack that was expected") from error
        match given.type:
            case "Ready":
                return [Ready()]
            case "Word":
                text = clean_text(given.text)
                return [Text(text, seconds(given.start_time))] if text else []
            case "EndWord":
                return [TextEnd(seconds(given.stop_time))]
            case "Step":
                return [self._step(given.prs)]
            case "Marker" if given.id >= _FLUSH_BASE:
                return [Flushed(given.id - _FLUSH_BASE)]
            case "Marker":
                return [Progress(given.id)]
            case "Error":
                return [Refused(clean_text(given.message))]
        return []

    def _step(self, pauses: Sequence[float]) -> Progress:
        """A step of ours is a frame of ours; the number in the message is the whole server's."""
        self._steps += 1
        inactivity = None
        if pauses:
            inactivity = probability(pauses[min(PAUSE_HEAD, len(pauses) - 1)])
        transcribed = self._steps - self._delay_frames - WORD_FRAMES
        return Progress(transcribed, inactivity, self._steps)


def _marker(number: int) -> bytes:
    return msgspec.msgpack.encode({"type": "Marker", "id": number})


def _audio(pcm: Pcm) -> bytes:
    """Samples as 32-bit floats, which is half the size of what a general encoder would write."""
    count = len(pcm)
    elements = np.empty(count, dtype=[("kind", "u1"), ("value", ">f4")])
    elements["kind"], elements["value"] = 0xCA, pcm
    # A map of two entries; the array's length takes 32 bits.
    head = b"\x82\xa4type\xa5Audio\xa3pcm\xdd" + count.to_bytes(4, "big")
    return head + elements.tobytes()
