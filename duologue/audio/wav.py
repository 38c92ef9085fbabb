"""The WAV container, read strictly and written atomically.

Read: RIFF, RF64 and BW64; integers of 8, 16, 24 and 32 bits, floats of 32 and 64 bits, A-law and
mu-law; any number of channels; plain and extensible headers. A header that promises more data than
the file has is an error that says how much is missing. Streamed files are the exception: programs
that write to a pipe cannot know the size and put 0 or a number near 2 or 4 GiB; for them, the
data lasts to the end of the file.
"""

from __future__ import annotations

import errno
import os
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from duologue.audio.errors import AudioError

Pcm = NDArray[np.float32]
PathLike = str | os.PathLike[str]

RATE_RANGE = (1000, 768_000)
"""Sample rates in Hz that are believed."""
MAX_FLOAT_PEAK = 64.0
"""Float samples beyond this are taken for integers that someone forgot to scale."""
_ENDLESS = 0x7FFFF000
"""Sizes from here on are what programs write that could not seek back to the header."""
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_BLOCK = 1 << 20


@dataclass(frozen=True)
class WavInfo:
    """What the header says, checked, and where the samples lie."""

    format: int
    channels: int
    sample_rate: int
    sample_bytes: int
    offset: int
    frames: int

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.frames / self.sample_rate


def wav_info(path: PathLike) -> WavInfo:
    """Read and check the header of a WAV file.

    Raises:
        AudioError: not a WAV file, or one that is damaged, truncated, empty or unsupported.
    """
    name = Path(path).name
    with open(path, "rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
            raise AudioError(f"{name}: not a WAV file (it begins with {head[:4]!r})")
        layout, length = _find_samples(name, file)
        offset = file.tell()
        stored = file.seek(0, os.SEEK_END) - offset
    if _is_streamed(struct.unpack("<I", head[4:8])[0], length, offset, stored):
        length = stored - stored % (layout[1] * layout[3])
    return _measure(name, layout, offset, length, stored)


def _find_samples(name: str, file: BinaryIO) -> tuple[tuple[int, int, int, int], int]:
    """Walk the chunks up to the samples: the layout, and how many bytes there should be."""
    layout: tuple[int, int, int, int] | None = None
    wide: int | None = None
    while True:
        chunk = file.read(8)
        if len(chunk) < 8:
            missing = "data" if layout else "fmt"
            raise AudioError(f"{name}: the file ends before its {missing!r} chunk; it is cut")
        kind, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        if kind == b"data":
            if layout is None:
                raise AudioError(f"{name}: no 'fmt' chunk precedes the samples; it is damaged")
            return layout, wide if wide and length == 0xFFFFFFFF else length
        body = file.read(min(length, 64))
        if kind == b"fmt ":
            layout = _parse_format(name, body)
        elif kind == b"ds64" and len(body) >= 16:
            wide = struct.unpack("<Q", body[8:16])[0]
        file.seek(length + length % 2 - len(body), os.SEEK_CUR)


def _is_streamed(riff: int, length: int, offset: int, stored: int) -> bool:
    """Whether the size in the header is what a program writes that could not know it."""
    if length == 0:
        return riff + 8 <= offset or riff >= _ENDLESS
    return length in (_ENDLESS, 0xFFFFFFFF) or (_ENDLESS < length <= 0xFFFFFFFF and stored < length)


def _parse_format(name: str, body: bytes) -> tuple[int, int, int, int]:
    """Format tag, channels, rate and bytes per sample of a 'fmt' chunk."""
    if len(body) < 16:
        raise AudioError(f"{name}: its 'fmt' chunk has {len(body)} bytes instead of 16 or more")
    tag, channels, rate, _, align, bits = struct.unpack("<HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = struct.unpack("<H", body[24:26])[0]
    if channels == 0:
        raise AudioError(f"{name}: its header says zero channels; it is damaged")
    if not RATE_RANGE[0] <= rate <= RATE_RANGE[1]:
        raise AudioError(
            f"{name}: its header says {rate} Hz; "
            f"rates from {RATE_RANGE[0]} to {RATE_RANGE[1]} Hz are accepted"
        )
    width, rest = divmod(align, channels)
    widths = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8), _ALAW: (1,), _MULAW: (1,)}
    if tag not in widths:
        raise AudioError(
            f"{name}: WAV format {tag:#06x} is not supported; "
            f"convert it, e.g. ffmpeg -i {name} -c:a pcm_s16le out.wav"
        )
    if rest or width not in widths[tag] or not 0 < bits <= 8 * width:
        raise AudioError(
            f"{name}: its header says {bits} bits in {align} bytes for {channels} channels, "
            f"which WAV format {tag} does not have"
        )
    return tag, channels, rate, width


def _measure(
    name: str, layout: tuple[int, int, int, int], offset: int, length: int, stored: int
) -> WavInfo:
    tag, channels, rate, width = layout
    if length > stored:
        raise AudioError(
            f"{name}: {length - stored} of its {length} bytes of samples are missing; "
            "the file is cut, copy or record it again"
        )
    frames, rest = divmod(length, channels * width)
    if rest:
        raise AudioError(
            f"{name}: {length} bytes of samples are no whole number of "
            f"{channels * width}-byte frames; it is damaged"
        )
    if frames == 0:
        raise AudioError(f"{name}: it holds no samples")
    return WavInfo(tag, channels, rate, width, offset, frames)


def read_wav(path: PathLike, info: WavInfo) -> Pcm:
    """All samples [channels, frames] as the file has them, at its own rate.

    Raises:
        AudioError: NaN or Inf among the samples, or floats that are not in [-1, 1] by far.
    """
    name = Path(path).name
    pcm = np.empty((info.channels, info.frames), dtype=np.float32)
    with open(path, "rb") as file:
        file.seek(info.offset)
        for start in range(0, info.frames, _BLOCK):
            frames = min(_BLOCK, info.frames - start)
            size = frames * info.channels * info.sample_bytes
            raw = file.read(size)
            if len(raw) < size:
                raise AudioError(f"{name}: the file became shorter while it was read")
            block = pcm[:, start : start + frames]
            with np.errstate(over="ignore"):
                block[:] = _to_float(raw, info).reshape(frames, info.channels).T
            _check_block(name, block, start, info.sample_rate)
    return pcm


def _check_block(name: str, block: Pcm, start: int, sample_rate: int) -> None:
    peak = float(np.abs(block).max())
    if not np.isfinite(peak):
        first = start + int(np.argmax(~np.isfinite(block).all(axis=0)))
        raise AudioError(
            f"{name}: sample {first} ({first / sample_rate:.3f} s) is NaN or Inf; "
            "repair or cut it out, no model can take it"
        )
    if peak > MAX_FLOAT_PEAK:
        raise AudioError(f"{name}: its samples reach {peak:g}; scale them so that full scale is 1")


def _to_float(raw: bytes, info: WavInfo) -> NDArray[Any]:
    if info.format == _FLOAT:
        return np.frombuffer(raw, dtype=f"<f{info.sample_bytes}")
    if info.format in (_ALAW, _MULAW):
        table = _alaw_table() if info.format == _ALAW else _mulaw_table()
        return table[np.frombuffer(raw, dtype=np.uint8)]
    if info.sample_bytes == 1:
        return (np.frombuffer(raw, dtype=np.uint8).astype(np.float32) - 128) / 128
    if info.sample_bytes == 3:
        wide = np.zeros((len(raw) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / np.float32(2**31)
    return np.frombuffer(raw, dtype=f"<i{info.sample_bytes}") / np.float32(
        2 ** (8 * info.sample_bytes - 1)
    )


def _mulaw_table() -> Pcm:
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = ((code >> 4) & 7).astype(np.int32), (code & 15).astype(np.int32)
    size = ((2 * mantissa + 33) << exponent) - 33
    return (np.where(code & 0x80, -size, size) / 8192).astype(np.float32)


def _alaw_table() -> Pcm:
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((code >> 4) & 7).astype(np.int32), (code & 15).astype(np.int32)
    size = np.where(
        exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << (np.maximum(exponent, 1) - 1)
    )
    return (np.where(code & 0x80, size, -size) / 4096).astype(np.float32)


def write_wav(
    path: PathLike,
    pcm: Any,
    sample_rate: int = 24000,
    *,
    sample_format: Literal["int16", "float32"] = "int16",
) -> int:
    """Write mono [T] or stereo [2, T] samples; the file appears whole or not at all.

    16-bit samples are round(x * 32768), clipped to what 16 bits hold; reading the file back gives
    the same 16-bit values. Float files are not clipped.

    Args:
        pcm: float array, or a tensor on the CPU, nominally in [-1, 1]; left is channel 0.

    Returns:
        How many samples had to be clipped.

    Raises:
        AudioError: the samples are no such array, or have NaN or Inf among them.
        OSError: the file cannot be written.
    """
    samples = _check_samples(pcm)
    if not RATE_RANGE[0] <= sample_rate <= RATE_RANGE[1]:
        raise AudioError(f"a sample rate of {sample_rate} Hz is out of range")
    channels, frames = samples.shape
    if sample_format == "int16":
        scaled = np.rint(samples * np.float32(32768))
        clipped = int(np.count_nonzero((samples > 1) | (samples < -1)))
        data = np.clip(scaled, -32768, 32767).astype("<i2")
        tag, width = _PCM, 2
    else:
        data, clipped = samples.astype("<f4"), 0
        tag, width = _FLOAT, 4
    body = np.ascontiguousarray(data.T).tobytes()
    align = channels * width
    layout = struct.pack(
        "<HHIIHH", tag, channels, sample_rate, sample_rate * align, align, 8 * width
    )
    chunks = _chunk(b"fmt ", layout if tag == _PCM else layout + bytes(2))
    if tag != _PCM:
        chunks += _chunk(b"fact", struct.pack("<I", frames))
    riff = 4 + len(chunks) + 8 + len(body)
    if riff > 0xFFFFFFFF:
        raise AudioError(f"{frames} frames do not fit into a WAV file; write it in parts")
    head = b"RIFF" + struct.pack("<I", riff) + b"WAVE" + chunks
    _write_whole(Path(path), head + b"data" + struct.pack("<I", len(body)), body)
    return clipped


def _check_samples(pcm: Any) -> NDArray[Any]:
    samples = np.asarray(pcm)
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"expected float samples in [-1, 1], got {samples.dtype}")
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or not 1 <= samples.shape[0] <= 2:
        raise AudioError(f"expected samples [T], [1, T] or [2, T], got shape {samples.shape}")
    if samples.size == 0:
        raise AudioError("there are no samples to write")
    if not np.isfinite(samples).all():
        raise AudioError("samples contain NaN or Inf")
    return samples


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body


def _write_whole(path: Path, *parts: bytes) -> None:
    """Write beside the target, then rename over it."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(scratch, "xb") as file:
            for part in parts:
                file.write(part)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
