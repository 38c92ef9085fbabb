"""Opus both ways, as raw packets (WebRTC, WebCodecs) and as an Ogg-Opus byte stream (Kyutai).

Mono, float32 in [-1, 1], 24 kHz unless said otherwise. The coder is libopus inside `sphn`, which
only speaks Ogg; `ogg.py` unwraps and wraps its pages, so that page layout, checks and bounds are
ours. All objects are one stream's and not safe for threads; nothing here waits or starts a thread.

Encoder: packets of 960 samples (40 ms at 24 kHz, 20 ms at 48 kHz), variable rate, speech mode,
about 27 kbit/s. An 80 ms frame gives its two packets at once; nothing is withheld but an incomplete
packet. The codec's own look-ahead is 6.5 ms (`LOOKAHEAD_SECONDS`).

Decoder bounds, since its input comes from the network:
- bytes kept between calls: one incomplete page and one incomplete packet (under 128 KiB);
- one call: at most `MAX_MESSAGE_BYTES` in, `MAX_STREAMS_PER_MESSAGE` new streams, and `max_seconds`
  of audio out (three bytes can stand for 120 ms, so bytes alone would not bound memory);
- a packet: at most 120 ms and 61,207 bytes.
Whatever is refused raises `OpusError`. After that an `OggOpusDecoder` stays closed; an
`OpusDecoder` goes on with the next packet, for packets are independent of each other's bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from duologue.audio import native
from duologue.audio.errors import OggError, OpusError
from duologue.audio.ogg import (
    MAX_PACKET_BYTES,
    OggPacket,
    OggReader,
    OggWriter,
    OpusHead,
    opus_tags,
)

Pcm = NDArray[np.float32]

PACKET_SAMPLES = 960
"""Samples per encoded packet, at any rate."""
LOOKAHEAD_SECONDS = 0.0065
"""Delay between what an encoder is fed and what a decoder returns."""
MAX_MESSAGE_BYTES = 1 << 20
"""Most bytes that one call of `OggOpusDecoder.decode` takes."""
MAX_STREAMS_PER_MESSAGE = 4
"""Most streams that one message may begin; each costs a new decoder."""
RATES = (24000, 48000)
_GRANULE_RATE = 48000
_MAX_PACKET_GRANULES = 5760
_SILK_FRAMES = (480, 960, 1920, 2880)
_CELT_FRAMES = (120, 240, 480, 960)


def packet_samples(packet: bytes) -> int:
    """Length of an Opus packet in samples at 48 kHz, read off its first two bytes.

    Raises:
        OpusError: empty, or longer than the 120 ms that the format allows.
    """
    frame, count = _layout(packet)
    return frame * count


def _layout(packet: bytes) -> tuple[int, int]:
    """Samples at 48 kHz per frame, and frames, of a packet (RFC 6716, section 3)."""
    if not packet:
        raise OpusError("an Opus packet has at least one byte")
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = _SILK_FRAMES[config % 4]
    elif config < 16:
        frame = _SILK_FRAMES[config % 2]
    else:
        frame = _CELT_FRAMES[config % 4]
    if code < 3:
        count = 1 if code == 0 else 2
    elif len(packet) < 2:
        raise OpusError("the Opus packet ends before its frame count")
    else:
        count = packet[1] & 63
    if not 0 < frame * count <= _MAX_PACKET_GRANULES:
        raise OpusError(f"the Opus packet claims {count} frames of {frame / 48:g} ms")
    return frame, count


class OpusEncoder:
    """PCM of one stream to raw Opus packets of `PACKET_SAMPLES` each."""

    def __init__(self, sample_rate: int = 24000) -> None:
        self.sample_rate = _check_rate(sample_rate)
        self._coder = native.sphn().OpusStreamWriter(sample_rate)
        self._pages = OggReader()
        self._held = 0

    @property
    def held_samples(self) -> int:
        """Samples fed that wait for the rest of their packet."""
        return self._held

    def encode(self, pcm: Pcm) -> list[bytes]:
        """Take samples [T], any T, and give the packets that are now complete.

        Values beyond [-1, 1] are clipped.

        Raises:
            OpusError: not a finite one-dimensional array.
        """
        samples = np.asarray(pcm)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise OpusError(f"expected float samples [T], got {samples.dtype} {samples.shape}")
        if not np.isfinite(samples).all():
            raise OpusError("samples contain NaN or Inf")
        self._held = (self._held + samples.size) % PACKET_SAMPLES
        data = native.call(
            _refuse, self._coder.append_pcm, np.clip(samples, -1.0, 1.0, dtype=np.float32)
        )
        packets = (packet.data for packet in self._pages.feed(data))
        return [packet for packet in packets if not packet.startswith((b"OpusHead", b"OpusTags"))]

    def flush(self) -> list[bytes]:
        """Complete the packet that waits, if any, with silence."""
        missing = -self._held % PACKET_SAMPLES
        return self.encode(np.zeros(missing, dtype=np.float32))


class OpusDecoder:
    """Raw Opus packets of one stream to PCM. Stereo packets are mixed down."""

    def __init__(self, sample_rate: int = 24000) -> None:
        self.sample_rate = _check_rate(sample_rate)
        self._coder = native.sphn().OpusStreamReader(sample_rate)
        self._pages = OggWriter()
        self._shape = bytes([0b01101_0_11, 2])  # two empty frames of 20 ms: conceals 40 ms

    def decode(self, packet: bytes | None) -> Pcm:
        """One packet to samples [T]; `None` stands for a lost packet as long as the last one.

        Raises:
            OpusError: not an Opus packet. The next one may be decoded.
        """
        if packet is None:
            packet = self._shape
        if len(packet) > MAX_PACKET_BYTES:
            raise OpusError(
                f"an Opus packet of {len(packet)} bytes; the most is {MAX_PACKET_BYTES}"
            )
        frame, count = _layout(packet)
        samples = frame * count * self.sample_rate // _GRANULE_RATE
        pcm = native.call(_refuse, self._coder.append_bytes, self._pages.pages([(packet, 0)]))
        if len(pcm) != samples:
            raise OpusError(f"an Opus packet of {samples} samples gave {len(pcm)}")
        # What conceals a loss: as many frames, of no bytes, in the same mode.
        self._shape = bytes([packet[0] | 3, count])
        return np.clip(pcm, -1.0, 1.0)


class OggOpusEncoder:
    """PCM of one stream to one continuous Ogg-Opus stream.

    Args:
        serial: stream number in the pages; any will do unless streams are multiplexed.
    """

    def __init__(self, sample_rate: int = 24000, *, serial: int = 42) -> None:
        self._coder = OpusEncoder(sample_rate)
        self._pages = OggWriter(serial)
        self._scale = _GRANULE_RATE // sample_rate
        self._pre_skip = round(LOOKAHEAD_SECONDS * _GRANULE_RATE)
        self._fed = self._granule = 0
        self._started = self._ended = False

    def encode(self, pcm: Pcm) -> bytes:
        """Take samples [T], any T, and give the bytes to send now, possibly none.

        The two header pages come with the first call. The packets of one call share a page.
        """
        if self._ended:
            raise OpusError("the stream has been ended by flush")
        packets = self._coder.encode(pcm)
        self._fed += len(pcm)
        return self._header() + self._pages.pages(self._dated(packets))

    def flush(self) -> bytes:
        """End the stream: the samples still held, and an end mark that tells their exact number."""
        if self._ended:
            return b""
        self._ended = True
        lookahead = np.zeros(self._pre_skip // self._scale, dtype=np.float32)
        packets = self._dated(self._coder.encode(lookahead) + self._coder.flush())
        packets[-1] = packets[-1][0], self._pre_skip + self._fed * self._scale
        return self._header() + self._pages.pages(packets, last=True)

    def _dated(self, packets: list[bytes]) -> list[tuple[bytes, int]]:
        """Packets with their end positions in 48 kHz samples."""
        step, begin = PACKET_SAMPLES * self._scale, self._granule
        self._granule += step * len(packets)
        return [(packet, begin + step * (index + 1)) for index, packet in enumerate(packets)]

    def _header(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        head = OpusHead(pre_skip=self._pre_skip, input_rate=self._coder.sample_rate)
        return self._pages.pages([(head.pack(), 0)]) + self._pages.pages([(opus_tags(), 0)])


class OggOpusDecoder:
    """One continuous Ogg-Opus stream, cut anywhere, to PCM.

    Args:
        trim: leave out what the stream says to leave out: the look-ahead at its start and the
            padding at its end. Right for recordings. Off by default: a live sender's 80 ms should
            come out as 80 ms, and not leave a frame that waits for the next message.
        max_seconds: most audio that one call may return.
    """

    def __init__(
        self, sample_rate: int = 24000, *, trim: bool = False, max_seconds: float = 10.0
    ) -> None:
        self.sample_rate = _check_rate(sample_rate)
        self._trim, self._most = trim, int(max_seconds * sample_rate)
        self._pages = OggReader()
        self._coder = OpusDecoder(sample_rate)
        self._head: OpusHead | None = None
        self._tags = False
        self._decoded = 0
        self._error: OpusError | None = None

    @property
    def lost_pages(self) -> int:
        """Gaps in the page numbers so far."""
        return self._pages.lost_pages

    def decode(self, data: bytes) -> Pcm:
        """Take the next bytes and give the samples [T] that they complete, possibly none.

        Raises:
            OpusError: the bytes are no Ogg-Opus stream or exceed a bound; the stream stays closed.
        """
        if self._error is not None:
            raise OpusError(f"the stream was closed by an earlier error: {self._error}")
        try:
            return self._decode(data)
        except OpusError as error:
            self._error = error
            raise

    def _decode(self, data: bytes) -> Pcm:
        if len(data) > MAX_MESSAGE_BYTES:
            raise OpusError(f"a message of {len(data)} bytes; the most is {MAX_MESSAGE_BYTES}")
        pieces, total, streams = [], 0, 0
        for packet in self._pages.feed(data):
            streams += packet.first
            if streams > MAX_STREAMS_PER_MESSAGE:
                raise OpusError(f"a message begins more than {MAX_STREAMS_PER_MESSAGE} streams")
            piece = self._take(packet)
            total += piece.size
            if total > self._most:
                raise OpusError(
                    f"a message holds more than {self._most / self.sample_rate:g} s of audio"
                )
            pieces.append(piece)
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)

    def _take(self, packet: OggPacket) -> Pcm:
        silent = np.zeros(0, dtype=np.float32)
        if packet.first:
            self._head = OpusHead.parse(packet.data)
            self._tags, self._decoded = True, 0
            self._coder = OpusDecoder(self.sample_rate)
            return silent
        if self._tags:
            self._tags = False
            if not packet.data.startswith(b"OpusTags"):
                raise OggError(f"the second packet must be OpusTags, found {packet.data[:8]!r}")
            return silent
        assert self._head is not None
        pcm = self._coder.decode(packet.data)
        if self._head.gain_db:
            pcm = np.clip(pcm * np.float32(10 ** (self._head.gain_db / 20)), -1.0, 1.0)
        return self._cut(pcm, packet, self._head.pre_skip) if self._trim else pcm

    def _cut(self, pcm: Pcm, packet: OggPacket, pre_skip: int) -> Pcm:
        scale = _GRANULE_RATE // self.sample_rate
        begin, self._decoded = self._decoded, self._decoded + pcm.size
        end = self._decoded
        if packet.last and packet.granule is not None:
            end = min(end, packet.granule // scale)
        return pcm[max(0, pre_skip // scale - begin) : max(0, end - begin)]


def _check_rate(sample_rate: int) -> int:
    if sample_rate not in RATES:
        raise ValueError(f"Opus runs at {RATES[0]} or {RATES[1]} Hz here, not {sample_rate}")
    return sample_rate


def _refuse(reason: str) -> OpusError:
    return OpusError(f"libopus refused the data: {reason}")
