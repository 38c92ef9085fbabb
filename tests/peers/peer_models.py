"""Models with random weights, written as published checkpoints and opened by a peer and by us.

A peer is a published package that reads the same files: here its weights are drawn from a seed,
saved under the names that published files have, and loaded again by both programs. Peers are
imported on first use, so that a test of an absent peer is skipped and says why.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import duologue
from duologue.mimi import Mimi
from duologue.moshi import MoshiLM

TOLERANCE = 1e-4
"""Largest relative distance (norm of the difference over norm) of float tensors."""

_PROJECTION = re.compile(r"(.*_attn|.*cross_attention)\.(in|out)_projs\.(\d+)\.weight")


def import_peer(name: str) -> Any:
    """The package `name`; a test that needs it is skipped where it is not installed."""
    # Read when a peer starts: the reference compiles parts of its models unless this is set, and
    # the Rust program takes all cores, which does not make it faster.
    os.environ.setdefault("NO_TORCH_COMPILE", "1")
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    return pytest.importorskip(
        name, reason=f"peer package {name} is not installed (see tests/peers/install.sh)"
    )


def relative_distance(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over norm; NaNs must stand in the same places."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert torch.equal(ours.isnan(), theirs.isnan())
    ours, theirs = ours.double().nan_to_num(), theirs.double().nan_to_num()
    return ((ours - theirs).norm() / theirs.norm().clamp(min=1e-30)).item()


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    distance = relative_distance(ours, theirs)
    assert distance <= tolerance, f"relative distance {distance:.2e} exceeds {tolerance:.0e}"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech_like(samples: int, seed: int, batch: int = 1, sample_rate: int = 24_000) -> Tensor:
    """Noise and gliding harmonics under a slow envelope: [batch, 1, samples] in [-1, 1]."""
    random = seeded(seed)
    time = torch.arange(samples) / sample_rate
    wave = 0.15 * torch.randn(batch, samples, generator=random)
    for harmonic in range(1, 5):
        pitch = 90 + 160 * torch.rand(batch, 1, generator=random)
        glide = 25 * torch.rand(batch, 1, generator=random)
        phase = 2 * torch.pi * harmonic * (pitch * time + glide * (2.3 * time).sin())
        wave = wave + 0.3 / harmonic * phase.sin()
    envelope = 0.5 + 0.5 * (2 * torch.pi * 1.7 * time).sin()
    return (wave * envelope).clamp(-1, 1)[:, None]


def randomize(module: nn.Module, seed: int) -> None:
    """Draw all parameters anew, those too that a fresh model leaves at zero or one."""
    random = seeded(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            leaf = name.rpartition(".")[2]
            if leaf == "scale":
                parameter.copy_(0.3 + 0.1 * noise)
            elif leaf == "bias" or leaf == "learnt_padding":
                parameter.copy_(0.2 * noise)
            elif leaf == "alpha" or parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * noise)
            elif "convtr" in name:
                # [in, out / groups, kernel]; each output sums over two taps.
                groups = parameter.shape[0] if parameter.shape[1] == 1 else 1
                parameter.copy_(noise * (2 * parameter.shape[0] / groups) ** -0.5)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A peer's tensors under the names of published files: attention projections fused."""
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        if match := _PROJECTION.fullmatch(name):
            leaf = "in_proj_weight" if match[2] == "in" else "out_proj.weight"
            parts.setdefault(f"{match[1]}.{leaf}", {})[int(match[3])] = tensor
        else:
            out[name] = tensor
    out |= {name: torch.cat([rows[i] for i in sorted(rows)]) for name, rows in parts.items()}
    return out


def save_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file({name: t.detach().contiguous() for name, t in state.items()}, path)


def mimi_values(**changes: Any) -> dict[str, Any]:
    """A small codec's configuration in the published layout; `seanet_ratios=...` changes it."""
    values: dict[str, Any] = {
        "sample_rate": 2400,
        "channels": 1,
        "frame_rate": 50,
        "seanet": {
            "channels": 1, "dimension": 32, "causal": True, "n_filters": 4,
            "n_residual_layers": 1, "activation": "ELU", "compress": 2, "dilation_base": 2,
            "disable_norm_outer_blocks": 0, "kernel_size": 7, "residual_kernel_size": 3,
            "last_kernel_size": 3, "norm": "none", "pad_mode": "constant",
            "ratios": [4, 3, 2], "true_skip": True,
        },
        "quantizer": {
            "dimension": 16, "n_q": 6, "bins": 64, "input_dimension": 32, "output_dimension": 32,
        },
        "transformer": {
            "d_model": 32, "num_heads": 4, "num_layers": 2, "causal": True, "layer_scale": 0.01,
            "context": 20, "conv_layout": True, "max_period": 10000, "gating": "none",
            "norm": "layer_norm", "positional_embedding": "rope", "dim_feedforward": 96,
            "input_dimension": 32, "output_dimensions": [32],
        },
    }  # fmt: skip
    for name, value in changes.items():
        block, _, leaf = name.partition("_")
        if block in ("seanet", "quantizer", "transformer"):
            assert leaf in values[block], name
            values[block][leaf] = value
        else:
            assert name in values, name
            values[name] = value
    return values


def full_mimi_values() -> dict[str, Any]:
    """The published codec's configuration."""
    return duologue.mimi.MimiConfig().to_dict()


def write_mimi(folder: Path, values: Mapping[str, Any], seed: int) -> Path:
    """A random codec as a published file in `folder`, with its `config.json`."""
    loaders = import_peer("moshi.models.loaders")
    codec = loaders.get_mimi(None, copy.deepcopy(dict(values)), num_codebooks=1)
    randomize(codec, seed)
    pcm = speech_like(16 * codec.frame_size, seed, sample_rate=codec.sample_rate)
    branches = []
    for branch in (codec.quantizer.rvq_first, codec.quantizer.rvq_rest):
        books = [level._codebook for level in branch.vq.layers]
        for book in books:
            book._initialized.fill_(1)
        levels = [(book.cluster_usage, book.embedding_sum) for book in books]
        branches.append((branch.input_proj, levels))
    with torch.no_grad():
        latent = codec.encode_to_latent(pcm, quantize=False)
    randomize_codebooks(latent, branches, seed + 1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    path = folder / "model.safetensors"
    save_tensors(path, published_names(codec.state_dict()))
    return path


def open_mimi(path: Path, num_codebooks: int | None = None) -> tuple[Any, Mimi]:
    """The codec in the file `path`, as the reference has it and as we do."""
    loaders = import_peer("moshi.models.loaders")
    values = json.loads((path.parent / "config.json").read_text())
    books = num_codebooks or values["quantizer"]["n_q"]
    peer = loaders.get_mimi(path, values, num_codebooks=books)
    return peer, duologue.load_codec(path.parent, device="cpu", num_codebooks=num_codebooks)


def randomize_codebooks(
    latent: Tensor, branches: Iterable[tuple[nn.Module, list[tuple[Tensor, Tensor]]]], seed: int
) -> None:
    """Centroids spread like what they are to code, under usages other than one.

    Args:
        latent: some of what will be coded, [1, dimension, T].
        branches: of the split quantiser: projection, and (usage, sum) buffers of each level.
    """
    random = seeded(seed)
    with torch.no_grad():
        for project, levels in branches:
            projected = project(latent)[0]
            spread, centre = projected.std(dim=1), projected.mean(dim=1)
            for usage, total in levels:
                usage.copy_(0.5 + 2 * torch.rand(usage.shape, generator=random))
                usage[-1] = 0  # such a centroid is divided by the smallest usage that counts
                noise = torch.randn(total.shape, generator=random)
                total.copy_((centre + spread * noise) * usage.clamp(min=1e-5)[:, None])
                spread, centre = 0.8 * spread, torch.zeros_like(centre)


def lm_values(**changes: Any) -> dict[str, Any]:
    """A small full-duplex model's configuration in the published layout, with `changes`."""
    values: dict[str, Any] = {
        "dim": 48, "text_card": 60, "existing_text_padding_id": 3, "n_q": 6, "dep_q": 3,
        "card": 40, "num_heads": 4, "num_layers": 2, "hidden_scale": 4.125, "causal": True,
        "layer_scale": None, "context": 14, "max_period": 10000, "gating": "silu",
        "norm": "rms_norm_f32", "positional_embedding": "rope", "depformer_dim": 32,
        "depformer_num_heads": 4, "depformer_num_layers": 2, "depformer_dim_feedforward": 96,
        "depformer_causal": True, "depformer_layer_scale": None, "depformer_multi_linear": True,
        "depformer_context": 4, "depformer_max_period": 10000, "depformer_gating": "silu",
        "depformer_pos_emb": "none", "depformer_weights_per_step": True,
        "delays": [0, 0, 1, 1, 0, 1, 1],
    }  # fmt: skip
    return values | changes


def write_lm(
    folder: Path, values: Mapping[str, Any], seed: int, *, fused_names: bool = True
) -> Path:
    """A random language model as a published folder; old (fused) or new spelling of names."""
    lm = _build_peer_lm(None, values)
    randomize(lm, seed)
    with torch.no_grad():
        # Decided choices, so that greedy streams do not hang on the last bit.
        for head in (lm.text_linear, *lm.linears):
            head.weight.mul_(3)
    folder.mkdir(parents=True, exist_ok=True)
    names = {"moshi_name": "model.safetensors"}
    (folder / "config.json").write_text(json.dumps({**values, **names}))
    state = lm.state_dict()
    save_tensors(folder / "model.safetensors", published_names(state) if fused_names else state)
    return folder


def open_lm(folder: Path) -> tuple[Any, MoshiLM]:
    """The language model in `folder`, as the reference has it and as we do."""
    values = json.loads((folder / "config.json").read_text())
    del values["moshi_name"]
    peer = _build_peer_lm(folder / "model.safetensors", values)
    return peer, duologue.load_lm(folder, device="cpu", dtype=torch.float32)


def _build_peer_lm(path: Path | None, values: Mapping[str, Any]) -> Any:
    loaders = import_peer("moshi.models.loaders")
    return loaders.get_moshi_lm(path, copy.deepcopy(dict(values)), dtype=torch.float32)


def random_tokens(
    config: Any, rows: Iterable[int], shape: tuple[int, int], seed: int, absent: float = 0.1
) -> Tensor:
    """Tokens of the given rows of a column, int64 [B, rows, T]; some are -1 (no input)."""
    random = seeded(seed)
    batch, length = shape
    parts = []
    for row in rows:
        card = config.card
        if row == 0:
            # With two text streams in one, any pair of a token and a token or none.
            one = config.text_card + 1
            card = one * (one + 1) if config.demux_second_stream else config.text_card
        parts.append(torch.randint(0, card, (batch, 1, length), generator=random))
    if not parts:
        return torch.zeros(batch, 0, length, dtype=torch.int64)
    tokens = torch.cat(parts, dim=1)
    return tokens.masked_fill(torch.rand(tokens.shape, generator=random) < absent, -1)
