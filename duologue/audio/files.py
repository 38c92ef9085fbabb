"""Sound files in: any WAV, FLAC, MP3, Ogg Vorbis or Ogg Opus, at any rate, as float32 in [-1, 1].

The container is told by its first bytes, never by the file's name. WAV is read by `wav.py`, the
others by `sphn`; `Resampler` converts the rate, without delay and with a steeper filter than live
streams use, to exactly ceil(T * sample_rate / source_rate) samples. Whatever is wrong with a file
is an `AudioError` that names the file and the fault; one that cannot be opened is an `OSError`.

Files are untrusted: their length is checked against `max_seconds` before samples are kept, and no
size in a header is believed beyond the bytes that are there. Opus recordings lose their look-ahead
and padding, as the format asks; MP3 and Vorbis keep theirs (some 50 ms).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from duologue.audio import native
from duologue.audio.errors import AudioError, OpusError
from duologue.audio.wav import RATE_RANGE, PathLike, Pcm, read_wav, wav_info

if TYPE_CHECKING:
    from duologue.audio.ogg import OpusHead

MAX_SECONDS = 4 * 3600.0
"""Longest recording that is read unless the caller says otherwise."""
FILE_DELAY_MS = 20.0
FILE_STOPBAND_DB = 100.0
RATIO_TOLERANCE = 1e-6
"""Error of the speed that odd rates may cost: 15 ms in four hours."""
MAX_SAMPLES = 1 << 30
"""Most samples, over all channels, that a compressed file may decode to (4 GiB of memory)."""
_MAX_TAGS_BYTES = 32 << 20
_OPUS_RATE = 48000


def read_audio(
    path: PathLike, sample_rate: int = 24000, *, max_seconds: float = MAX_SECONDS
) -> Pcm:
    """Read a sound file as mono samples [T]: the average of its channels.

    Raises:
        AudioError: the file is not usable; the message says why and what to do.
        OSError: the file cannot be opened.
    """
    pcm, rate = _read(path, max_seconds)
    mono = pcm.mean(axis=0, dtype=np.float32, keepdims=True)
    return _convert(mono, rate, sample_rate, Path(path).name)[0]


def read_channels(
    path: PathLike, sample_rate: int = 24000, *, max_seconds: float = MAX_SECONDS
) -> Pcm:
    """Read a sound file as [C, T], all channels apart, in the file's order.

    Two-channel dialogues have the model on the left (0) and the user on the right (1).

    Raises:
        AudioError: the file is not usable; the message says why and what to do.
        OSError: the file cannot be opened.
    """
    pcm, rate = _read(path, max_seconds)
    return _convert(pcm, rate, sample_rate, Path(path).name)


def _read(path: PathLike, max_seconds: float) -> tuple[Pcm, int]:
    """Samples [C, T] at the file's own rate, and that rate."""
    name = Path(path).name
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise AudioError(f"{name}: the file is empty")
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        info = wav_info(path)
        _check_length(name, info.seconds, max_seconds)
        return read_wav(path, info), info.sample_rate
    if head[:4] == b"OggS" and b"OpusHead" in head:
        return _read_opus(path, max_seconds), _OPUS_RATE
    if head[:4] in (b"OggS", b"fLaC") or head[:3] == b"ID3" or _is_mp3(head):
        pcm, rate = _read_compressed(path, max_seconds, exact=head[:4] == b"fLaC")
        return _check_decoded(name, pcm), rate
    raise AudioError(
        f"{name}: not a WAV, FLAC, Ogg or MP3 file (it begins with {head[:8]!r}); "
        f"convert it, e.g. ffmpeg -i {name} out.wav; samples without a header need one"
    )


def _is_mp3(head: bytes) -> bool:
    """An MPEG audio frame header: eleven set bits, then no reserved version, layer or rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = (head[1] >> 3) & 3, (head[1] >> 1) & 3
    return version != 1 and layer != 0 and head[2] >> 4 not in (0, 15) and head[2] & 0x0C != 0x0C


def _check_length(name: str, seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise AudioError(
            f"{name}: it lasts {seconds:.1f} s, the limit is {max_seconds:g} s; "
            "cut it, or raise max_seconds"
        )


def _check_decoded(name: str, pcm: Pcm) -> Pcm:
    if pcm.size == 0:
        raise AudioError(f"{name}: it holds no samples")
    if not np.isfinite(pcm).all():
        raise AudioError(f"{name}: its samples contain NaN or Inf; it is damaged")
    return pcm


def _read_compressed(path: PathLike, max_seconds: float, *, exact: bool) -> tuple[Pcm, int]:
    """Decode FLAC, MP3 or Vorbis; `exact` formats must hold as much as they announce."""
    name = Path(path).name
    refuse = _undecodable(name)
    reader = native.call(refuse, native.sphn().FileReader, os.fspath(path))
    rate, announced = reader.sample_rate, reader.duration_sec
    if not RATE_RANGE[0] <= rate <= RATE_RANGE[1]:
        raise AudioError(f"{name}: its header says {rate} Hz, which is out of range")
    _check_length(name, announced, max_seconds)
    longest = min(max_seconds + 1.0, MAX_SAMPLES / (rate * reader.channels))
    if announced > longest:
        raise AudioError(f"{name}: {announced:.0f} s of it are too much for memory; cut it")
    # Lengths of MP3 files may be guesses: what is still running past the announced length is read
    # again with the caller's limit as the only bound.
    for limit in (min(announced + 10.0, longest), longest):
        pcm: Pcm = native.call(refuse, reader.decode, 0.0, limit)
        seconds = pcm.shape[1] / rate
        if seconds < limit - 0.5:
            break
    _check_length(name, seconds, max_seconds)
    if exact and abs(seconds - announced) > 0.5 / rate:
        raise AudioError(
            f"{name}: it announces {announced:.2f} s and holds {seconds:.2f} s; it is damaged"
        )
    return pcm, rate


def _read_opus(path: PathLike, max_seconds: float) -> Pcm:
    """Decode an Ogg-Opus file at 48 kHz, without its look-ahead and padding."""
    name = Path(path).name
    data = Path(path).read_bytes()
    try:
        head, length, granule = _scan_opus(data, max_seconds)
    except OpusError as error:
        raise AudioError(f"{name}: {error}") from error
    _check_length(name, length / _OPUS_RATE, max_seconds)
    if length * head.channels > MAX_SAMPLES:
        raise AudioError(
            f"{name}: {length / _OPUS_RATE:.0f} s of it are too much for memory; cut it"
        )
    pcm: Pcm = native.call(_undecodable(name), native.sphn().read_opus_bytes, data)[0]
    if head.gain_db:
        pcm = pcm * np.float32(10 ** (head.gain_db / 20))
    end = length if granule is None else min(length, granule)
    return _check_decoded(name, pcm[:, head.pre_skip : end])


def _scan_opus(data: bytes, max_seconds: float) -> tuple[OpusHead, int, int | None]:
    """Check all pages: header, decoded length at 48 kHz, and where the last page says it ends."""
    from duologue.audio.ogg import OggReader, OpusHead
    from duologue.audio.opus import packet_samples

    head: OpusHead | None = None
    length = 0
    granule: int | None = None
    pages = OggReader(max_packet_bytes=_MAX_TAGS_BYTES)
    for index, packet in enumerate(pages.feed(data)):
        if packet.first:
            if head is not None:
                raise OpusError("it chains several streams; split it into one file each")
            head = OpusHead.parse(packet.data)
        elif index > 1:  # after the tags
            length += packet_samples(packet.data)
            granule = packet.granule if packet.last else None
        if length > (max_seconds + 1) * _OPUS_RATE:
            break
    if head is None or length == 0:
        raise OpusError("it holds no samples")
    return head, length, granule


def _convert(pcm: Pcm, rate: int, sample_rate: int, name: str) -> Pcm:
    """Bring [C, T] to the wanted rate and into [-1, 1]."""
    if not RATE_RANGE[0] <= sample_rate <= RATE_RANGE[1]:
        raise ValueError(f"cannot convert {name} to {sample_rate} Hz")
    if rate != sample_rate:
        import torch

        from duologue.audio.resample import Resampler

        resampler = Resampler(
            rate,
            sample_rate,
            delay_ms=FILE_DELAY_MS,
            stopband_db=FILE_STOPBAND_DB,
            ratio_tolerance=RATIO_TOLERANCE,
        )
        length = -(-pcm.shape[1] * sample_rate // rate)
        with torch.inference_mode():
            converted = resampler(torch.from_numpy(np.ascontiguousarray(pcm))).numpy()
        pcm = _fit(converted, length)
    return np.clip(pcm, -1.0, 1.0, dtype=np.float32)


def _fit(pcm: Pcm, length: int) -> Pcm:
    """Exactly `length` samples; approximated ratios may be off by a few."""
    pcm = pcm[:, :length]
    return np.pad(pcm, ((0, 0), (0, length - pcm.shape[1])))


def _undecodable(name: str) -> Callable[[str], AudioError]:
    def refuse(reason: str) -> AudioError:
        return AudioError(
            f"{name}: it cannot be decoded ({reason}): it is damaged, or was streamed and does "
            f"not tell its length; convert it, e.g. ffmpeg -i {name} out.wav"
        )

    return refuse
