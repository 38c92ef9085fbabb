"""The WAV container: every sample format, streamed files, and every way to be broken."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.audio.errors import AudioError
from duologue.audio.wav import Pcm, read_wav, wav_info, write_wav

EXTENSIBLE_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def build(
    data: bytes,
    *,
    tag: int = 1,
    channels: int = 1,
    rate: int = 24000,
    width: int = 2,
    extensible: bool = False,
    riff: int | None = None,
    size: int | None = None,
    extra: bytes = b"",
) -> bytes:
    align = channels * width
    head = (channels, rate, rate * align & 0xFFFFFFFF, align, 8 * width)
    layout = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, *head)
    if extensible:
        layout += struct.pack("<HHIH", 22, 8 * width, 0, tag) + EXTENSIBLE_TAIL
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(layout)) + layout + extra
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def load(path: Path, content: bytes) -> Pcm:
    path.write_bytes(content)
    return read_wav(path, wav_info(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "voice.wav"


RAMP = np.linspace(-1.0, 1.0, 256, endpoint=False)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("tag", "width", "encode", "step"),
    [
        (1, 1, lambda x: (x * 128 + 128).astype("u1").tobytes(), 2**-7),
        (1, 2, lambda x: (x * 2**15).astype("<i2").tobytes(), 0),
        (
            1,
            3,
            lambda x: (x * 2**31).astype("<i4").view("u1").reshape(-1, 4)[:, 1:].tobytes(),
            0,
        ),
        (1, 4, lambda x: (x * 2**31).astype("<i4").tobytes(), 0),
        (3, 4, lambda x: x.astype("<f4").tobytes(), 0),
        (3, 8, lambda x: x.astype("<f8").tobytes(), 0),
    ],
)
def test_every_sample_format(
    path: Path,
    tag: int,
    width: int,
    encode: Callable[[np.ndarray], bytes],
    step: float,
    channels: int,
    extensible: bool,
) -> None:
    frames = np.stack([np.roll(RAMP, shift) for shift in range(channels)])
    data = encode(frames.T.reshape(-1))
    pcm = load(path, build(data, tag=tag, width=width, channels=channels, extensible=extensible))
    assert pcm.dtype == np.float32
    assert np.abs(pcm - frames).max() <= step


def test_telephone_codes_span_the_range_monotonically(path: Path) -> None:
    codes = bytes(range(256))
    mulaw = load(path, build(codes, tag=7, width=1, rate=8000))[0]
    alaw = load(path, build(codes, tag=6, width=1, rate=8000))[0]
    # Known corners of ITU-T G.711, in 16-bit steps.
    assert (mulaw[[0x00, 0x80, 0x7F, 0xFF, 0x0F]] * 32768).tolist() == [-32124, 32124, 0, 0, -16764]
    assert (alaw[[0x55, 0xD5, 0x2A, 0xAA]] * 32768).tolist() == [-8, 8, -32256, 32256]
    assert np.unique(alaw).size == 256
    assert np.unique(mulaw).size == 255  # zero has two codes


def test_other_chunks_and_odd_sizes_are_skipped(path: Path) -> None:
    extra = b"LIST" + struct.pack("<I", 5) + b"abcde\0" + b"junk" + struct.pack("<I", 0)
    pcm = load(path, build(b"\0\x40", extra=extra) + b"tail")
    assert pcm.tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("riff", "size"),
    [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000), (0, 0), (36, 0)],
)
def test_streamed_files_last_to_their_end(path: Path, riff: int, size: int) -> None:
    data = np.arange(1000, dtype="<i2").tobytes()
    pcm = load(path, build(data + b"\0", riff=riff, size=size))
    assert pcm.shape == (1, 1000)


def test_rf64(path: Path) -> None:
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, 6, 3, 0)
    plain = build(b"\0\x40" * 3, size=0xFFFFFFFF)
    content = b"RF64" + b"\xff" * 4 + b"WAVE" + sizes + plain[12:] + b"more"
    assert load(path, content).tolist() == [[0.5, 0.5, 0.5]]
    with pytest.raises(AudioError, match="2 of its 6 bytes"):
        load(path, content[:-6])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RIFF", "not a WAV file"),
        (b"RIFX" + bytes(40), "not a WAV file"),
        (build(bytes(100))[:14], "ends before its 'fmt' chunk"),
        (build(bytes(100))[:40], "ends before its 'data' chunk"),
        (b"RIFF\0\0\0\0WAVEdata\2\0\0\0\0\0", "no 'fmt' chunk precedes"),
        (b"RIFF\0\0\0\0WAVEfmt \2\0\0\0\0\0data", "has 2 bytes instead of 16"),
        (build(bytes(100), channels=0), "zero channels"),
        (build(bytes(100), rate=0), "says 0 Hz"),
        (build(bytes(100), rate=4_000_000_000), "says 4000000000 Hz"),
        (build(bytes(100), tag=2), "format 0x0002 is not supported; convert"),
        (build(bytes(100), tag=3, width=2), "16 bits in 2 bytes"),
        (build(bytes(100), width=5), "40 bits in 5 bytes"),
        (build(bytes(100), size=1000), "900 of its 1000 bytes of samples are missing"),
        (build(bytes(101)), "no whole number of 2-byte frames"),
        (build(b""), "holds no samples"),
        (build(b"", riff=0xFFFFFFFF, size=0xFFFFFFFF), "holds no samples"),
        (build(b"") + b"LIST\0\0\0\0", "holds no samples"),
        (build(struct.pack("<ff", 0, np.nan), tag=3, width=4), r"sample 1 \(0.000 s\) is NaN"),
        (build(struct.pack("<f", np.inf), tag=3, width=4), "sample 0 .* is NaN or Inf"),
        (build(struct.pack("<d", 1e300), tag=3, width=8), "NaN or Inf"),
        (build(struct.pack("<f", 20000), tag=3, width=4), "reach 20000; scale"),
    ],
)
def test_broken_files_say_what_is_wrong(path: Path, content: bytes, message: str) -> None:
    if b"LIST" in content[-8:]:  # an empty data chunk of a file that was finished properly
        content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    with pytest.raises(AudioError, match=message) as caught:
        load(path, content)
    assert "voice.wav" in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=5))
def test_fuzzed_headers_raise_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(build(bytes(200), extensible=True, channels=2))
    for position, value in changes:
        content[position] = value
    try:
        pcm = load(tmp_path_factory.getbasetemp() / "fuzz.wav", bytes(content))
    except AudioError:
        return
    assert np.isfinite(pcm).all()


class TestWriting:
    def test_sixteen_bits_come_back_exactly(self, path: Path) -> None:
        pcm = (np.arange(-32768, 32768) / 32768).astype(np.float32)
        assert write_wav(path, pcm, 16000) == 0
        info = wav_info(path)
        assert (info.sample_rate, info.channels, info.sample_bytes) == (16000, 1, 2)
        assert np.array_equal(read_wav(path, info)[0], pcm)

    def test_the_standard_library_reads_it(self, path: Path) -> None:
        write_wav(path, np.array([[0.5, -0.5], [0.25, 1.0]]), 48000)
        with wave.open(io.BytesIO(path.read_bytes())) as file:
            assert file.getparams()[:4] == (2, 2, 48000, 2)
            frames = np.frombuffer(file.readframes(2), dtype="<i2").tolist()
        assert frames == [16384, 8192, -16384, 32767]

    def test_clipping_is_counted(self, path: Path) -> None:
        assert write_wav(path, np.array([1.0, -1.0, 1.01, -7.0])) == 2
        assert (read_wav(path, wav_info(path)) * 32768).tolist() == [[32767, -32768, 32767, -32768]]

    def test_float_files_keep_every_bit(self, path: Path) -> None:
        pcm = np.random.default_rng(0).standard_normal((2, 99)).astype(np.float32) * 3
        assert write_wav(path, torch.from_numpy(pcm), sample_format="float32") == 0
        assert np.array_equal(read_wav(path, wav_info(path)), pcm)

    @pytest.mark.parametrize(
        ("pcm", "message"),
        [
            (np.zeros((3, 10)), "shape"),
            (np.zeros((1, 1, 10)), "shape"),
            (np.zeros(0), "no samples"),
            (np.zeros(10, dtype=np.int16), "int16"),
            (np.array([0.0, np.nan]), "NaN"),
        ],
    )
    def test_wrong_samples_leave_the_old_file(self, path: Path, pcm: Pcm, message: str) -> None:
        path.write_bytes(b"old")
        with pytest.raises(AudioError, match=message):
            write_wav(path, pcm)
        assert path.read_bytes() == b"old"

    def test_failure_while_writing_leaves_no_trace(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(b"old")

        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_wav(path, np.zeros(10))
        assert path.read_bytes() == b"old"
        assert [file.name for file in path.parent.iterdir()] == ["voice.wav"]

    def test_missing_folder_and_senseless_rate(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such folder"):
            write_wav(tmp_path / "none" / "a.wav", np.zeros(10))
        with pytest.raises(AudioError, match="out of range"):
            write_wav(tmp_path / "a.wav", np.zeros(10), 0)
