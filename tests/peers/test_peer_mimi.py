"""Small random codecs: the reference's codes and audio are ours, offline and streaming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peers.peer_models import (
    assert_near,
    import_peer,
    mimi_values,
    open_mimi,
    relative_distance,
    speech_like,
    write_mimi,
)
from torch import Tensor

from duologue.mimi import Mimi

import_peer("moshi.models")

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "two_residual_units": {"seanet_n_residual_layers": 2, "seanet_dilation_base": 3},
    "other_kernels": {
        "seanet_kernel_size": 5, "seanet_last_kernel_size": 7, "seanet_residual_kernel_size": 5,
        "seanet_compress": 4, "transformer_max_period": 500,
    },
    "four_positions_a_frame": {"frame_rate": 25, "transformer_context": 32},
    "one_head_many_books": {
        "transformer_num_heads": 1, "quantizer_n_q": 12, "quantizer_bins": 31,
        "quantizer_dimension": 24,
    },
}  # fmt: skip

FRAMES = 24
"""Longer than the attention window of every shape."""


@pytest.fixture(scope="module", params=SHAPES)
def codecs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    return open_mimi(write_mimi(folder, mimi_values(**SHAPES[name]), seed=len(name)))


def audio(codec: Mimi, frames: int, batch: int = 1, seed: int = 7) -> Tensor:
    return speech_like(frames * codec.frame_size, seed, batch, codec.sample_rate)


def frames_before_ring_is_full(codec: Mimi) -> int:
    return codec.config.transformer.context // codec.config.positions_per_frame


@torch.no_grad()
def test_offline_equals_reference(codecs: tuple[Any, Mimi]) -> None:
    peer, codec = codecs
    pcm = audio(codec, FRAMES, batch=2)
    assert_near(codec.encode_to_latent(pcm), peer.encode_to_latent(pcm, quantize=False), 1e-5)
    codes = peer.encode(pcm)
    assert torch.equal(codec.encode(pcm), codes)
    assert len(codes.unique()) > 20, "the random codec is degenerate"
    assert_near(codec.decode_latent(codes), peer.decode_latent(codes), 1e-5)
    assert_near(codec.decode(codes), peer.decode(codes), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("short_by", [1, 17])
def test_audio_of_any_length_is_padded_alike(codecs: tuple[Any, Mimi], short_by: int) -> None:
    peer, codec = codecs
    pcm = audio(codec, 9)[..., :-short_by]
    assert torch.equal(codec.encode(pcm), peer.encode(pcm))


@torch.no_grad()
def test_fewer_codebooks(codecs: tuple[Any, Mimi]) -> None:
    peer, codec = codecs
    pcm = audio(codec, 10)
    most = codec.config.quantizer.n_q
    try:
        for books in (1, 2, most - 1):
            peer.set_num_codebooks(books)
            codes = peer.encode(pcm)
            assert torch.equal(codec.encode(pcm, num_codebooks=books), codes)
            assert_near(codec.decode(codes), peer.decode(codes), 1e-5)
    finally:
        peer.set_num_codebooks(most)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 2])
def test_streaming_equals_reference_until_its_ring_is_full(
    codecs: tuple[Any, Mimi], chunk: int
) -> None:
    peer, codec = codecs
    full = frames_before_ring_is_full(codec) // chunk * chunk
    pcm = audio(codec, FRAMES)
    state = codec.init_state(1)
    ours, theirs, heard, theirs_heard = [], [], [], []
    with peer.streaming(1):
        for piece in pcm.split(chunk * codec.frame_size, dim=-1):
            ours.append(codec.encode_step(piece, state))
            theirs.append(peer.encode(piece))
            # Both decode our codes, so that one difference in encoding does not spoil the rest.
            heard.append(codec.decode_step(ours[-1], state))
            theirs_heard.append(peer.decode(ours[-1]))
    codes, pcm_out = torch.cat(ours, -1), torch.cat(heard, -1)
    samples = full * codec.frame_size
    assert torch.equal(codes[..., :full], torch.cat(theirs, -1)[..., :full])
    assert_near(pcm_out[..., :samples], torch.cat(theirs_heard, -1)[..., :samples], 1e-5)
    # From there on the reference drops keys that its own offline pass still sees; ours does not.
    whole = codec.encode(pcm)
    assert torch.equal(codes, whole)
    assert_near(pcm_out, codec.decode(whole), 1e-5)
    assert torch.equal(whole, peer.encode(pcm))


@torch.no_grad()
def test_batch_with_pauses_and_resets(codecs: tuple[Any, Mimi]) -> None:
    peer, codec = codecs
    slots, steps = 3, frames_before_ring_is_full(codec)
    pcm = audio(codec, steps, batch=slots)
    active = torch.rand(steps, slots, generator=torch.Generator().manual_seed(5)) < 0.7
    state = codec.init_state(slots)
    with peer.streaming(slots):
        for step, piece in enumerate(pcm.split(codec.frame_size, dim=-1)):
            if step in (3, 6):
                fresh = torch.arange(slots) == step % slots
                state.reset(fresh)
                peer.reset_streaming(fresh)
            now = active[step]
            peer.set_exec_mask(now)
            codes = codec.encode_step(piece, state, now)
            assert torch.equal(codes[now], peer.encode(piece)[now]), step
            if now.any():
                heard = codec.decode_step(codes, state, now)
                assert_near(heard[now], peer.decode(codes)[now], 1e-5)


@torch.no_grad()
def test_reference_reads_what_we_write(codecs: tuple[Any, Mimi], tmp_path: Path) -> None:
    from duologue.checkpoints.kyutai_mimi import mimi_layout

    peer, codec = codecs
    pcm = audio(codec, 6)
    before = peer.encode(pcm)
    kept = {name: tensor.clone() for name, tensor in peer.state_dict().items()}
    written = mimi_layout(codec).write(codec.state_dict())
    try:
        peer.load_state_dict({name: torch.zeros_like(t) for name, t in kept.items()})
        peer.load_state_dict(written)
        assert torch.equal(peer.encode(pcm), before)
        assert relative_distance(codec.decode(before), peer.decode(before)) < 1e-5
    finally:
        peer.load_state_dict(kept)
