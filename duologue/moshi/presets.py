"""Shapes of the published models, by name."""

from __future__ import annotations

from dataclasses import replace

from duologue.moshi.config import MOSHI_7B, LMConfig


def _delays(semantic: int, acoustic: int, books: int, speakers: int) -> tuple[int, ...]:
    return (0, *((semantic, *(acoustic,) * (books - 1)) * speakers))


_SHARED_BY_EIGHTS = (*range(8), *(8,) * 8)

STT_1B = LMConfig(
    dim=2048, num_heads=16, num_layers=16, n_q=32, dep_q=0, delays=(0,) * 33, text_card=8000,
    context=750, max_period=100_000.0,
)  # fmt: skip
STT_2_6B = replace(STT_1B, num_heads=32, num_layers=48, text_card=4000, context=375)
HIBIKI_2B = LMConfig(
    dim=2560, num_heads=20, num_layers=24, n_q=32, dep_q=16, delays=_delays(0, 2, 16, 2),
    text_card=48_000, context=500, max_period=100_000.0, depformer_num_layers=4,
    depformer_dim_feedforward=3072, depformer_weights_per_step_schedule=_SHARED_BY_EIGHTS,
    depformer_low_rank_embeddings=128,
)  # fmt: skip
HIBIKI_ZERO_3B = LMConfig(
    dim=2048, num_heads=16, num_layers=28, n_q=32, dep_q=16, delays=_delays(0, 2, 16, 2),
    text_card=48_000, hidden_scale=6, context=3000, max_period=20_000.0, kv_repeat=2,
    positional_embedding="rope_concat", depformer_norm="layer_norm",
    depformer_weights_per_step_schedule=_SHARED_BY_EIGHTS,
)  # fmt: skip
TTS_1_6B = LMConfig(
    dim=2048, num_heads=16, num_layers=16, n_q=32, dep_q=32, delays=_delays(0, 2, 32, 1),
    text_card=8000, context=500, cross_attention=True, demux_second_stream=True,
    depformer_num_layers=4, depformer_dim_feedforward=3072, depformer_low_rank_embeddings=128,
    depformer_weights_per_step_schedule=(*_SHARED_BY_EIGHTS, *(9,) * 8, *(10,) * 8),
)  # fmt: skip

PRESETS: dict[str, LMConfig] = {
    "moshi-7b": MOSHI_7B,
    "moshirag-7b": replace(MOSHI_7B, rag_token_id=4),
    "personaplex-7b": replace(MOSHI_7B, dep_q=16),
    "hibiki-2b": HIBIKI_2B,
    "hibiki-zero-3b": HIBIKI_ZERO_3B,
    "stt-1b": STT_1B,
    "stt-2.6b": STT_2_6B,
    "tts-1.6b": TTS_1_6B,
    "tiny": LMConfig(
        dim=128, num_heads=4, num_layers=2, n_q=16, dep_q=8, delays=_delays(0, 1, 8, 2),
        text_card=512, context=250, depformer_dim=64, depformer_num_heads=4,
        depformer_num_layers=2,
    ),
}  # fmt: skip
"""`tiny` is nobody's model: something with Moshi's streams that starts at once, for trials."""
