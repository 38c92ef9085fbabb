"""Opus: round trips, latency, concealment, foreign streams, and hostile bytes."""

from __future__ import annotations

import numpy as np
import pytest
import sphn
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.audio import opus
from duologue.audio.errors import OggError, OpusError
from duologue.audio.ogg import OggReader, OggWriter, OpusHead, opus_tags
from duologue.audio.opus import (
    OggOpusDecoder,
    OggOpusEncoder,
    OpusDecoder,
    OpusEncoder,
    Pcm,
    packet_samples,
)

FRAME = 1920


def speechlike(seconds: float, rate: int = 24000, seed: int = 0) -> Pcm:
    """A pitch gliding under a syllable rhythm; harmonics fall off as in a voice."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * time + seed)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.15 * voice * np.sin(2 * np.pi * 2 * time) ** 2).astype(np.float32)


def lag_and_match(x: Pcm, y: Pcm) -> tuple[int, float]:
    """Delay of y behind x in samples, and their correlation there."""
    size = min(len(x), len(y))
    x, y = x[:size], y[:size]
    cross = np.fft.irfft(np.fft.rfft(y, 2 * size) * np.conj(np.fft.rfft(x, 2 * size)))
    lag = int(np.argmax(cross[:size]))
    return lag, float(cross[lag] / np.sqrt((x**2).sum() * (y**2).sum()))


def packets_of(pcm: Pcm) -> list[bytes]:
    return OpusEncoder().encode(pcm)


def stream_of(packets: list[bytes], head: OpusHead | None = None) -> bytes:
    writer = OggWriter()
    data = writer.pages([((head or OpusHead()).pack(), 0)]) + writer.pages([(opus_tags(), 0)])
    return data + b"".join(writer.pages([(packet, 0)]) for packet in packets)


def test_one_frame_in_one_frame_out() -> None:
    x = speechlike(2.0)
    encoder, decoder = OggOpusEncoder(), OggOpusDecoder()
    pieces, sizes = [], []
    for at in range(0, len(x), FRAME):
        data = encoder.encode(x[at : at + FRAME])
        sizes.append(len(data))
        pieces.append(decoder.decode(data))
    assert {piece.size for piece in pieces} == {FRAME}
    assert all(piece.dtype == np.float32 for piece in pieces)
    assert np.mean(sizes) < 400  # about 27 kbit/s
    lag, match = lag_and_match(x, np.concatenate(pieces))
    assert abs(lag - opus.LOOKAHEAD_SECONDS * 24000) <= 5
    assert match > 0.8


def test_the_codec_adds_its_lookahead_and_nothing_else() -> None:
    """The first packet is complete with its 960th sample, and holds what was fed 156 before."""
    encoder = OpusEncoder()
    assert encoder.encode(np.zeros(959, dtype=np.float32)) == []
    assert encoder.held_samples == 959
    assert len(encoder.encode(np.zeros(1, dtype=np.float32))) == 1
    assert encoder.held_samples == 0
    assert len(encoder.encode(np.zeros(FRAME, dtype=np.float32))) == 2


@pytest.mark.parametrize("rate", opus.RATES)
def test_trimmed_round_trip_has_the_exact_length(rate: int) -> None:
    for length in (1, 800, 960, 5000, 30001):
        x = speechlike(2.0, rate)[:length]
        encoder = OggOpusEncoder(rate)
        data = encoder.encode(x) + encoder.flush()
        y = OggOpusDecoder(rate, trim=True).decode(data)
        assert y.size == length
        assert encoder.flush() == b""
        with pytest.raises(OpusError, match="ended"):
            encoder.encode(x)
    lag, match = lag_and_match(x, y)
    assert lag <= 8
    assert match > 0.7


@settings(max_examples=25, deadline=None)
@given(
    feeds=st.lists(st.integers(0, 2500), max_size=8),
    cuts=st.lists(st.integers(0, 300), max_size=20),
    trim=st.booleans(),
)
def test_any_chunking_gives_the_same_stream(feeds: list[int], cuts: list[int], trim: bool) -> None:
    x = speechlike(0.5)
    whole = OggOpusEncoder()
    expected = OggOpusDecoder(trim=trim).decode(whole.encode(x) + whole.flush())
    encoder, data, at = OggOpusEncoder(), b"", 0
    for feed in [*feeds, x.size]:
        data += encoder.encode(x[at : at + feed])
        at = min(at + feed, x.size)
    data += encoder.flush()
    decoder, pieces, at = OggOpusDecoder(trim=trim), [], 0
    for cut in [*cuts, len(data)]:
        pieces.append(decoder.decode(data[at : at + cut]))
        at = min(at + cut, len(data))
    assert np.array_equal(np.concatenate(pieces), expected)


def test_a_long_recording_in_one_call_carries_positions_on_every_page() -> None:
    encoder = OggOpusEncoder()
    data = encoder.encode(speechlike(12.0)) + encoder.flush()
    positions = [packet.granule for packet in OggReader().feed(data) if packet.granule]
    assert positions == sorted(positions)
    assert positions[-1] == 312 + 12 * 48000
    assert len(positions) >= 3


def test_foreign_peers_understand_each_other() -> None:
    x = speechlike(1.0)
    encoder = OggOpusEncoder()
    data = encoder.encode(x)
    assert sphn.OpusStreamReader(24000).append_bytes(data).size == 24000
    assert sphn.read_opus_bytes(data)[0].shape == (1, 48000)
    peer = sphn.OpusStreamWriter(24000)
    sent = b"".join(peer.append_pcm(x[at : at + 480]) for at in range(0, x.size, 480))
    y = OggOpusDecoder().decode(sent)
    assert y.size == 24000
    assert lag_and_match(x, y)[1] > 0.7


def test_raw_packets_equal_the_stream() -> None:
    x = speechlike(1.0)
    packets = packets_of(x)
    assert [packet_samples(packet) for packet in packets] == [1920] * 25
    decoder = OpusDecoder()
    raw = np.concatenate([decoder.decode(packet) for packet in packets])
    assert np.array_equal(raw, OggOpusDecoder().decode(OggOpusEncoder().encode(x)))


def test_flush_completes_the_last_packet() -> None:
    encoder = OpusEncoder()
    assert encoder.flush() == []
    encoder.encode(speechlike(0.01))
    assert len(encoder.flush()) == 1
    assert encoder.held_samples == 0


def test_lost_packets_are_concealed_with_their_length() -> None:
    decoder = OpusDecoder()
    assert not decoder.decode(None).any()
    for index, packet in enumerate(packets_of(speechlike(1.0))):
        lost = index == 9
        y = decoder.decode(None if lost else packet)
        assert y.size == 960
        if lost:
            assert np.abs(y).max() > 0.01


@pytest.mark.parametrize("config", range(32))
def test_every_mode_tells_its_length(config: int) -> None:
    for tail in ([0], [1], [3, 1], [3, 2]):
        packet = bytes([config << 3 | tail[0], *tail[1:]])
        decoder = OpusDecoder(48000)
        assert decoder.decode(packet).size == packet_samples(packet)
        assert decoder.decode(None).size == packet_samples(packet)


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"", "at least one byte"),
        (b"\x03", "before its frame count"),
        (b"\x03\x00", "0 frames"),
        (b"\x1b\x03", "3 frames of 60 ms"),
        (b"\x6a\xff", "corrupted"),
        (b"\x68" * 61208, "61208 bytes"),
    ],
)
def test_wrong_packets_are_refused_and_the_next_is_decoded(packet: bytes, message: str) -> None:
    decoder = OpusDecoder()
    with pytest.raises(OpusError, match=message):
        decoder.decode(packet)
    assert decoder.decode(packets_of(speechlike(0.1))[0]).size == 960


@pytest.mark.parametrize(
    ("pcm", "message"),
    [
        (np.zeros((1, 960), dtype=np.float32), "float samples"),
        (np.zeros(960, dtype=np.int16), "int16"),
        (np.full(960, np.nan, dtype=np.float32), "NaN"),
    ],
)
def test_wrong_samples_are_refused(pcm: Pcm, message: str) -> None:
    with pytest.raises(OpusError, match=message):
        OpusEncoder().encode(pcm)


def test_unsupported_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="44100"):
        OpusEncoder(44100)


def test_stereo_streams_are_mixed_down(tmp_path: object) -> None:
    left = speechlike(0.5, 48000)
    path = f"{tmp_path}/stereo.opus"
    sphn.write_opus(path, np.stack([left, left]), 48000)
    with open(path, "rb") as file:
        y = OggOpusDecoder(48000).decode(file.read())
    assert y.size == left.size
    assert lag_and_match(left, y)[1] > 0.7


def test_output_gain_is_applied() -> None:
    packets = packets_of(speechlike(0.5))
    plain = OggOpusDecoder().decode(stream_of(packets))
    loud = OggOpusDecoder().decode(stream_of(packets, OpusHead(gain_db=6.0)))
    assert np.allclose(loud, np.clip(plain * 10**0.3, -1, 1), atol=1e-6)


def test_a_restarted_sender_starts_a_new_stream() -> None:
    x = speechlike(0.16)
    data = OggOpusEncoder(serial=1).encode(x)
    decoder = OggOpusDecoder()
    first = decoder.decode(data)
    again = decoder.decode(OggOpusEncoder(serial=2).encode(x))
    assert np.array_equal(first, again)


class TestHostileStreams:
    """Network bytes: whatever is wrong is an OpusError, and the stream stays closed."""

    def refuse(self, data: bytes, message: str, **bounds: float) -> None:
        decoder = OggOpusDecoder(**bounds)  # type: ignore[arg-type]
        with pytest.raises(OpusError, match=message):
            decoder.decode(data)
        with pytest.raises(OpusError, match="closed by an earlier error"):
            decoder.decode(OggOpusEncoder().encode(speechlike(0.1)))

    def test_garbage(self) -> None:
        self.refuse(np.random.default_rng(0).bytes(200), "expected an Ogg page")

    def test_wrong_checksum(self) -> None:
        data = bytearray(OggOpusEncoder().encode(speechlike(0.2)))
        data[-1] ^= 1
        self.refuse(bytes(data), "checksum")

    def test_no_head(self) -> None:
        self.refuse(OggWriter().pages([(packets_of(speechlike(0.1))[0], 0)]), "OpusHead")

    def test_no_tags(self) -> None:
        writer = OggWriter()
        data = writer.pages([(OpusHead().pack(), 0)]) + writer.pages([(b"\x68data", 0)])
        self.refuse(data, "OpusTags")

    def test_corrupted_packet(self) -> None:
        self.refuse(stream_of([b"\x6a\xff"]), "corrupted")

    def test_empty_packet(self) -> None:
        self.refuse(stream_of([b""]), "at least one byte")

    def test_message_bound(self) -> None:
        self.refuse(bytes(opus.MAX_MESSAGE_BYTES + 1), "a message of")

    def test_three_bytes_cannot_unfold_into_gigabytes(self) -> None:
        bomb = OggWriter()
        data = bomb.pages([(OpusHead().pack(), 0)]) + bomb.pages([(opus_tags(), 0)])
        data += bomb.pages([(b"\xe3\x30", 0)] * 5000)
        self.refuse(data, "more than 10 s")
        self.refuse(data, "more than 0.5 s", max_seconds=0.5)

    def test_stream_flood(self) -> None:
        self.refuse(stream_of([]) * 5, "begins more than 4 streams")

    @settings(max_examples=60, deadline=None)
    @given(
        changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
        cuts=st.lists(st.integers(0, 500), max_size=6),
        drop=st.integers(0, 300),
    )
    def test_fuzzed_streams(
        self, changes: list[tuple[int, int]], cuts: list[int], drop: int
    ) -> None:
        data = bytearray(OggOpusEncoder().encode(speechlike(0.5))[drop if drop > 150 else 0 :])
        for position, value in changes:
            data[position % len(data)] = value
        decoder, at = OggOpusDecoder(), 0
        try:
            for cut in [*cuts, len(data)]:
                pcm = decoder.decode(bytes(data[at : at + cut]))
                at += cut
                assert np.isfinite(pcm).all()
        except OpusError:
            pass

    @settings(max_examples=150, deadline=None)
    @given(packet=st.binary(max_size=120), mode=st.integers(0, 255))
    def test_fuzzed_packets(self, packet: bytes, mode: int) -> None:
        try:
            pcm = OpusDecoder().decode(bytes([mode]) + packet)
        except OpusError:
            return
        assert np.isfinite(pcm).all()
        assert np.abs(pcm).max(initial=0) <= 1
        assert 0 < pcm.size <= 2880


def test_ogg_errors_are_caught_as_opus_errors() -> None:
    with pytest.raises(OggError):
        OggOpusDecoder().decode(b"not Ogg")
