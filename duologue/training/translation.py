"""A language model goes on with another codec: its tables are translated from the old codes.

A codec that has learnt on calls the same sounds by other codes: after 4,500 steps one frame in
twenty still had its first code. What a language model knows of codes is in rows, one a code, of its
embeddings and of the maps that predict codes. So both codecs hear the same recordings, and the row
of a new code becomes the mean of the rows of the old codes that it stands for, by how often. The
first code of sentences that are read out was then predicted at 3.6 nats from the first step on,
where tables that know nothing are at 6.9.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from duologue.audio.files import read_channels
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import ModelFolder
from duologue.checkpoints.load import load_codec, load_lm
from duologue.checkpoints.save import save_codec, save_lm
from duologue.mimi.codec import Mimi
from duologue.moshi.lm import MoshiLM
from duologue.training.data import read_manifest
from duologue.training.language import CODEC_CONFIG_NAME, CODEC_NAME

_PRIOR = 1.0
"""Frames that a code is taken to have been seen with all old codes alike."""


def translate_folder(
    model: Path, codec: str, data: Sequence[Path], out: Path, seconds: float
) -> float:
    """Write a model folder whose language model knows another codec's codes, with that codec.

    Args:
        data: manifests; of mono recordings, as many as there are in `seconds`, from each alike.

    Returns:
        Seconds of speech that both codecs heard.

    Raises:
        CheckpointError: `model` is no model folder, or `out` is not empty.
        DataError: a manifest cannot be used.
    """
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out}: exists and is not empty")
    folder = ModelFolder.open(model)
    lm = load_lm(model, device="cpu", dtype=torch.float32, runtime="eager")
    old = load_codec(str(model), device="cpu")
    new = load_codec(codec, device="cpu", num_codebooks=old.num_codebooks)
    used_s = 0.0

    def heard() -> Iterator[Tensor]:
        nonlocal used_s
        for recordings in zip(*(read_manifest(path) for path in data), strict=False):
            for one in recordings:
                pcm = read_channels(one.path, old.sample_rate)[0]
                used_s += len(pcm) / old.sample_rate
                yield torch.from_numpy(pcm)
            if used_s >= seconds:
                return

    translate_codes(lm, count_together(old, new, heard()))
    shutil.copytree(model, out, dirs_exist_ok=True)
    for name in (folder.config.moshi_name, folder.config.mimi_name):
        (out / name).unlink(missing_ok=True)
    config = replace(folder.config, mimi_name=CODEC_NAME, mimi_config_name=CODEC_CONFIG_NAME)
    save_codec(out, new, config_name=CODEC_CONFIG_NAME, weights_name=CODEC_NAME)
    save_lm(out, lm, config)
    return used_s


@torch.no_grad()
def count_together(old: Mimi, new: Mimi, recordings: Iterable[Tensor]) -> Tensor:
    """In how many frames codes of both codecs meet: float32 [K, old codes, new codes].

    Args:
        recordings: float32 [T] each, at the codecs' rate.

    Raises:
        ValueError: the codecs have other rates or numbers of codebooks.
    """
    shapes = [(one.sample_rate, one.frame_size, one.num_codebooks) for one in (old, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"codecs of (rate, samples a frame, codebooks) {shapes[0]} and {shapes[1]}"
        )
    bins = [one.config.quantizer.bins for one in (old, new)]
    together = torch.zeros(old.num_codebooks, bins[0] * bins[1])
    for pcm in recordings:
        before, after = (one.encode(pcm[None, None])[0].long() for one in (old, new))
        met = before * bins[1] + after
        together.scatter_add_(1, met, torch.ones(met.shape))
    return together.unflatten(1, bins)


@torch.no_grad()
def translate_codes(lm: MoshiLM, together: Tensor) -> None:
    """Turn a model of the old codes into one of the new ones, in place."""
    own = lm.config.dep_q
    for row, table in enumerate(lm.code_tables()):
        _translate(table.weight, together[row % own])
    for level in range(own):
        _translate(lm.linears[level].get_parameter("weight"), together[level])
        if level + 1 < own:
            _translate(lm.depformer_emb[level].get_parameter("weight"), together[level])


def _translate(rows: Tensor, together: Tensor) -> None:
    """Rows [>= old codes, D] of one codebook; those that are no code stay as they are."""
    old, new = together.shape
    if old != new:
        raise ValueError(f"codebooks of {old} and {new} entries")
    usual = together.sum(dim=1) @ rows[:old].to(together) / together.sum()
    summed = together.T @ rows[:old].to(together) + _PRIOR * usual
    rows[:old] = (summed / (together.sum(dim=0)[:, None] + _PRIOR)).to(rows)
