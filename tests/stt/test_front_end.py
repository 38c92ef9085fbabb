"""A front end of spectra: the same in pieces as whole, a known pitch in its band, files, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from duologue.checkpoints.errors import CheckpointError
from duologue.stt.front_end import (
    FrontEndError,
    MelFrontEnd,
    MelFrontEndConfig,
    band_centres,
    mel_filters,
)
from duologue.stt.front_end_file import load_front_end, save_front_end

SMALL = MelFrontEndConfig(dim=24, channels=(8, 12, 16), units=(0, 1, 2))


@pytest.fixture
def front_end() -> MelFrontEnd:
    torch.manual_seed(1)
    made = MelFrontEnd(SMALL)
    for weight in made.parameters():
        if weight.dim() == 3 and not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (1, 3), (4,)])
def test_pieces_give_what_the_whole_gives(front_end: MelFrontEnd, sizes: tuple[int, ...]) -> None:
    pcm = 0.1 * torch.randn(2, 4 * front_end.frame_size)
    whole = front_end(front_end.spectra(pcm)).transpose(1, 2)
    state, pieces = front_end.init_encoder_state(2), []
    for size, chunk in zip(sizes, pcm.split([s * 1920 for s in sizes], dim=1), strict=True):
        pieces.append(front_end.encode_step(chunk[:, None], state))
        assert pieces[-1].shape == (2, 24, size)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, atol=1e-4, rtol=1e-4)


def test_a_frame_knows_nothing_of_what_comes(front_end: MelFrontEnd) -> None:
    pcm = 0.1 * torch.randn(1, 6 * 1920)
    other = pcm.clone()
    other[:, 3 * 1920 :] = torch.randn(1, 3 * 1920)
    first, second = (front_end(front_end.spectra(signal)) for signal in (pcm, other))
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.equal(first[:, 3], second[:, 3])


def test_a_tone_stands_in_its_band(front_end: MelFrontEnd) -> None:
    centres = band_centres(SMALL)
    assert centres.diff().min() > 0
    for band in (8, 30, 60, 79):
        t = torch.arange(9600, dtype=torch.float64) / 24_000
        tone = (0.1 * torch.sin(2 * np.pi * centres[band] * t)).float()
        assert abs(int(front_end.spectra(tone[None])[0, -1].argmax()) - band) <= 1
    peaks = mel_filters(SMALL).amax(dim=0)
    assert peaks[10:].min() > 0.5
    assert peaks.max() <= 1


def test_rates(front_end: MelFrontEnd) -> None:
    assert (front_end.frame_size, front_end.frame_rate, front_end.sample_rate) == (
        1920, 12.5, 24_000,
    )  # fmt: skip
    with pytest.raises(ValueError, match="whole frames of 1920"):
        front_end.encode_step(torch.zeros(1, 1, 1000), front_end.init_encoder_state(1))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_file_gives_it_back(
    front_end: MelFrontEnd, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    save_front_end(tmp_path / "f.safetensors", front_end, dtype)
    config = MelFrontEndConfig.from_dict(SMALL.to_dict())
    loaded = load_front_end(tmp_path / "f.safetensors", config, torch.device("cpu"))
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    for name, weight in front_end.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.to(dtype or weight.dtype).float())
    wider = MelFrontEndConfig(dim=32, channels=(8, 12, 16), units=(0, 1, 2))
    with pytest.raises(CheckpointError, match=r"down\.2"):
        load_front_end(tmp_path / "f.safetensors", wider, torch.device("cpu"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"dim": 8, "colour": 1}, "'colour' is no entry"),
        ({}, "dim"),
        ({"dim": 8, "channels": [4]}, "one length"),
        ({"dim": 8, "hop": 2000}, "hop <= window"),
        ({"dim": 8, "low_hz": 9000.0}, "low_hz < high_hz"),
    ],
)
def test_what_makes_no_sense_is_named(entries: dict[str, object], message: str) -> None:
    with pytest.raises(FrontEndError, match=message):
        MelFrontEndConfig.from_dict(entries)
