"""Codes on disk: a small header and the codes packed bit by bit (1.1 kbit/s for Mimi's eight).

Layout: the magic `DUOCODES`, a little-endian u32 length, a JSON header of that length, the packed
codes (frame by frame, codebook by codebook, `bits` bits each, most significant first), and a CRC-32
of all before it. The header tells how many samples the recording had, so that decoding gives back
exactly as many.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duologue.errors import DuologueError

MAGIC = b"DUOCODES"
MAX_HEADER_BYTES = 65_536


class CodesError(DuologueError, ValueError):
    """A file of codes is damaged, or is none."""


@dataclass(frozen=True)
class CodesHeader:
    """What a file of codes says of itself."""

    num_codebooks: int
    frames: int
    bins: int
    sample_rate: int
    frame_rate: float
    samples: int
    """Length of the recording; at most `frames` frames."""
    codec: str = ""
    """Name of the codec that made it, for people."""

    @property
    def bits(self) -> int:
        """Bits per code."""
        return max(1, (self.bins - 1).bit_length())

    @property
    def bitrate(self) -> float:
        """Bits per second of audio."""
        return self.bits * self.num_codebooks * self.frame_rate


def pack_codes(codes: NDArray[np.int64], header: CodesHeader) -> bytes:
    """Codes [K, F] -> the bytes of a file."""
    shifts = np.arange(header.bits - 1, -1, -1)
    bits = (codes.T.reshape(-1, 1) >> shifts) & 1
    head = json.dumps(asdict(header)).encode()
    body = np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
    content = MAGIC + struct.pack("<I", len(head)) + head + body
    return content + struct.pack("<I", zlib.crc32(content))


def unpack_codes(data: bytes, name: str = "codes") -> tuple[NDArray[np.int64], CodesHeader]:
    """The bytes of a file -> codes int64 [K, F] and header.

    Raises:
        CodesError: not such a file, truncated, or changed.
    """
    start = len(MAGIC) + 4
    if not data.startswith(MAGIC) or len(data) < start + 4:
        raise CodesError(f"{name}: not a file of codes (made by `duologue codec encode`)")
    (length,) = struct.unpack_from("<I", data, len(MAGIC))
    if length > MAX_HEADER_BYTES or start + length + 4 > len(data):
        raise CodesError(f"{name}: truncated inside its header")
    content, (crc,) = data[:-4], struct.unpack("<I", data[-4:])
    if zlib.crc32(content) != crc:
        raise CodesError(f"{name}: damaged or truncated (its checksum does not match)")
    try:
        header = CodesHeader(**json.loads(data[start : start + length]))
        count = header.num_codebooks * header.frames
        packed = np.frombuffer(content[start + length :], dtype=np.uint8)
        bits = np.unpackbits(packed, count=count * header.bits).reshape(count, header.bits)
    except (TypeError, ValueError) as error:
        raise CodesError(f"{name}: header and content do not fit: {error}") from error
    weights = 1 << np.arange(header.bits - 1, -1, -1)
    codes = (bits.astype(np.int64) * weights).sum(axis=1)
    return codes.reshape(header.frames, header.num_codebooks).T.copy(), header


def read_codes(path: Path) -> tuple[NDArray[np.int64], CodesHeader]:
    """As `unpack_codes`, from a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CodesError(f"{path}: {error.strerror}") from error
    return unpack_codes(data, str(path))
