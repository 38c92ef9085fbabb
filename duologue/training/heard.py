"""What a recogniser makes of the users of an encoded corpus, frame by frame, beside its codes.

A language model with `heard_dim` reads it as it does in a running engine: the recogniser has heard
the same sound, from the conversation's beginning on, and what it wrote itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.audio.files import read_channels
from duologue.checkpoints.save import write_json, write_tensors
from duologue.stt.recogniser import Recogniser
from duologue.training.data import DataError, read_rows
from duologue.training.encoded import HEARD, EncodedCorpus, shard_files, weights_fingerprint
from duologue.training.heard_pieces import NAME, HeardPieces, collect_pieces

_CHUNK_FRAMES = 50
_SILENCE_S = 4.0
"""A recogniser has come to rest after so long."""


@torch.no_grad()
def recogniser_fingerprint(recogniser: Recogniser) -> str:
    """Short name of what vectors depend on: weights, and how many hypotheses are followed."""
    name = weights_fingerprint(recogniser.lm)
    if recogniser.beam is None:
        return name
    beam = recogniser.beam.config
    return f"{name}-{beam.width}-{beam.wait}-{beam.candidates}-{beam.margin:g}"


def hear_corpus(
    manifest: Path,
    codes: Path,
    recogniser: Recogniser,
    progress: Callable[[int, int], None] | None = None,
    *,
    renew: bool = False,
) -> int:
    """Let a recogniser hear all recordings of an encoded corpus; returns how many there are.

    Goes on where it was stopped. Beside the vectors it keeps some of each piece of text
    (`training.heard_pieces`), for dialogues that are only written.

    Args:
        manifest: what the corpus was encoded from.
        codes: the encoded corpus, where the vectors are written too.
        renew: what another recogniser heard is removed first.

    Raises:
        DataError: the corpus is not of this manifest, or was heard by another recogniser.
    """
    corpus = EncodedCorpus(codes)
    fingerprint = recogniser_fingerprint(recogniser)
    if corpus.recogniser not in (None, fingerprint):
        if not renew:
            raise DataError(f"{codes}: was heard by another recogniser; --renew forgets that")
        for path in codes.glob(f"{HEARD}*"):
            path.unlink()
    rows = list(read_rows(manifest))
    if [row.get("id") for _, row in rows] != [one.facts.get("id") for one in corpus.conversations]:
        raise DataError(f"{codes}: was not encoded from {manifest}")
    silence = torch.zeros(1, int(_SILENCE_S * recogniser.sample_rate))
    rest = _hear(recogniser, [silence[0].numpy()])[0][-1]
    write_json(
        codes / f"{HEARD}.json",
        {"recogniser": fingerprint, "silence": [round(float(v), 5) for v in rest]},
    )
    done, is_new = 0, not (codes / NAME).is_file()
    for shard in shard_files(codes):
        frames = [one.frames for one in shard.conversations]
        chosen = rows[done : done + len(frames)]
        done += len(frames)
        if not shard.heard.is_file():
            is_new = True
            size = recogniser.frame_size
            users = [_user(path, recogniser.sample_rate) for path, _ in chosen]
            padded = [
                np.pad(pcm, (0, max(0, count * size - len(pcm))))[: count * size]
                for pcm, count in zip(users, frames, strict=True)
            ]
            vectors = _hear(recogniser, padded)
            write_tensors(shard.heard, {f"{i:05d}": v.half() for i, v in enumerate(vectors)}, {})
        if progress:
            progress(done, len(rows))
    if is_new:
        _collect(codes, recogniser).save(codes)
    return len(rows)


def _collect(codes: Path, recogniser: Recogniser) -> HeardPieces:
    """Sort what was heard by what the recogniser wrote next."""
    whole = (one.vectors for shard in shard_files(codes) for one in shard.conversations)
    lm = recogniser.lm
    return collect_pieces(
        (vectors for vectors in whole if vectors is not None),
        lambda vectors: lm.text_linear(vectors.to(lm.device, lm.dtype)).cpu(),
        lm.config.text_classes,
    )


def _user(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """The user's channel of a dialogue, or the only one."""
    return np.asarray(read_channels(path, sample_rate)[-1], dtype=np.float32)


def _hear(recogniser: Recogniser, recordings: Sequence[NDArray[np.float32]]) -> list[Tensor]:
    """Vectors [F, dim] of each recording, float32 [F * frame_size]."""
    size = recogniser.frame_size
    counts = [len(pcm) // size for pcm in recordings]
    longest = max(counts)
    state = recogniser.init_state(len(recordings))
    device = recogniser.lm.device
    lengths = torch.tensor(counts, device=device)
    found = []
    for start in range(0, longest, _CHUNK_FRAMES):
        end = min(longest, start + _CHUNK_FRAMES)
        chunk = np.zeros((len(recordings), 1, (end - start) * size), dtype=np.float32)
        for row, pcm in zip(chunk, recordings, strict=True):
            part = pcm[start * size : end * size]
            row[0, : len(part)] = part
        encoded = recogniser.encode(torch.from_numpy(chunk).to(device), state)
        for k in range(end - start):
            drawn = recogniser.read(encoded[..., k : k + 1], state, lengths > start + k)
            found.append(drawn.vector.float().cpu())
    whole = torch.stack(found, dim=1)
    return [whole[i, :count].clone() for i, count in enumerate(counts)]
