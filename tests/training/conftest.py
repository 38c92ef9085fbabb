"""A tiny corpus and a tiny codec."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from duologue.audio.wav import write_wav

RATE = 24_000

TINY = {
    "ema": 0.9,
    "codec": {
        "seanet": {"dimension": 16, "n_filters": 2},
        "quantizer": {
            "dimension": 8, "n_q": 3, "bins": 8, "input_dimension": 16, "output_dimension": 16,
        },
        "transformer": {
            "d_model": 16, "num_heads": 2, "num_layers": 1, "dim_feedforward": 16, "context": 8,
            "input_dimension": 16, "output_dimensions": [16],
        },
    },
    "run": {
        "steps": 8, "batch": 2, "precision": "float32", "log_every": 2, "evaluate_every": 4,
    },
    "data": {"segment_s": 0.64, "prefetch": 2},
    "optimizer": {"lr": 0.003, "warmup_steps": 2, "decay_steps": 2},
    "quantizer": {"start_step": 2, "pool": 64, "revive_every": 2, "bypass_decline_steps": 4},
    "losses": {
        "spectral": {"mel_windows": [512, 256], "mel_bands": [32, 16], "stft_windows": [256]}
    },
    "adversary": {
        "start_step": 3, "warmup_steps": 1, "crop_s": 0.32,
        "shape": {"windows": [128], "filters": 4},
    },
    "evaluation": {"recordings": 2, "samples": 1},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def training_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of six short recordings of gliding tones, most with phone labels."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for index in range(6):
        seconds = 0.9 + 0.2 * index
        t = np.arange(int(seconds * RATE)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (200 + 60 * index) * t * (1 + 0.2 * t))
        tone *= 0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)
        write_wav(folder / f"{index}.wav", tone.astype(np.float32), RATE)
        row = {
            "path": f"{index}.wav",
            "duration": len(t) / RATE,
            "split": "test" if index == 5 else "train",
        }
        if index != 1:
            row["phones"] = [
                ["pau", 0.0, 0.1],
                ["aa", 0.1, 0.5],
                ["t", 0.5, 0.52],
                ["iy1", 0.52, 0.9],
            ]
        rows.append(json.dumps(row))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest
