"""Reading sound files: containers, rates, channels, lengths, and what is refused.

`data/tone.mp3` and `data/tone.ogg` hold half a second of a 500 Hz sine at 16 kHz, made with
`ffmpeg -f lavfi -i sine=frequency=500:sample_rate=16000:duration=0.5 -b:a 16k tone.mp3` and the
same with `-c:a libvorbis tone.ogg`; nothing here can encode these two formats.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sphn
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.audio import files, native
from duologue.audio.errors import AudioError
from duologue.audio.files import read_audio, read_channels
from duologue.audio.opus import OggOpusEncoder
from duologue.audio.wav import Pcm, write_wav

DATA = Path(__file__).parent / "data"


def sine(frequency: float, seconds: float, rate: int) -> Pcm:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )


def dominant(pcm: Pcm, rate: int = 24000) -> float:
    """Frequency in Hz of the strongest component."""
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(pcm.size)))
    return float(spectrum.argmax() * rate / pcm.size)


def remainder(data: bytes, polynomial: int, bits: int) -> int:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
    return value


def flac(pcm: np.ndarray, rate: int, announced: int | None = None) -> bytes:
    """A FLAC file of 16-bit samples [C, T], uncompressed inside (verbatim subframes)."""
    channels, total = pcm.shape
    block = 1000
    info = struct.pack(">HH", block, block) + bytes(6)
    packed = rate << 44 | (channels - 1) << 41 | 15 << 36 | (announced or total)
    info += packed.to_bytes(8, "big") + bytes(16)
    out = b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info
    for number, start in enumerate(range(0, total, block)):
        part = pcm[:, start : start + block]
        head = b"\xff\xf8\x70" + bytes([(channels - 1) << 4 | 8, number])
        head += struct.pack(">H", part.shape[1] - 1)
        frame = head + bytes([remainder(head, 0x07, 8)])
        for channel in part:
            frame += b"\x02" + channel.astype(">i2").tobytes()
        out += frame + struct.pack(">H", remainder(frame, 0x8005, 16))
    return out


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 44099])
def test_any_rate_arrives_at_the_same_place_in_time(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "tone.wav"
    write_wav(path, sine(440, 0.5, rate), rate, sample_format="float32")
    pcm = read_audio(path)
    assert pcm.dtype == np.float32
    assert pcm.shape == (-(-(rate // 2) * 24000 // rate),)
    assert np.abs(pcm - sine(440, 0.51, 24000)[: pcm.size])[600:-600].max() < 1e-3


def test_target_rate(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    write_wav(path, sine(440, 0.5, 24000))
    assert read_audio(path, 16000).shape == (8000,)
    with pytest.raises(ValueError, match="0 Hz"):
        read_audio(path, 0)


def test_mono_is_the_average_and_channels_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "dialogue.wav"
    left, right = sine(300, 0.2, 24000), sine(700, 0.2, 24000)
    write_wav(path, np.stack([left, right]), sample_format="float32")
    assert np.allclose(read_audio(path), (left + right) / 2, atol=1e-7)
    assert np.array_equal(read_channels(path), np.stack([left, right]))
    resampled = read_channels(path, 48000)
    assert [round(dominant(channel, 48000), -1) for channel in resampled] == [300, 700]


def test_float_files_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    path = tmp_path / "hot.wav"
    write_wav(path, np.array([0.5, 1.5, -3.0]), sample_format="float32")
    assert read_audio(path).tolist() == [0.5, 1.0, -1.0]


@pytest.mark.parametrize("name", ["tone.mp3", "tone.ogg"])
def test_mp3_and_vorbis(name: str) -> None:
    pcm = read_audio(DATA / name)
    assert 0.5 <= pcm.size / 24000 < 0.6  # these two keep their padding
    assert abs(dominant(pcm[4000:10000]) - 500) < 5
    assert read_channels(DATA / name, 16000).shape[0] == 1


def test_flac(tmp_path: Path) -> None:
    path = tmp_path / "take.flac"
    samples = np.stack([sine(500, 0.2, 24000), sine(900, 0.2, 24000)])
    scaled = np.rint(samples * 32768).astype(np.int16)
    path.write_bytes(flac(scaled, 24000))
    assert np.array_equal(read_channels(path), scaled / np.float32(32768))
    path.write_bytes(flac(scaled, 24000)[:-6000])
    with pytest.raises(AudioError, match=r"take.flac: it announces 0.20 s and holds 0.1"):
        read_audio(path)
    path.write_bytes(flac(scaled, 24000, announced=24000 * 3600 * 3))
    with pytest.raises(AudioError, match=r"holds 0.20 s"):
        read_audio(path)
    with pytest.raises(AudioError, match=r"lasts 10800.0 s, the limit is 60 s"):
        read_audio(path, max_seconds=60)


def test_a_file_that_understates_its_length_is_read_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    path.write_bytes(flac(np.zeros((1, 8000 * 3), dtype=np.int16), 8000, announced=8000))
    with pytest.raises(AudioError, match=r"announces 1.00 s and holds"):
        read_audio(path)
    path = tmp_path / "long.mp3"
    path.write_bytes((DATA / "tone.mp3").read_bytes() * 40)  # the first header counts one fortieth
    assert read_audio(path, 16000).size > 39 * 8000
    with pytest.raises(AudioError, match="limit is 5 s"):
        read_audio(path, max_seconds=5)


def test_opus_loses_lookahead_and_padding(tmp_path: Path) -> None:
    path = tmp_path / "voice.opus"
    x = sine(440, 1.0, 24000)[:23456] * np.linspace(0, 1, 23456, dtype=np.float32)
    encoder = OggOpusEncoder()
    path.write_bytes(encoder.encode(x) + encoder.flush())
    pcm = read_audio(path)
    assert pcm.size == x.size
    assert np.corrcoef(pcm, x)[0, 1] > 0.97
    with pytest.raises(AudioError, match=r"limit is 0.5 s"):
        read_audio(path, max_seconds=0.5)


def test_stereo_opus(tmp_path: Path) -> None:
    path = tmp_path / "dialogue.ogg"
    sphn.write_opus(path, np.stack([sine(300, 1, 48000), sine(700, 1, 48000)]), 48000)
    channels = read_channels(path)
    assert channels.shape[0] == 2
    assert [round(dominant(channel[4000:16000]), -1) for channel in channels] == [300, 700]


def damaged_opus() -> bytes:
    encoder = OggOpusEncoder()
    data = bytearray(encoder.encode(sine(440, 0.2, 24000)))
    data[-3] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"Hello, this is a text file.\n", "not a WAV, FLAC, Ogg or MP3 file"),
        (np.zeros(500, dtype="<i2").tobytes(), "samples without a header need one"),
        (b"\xff\xff\xff\xff" * 100, "not a WAV"),
        (b"fLaC" + bytes(100), "cannot be decoded"),
        (b"\xff\xfb\x90\x00" + bytes(40), "cannot be decoded"),
        (b"ID3\x04" + bytes(100), "cannot be decoded"),
        (b"OggS" + bytes(100), "cannot be decoded"),
        (damaged_opus(), "checksum"),
        (damaged_opus()[:100], "holds no samples"),
        (OggOpusEncoder().encode(np.zeros(9600, np.float32)) * 2, "chains several streams"),
    ],
)
def test_unusable_files_say_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "voice.bin"
    path.write_bytes(content)
    for read in (read_audio, read_channels):
        with pytest.raises(AudioError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith("voice.bin: ")
        assert str(tmp_path) not in str(caught.value)


def test_what_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(OSError):
        read_audio(tmp_path)


def test_length_limit_is_checked_before_samples_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    write_wav(path, np.zeros(24000 * 2))
    monkeypatch.setattr(files, "read_wav", lambda *_: pytest.fail("it was read"))
    with pytest.raises(AudioError, match=r"lasts 2.0 s, the limit is 1.5 s; cut it"):
        read_audio(path, max_seconds=1.5)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(["tone.mp3", "tone.ogg", "opus", "flac"]),
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=5),
    cut=st.integers(0, 4000),
)
def test_fuzzed_files_raise_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[int, int]],
    cut: int,
) -> None:
    if name == "opus":
        content = bytearray(OggOpusEncoder().encode(sine(440, 0.3, 24000)))
    elif name == "flac":
        content = bytearray(flac(np.zeros((1, 1500), dtype=np.int16), 24000))
    else:
        content = bytearray((DATA / name).read_bytes())
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "fuzz.bin"
    path.write_bytes(content[: cut if cut > 2000 else None])
    try:
        pcm = read_channels(path, max_seconds=60)
    except AudioError:
        return
    assert np.isfinite(pcm).all()
    assert np.abs(pcm).max() <= 1


def test_panics_of_native_code_become_audio_errors() -> None:
    class PanicException(BaseException):
        """Named as what Rust extensions raise; no subclass of Exception."""

    def panic(_: object) -> None:
        raise PanicException("boom")

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(AudioError, match="boom"):
        native.call(AudioError, panic, None)
    with pytest.raises(KeyboardInterrupt):
        native.call(AudioError, interrupt, None)


def test_importing_loads_neither_torch_nor_native_code() -> None:
    code = (
        "import sys, duologue.audio, duologue.audio.files, duologue.audio.opus; "
        "duologue.audio.write_wav; print(sorted({'torch', 'sphn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_lists_what_it_offers() -> None:
    import duologue.audio

    for name in duologue.audio.__all__:
        assert getattr(duologue.audio, name).__name__ == name
    assert set(duologue.audio._HOME) == set(duologue.audio.__all__) == set(dir(duologue.audio))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        duologue.audio.nothing  # noqa: B018
