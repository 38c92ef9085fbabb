"""The golden vectors: models with random weights and what the reference computes with them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
LM_CASES = ("lm_duplex", "lm_schedule", "lm_stt", "lm_conditioned", "lm_cross", "lm_q8")
TOLERANCE = 1e-4
"""Largest relative distance of float arrays."""


@lru_cache
def vectors(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "vectors.npz") as file:
        return dict(file)


def integers(name: str, key: str) -> Tensor:
    return torch.from_numpy(vectors(name)[key].astype(np.int64))


def conditions(name: str) -> dict[str, Any]:
    """Positive attributes of a conditioned case; tensors are filled in."""
    path = GOLDEN / name / "conditions.json"
    if not path.exists():
        return {}
    described = json.loads(path.read_text())
    attributes = dict(described["positive"])
    for attribute, key in described["tensors"].items():
        attributes[attribute] = torch.from_numpy(vectors(name)[key])
    return attributes


def assert_near(
    ours: Tensor | np.ndarray, golden: np.ndarray, tolerance: float = TOLERANCE
) -> None:
    """Relative distance in norm; NaNs must stand in the same places."""
    ours = np.asarray(ours, dtype=np.float64)
    golden = golden.astype(np.float64).reshape(ours.shape)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(golden))
    distance = np.linalg.norm(np.nan_to_num(ours - golden)) / np.linalg.norm(np.nan_to_num(golden))
    assert distance <= tolerance, f"relative distance {distance:.2e} exceeds {tolerance:.0e}"
