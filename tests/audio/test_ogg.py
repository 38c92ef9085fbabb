"""Ogg pages: checksum, lacing, arbitrary cuts, and every way in which a page can be wrong."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.audio.errors import OggError, OpusError
from duologue.audio.ogg import (
    MAX_PAGE_BYTES,
    OggPacket,
    OggReader,
    OggWriter,
    OpusHead,
    opus_tags,
    page_checksum,
)


def slow_checksum(data: bytes) -> int:
    """The definition: long division by the polynomial, bit by bit."""
    remainder = 0
    for byte in data:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x04C11DB7 if remainder >> 31 else 0)
            remainder &= 0xFFFFFFFF
    return remainder


def read(data: bytes, cuts: list[int] | None = None, **bounds: int) -> list[OggPacket]:
    reader, packets, at = OggReader(**bounds), [], 0
    for cut in [*(cuts or []), len(data)]:
        packets += list(reader.feed(data[at : at + cut]))
        at = min(at + cut, len(data))
    return packets


def resign(page: bytes) -> bytes:
    blank = page[:22] + bytes(4) + page[26:]
    return blank[:22] + struct.pack("<I", page_checksum(blank)) + blank[26:]


@given(st.binary(max_size=300))
def test_checksum_follows_its_definition(data: bytes) -> None:
    assert page_checksum(data) == slow_checksum(data)


def test_checksum_of_the_usual_test_string() -> None:
    assert page_checksum(b"123456789") == 0x89A1897F


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(
        st.lists(st.integers(0, 1200) | st.sampled_from([254, 255, 256, 510]), max_size=6),
        min_size=1,
        max_size=5,
    ),
    cuts=st.lists(st.integers(0, 400), max_size=20),
)
def test_packets_survive_pages_cut_anywhere(groups: list[list[int]], cuts: list[int]) -> None:
    writer, data = OggWriter(serial=7), b""
    sent: list[bytes] = []
    for group in groups:
        packets = [bytes([len(sent) + i & 255]) * size for i, size in enumerate(group)]
        sent += packets
        data += writer.pages([(packet, 960) for packet in packets])
    received = read(data, cuts)
    assert [packet.data for packet in received] == sent
    assert [packet.first for packet in received] == [index == 0 for index in range(len(sent))]


def test_long_packets_and_many_packets_span_pages() -> None:
    packets = [(b"a", 1), (b"b" * 70000, 2)] + [(b"c", 3 + index) for index in range(300)]
    data = OggWriter().pages(packets, last=True)
    received = read(data, max_packet_bytes=80000)
    assert [packet.data for packet in received] == [packet for packet, _ in packets]
    for packet, (_, granule) in zip(received, packets, strict=True):
        assert packet.granule in (None, granule)
    assert received[-1].granule == 302
    assert [packet.last for packet in received] == [False] * 301 + [True]


def test_last_packet_and_granule() -> None:
    writer = OggWriter()
    data = writer.pages([(b"x", 5), (b"y", 9)]) + writer.pages([(b"z", 12)], last=True)
    assert read(data) == [
        OggPacket(b"x", None, True, False),
        OggPacket(b"y", 9, False, False),
        OggPacket(b"z", 12, False, True),
    ]


def test_nothing_to_write_is_no_page() -> None:
    assert OggWriter().pages([]) == b""


@pytest.mark.parametrize("position", [0, 4, 10, 23, 26, 27, 30])
def test_any_changed_byte_is_an_error_or_waits(position: int) -> None:
    page = bytearray(OggWriter().pages([(b"packet", 0)]))
    page[position] ^= 0x55
    try:
        assert read(bytes(page)) == []
    except OggError:
        return
    assert position in (26, 27)  # a longer page was announced: it is not complete yet


def test_garbage_is_refused_at_its_first_byte() -> None:
    with pytest.raises(OggError, match="expected an Ogg page"):
        read(b"x")
    with pytest.raises(OggError, match="expected an Ogg page"):
        read(OggWriter().pages([(b"p", 0)]) + b"Oggs")


def test_errors_are_opus_errors_and_value_errors() -> None:
    assert issubclass(OggError, OpusError)
    assert issubclass(OpusError, ValueError)


def test_packet_bound() -> None:
    data = OggWriter().pages([(b"p" * 70000, 0)])
    with pytest.raises(OggError, match="longer than 61207 bytes"):
        read(data)


def test_buffer_never_holds_more_than_one_page() -> None:
    reader = OggReader(max_packet_bytes=65000)
    page = OggWriter().pages([(b"p" * 65000, 0)])
    for index in range(len(page) - 1):
        assert list(reader.feed(page[index : index + 1])) == []
    assert len(reader._buffer) < MAX_PAGE_BYTES
    assert len(list(reader.feed(page[-1:]))) == 1
    assert len(reader._buffer) == 0


def test_lost_page_drops_the_packet_that_it_cuts() -> None:
    writer = OggWriter()
    pages = [writer.pages([(bytes([index]), 0)]) for index in range(3)]
    long = writer.pages([(b"l" * 70000, 0), (b"after", 0)])
    size = 27 + 255 + 255 * 255
    reader = OggReader(max_packet_bytes=80000)
    data = pages[0] + pages[2] + long[size:] + writer.pages([(b"end", 0)])
    assert [packet.data for packet in reader.feed(data)] == [b"\0", b"\2", b"after", b"end"]
    assert reader.lost_pages == 2


def test_foreign_pages_are_refused_but_a_new_stream_may_follow() -> None:
    first, second = OggWriter(1), OggWriter(2)
    begin = first.pages([(b"a", 0)])
    second.pages([(b"b", 0)])
    with pytest.raises(OggError, match="lies between"):
        read(begin + second.pages([(b"c", 0)]))
    packets = read(begin + OggWriter(2).pages([(b"b", 0)]))
    assert [packet.first for packet in packets] == [True, True]


def test_pages_after_the_end_are_refused() -> None:
    writer = OggWriter()
    data = writer.pages([(b"a", 0)], last=True) + writer.pages([(b"b", 0)])
    with pytest.raises(OggError, match="follows the end"):
        read(data)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400), sign=st.booleans())
def test_fuzzed_pages_raise_nothing_else(data: bytes, sign: bool) -> None:
    page = b"OggS\0" + data
    if sign and len(page) >= 27:
        page = resign(page)
    try:
        for packet in read(page):
            assert len(packet.data) <= len(data)
    except OggError:
        pass


def test_opus_head_round_trip() -> None:
    head = OpusHead(channels=2, pre_skip=3840, input_rate=48000, gain_db=-1.5)
    assert OpusHead.parse(head.pack()) == head
    assert len(head.pack()) == 19


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"", "must begin with an OpusHead"),
        (b"OpusHead", "must begin with an OpusHead"),
        (b"OpusTags" + bytes(20), "must begin with an OpusHead"),
        (b"OpusHead\x10\x01" + bytes(9), "version 16"),
        (b"OpusHead\x01\x00" + bytes(9), "0 channels"),
        (b"OpusHead\x01\x06" + bytes(8) + b"\x01", "6 channels in mapping family 1"),
    ],
)
def test_wrong_heads_are_refused(packet: bytes, message: str) -> None:
    with pytest.raises(OggError, match=message):
        OpusHead.parse(packet)


def test_tags_name_the_vendor() -> None:
    assert opus_tags("me") == b"OpusTags\x02\0\0\0me\0\0\0\0"
