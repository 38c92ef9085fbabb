"""PersonaPlex: depth weights of the second half, and how its folder is recognised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoint_writers import Tensors, golden_config, golden_tensors, write_folder
from support.golden import integers

import duologue
from duologue.checkpoints import CheckpointError, ModelFolder
from duologue.checkpoints.load import load_lm
from duologue.checkpoints.personaplex import folder_config
from duologue.moshi import MoshiLM
from duologue.nn.linear import QuantizedLinear

HALF = 4


def doubled(name: str = "lm_duplex", model_type: str = "personaplex") -> dict[str, Any]:
    config = golden_config(name)
    return config | {"dep_q": 2 * config["dep_q"], "model_type": model_type,
                     "generated_q": config["dep_q"]}  # fmt: skip


def load(folder: Path) -> MoshiLM:
    return load_lm(folder, device="cpu", dtype=torch.float32)


def per_step(tensors: Tensors) -> Tensors:
    """The same weights with one key for each depth step, as newer programs write them."""
    out = {}
    for key, value in tensors.items():
        if not key.startswith("depformer.") or "self_attn" not in key:
            out[key] = value
            continue
        stem, side = key.split("self_attn.")[0], "in" if "in_proj" in key else "out"
        for step, part in enumerate(value.chunk(HALF)):
            out[f"{stem}self_attn.{side}_projs.{step}.weight"] = part
    return out


@pytest.mark.parametrize("spelling", ["fused", "per step"])
def test_second_half_starts_as_the_first(spelling: str, tmp_path: Path) -> None:
    tensors = golden_tensors("lm_duplex")
    if spelling == "per step":
        tensors = per_step(tensors)
    state = load(write_folder(tmp_path, doubled(), tensors)).state_dict()
    for step in range(HALF):
        for key in (
            "depformer_in.{}.weight", "linears.{}.weight",
            "depformer.layers.1.self_attn.in_proj.{}.weight",
            "depformer.layers.0.self_attn.out_proj.{}.weight",
            "depformer.layers.0.gating.{}.linear_in.weight",
        ):  # fmt: skip
            assert torch.equal(state[key.format(step)], state[key.format(step + HALF)]), key
    for step in range(HALF - 1):
        key = "depformer_emb.{}.weight"
        assert torch.equal(state[key.format(step)], state[key.format(step + HALF)])
    assert not state["depformer_emb.3.weight"].any()


def test_agent_is_unchanged(tmp_path: Path) -> None:
    """The first half of the steps, which is all that is generated, gives the golden tokens."""
    lm = load(write_folder(tmp_path, doubled(), golden_tensors("lm_duplex")))
    gen = lm.generator(1, sampling=duologue.Sampling(0.0), generated_q=HALF)
    user, golden = integers("lm_duplex", "user_tokens"), integers("lm_duplex", "out_tokens")
    for t in range(golden.shape[1]):
        out = gen.step(user[None, :, t : t + 1])
        assert torch.equal(torch.cat([out.text[0, None], out.audio[0]]), golden[:, t])


def test_a_whole_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    half = write_folder(tmp_path / "half", doubled(), golden_tensors("lm_duplex"))
    state = load(half).state_dict()
    whole = {}
    for key, value in state.items():
        key = key.replace("self_attn.in_proj", "self_attn.in_projs")
        whole[key.replace("self_attn.out_proj", "self_attn.out_projs").replace(
            "projs.weight", "projs.0.weight")] = torch.randn_like(value)  # fmt: skip
    again = load(write_folder(tmp_path / "whole", doubled(), whole)).state_dict()
    assert torch.equal(again["linears.7.weight"], whole["linears.7.weight"])
    assert not torch.equal(again["linears.7.weight"], again["linears.3.weight"])


def test_quantised_halves(tmp_path: Path) -> None:
    config = doubled("lm_q8") | {"n_q": 4}
    lm = load(write_folder(tmp_path, config, golden_tensors("lm_q8")))
    pair = [lm.depformer.layers[0].self_attn.in_proj[i] for i in (0, 2)]
    assert all(isinstance(module, QuantizedLinear) for module in pair)
    assert torch.equal(pair[0].codes, pair[1].codes)
    assert torch.equal(pair[0].scales, pair[1].scales)


def test_other_models_are_not_filled_up(tmp_path: Path) -> None:
    config = doubled(model_type="moshi")
    with pytest.raises(CheckpointError, match=r"lacks tensors depformer_in\.4\.weight"):
        load(write_folder(tmp_path, config, golden_tensors("lm_duplex")))


@pytest.mark.parametrize(
    ("values", "files", "recognised"),
    [
        ({"model_type": "personaplex"}, (), True),
        ({}, ("voices.tgz",), True),
        ({"version": 1}, ("voices/",), True),
        ({}, (), False),
        ({"model_type": "personaplex", "dim": 64}, (), False),
        ({"model_type": "moshi", "hidden_size": 64}, ("voices.tgz",), False),
    ],
)
def test_recognition(
    values: dict[str, Any], files: tuple[str, ...], recognised: bool, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    config = folder_config(values, tmp_path)
    assert (config is not None) == recognised
    if recognised:
        (tmp_path / "config.json").write_text(json.dumps(values))
        opened = ModelFolder.open(tmp_path).config
        assert opened.lm.dep_q == 16
        assert opened.generated_q == opened.num_codebooks == 8
