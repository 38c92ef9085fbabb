"""The language model against the golden vectors: tokens exactly, logits within tolerance."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from support.golden import GOLDEN, assert_near, conditions, integers, vectors
from torch import Tensor

import duologue
from duologue.moshi import Generator, Guidance, MoshiLM, Sampling, StepOutput

CASES = ("lm_duplex", "lm_schedule", "lm_stt", "lm_conditioned", "lm_cross")
WITH_FORWARD = ("lm_duplex", "lm_conditioned", "lm_cross")


@lru_cache
def model(name: str) -> MoshiLM:
    return duologue.load_lm(GOLDEN / name, device="cpu", dtype=torch.float32)


def generator(name: str, batch_size: int = 1, **options: Any) -> Generator:
    options.setdefault("conditions", conditions(name))
    return model(name).generator(
        batch_size, sampling=Sampling(0.0), keep_audio_logits=True, **options
    )


def run(gen: Generator, user: Tensor, steps: int, **options: Any) -> list[StepOutput]:
    """Feed user codes [given, T]; options hold one value per step."""
    return [
        gen.step(
            user[None, :, t : t + 1] if gen.given_q else None,
            **{key: values[t] for key, values in options.items()},
        )
        for t in range(steps)
    ]


def frames(outputs: list[StepOutput], slot: int = 0) -> Tensor:
    """[1 + generated, T]"""
    return torch.stack([torch.cat([o.text[slot, None], o.audio[slot]]) for o in outputs], dim=1)


@pytest.mark.parametrize("name", CASES)
def test_generation(name: str) -> None:
    golden = integers(name, "out_tokens")
    outputs = run(generator(name), integers(name, "user_tokens"), golden.shape[1])
    assert torch.equal(frames(outputs), golden)
    sampled = torch.stack([o.sampled_text[0] for o in outputs])
    assert torch.equal(sampled, integers(name, "sampled_text"))
    assert_near(torch.stack([o.text_logits[0] for o in outputs]), vectors(name)["text_logits"])
    if "sampled_audio" in vectors(name):
        sampled = torch.stack([o.sampled_audio[0] for o in outputs], dim=1)
        assert torch.equal(sampled, integers(name, "sampled_audio"))
        logits = torch.stack([o.audio_logits[0] for o in outputs])
        assert_near(logits, vectors(name)["audio_logits"])


def test_extra_heads() -> None:
    golden = vectors("lm_stt")["extra_heads"]
    outputs = run(generator("lm_stt"), integers("lm_stt", "user_tokens"), len(golden))
    ours = torch.stack([torch.stack([head[0] for head in o.extra_heads]) for o in outputs])
    assert_near(ours, golden)


@pytest.mark.parametrize("name", WITH_FORWARD)
@torch.no_grad()
def test_whole_sequences(name: str) -> None:
    lm = model(name)
    fused = lm.condition_provider([conditions(name)])
    out = lm(integers(name, "forward_codes")[None], fused.sum, fused.cross)
    golden = vectors(name)
    np.testing.assert_array_equal(out.text_mask[0, 0], golden["forward_text_mask"].reshape(-1))
    assert_near(out.text_logits[0, 0], golden["forward_text_logits"])
    if lm.config.dep_q:
        np.testing.assert_array_equal(out.mask[0], golden["forward_mask"])
        assert_near(out.logits[0], golden["forward_logits"])


def test_forced_audio() -> None:
    golden = integers("lm_duplex", "forced_out_tokens")
    forced = integers("lm_duplex", "forced_audio")
    steps = golden.shape[1]
    given = [forced[None, :, t] if t < forced.shape[1] else None for t in range(steps)]
    outputs = run(generator("lm_duplex"), integers("lm_duplex", "user_tokens"), steps, audio=given)
    assert torch.equal(frames(outputs), golden)
    logits = torch.stack([o.text_logits[0] for o in outputs])
    assert_near(logits, vectors("lm_duplex")["forced_text_logits"])


def test_batch_with_reset_and_pauses() -> None:
    """Two rows, row 0 reset before step 18; who executes is in the mask."""
    user = integers("lm_duplex", "batch_user_tokens")
    mask = torch.from_numpy(vectors("lm_duplex")["batch_exec_mask"].astype(bool))
    golden = integers("lm_duplex", "batch_out_tokens")
    gen = generator("lm_duplex", 2)
    for t in range(golden.shape[-1]):
        if t == 18:
            gen.reset(torch.tensor([True, False]))
        out = gen.step(user[:, :, t : t + 1], mask[:, t])
        frame = torch.cat([out.text[:, None], out.audio], dim=1)
        assert torch.equal(frame[mask[:, t]], golden[mask[:, t], :, t])
    # Logits of a row that stood still mean nothing.
    for row in mask[:, -1].nonzero().flatten():
        assert_near(out.text_logits[row], vectors("lm_duplex")["batch_text_logits_last"][row])


def test_guidance() -> None:
    golden = vectors("lm_conditioned")
    coefficient = float(golden["cfg_coef"])
    null = {"description": "very_bad"}
    gen = generator("lm_conditioned", null_conditions=null, guidance=Guidance(coefficient))
    steps = golden["cfg_out_tokens"].shape[1]
    outputs = run(gen, integers("lm_conditioned", "user_tokens"), steps)
    assert torch.equal(frames(outputs), integers("lm_conditioned", "cfg_out_tokens"))

    def guided(key: str) -> np.ndarray:
        given, without = golden[key]
        return without + (given - without) * coefficient

    assert_near(torch.stack([o.text_logits[0] for o in outputs]), guided("cfg_text_logits"))
    assert_near(torch.stack([o.audio_logits[0] for o in outputs]), guided("cfg_audio_logits"))


def test_8_bit_weights() -> None:
    """The reference multiplies in float16 with quantised activations; its logits are near ours."""
    lm = model("lm_q8")
    assert type(lm.text_linear).__name__ == "QuantizedLinear"
    golden = vectors("lm_q8")
    text, audio = golden["text_logits"], golden["audio_logits"]
    # Feed the reference's own choices, so that one near-tie does not part the runs.
    chosen = integers("lm_q8", "sampled_text"), integers("lm_q8", "sampled_audio")
    steps = len(text)
    outputs = run(
        generator("lm_q8"), integers("lm_q8", "user_tokens"), steps,
        text=[chosen[0][t][None] for t in range(steps)],
        audio=[chosen[1][None, :, t] for t in range(steps)],
    )  # fmt: skip
    ours = torch.stack([o.text_logits[0] for o in outputs])
    ours_audio = torch.stack([o.audio_logits[0] for o in outputs])
    for mine, theirs in ((ours, text), (ours_audio, audio)):
        mine = mine.numpy()
        assert np.abs(mine - theirs).max() <= 5e-2
        ordered = np.sort(theirs, axis=-1)
        clear = ordered[..., -1] - ordered[..., -2] > 5e-2
        assert clear.mean() > 0.8
        same = mine.argmax(-1) == theirs.argmax(-1)
        assert same[clear].all()
