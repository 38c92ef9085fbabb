"""Ogg pages around Opus packets: split a byte stream into packets, wrap packets into pages.

Sources: RFC 3533 (pages, lacing, the checksum), RFC 7845 (OpusHead, OpusTags, granule positions).
The reader takes bytes cut anywhere and buffers at most one incomplete page (65,307 bytes) and one
incomplete packet (`max_packet_bytes`). It is strict, because the transport below it is reliable: a
page that does not start where the last one ended, a wrong checksum, or a second stream between the
pages of the first is an error. A jump in page numbers only drops the packet that it cuts in two
and is counted. A stream may follow another on the same connection (a client that restarts its
encoder): its first packet says so.

This module knows no Opus beyond the two header packets.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from duologue.audio.errors import OggError

MAX_PAGE_BYTES = 27 + 255 + 255 * 255
"""The longest page that the format can express."""
MAX_PACKET_BYTES = 1275 * 48 + 7
"""The longest Opus packet that RFC 6716 allows; larger ones are refused by default."""

_HEADER = struct.Struct("<4sBBqIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_NO_GRANULE = -1
_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_HEAD = struct.Struct("<8sBBHIhB")


@dataclass(frozen=True)
class OggPacket:
    """One packet and what its page says of it."""

    data: bytes
    granule: int | None
    """End position in 48 kHz samples, for the last packet that ends on its page; else `None`."""
    first: bool
    """The packet begins a stream (it is the OpusHead)."""
    last: bool
    """No packet follows in this stream."""


@dataclass(frozen=True)
class OpusHead:
    """The identification header of an Ogg-Opus stream."""

    channels: int = 1
    pre_skip: int = 312
    """Samples at 48 kHz that a decoder discards at the start: the encoder's look-ahead."""
    input_rate: int = 24000
    """Rate of the original in Hz; information only."""
    gain_db: float = 0.0

    def pack(self) -> bytes:
        """The header packet."""
        gain = round(self.gain_db * 256)
        return _HEAD.pack(b"OpusHead", 1, self.channels, self.pre_skip, self.input_rate, gain, 0)

    @classmethod
    def parse(cls, packet: bytes) -> OpusHead:
        """Read a header packet.

        Raises:
            OggError: not an OpusHead, or one of a version or channel layout that is not supported.
        """
        if len(packet) < _HEAD.size or not packet.startswith(b"OpusHead"):
            raise OggError(f"the stream must begin with an OpusHead, found {packet[:8]!r}")
        _, version, channels, pre_skip, rate, gain, family = _HEAD.unpack_from(packet)
        if version >> 4:
            raise OggError(f"OpusHead version {version} is not supported")
        if family > 1 or not 1 <= channels <= 2:
            raise OggError(
                f"OpusHead has {channels} channels in mapping family {family}; "
                "one or two channels are supported"
            )
        return cls(channels, pre_skip, rate, gain / 256)


def opus_tags(vendor: str = "duologue") -> bytes:
    """A comment header packet without comments."""
    name = vendor.encode()
    return b"OpusTags" + struct.pack("<I", len(name)) + name + struct.pack("<I", 0)


def page_checksum(page: bytes) -> int:
    """CRC-32 of a page whose checksum field is zero: polynomial 0x04c11db7, no inversion.

    zlib computes the bit-mirrored sum of the same polynomial, so mirrored bytes give ours.
    """
    mirrored = ~zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) & 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRROR), "big")


class OggWriter:
    """Wraps the packets of one stream into pages."""

    def __init__(self, serial: int = 42) -> None:
        self._serial = serial & 0xFFFFFFFF
        self._sequence = 0

    def pages(self, packets: Iterable[tuple[bytes, int]], *, last: bool = False) -> bytes:
        """Pages that hold exactly these packets; usually one, more where they do not fit.

        Args:
            packets: each with the position in 48 kHz samples at its end.
            last: end the stream after them.
        """
        segments: list[tuple[bytes, int | None]] = []
        for data, granule in packets:
            whole = len(data) // 255 * 255
            segments += [(data[at : at + 255], None) for at in range(0, whole, 255)]
            segments.append((data[whole:], granule))
        out = bytearray()
        flags = 0
        for at in range(0, len(segments), 255):
            group = segments[at : at + 255]
            if last and at + 255 >= len(segments):
                flags |= _LAST
            out += self._page(flags, group)
            flags = _CONTINUED if group[-1][1] is None else 0
        return bytes(out)

    def _page(self, flags: int, segments: Sequence[tuple[bytes, int | None]]) -> bytes:
        flags |= _FIRST if self._sequence == 0 else 0
        ends = [granule for _, granule in segments if granule is not None]
        position = ends[-1] if ends else _NO_GRANULE
        fields = (b"OggS", 0, flags, position, self._serial, self._sequence, 0, len(segments))
        lacing = bytes(len(data) for data, _ in segments)
        page = _HEADER.pack(*fields) + lacing + b"".join(data for data, _ in segments)
        self._sequence += 1
        return page[:22] + page_checksum(page).to_bytes(4, "little") + page[26:]


class OggReader:
    """Splits a byte stream, cut anywhere, into packets."""

    def __init__(self, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self.lost_pages = 0
        """Gaps in the page numbers so far."""
        self._max_packet = max_packet_bytes
        self._buffer = bytearray()
        self._partial: bytearray | None = None
        self._serial: int | None = None
        self._sequence = 0
        self._fresh = True
        self._ended = False

    def feed(self, data: bytes) -> Iterator[OggPacket]:
        """Packets that are complete once `data` has been added; consume them all.

        Raises:
            OggError: the bytes are not well-formed pages, or a packet exceeds its bound. What
                follows in the stream cannot be read any more.
        """
        self._buffer += data
        start = 0
        try:
            while size := self._page_size(start):
                page = bytes(self._buffer[start : start + size])
                start += size
                yield from self._read_page(page)
        finally:
            del self._buffer[:start]

    def _page_size(self, start: int) -> int:
        """Length of the page at `start`, or 0 while it is incomplete."""
        have = len(self._buffer) - start
        magic = bytes(self._buffer[start : start + 5])
        if not b"OggS\0".startswith(magic):
            raise OggError(f"expected an Ogg page, found bytes {magic.hex(' ')}")
        if have < _HEADER.size or have < (body := _HEADER.size + self._buffer[start + 26]):
            return 0
        size = body + sum(self._buffer[start + _HEADER.size : start + body])
        return size if have >= size else 0

    def _read_page(self, page: bytes) -> Iterator[OggPacket]:
        _, _, flags, granule, serial, sequence, checksum, segments = _HEADER.unpack_from(page)
        computed = page_checksum(page[:22] + bytes(4) + page[26:])
        if computed != checksum:
            raise OggError(
                f"checksum of page {sequence} is {computed:08x}, its header says {checksum:08x}"
            )
        self._enter_page(flags, serial, sequence)
        lacing = page[_HEADER.size : _HEADER.size + segments]
        last_end = max((index for index, size in enumerate(lacing) if size < 255), default=-1)
        packet, at = self._partial, _HEADER.size + segments
        if packet is None and not flags & _CONTINUED:
            packet = bytearray()
        for index, size in enumerate(lacing):
            if packet is not None:  # else: the rest of a packet whose beginning is lost
                packet += page[at : at + size]
                if len(packet) > self._max_packet:
                    raise OggError(f"a packet is longer than {self._max_packet} bytes")
            at += size
            if size < 255:
                if packet is not None:
                    ends_page = index == last_end
                    yield self._packet(bytes(packet), flags, granule if ends_page else None)
                packet = bytearray()
        if lacing:
            self._partial = packet if lacing[-1] == 255 else None
        self._ended = bool(flags & _LAST)

    def _enter_page(self, flags: int, serial: int, sequence: int) -> None:
        if flags & _FIRST or self._serial is None:
            self._serial, self._sequence = serial, sequence
            self._partial, self._fresh, self._ended = None, True, False
        if self._ended:
            raise OggError(f"page {sequence} follows the end of its stream")
        if serial != self._serial:
            raise OggError(f"a page of stream {serial} lies between those of {self._serial}")
        if sequence != self._sequence:
            self.lost_pages += 1
            self._partial = None
        if not flags & _CONTINUED:
            self._partial = None
        self._sequence = (sequence + 1) & 0xFFFFFFFF

    def _packet(self, data: bytes, flags: int, granule: int | None) -> OggPacket:
        first, self._fresh = self._fresh, False
        if granule == _NO_GRANULE:
            granule = None
        last = bool(flags & _LAST) and granule is not None
        return OggPacket(data, granule, first, last)
