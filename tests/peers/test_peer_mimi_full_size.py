"""A random codec of the published size: the reference's and the Rust program's results are ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers.peer_models import (
    assert_near,
    full_mimi_values,
    import_peer,
    open_mimi,
    seeded,
    speech_like,
    write_mimi,
)
from torch import Tensor

import duologue
from duologue.mimi import Mimi

import_peer("moshi.models")
rustymimi = import_peer("rustymimi")

BOOKS = 32
FRAMES = 16
NEAR_TIE = 1e-5
"""Two centroids whose distances differ by less, relatively, may be told apart differently."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_mimi(tmp_path_factory.mktemp("mimi"), full_mimi_values(), seed=3)
    yield path
    path.unlink()  # 385 MB, which pytest would keep for the next runs


@pytest.fixture(scope="module")
def reference_and_ours(file: Path) -> tuple[Any, Mimi]:
    return open_mimi(file)


@pytest.fixture(scope="module")
def rust(file: Path) -> dict[int, Any]:
    """The Rust program by number of codebooks; it takes codes of exactly that many."""
    return {n: rustymimi.Tokenizer(str(file), num_codebooks=n) for n in (8, BOOKS)}


def rust_codes(codes: np.ndarray) -> Tensor:
    return torch.from_numpy(codes.astype(np.int64))


def for_rust(tensor: Tensor) -> np.ndarray:
    return tensor.numpy() if tensor.is_floating_point() else tensor.numpy().astype(np.uint32)


def assert_codes_match(codec: Mimi, latent: Tensor, ours: Tensor, theirs: Tensor) -> None:
    """Equal codes; in a rare frame, a first difference that is a near tie of two centroids."""
    assert ours.shape == theirs.shape
    frames = (ours != theirs).any(dim=1)[0].nonzero()[:, 0].tolist()
    assert len(frames) <= max(1, ours.shape[2] // 50), f"codes differ in frames {frames}"
    for frame in frames:
        level = int((ours[0, :, frame] != theirs[0, :, frame]).nonzero()[0, 0])
        first = min(level, 1)  # level of the branch's first codebook
        branch = codec.quantizer.rest if first else codec.quantizer.first
        residual = branch.input_proj(latent[:, :, frame])[0].double()
        for k in range(first, level):
            residual = residual - branch.codebooks[k - first].embedding[ours[0, k, frame]]
        table = branch.codebooks[level - first].embedding.double()
        pair = torch.stack([ours[0, level, frame], theirs[0, level, frame]])
        mine, other = (table[pair] - residual).norm(dim=1)
        assert abs(mine - other) < NEAR_TIE * mine, f"frame {frame}, level {level}"


@torch.no_grad()
def test_offline(reference_and_ours: tuple[Any, Mimi], rust: dict[int, Any]) -> None:
    reference, codec = reference_and_ours
    pcm = speech_like((FRAMES - 1) * 1920 + 77, seed=5)
    latent = codec.encode_to_latent(pcm)
    assert_near(latent, reference.encode_to_latent(pcm, quantize=False), 1e-5)
    codes = codec.encode(pcm)
    assert codes.shape == (1, BOOKS, FRAMES)
    assert len(codes[0, 0].unique()) > FRAMES // 2, "the random codec is degenerate"
    assert_codes_match(codec, latent, codes, reference.encode(pcm))
    # An incomplete last frame is zero audio to the reference; the Rust program pads each layer.
    theirs = rust_codes(rust[BOOKS].encode(for_rust(pcm)))
    assert_codes_match(codec, latent, codes[..., :-1], theirs[..., :-1])
    for books, program in rust.items():
        fewer = codes[:, :books]
        heard = codec.decode(fewer)
        assert_near(heard, reference.decode(fewer), 1e-5)
        assert_near(heard, torch.from_numpy(program.decode(for_rust(fewer))), 1e-5)


@torch.no_grad()
def test_streaming(reference_and_ours: tuple[Any, Mimi], rust: dict[int, Any]) -> None:
    reference, codec = reference_and_ours
    pcm = speech_like(5 * 1920, seed=6)
    latent = codec.encode_to_latent(pcm)
    state = codec.init_state(1)
    ours, theirs, rusts = [], [], []
    program = rust[BOOKS]
    program.reset()
    with reference.streaming(1):
        for piece in pcm.split(1920, dim=-1):
            codes = codec.encode_step(piece, state)
            heard = codec.decode_step(codes, state)
            ours.append(codes)
            theirs.append(reference.encode(piece))
            rusts.append(rust_codes(program.encode_step(for_rust(piece))))
            assert_near(heard, reference.decode(codes), 1e-5)
            assert_near(heard, torch.from_numpy(program.decode_step(for_rust(codes))), 1e-5)
    assert_codes_match(codec, latent, torch.cat(ours, -1), torch.cat(theirs, -1))
    assert_codes_match(codec, latent, torch.cat(ours, -1), torch.cat(rusts, -1))


@torch.no_grad()
def test_beyond_the_attention_window(
    file: Path, reference_and_ours: tuple[Any, Mimi], rust: dict[int, Any], tmp_path: Path
) -> None:
    """Offline the reference is as exact as we are; the Rust program sees one position more."""
    reference, codec = reference_and_ours
    frames = 128  # the window is 125
    codes = torch.randint(0, 2048, (1, 8, frames), generator=seeded(8))
    assert_near(codec.decode(codes), reference.decode(codes), 1e-5)
    values = full_mimi_values()
    values["transformer"]["context"] += 1
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(file)
    wider = duologue.load_codec(tmp_path, device="cpu", num_codebooks=8)
    rust[8].reset()
    streamed = [rust[8].decode_step(for_rust(codes[..., i : i + 1])) for i in range(frames)]
    assert_near(wider.decode(codes), torch.from_numpy(np.concatenate(streamed, axis=-1)), 1e-5)
