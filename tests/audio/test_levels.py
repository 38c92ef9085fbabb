"""Levels: the published formula, windows, the gate, and the check at the border."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from duologue.audio.errors import AudioError
from duologue.audio.levels import FRAME_SIZE, check_pcm, power_db, power_gate


def test_power_follows_the_formula() -> None:
    pcm = torch.randn(3, 2, 4 * FRAME_SIZE, generator=torch.Generator().manual_seed(0)) * 0.01
    windows = pcm.reshape(3, 2, 4, FRAME_SIZE)
    expected = 10 * torch.log10((windows**2).mean(dim=-1) + 1e-16)
    assert torch.allclose(power_db(pcm), expected, atol=1e-4)


def test_known_levels() -> None:
    silence, full = torch.zeros(FRAME_SIZE), torch.ones(FRAME_SIZE)
    assert power_db(silence).item() == pytest.approx(-160)
    assert power_db(full).item() == pytest.approx(0, abs=1e-5)
    sine = torch.sin(torch.arange(FRAME_SIZE) * (2 * math.pi * 10 / FRAME_SIZE))
    assert power_db(sine).item() == pytest.approx(-3.01, abs=0.01)


def test_short_last_window_is_judged_by_its_own_samples() -> None:
    pcm = torch.full((FRAME_SIZE + 100,), 0.1)
    assert torch.allclose(power_db(pcm), torch.tensor([-20.0, -20.0]), atol=1e-4)
    assert power_db(torch.zeros(2, 0)).shape == (2, 0)


def test_gate_zeroes_quiet_windows_only() -> None:
    below, above = 10 ** (-65.1 / 20), 10 ** (-64.9 / 20)
    rows = torch.tensor([[below, above], [above, below]])
    pcm = rows.repeat_interleave(FRAME_SIZE, dim=1)
    gated = power_gate(pcm)
    assert torch.equal(gated, torch.where(pcm < 6e-4 * 0.9425, 0.0, pcm))
    assert torch.equal(gated[0, :FRAME_SIZE], torch.zeros(FRAME_SIZE))
    assert torch.equal(gated[0, FRAME_SIZE:], pcm[0, FRAME_SIZE:])


def test_gate_keeps_shape_and_input() -> None:
    pcm = torch.full((2, 1, FRAME_SIZE + 7), 1e-5)
    gated = power_gate(pcm)
    assert gated.shape == pcm.shape
    assert not gated.any()
    assert pcm.all()
    assert torch.equal(power_gate(pcm, threshold_db=-120.0), pcm)


def test_gate_reads_nothing_back_from_the_device() -> None:
    assert power_gate(torch.empty(4, 1, FRAME_SIZE, device="meta")).shape == (4, 1, FRAME_SIZE)


@pytest.mark.parametrize(
    ("pcm", "options", "message"),
    [
        (torch.zeros(0), {}, "is empty"),
        (torch.zeros(2, 0), {}, "is empty"),
        (torch.tensor(1.0), {}, "dimensions"),
        (torch.zeros(5), {"dims": 3}, "must have 3 dimensions"),
        (torch.zeros(1, 1, 5), {"frame_size": 1920}, "whole frames of 1920"),
        (torch.zeros(5, dtype=torch.int16), {}, "int16"),
        (torch.tensor([0.0, float("nan")]), {}, "1 samples"),
        (np.array([np.inf, -np.inf, 0.0]), {"name": "voice"}, "voice has 2 samples"),
    ],
)
def test_check_names_what_is_wrong(pcm: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        check_pcm(pcm, **options)


def test_check_lets_sound_samples_pass() -> None:
    check_pcm(torch.zeros(2, 1, 3840), dims=3, frame_size=1920)
    check_pcm(np.zeros(7, dtype=np.float32))
