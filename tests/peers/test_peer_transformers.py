"""Random models of `transformers`, saved by it and read by us, and the other way round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peers.peer_models import (
    assert_near,
    import_peer,
    mimi_values,
    open_mimi,
    random_tokens,
    randomize,
    randomize_codebooks,
    save_tensors,
    speech_like,
    write_mimi,
)
from torch import Tensor

import duologue
from duologue.checkpoints.transformers_format import mimi_config_to_transformers
from duologue.checkpoints.transformers_layout import mimi_layout
from duologue.mimi import Mimi

transformers = import_peer("transformers")

FRAMES = 24
"""More than twice the attention window."""


def mimi_config(**changes: Any) -> Any:
    small = {
        "sampling_rate": 2400, "upsampling_ratios": [4, 3, 2], "hidden_size": 32, "num_filters": 4,
        "codebook_size": 64, "codebook_dim": 16, "vector_quantization_hidden_dimension": 16,
        "num_quantizers": 6, "upsample_groups": 32, "num_hidden_layers": 2,
        "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4,
        "sliding_window": 20,
    }  # fmt: skip
    return transformers.MimiConfig(**(small | changes))


def build_mimi(config: Any, seed: int) -> Any:
    codec = transformers.MimiModel(config).eval()
    randomize(codec, seed)
    pcm = speech_like(16 * config.frame_size, seed, sample_rate=config.sampling_rate)
    with torch.no_grad():
        latent = codec.encoder(pcm).latents
    split = codec.quantizer
    branches = []
    for branch in (
        split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer,
    ):  # fmt: skip
        books = [level.codebook for level in branch.layers]
        branches.append((branch.input_proj, [(b.cluster_usage, b.embed_sum) for b in books]))
    randomize_codebooks(latent, branches, seed + 1)
    return codec


@pytest.fixture(
    scope="module",
    params=[
        {},
        {
            "num_residual_layers": 2, "kernel_size": 5, "last_kernel_size": 5, "compress": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ],
    ids=["plain", "other_shape"],
)  # fmt: skip
def codecs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The peer, and ours read from what the peer saved."""
    folder = tmp_path_factory.mktemp("mimi")
    build_mimi(mimi_config(**request.param), seed=41).save_pretrained(folder)
    peer = transformers.MimiModel.from_pretrained(folder).eval()
    return peer, duologue.load_codec(folder, device="cpu")


def audio(codec: Mimi, frames: int, batch: int = 1) -> Tensor:
    return speech_like(frames * codec.frame_size, 43, batch, codec.sample_rate)


@torch.no_grad()
def test_codec_offline(codecs: tuple[Any, Mimi]) -> None:
    peer, codec = codecs
    pcm = audio(codec, FRAMES, batch=2)
    assert_near(codec.encode_to_latent(pcm), peer.encoder(pcm).latents, 1e-5)
    for books in (6, 3, 1):
        codes = peer.encode(pcm, num_quantizers=books).audio_codes
        assert torch.equal(codec.encode(pcm, num_codebooks=books), codes)
        assert_near(codec.decode(codes), peer.decode(codes).audio_values, 1e-5)
    assert len(codes.unique()) > 10, "the random codec is degenerate"


@torch.no_grad()
def test_codec_streaming_encode(codecs: tuple[Any, Mimi]) -> None:
    """Only the peer's encoding streams; its decoder forgets its convolutions at each frame."""
    peer, codec = codecs
    state, past, padding = codec.init_encoder_state(1), None, None
    for piece in audio(codec, FRAMES).split(codec.frame_size, dim=-1):
        theirs = peer.encode(
            piece, encoder_past_key_values=past, padding_cache=padding, use_streaming=True
        )
        past, padding = theirs.encoder_past_key_values, theirs.padding_cache
        assert torch.equal(codec.encode_step(piece, state), theirs.audio_codes)


@torch.no_grad()
def test_codec_that_we_write(tmp_path: Path) -> None:
    """The reference's codec in our hands, written for transformers: all three agree."""
    values = mimi_values()
    reference, codec = open_mimi(write_mimi(tmp_path / "kyutai", values, seed=44))
    folder = tmp_path / "transformers"
    folder.mkdir()
    config = mimi_config_to_transformers(codec.config)
    (folder / "config.json").write_text(json.dumps(config))
    save_tensors(folder / "model.safetensors", mimi_layout(codec).write(codec.state_dict()))
    peer, report = transformers.MimiModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    pcm = audio(codec, FRAMES)
    codes = reference.encode(pcm)
    assert torch.equal(peer.eval().encode(pcm).audio_codes, codes)
    assert_near(peer.decode(codes).audio_values, reference.decode(codes), 1e-5)
    assert torch.equal(duologue.load_codec(folder, device="cpu").encode(pcm), codes)


@torch.no_grad()
@pytest.mark.parametrize("shared_heads", [1, 2])
def test_moshi(shared_heads: int, tmp_path: Path) -> None:
    """Text logits of the decoder and audio logits of the depth decoder."""
    books, card = 4, 40
    config = transformers.MoshiConfig(
        vocab_size=60, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4 // shared_heads, audio_vocab_size=card, ffn_dim=132,
        num_codebooks=books, sliding_window=64, max_position_embeddings=64,
        audio_encoder_config=mimi_config(num_quantizers=8).to_dict(),
        depth_decoder_config={
            "vocab_size": 60, "hidden_size": 32, "input_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "audio_vocab_size": card,
            "ffn_dim": 64, "num_codebooks": books, "max_position_embeddings": books + 1,
            "sliding_window": books,
        },
    )  # fmt: skip
    peer = transformers.MoshiForConditionalGeneration(config).eval()
    randomize(peer, seed=51)
    peer.save_pretrained(tmp_path)
    lm = duologue.load_lm(tmp_path, device="cpu", dtype=torch.float32)
    length = 20
    columns = random_tokens(lm.config, range(1 + lm.config.n_q), (2, length), 52, absent=0.0)
    theirs = peer(
        columns[:, 0], moshi_audio_codes=columns[:, 1 : 1 + books],
        user_audio_codes=columns[:, 1 + books :],
    )  # fmt: skip
    z, logits = lm.head(lm.transformer(lm.embed(columns)))
    assert_near(logits, theirs.logits, 1e-5)
    target = random_tokens(lm.config, range(1 + lm.config.n_q), (2, length), 53, absent=0.0)
    depth = peer.depth_decoder(
        input_ids=target[:, :books].transpose(1, 2).flatten(0, 1),
        last_hidden_state=theirs.last_hidden_state.flatten(0, 1)[:, None],
    ).logits
    ours = lm.depth_logits(z, target).transpose(1, 2).flatten(0, 1)
    assert_near(ours, depth, 1e-5)


@torch.no_grad()
def test_speech_to_text(tmp_path: Path) -> None:
    text, audio_card, streams = 61, 41, 6
    config = transformers.KyutaiSpeechToTextConfig(
        vocab_size=text, codebook_vocab_size=audio_card, num_codebooks=streams, hidden_size=48,
        num_hidden_layers=2, num_attention_heads=4, ffn_dim=132, sliding_window=64,
        max_position_embeddings=64, audio_bos_token_id=audio_card - 1, bos_token_id=text - 1,
        audio_pad_token_id=text + streams * audio_card, codec_config=mimi_config(),
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    )  # fmt: skip
    peer = transformers.KyutaiSpeechToTextForConditionalGeneration(config).eval()
    randomize(peer, seed=61)
    peer.model.embed_tokens.embed_tokens.weight[-1] = 0
    peer.save_pretrained(tmp_path)
    lm = duologue.load_lm(tmp_path, device="cpu", dtype=torch.float32)
    columns = random_tokens(lm.config, range(1 + streams), (2, 20), 62, absent=0.0)
    theirs = peer(input_ids=columns.transpose(1, 2)).logits
    ours = lm.head(lm.transformer(lm.embed(columns)))[1]
    assert_near(ours, theirs[..., : text - 1], 1e-5)
