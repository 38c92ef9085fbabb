"""A manifest of recordings -> the n-th training segment, a pure function of n.

A manifest is JSON Lines: `{"path": ..., "duration": seconds, "phones": [[symbol, start, end], ...],
"split": "train", "text": ..., "weight": 1}`; paths may be relative to it, all but `path` and
`duration` may be absent or stand in a JSON file beside the recording instead, and any split that
is not "train" is held out. Segment n is drawn by a generator keyed with (seed, n), so the position
in the data is one integer, and who computes a segment, and when, makes no difference.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.audio.files import read_channels
from duologue.audio.wav import WavInfo, wav_info
from duologue.training.phones import Phone, PhoneSet

B = TypeVar("B")

_PCM = 1
_HELD_OUT_SHARE = 100
"""One recording in so many is held out where a manifest names no splits."""


class DataError(ValueError):
    """A manifest or recording cannot be used; names the file and line."""


@dataclass(frozen=True)
class Recording:
    """One mono recording."""

    path: Path
    duration_s: float
    phones: tuple[Phone, ...] | None = None
    split: str = "train"
    text: str | None = None
    weight: float = 1.0


def read_rows(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Recordings of a manifest file, or of all `*.jsonl` of a folder, with what is known of each.

    What stands in a JSON file beside a recording is added to its row.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(f"{path}: no manifest there")
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                try:
                    row: dict[str, Any] = json.loads(line)
                    recording = Path(row["path"])
                    recording = recording if recording.is_absolute() else file.parent / recording
                    beside = recording.with_suffix(".json")
                    if beside.is_file():
                        row = json.loads(beside.read_text(encoding="utf-8")) | row
                except (KeyError, TypeError, ValueError) as error:
                    raise DataError(f"{file}:{number}: not a manifest row ({error!r})") from error
                yield recording, row


def read_manifest(path: Path) -> list[Recording]:
    """All recordings of a manifest file, or of all `*.jsonl` of a folder."""
    recordings = []
    for number, (recording, row) in enumerate(read_rows(path), 1):
        try:
            phones = row.get("phones")
            recordings.append(
                Recording(
                    recording,
                    float(row["duration"]),
                    None
                    if phones is None
                    else tuple((str(p), float(a), float(b)) for p, a, b in phones),
                    str(row.get("split", "train")),
                    row.get("text"),
                    float(row.get("weight", 1.0)),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}:{number}: not a manifest row ({error!r})") from error
    if not recordings:
        raise DataError(f"{path}: the manifest is empty")
    return recordings


def split_recordings(recordings: list[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Those to learn from, and those to judge by."""
    held_out = [r for r in recordings if r.split != "train"]
    if held_out:
        return [r for r in recordings if r.split == "train"], held_out
    chosen = {r.path for r in recordings if _hash(r.path.name) % _HELD_OUT_SHARE == 0}
    chosen = chosen or {recordings[-1].path}
    train = [r for r in recordings if r.path not in chosen]
    return train or recordings, [r for r in recordings if r.path in chosen]


def fingerprint(recordings: list[Recording]) -> str:
    """Short hash of which recordings there are, to notice that a corpus changed."""
    digest = hashlib.sha256()
    for recording in recordings:
        digest.update(f"{recording.path.name} {recording.duration_s:.3f}\n".encode())
    return digest.hexdigest()[:16]


class AudioStore:
    """Parts of one channel of recordings as int16, at one sample rate.

    Of plain 16-bit WAV files of that rate only the part is read, and the operating system keeps
    what is used often; anything else is decoded once and kept, up to `cache_mb`.
    """

    def __init__(self, sample_rate: int = 24_000, cache_mb: int = 1024) -> None:
        self.sample_rate, self._limit = sample_rate, cache_mb << 20
        self._decoded: OrderedDict[Path, NDArray[np.int16]] = OrderedDict()
        self._headers: dict[Path, WavInfo | None] = {}
        self._held = 0
        self._lock = threading.Lock()

    def length(self, path: Path) -> int:
        """Samples in a recording."""
        info = self._header(path)
        return info.frames if info else len(self._decode(path))

    def read(
        self, path: Path, start: int, count: int, channel: int | None = None
    ) -> NDArray[np.int16]:
        """Samples [count] of a channel, or of their average; outside the recording is silence."""
        out = np.zeros(count, dtype=np.int16)
        info = self._header(path)
        length = info.frames if info else len(self._decode(path))
        first, last = max(start, 0), min(start + count, length)
        if first >= last:
            return out
        if info is None:
            block = self._decode(path)[first:last]
        else:
            offset = info.offset + 2 * info.channels * first
            count = info.channels * (last - first)
            block = np.fromfile(path, dtype="<i2", count=count, offset=offset)
            block = block.reshape(-1, info.channels)
        out[first - start : last - start] = _channel(path, block, channel)
        return out

    def _header(self, path: Path) -> WavInfo | None:
        """Header of a file that can be read in place, else `None`."""
        if path not in self._headers:
            info = wav_info(path) if path.suffix.lower() == ".wav" else None
            plain = info is not None and (
                (info.format, info.sample_bytes, info.sample_rate) == (_PCM, 2, self.sample_rate)
            )
            self._headers[path] = info if plain else None
        return self._headers[path]

    def _decode(self, path: Path) -> NDArray[np.int16]:
        """All samples [T, channels] of a file that cannot be read in place."""
        with self._lock:
            if path in self._decoded:
                self._decoded.move_to_end(path)
                return self._decoded[path]
        pcm = read_channels(path, self.sample_rate).T
        samples = np.clip(np.rint(pcm * 32768), -32768, 32767).astype(np.int16)
        with self._lock:
            self._decoded[path] = samples
            self._held += samples.nbytes
            while self._held > self._limit and len(self._decoded) > 1:
                self._held -= self._decoded.popitem(last=False)[1].nbytes
        return samples


def generator_at(seed: int, position: int) -> np.random.Generator:
    """Random numbers that belong to one position in the data."""
    key = np.array([seed & (2**64 - 1), position], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def to_float(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """int16 samples as float32 in [-1, 1)."""
    return np.multiply(samples, 1 / 32768, dtype=np.float32)


@dataclass(frozen=True)
class PrefetchConfig:
    """How batches are made ahead."""

    prefetch: int = 3
    """Batches made ahead."""
    workers: int = 1
    """Threads that make them."""

    def __post_init__(self) -> None:
        if min(self.prefetch, self.workers) < 1:
            raise ValueError("prefetch and workers must be at least 1")


@dataclass(frozen=True)
class DataConfig(PrefetchConfig):
    """How segments are cut."""

    segment_s: float = 2.56
    overhang: float = 0.2
    """A segment may stick out of its recording by this share of itself; silence is there."""
    gain_db: tuple[float, float] = (-9.0, 3.0)
    """Range of a random gain, as far as it does not clip."""
    tempo: tuple[float, float] = (1.0, 1.0)
    """Range of a random tempo, pitch and formants with it: each speaker becomes a family."""
    tempo_share: float = 0.5
    """Share of the segments whose tempo is changed."""
    cache_mb: int = 1024


@dataclass(frozen=True)
class Batch:
    """Segments with labels."""

    pcm: Tensor
    """float32 [B, 1, T]"""
    phones: Tensor
    """float32 [B, parts, phones]: shares; rows of zeros where there are no labels."""

    def to(self, device: torch.device) -> Batch:
        if device.type == "cuda":
            return Batch(
                self.pcm.pin_memory().to(device, non_blocking=True),
                self.phones.pin_memory().to(device, non_blocking=True),
            )
        return Batch(self.pcm.to(device), self.phones.to(device))


class SegmentSampler:
    """Segments of random recordings, the longer ones more often, at random places."""

    def __init__(
        self,
        recordings: list[Recording],
        config: DataConfig,
        phone_set: PhoneSet,
        *,
        seed: int,
        sample_rate: int = 24_000,
        part_samples: int = 960,
        phone_delay_s: float = 0.0,
    ) -> None:
        """Phones are told in parts of `part_samples`, `phone_delay_s` after they are heard."""
        if not recordings:
            raise DataError("there are no recordings to draw from")
        self.recordings, self.config, self.phone_set, self.seed = (
            recordings, config, phone_set, seed,
        )  # fmt: skip
        self.part_samples, self.phone_delay_s = part_samples, phone_delay_s
        self.samples = round(config.segment_s * sample_rate / part_samples) * part_samples
        self.store = AudioStore(sample_rate, config.cache_mb)
        weights = np.array([r.duration_s * r.weight for r in recordings])
        self._cumulative = np.cumsum(weights / weights.sum())

    def segment(self, position: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Samples [T] and phone shares [parts, phones] of segment `position`."""
        rng = generator_at(self.seed, position)
        chosen = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        recording = self.recordings[min(chosen, len(self.recordings) - 1)]
        tempo = self._draw_tempo(rng)
        length = self.store.length(recording.path)
        samples = round(self.samples * tempo)
        margin = int(self.config.overhang * samples)
        low, high = sorted((-margin, length - samples + margin))
        start = int(rng.integers(low, high + 1))
        pcm = to_float(self.store.read(recording.path, start, samples))
        if samples != self.samples:
            pcm = _stretched(pcm, self.samples)
        gain = 10 ** (rng.uniform(*self.config.gain_db) / 20)
        pcm *= np.float32(min(gain, 0.99 / max(1e-6, float(np.abs(pcm).max()))))
        parts = self.samples // self.part_samples
        return pcm, self.phone_targets(recording, start, parts, samples / self.samples)

    def _draw_tempo(self, rng: np.random.Generator) -> float:
        low, high = self.config.tempo
        if low == high == 1.0 or rng.random() >= self.config.tempo_share:
            return 1.0
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    def batch(self, position: int, size: int) -> Batch:
        """Segments `position` to `position + size - 1`."""
        pairs = [self.segment(position + index) for index in range(size)]
        pcm = torch.from_numpy(np.stack([pair[0] for pair in pairs]))[:, None]
        return Batch(pcm, torch.from_numpy(np.stack([pair[1] for pair in pairs])))

    def phone_targets(
        self, recording: Recording, start: int, parts: int, tempo: float = 1.0
    ) -> NDArray[np.float32]:
        """Phone shares [parts, phones] from a sample of a recording on, played at a tempo."""
        if recording.phones is None:
            return np.zeros((parts, len(self.phone_set)), dtype=np.float32)
        rate = self.store.sample_rate
        return self.phone_set.targets(
            recording.phones,
            start / rate - self.phone_delay_s * tempo,
            parts,
            self.part_samples / rate * tempo,
        )


T_co = TypeVar("T_co", covariant=True)


class BatchSource(Protocol[T_co]):
    """Makes batches that depend on their position alone."""

    @property
    def config(self) -> PrefetchConfig: ...

    def batch(self, position: int, size: int) -> T_co: ...


def batches(source: BatchSource[B], position: int, size: int) -> Iterator[B]:
    """Consecutive batches from a position on, made ahead in the background, in order."""
    config = source.config
    with ThreadPoolExecutor(config.workers, thread_name_prefix="batches") as pool:
        ahead: deque[Future[B]] = deque()
        try:
            while True:
                while len(ahead) < config.prefetch:
                    ahead.append(pool.submit(source.batch, position, size))
                    position += size
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _stretched(pcm: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """The same in another number of samples; what aliases is far above the phones' formants."""
    places = np.linspace(0, len(pcm) - 1, samples)
    return np.interp(places, np.arange(len(pcm)), pcm).astype(np.float32)


def _channel(path: Path, block: NDArray[np.int16], channel: int | None) -> NDArray[np.int16]:
    """One channel [T] of [T, channels], or their average."""
    if block.shape[1] == 1 and channel is None:
        return block[:, 0]
    if channel is None:
        return np.rint(block.mean(axis=1)).astype(np.int16)
    if channel >= block.shape[1]:
        raise DataError(f"{path}: {block.shape[1]} channels; number {channel} was wanted")
    return block[:, channel]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
