"""Models with random weights: the plumbing of any size without a download. They speak noise."""

from __future__ import annotations

from pathlib import Path

import torch

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.save import save_codec, save_lm
from duologue.mimi.codec import Mimi
from duologue.mimi.config import (
    MimiConfig,
    MimiTransformerConfig,
    QuantizerConfig,
    SEANetConfig,
)
from duologue.moshi.lm import MoshiLM
from duologue.moshi.presets import PRESETS

TINY_CODEC = MimiConfig(
    seanet=SEANetConfig(dimension=64, n_filters=8),
    quantizer=QuantizerConfig(dimension=32, n_q=8, input_dimension=64, output_dimension=64),
    transformer=MimiTransformerConfig(
        d_model=64, num_heads=4, num_layers=2, dim_feedforward=128, input_dimension=64,
        output_dimensions=(64,),
    ),
)  # fmt: skip
CODEC_NAME, CODEC_CONFIG_NAME, LM_NAME = "codec.safetensors", "codec.json", "model.safetensors"


def create_untrained(
    folder: Path, preset: str, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write a whole model folder (codec, language model, configuration) with random weights.

    Raises:
        CheckpointError: there is no such preset, or the folder is not empty.
    """
    if preset not in PRESETS:
        raise CheckpointError(f"{preset!r} is no preset; there are {', '.join(PRESETS)}")
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: exists and is not empty")
    config = PRESETS[preset]
    kind = preset.split("-")[0]
    model_type = kind if kind in ("stt", "tts", "hibiki", "personaplex") else "moshi"
    generated = config.n_q // 2 if model_type == "personaplex" else None
    torch.manual_seed(seed)
    save_codec(
        folder,
        Mimi(TINY_CODEC if preset == "tiny" else MimiConfig()),
        config_name=CODEC_CONFIG_NAME,
        weights_name=CODEC_NAME,
    )
    described = FolderConfig(
        config,
        model_type=model_type,
        moshi_name=LM_NAME,
        mimi_name=CODEC_NAME,
        mimi_config_name=CODEC_CONFIG_NAME,
        generated_q=generated,
    )
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        lm = MoshiLM(config)
    finally:
        torch.set_default_dtype(previous)
    save_lm(folder, lm, described, dtype=dtype)
