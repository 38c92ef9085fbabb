"""Samples on their way in and out: files, sample rates, Opus, levels.

Everything a door or a tool needs to turn bytes into float32 samples in [-1, 1] and back. The room
knows no model, no session and no socket; 24 kHz mono is its default, not a rule it depends on.

    files.py     read_audio, read_channels: any WAV, FLAC, Ogg Vorbis, Ogg Opus or MP3 -> numpy
    wav.py       the WAV container, strict; write_wav
    resample.py  Resampler: rational rates, streaming with explicit state, 5 ms delay
    opus.py      raw Opus packets and Ogg-Opus streams, both ways
    ogg.py       Ogg pages, OpusHead, OpusTags
    levels.py    power in dB per 80 ms, the power gate, check_pcm
    native.py    the only calls into the library that decodes
    errors.py    AudioError and the two kinds of it that peers cause

Names are looked up on first use, so that importing one light module does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duologue.audio.errors import AudioError, OggError, OpusError
    from duologue.audio.files import read_audio, read_channels
    from duologue.audio.levels import check_pcm, power_db, power_gate
    from duologue.audio.ogg import OggPacket, OggReader, OggWriter, OpusHead
    from duologue.audio.opus import (
        OggOpusDecoder,
        OggOpusEncoder,
        OpusDecoder,
        OpusEncoder,
        packet_samples,
    )
    from duologue.audio.resample import Resampler, ResamplerState
    from duologue.audio.wav import write_wav

__all__ = [
    "AudioError",
    "OggError",
    "OggOpusDecoder",
    "OggOpusEncoder",
    "OggPacket",
    "OggReader",
    "OggWriter",
    "OpusDecoder",
    "OpusEncoder",
    "OpusError",
    "OpusHead",
    "Resampler",
    "ResamplerState",
    "check_pcm",
    "packet_samples",
    "power_db",
    "power_gate",
    "read_audio",
    "read_channels",
    "write_wav",
]

_MODULES = {
    "errors": ("AudioError", "OggError", "OpusError"),
    "files": ("read_audio", "read_channels"),
    "levels": ("check_pcm", "power_db", "power_gate"),
    "ogg": ("OggPacket", "OggReader", "OggWriter", "OpusHead"),
    "opus": ("OggOpusDecoder", "OggOpusEncoder", "OpusDecoder", "OpusEncoder", "packet_samples"),
    "resample": ("Resampler", "ResamplerState"),
    "wav": ("write_wav",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
