"""The audio payload both ways: an Ogg-Opus stream, or plain samples. 24 kHz mono.

One coder serves one connection: a resumed session has new streams. What a message may cost is
bounded by `duologue.audio.opus` and by the server's message size.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from duologue.audio import OggOpusDecoder, OggOpusEncoder
from duologue.server.door import Pcm
from duologue.server.protocols.kyutai.query import AudioFormat

SAMPLE_RATE = 24_000


class AudioCoder(Protocol):
    """Payloads of one connection."""

    def decode(self, data: bytes) -> Pcm:
        """The samples [T] that this payload completes; raises AudioError."""
        ...

    def encode(self, pcm: Pcm) -> bytes:
        """A payload for these samples [T]; may be empty."""
        ...


class OpusCoder:
    """Ogg-Opus, as all published clients speak it."""

    def __init__(self) -> None:
        self._decoder = OggOpusDecoder(SAMPLE_RATE)
        self._encoder = OggOpusEncoder(SAMPLE_RATE)

    def decode(self, data: bytes) -> Pcm:
        return self._decoder.decode(data)

    def encode(self, pcm: Pcm) -> bytes:
        return self._encoder.encode(np.nan_to_num(pcm))


class PcmCoder:
    """Little-endian samples, float32 or signed 16-bit; a sample may be cut between messages."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._wide = audio_format is AudioFormat.PCMF32
        self._type = np.dtype("<f4" if self._wide else "<i2")
        self._rest = b""

    def decode(self, data: bytes) -> Pcm:
        data = self._rest + data
        whole = len(data) - len(data) % self._type.itemsize
        self._rest = data[whole:]
        samples = np.frombuffer(data[:whole], self._type).astype(np.float32)
        if self._wide:
            return np.clip(np.nan_to_num(samples, posinf=0.0, neginf=0.0), -1.0, 1.0)
        return samples / np.float32(32768.0)

    def encode(self, pcm: Pcm) -> bytes:
        if self._wide:
            return pcm.astype(self._type).tobytes()
        return (np.clip(pcm, -1.0, 1.0) * 32767.0).round().astype(self._type).tobytes()


def audio_coder(audio_format: AudioFormat) -> AudioCoder:
    """The coder of a format."""
    return OpusCoder() if audio_format is AudioFormat.OPUS else PcmCoder(audio_format)
