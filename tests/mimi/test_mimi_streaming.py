"""The codec as a whole keeps the streaming contract, both ways, and refuses what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.contract import CHECKS, Case
from support.golden import GOLDEN
from torch import Tensor

import duologue
from duologue.mimi import ConfigError, Mimi, MimiConfig


@pytest.fixture(scope="module", params=["eager", "fast"])
def codec(request: pytest.FixtureRequest) -> Mimi:
    return duologue.load_codec(GOLDEN / "mimi", device="cpu", runtime=request.param)


def latent_case(codec: Mimi) -> Case:
    """Encoding up to the latent: continuous, unlike codes, so that distances mean something."""

    def step(x: Tensor, state: Any, active: Tensor | None) -> Tensor:
        x = codec.encoder.step(x, state.seanet, active).transpose(1, 2)
        x = codec.encoder_transformer.step(x, state.transformer, active).transpose(1, 2)
        return codec.downsample.step(x, state.downsample, active)

    return Case(
        codec.init_encoder_state,
        step,
        codec.encode_to_latent,
        lambda slots, units: torch.rand(slots, 1, units * codec.frame_size) - 0.5,
        unit=codec.frame_size,
        units=14,
        tolerance=1e-4,
    )


def encode_case(codec: Mimi) -> Case:
    return Case(
        codec.init_encoder_state,
        codec.encode_step,
        codec.encode,
        lambda slots, units: torch.rand(slots, 1, units * codec.frame_size) - 0.5,
        unit=codec.frame_size,
        units=14,
        tolerance=0,
    )


def decode_case(codec: Mimi) -> Case:
    def sample(slots: int, units: int) -> Tensor:
        return torch.randint(0, 64, (slots, codec.num_codebooks, units))

    return Case(
        codec.init_decoder_state, codec.decode_step, codec.decode, sample, units=14, tolerance=1e-5
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", [latent_case, encode_case, decode_case])
@torch.no_grad()
def test_contract(codec: Mimi, case: Callable[[Mimi], Case], check: Callable[[Case], None]) -> None:
    torch.manual_seed(0)
    check(case(codec))


def test_state_of_both_directions_advances_apart(codec: Mimi) -> None:
    state = codec.init_state(2)
    fresh = codec.init_state(2)
    codec.encode_step(torch.rand(2, 1, codec.frame_size), state)
    for path, tensor in state.decoder.tensors().items():
        assert torch.equal(tensor, fresh.decoder.tensors()[path]), path


@pytest.mark.parametrize(
    ("pcm", "complaint"),
    [
        (torch.zeros(1, 1, 0), "empty"),
        (torch.zeros(1, 2, 1920), r"\[B, 1, T\]"),
        (torch.zeros(1920), r"\[B, 1, T\]"),
        (torch.zeros(1, 1, 1920, dtype=torch.int16), "float"),
        (torch.full((1, 1, 1920), float("nan")), "NaN"),
        (torch.full((1, 1, 1920), float("inf")), "infinite"),
    ],
)
def test_bad_audio_is_refused(codec: Mimi, pcm: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        codec.encode(pcm)


def test_a_partial_frame_cannot_be_streamed(codec: Mimi) -> None:
    with pytest.raises(ValueError, match="whole frames"):
        codec.encode_step(torch.zeros(1, 1, 1919), codec.init_state(1))


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(1, 7, 2, dtype=torch.int64),
        torch.zeros(1, 0, 2, dtype=torch.int64),
        torch.full((1, 6, 2), 64),
        torch.full((1, 6, 2), -1),
        torch.zeros(6, 2, dtype=torch.int64),
        torch.zeros(1, 6, 2),
    ],
)
def test_bad_codes_are_refused(codec: Mimi, codes: Tensor) -> None:
    with pytest.raises(ValueError, match="codes"):
        codec.decode(codes)


@pytest.mark.parametrize("count", [0, 7, -1])
def test_the_number_of_codebooks_is_checked(codec: Mimi, count: int) -> None:
    with pytest.raises(ValueError, match="num_codebooks"):
        codec.encode(torch.zeros(1, 1, 1920), num_codebooks=count)


def test_configuration_round_trips_and_errors_name_the_field() -> None:
    values = json.loads((GOLDEN / "mimi" / "config.json").read_text())
    config = MimiConfig.from_dict(values)
    assert MimiConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for block, name, value in (
        ("seanet", "causal", False),
        ("seanet", "colour", "red"),
        ("transformer", "gating", "silu"),
        ("quantizer", "n_q", 0),
        ("transformer", "d_model", 32),
    ):
        changed = {**values, block: {**values[block], name: value}}
        with pytest.raises(ConfigError, match=name):
            MimiConfig.from_dict(changed)
    with pytest.raises(ConfigError, match="frame_rate"):
        MimiConfig.from_dict({**values, "frame_rate": 13})
