"""Mimi against the golden vectors: codes exactly, audio within tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.golden import GOLDEN, assert_near, integers, vectors
from torch import Tensor

import duologue
from duologue.mimi import Mimi


@pytest.fixture(scope="module")
def codec() -> Mimi:
    return duologue.load_codec(GOLDEN / "mimi", device="cpu")


@pytest.fixture(scope="module")
def pcm() -> Tensor:
    return torch.from_numpy(vectors("mimi")["pcm_i16"].astype(np.float32) / 32768)[None, None]


def full_ring() -> int:
    """First frame at which the reference's ring loses keys; ours never does."""
    return int(vectors("mimi")["ring_full_frame"])


def test_latent_and_codes(codec: Mimi, pcm: Tensor) -> None:
    with torch.no_grad():
        assert_near(codec.encode_to_latent(pcm)[0], vectors("mimi")["latent"])
    assert torch.equal(codec.encode(pcm)[0], integers("mimi", "codes"))


def test_decoding(codec: Mimi) -> None:
    codes = integers("mimi", "codes")[None]
    with torch.no_grad():
        assert_near(codec.decode_latent(codes)[0], vectors("mimi")["latent_quantized"])
    assert_near(codec.decode(codes)[0, 0], vectors("mimi")["pcm_decoded"])


def test_fewer_codebooks(codec: Mimi, pcm: Tensor) -> None:
    count = int(vectors("mimi")["fewer_books"])
    codes = integers("mimi", "codes")[None]
    some = codec.encode(pcm, num_codebooks=count)
    assert torch.equal(some, codes[:, :count])
    decoded = codec.decode(some)[0, 0]
    golden = vectors("mimi")["pcm_decoded_fewer_books"]
    assert_near(decoded[: len(golden)], golden)
    loaded = duologue.load_codec(GOLDEN / "mimi", device="cpu", num_codebooks=count)
    assert torch.equal(loaded.encode(pcm), some)


def test_odd_length_is_padded_on_the_right(codec: Mimi, pcm: Tensor) -> None:
    length = int(vectors("mimi")["odd_length"])
    assert torch.equal(codec.encode(pcm[..., :length])[0], integers("mimi", "codes_odd"))


@pytest.mark.parametrize(("frames", "key"), [(1, "stream_codes"), (3, "stream3_codes")])
def test_streaming_codes(codec: Mimi, pcm: Tensor, frames: int, key: str) -> None:
    golden = integers("mimi", key)
    state = codec.init_state(1)
    chunks = pcm[..., : golden.shape[1] * codec.frame_size].split(frames * codec.frame_size, -1)
    codes = torch.cat([codec.encode_step(chunk, state) for chunk in chunks], dim=-1)[0]
    assert torch.equal(codes[:, : full_ring()], golden[:, : full_ring()])
    assert torch.equal(codes, integers("mimi", "codes")[:, : codes.shape[1]])


def test_streaming_audio(codec: Mimi) -> None:
    codes = integers("mimi", "stream_codes")[None]
    state = codec.init_state(1)
    frames = [codec.decode_step(frame, state) for frame in codes.split(1, dim=-1)]
    audio = torch.cat(frames, dim=-1)[0, 0]
    kept = full_ring() * codec.frame_size
    assert_near(audio[:kept], vectors("mimi")["stream_pcm_decoded"][:kept])
    assert_near(audio, codec.decode(codes)[0, 0].numpy(), tolerance=1e-5)


def test_batch_with_reset_and_pauses(codec: Mimi, pcm: Tensor) -> None:
    """Row 0 is reset before frame 6; row 1 pauses on frames 3 and 4."""
    golden = integers("mimi", "batch_codes")
    both = torch.cat([pcm, pcm.flip(-1)])
    state, heads = codec.init_state(2), [0, 0]
    audio = []
    for frame in range(golden.shape[-1]):
        if frame == 6:
            state.reset(torch.tensor([True, False]))
        active = torch.tensor([True, frame not in (3, 4)])
        chunk = both[..., frame * codec.frame_size : (frame + 1) * codec.frame_size]
        codes = codec.encode_step(chunk, state, active)
        decoded = codec.decode_step(codes, state, active)
        for row in range(2):
            if active[row]:
                assert torch.equal(codes[row, :, 0], golden[row, :, frame])
                heads[row] += 1
        if 4 <= frame < 8:
            audio.append(decoded[:, 0])
    golden_audio = vectors("mimi")["batch_pcm_decoded"]
    ours = torch.cat(audio, dim=-1)
    assert_near(ours[0], golden_audio[0])
    assert_near(ours[1, codec.frame_size :], golden_audio[1, codec.frame_size :])
