"""Corpora as codes: every recording goes through the codec once, and training reads the result.

A folder of shards, `shard_00000.safetensors` (codes) beside `shard_00000.jsonl.gz` (what the
side-cars say). Shards depend only on the manifest, the codec and the shard size, and are written
one by one, so an interrupted encoding goes on where it was; a shard whose recordings or side-cars
have changed is made anew.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from duologue.audio.files import read_channels
from duologue.audio.levels import power_gate
from duologue.checkpoints.save import write_json, write_tensors
from duologue.conditioning.provider import SPEAKERS
from duologue.mimi.codec import Mimi
from duologue.training.data import DataError, read_rows

logger = logging.getLogger(__name__)

KEPT = (
    "kind", "id", "class", "split", "init_speaker", "alignments", "retrieval", "turns", "events",
    "phones",
)  # fmt: skip
"""What later stages read of a side-car."""
HEARD = "heard"
"""How the files are called that hold what a recogniser has heard."""


@dataclass(frozen=True)
class Conversation:
    """One encoded recording."""

    codes: Tensor
    """int16 [channels * K, F]; the agent's codebooks first where there are two channels."""
    facts: Mapping[str, Any]
    vectors: Tensor | None = None
    """float16 [F, dim]: what a recogniser made of the user (`training.heard`)."""

    @property
    def frames(self) -> int:
        return self.codes.shape[1]

    @property
    def split(self) -> str:
        return str(self.facts.get("split", "train"))

    @property
    def is_dialogue(self) -> bool:
        return self.facts.get("kind", "dialogue") == "dialogue"

    @property
    def has_user(self) -> bool:
        """Whether somebody else than wren is heard."""
        return self.facts.get("kind") != "wren"

    @property
    def first_speaker(self) -> str | None:
        """Who is to begin, `MAIN` or `OTHER`, in a dialogue that says so."""
        return SPEAKERS.get(str(self.facts.get("init_speaker")))

    def words(self, speaker: str) -> list[tuple[str, float, float]]:
        """Words of one speaker with start and end in seconds, sorted by start."""
        found = [
            (str(word), float(times[0]), float(times[1]))
            for word, times, who in self.facts.get("alignments", ())
            if who == speaker
        ]
        return sorted(found, key=lambda word: word[1])


@dataclass(frozen=True)
class Shard:
    """A part of an encoded corpus."""

    heard: Path
    """Where the vectors of what was heard are, or will be."""
    conversations: list[Conversation]


class EncodedCorpus:
    """All conversations of a folder of shards; codes are kept as int16 in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conversations: list[Conversation] = []
        description = folder / "codes.json"
        if not description.is_file():
            raise DataError(f"{folder}: no encoded corpus there (no {description.name})")
        self.description: dict[str, Any] = json.loads(description.read_text(encoding="utf-8"))
        heard = folder / f"{HEARD}.json"
        self._heard: dict[str, Any] = {}
        if heard.is_file():
            self._heard = json.loads(heard.read_text(encoding="utf-8"))
        for shard in shard_files(folder):
            self.conversations += shard.conversations
        if not self.conversations:
            raise DataError(f"{folder}: the encoded corpus is empty")

    @property
    def codebooks(self) -> int:
        """Codebooks of one channel."""
        return int(self.description["codebooks"])

    @property
    def recogniser(self) -> str | None:
        """Fingerprint of the recogniser that has heard it, if one has."""
        return self._heard.get("recogniser")

    @property
    def silent_vector(self) -> Tensor | None:
        """What that recogniser makes of silence, [dim]."""
        return torch.tensor(self._heard["silence"]) if self._heard else None

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of what is in it."""
        digest = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode())
        for one in self.conversations:
            digest.update(f"{one.facts.get('id')} {one.frames}\n".encode())
        return digest.hexdigest()[:16]


@torch.no_grad()
def encode_corpus(
    manifest: Path,
    codec: Mimi,
    out: Path,
    *,
    shard: int = 200,
    gate_db: float = -65.0,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Encode all recordings of a manifest that are not encoded yet; returns how many there are.

    The user's channel is gated as a running engine does it: frames below `gate_db` are silence.
    A last shard that has grown since is encoded again.

    Args:
        part: (i, n) does only every n-th shard, from the i-th on: n processes share the work.
    """
    rows = list(read_rows(manifest))
    description = {
        "codebooks": codec.num_codebooks,
        "codec": codec_fingerprint(codec),
        "frame_rate": codec.frame_rate,
        "gate_db": gate_db,
        "shard": shard,
    }
    described = out / "codes.json"
    if described.is_file() and json.loads(described.read_text(encoding="utf-8")) != description:
        raise DataError(f"{out}: encoded with another codec or other settings; use a new folder")
    write_json(described, description)
    index, count = part
    done = 0
    for first in range(index * shard, len(rows), count * shard):
        chosen = rows[first : first + shard]
        stem = out / f"shard_{first // shard:05d}"
        made_of = _name_of(chosen)
        if _made_of(stem) != made_of:
            _heard_beside(stem.with_suffix(".safetensors")).unlink(missing_ok=True)
            encoded = [_encode(path, facts, codec, gate_db) for path, facts in chosen]
            _write_shard(stem, encoded, made_of)
        done += len(chosen)
        if progress:
            progress(done, len(rows))
    return len(rows)


def encode_in_processes(
    manifest: Path,
    codec: str,
    out: Path,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    codebooks: int | None = None,
) -> None:
    """`encode_corpus` on the CPU in processes of one thread each; `codec` is a folder or name.

    Args:
        codebooks: of each side; all that the codec has if not given.

    Raises:
        DataError: a process failed; what the others wrote stays.
    """
    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    processes = [
        context.Process(
            target=_encode_part,
            args=(manifest, codec, out, (i, workers), reports, codebooks),
            daemon=True,
        )
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    done = [0] * workers
    try:
        while any(process.is_alive() for process in processes):
            while not reports.empty():
                index, done[index], total = reports.get()
                if progress:
                    progress(sum(done), total)
            multiprocessing.connection.wait([p.sentinel for p in processes if p.is_alive()], 0.5)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if failed := [process for process in processes if process.exitcode]:
        raise DataError(f"{out}: {len(failed)} of {workers} encoding processes failed")


def _encode_part(
    manifest: Path,
    codec: str,
    out: Path,
    part: tuple[int, int],
    reports: Any,
    codebooks: int | None,
) -> None:
    from duologue.allocator import keep_freed_memory
    from duologue.checkpoints.load import load_codec

    torch.set_num_threads(1)
    keep_freed_memory()
    loaded = load_codec(codec, device="cpu", num_codebooks=codebooks)
    encode_corpus(
        manifest, loaded, out, part=part,
        progress=lambda done, total: reports.put((part[0], done, total)),
    )  # fmt: skip


def codec_fingerprint(codec: Mimi) -> str:
    """Short hash of a codec's codebooks: codes of different codecs must not be mixed."""
    return weights_fingerprint(codec.quantizer)


def weights_fingerprint(module: nn.Module) -> str:
    """Short hash of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _encode(path: Path, facts: Mapping[str, Any], codec: Mimi, gate_db: float) -> Conversation:
    device = next(codec.parameters()).device
    pcm = np.array(read_channels(path, codec.sample_rate), dtype=np.float32)
    pcm = np.pad(pcm, ((0, 0), (0, -pcm.shape[1] % codec.frame_size)))
    signal = torch.from_numpy(pcm)
    if signal.shape[0] == 2:
        signal[1] = power_gate(signal[1], gate_db)
    codes = codec.encode(signal[:, None].to(device))
    return Conversation(codes.flatten(0, 1).to(torch.int16).cpu(), _kept(facts))


def _kept(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in KEPT if key in facts}


def _name_of(rows: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    """Names what a shard is made of: other recordings or other side-cars have another name."""
    described = [[str(path), path.stat().st_size, _kept(facts)] for path, facts in rows]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _write_shard(stem: Path, conversations: Sequence[Conversation], made_of: str) -> None:
    facts = [{**one.facts, "frames": one.frames} for one in conversations]
    text = "".join(json.dumps(fact) + "\n" for fact in facts)
    stem.parent.mkdir(parents=True, exist_ok=True)
    scratch = stem.with_suffix(".part")
    scratch.write_bytes(gzip.compress(text.encode(), mtime=0))
    scratch.replace(stem.with_suffix(".jsonl.gz"))
    codes = {f"{i:05d}": one.codes for i, one in enumerate(conversations)}
    write_tensors(stem.with_suffix(".safetensors"), codes, {"made_of": made_of})


def _made_of(stem: Path) -> str | None:
    """What a complete shard is made of (`_name_of`); None where there is none."""
    path = stem.with_suffix(".safetensors")
    if not path.is_file():
        return None
    with safetensors.safe_open(str(path), "pt") as file:
        return (file.metadata() or {}).get("made_of")


def shard_files(folder: Path) -> Iterator[Shard]:
    """The shards of an encoded corpus, in order."""
    for path in sorted(folder.glob("shard_*.safetensors")):
        heard = _heard_beside(path)
        yield Shard(heard, _read_shard(path, heard))


def _heard_beside(shard: Path) -> Path:
    """Where the vectors of a shard are."""
    return shard.with_name(shard.name.replace("shard", HEARD, 1))


def _read_shard(path: Path, heard: Path) -> list[Conversation]:
    codes = safetensors.torch.load_file(path)
    vectors = safetensors.torch.load_file(heard) if heard.is_file() else {}
    with gzip.open(path.with_suffix("").with_suffix(".jsonl.gz"), "rt", encoding="utf-8") as file:
        facts = [json.loads(line) for line in file]
    if len(facts) != len(codes):
        raise DataError(f"{path}: {len(codes)} recordings, but side-cars of {len(facts)}")
    return [
        Conversation(codes[name], fact, vectors.get(name))
        for name, fact in zip(sorted(codes), facts, strict=True)
    ]
