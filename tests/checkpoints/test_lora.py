"""Adapters are fused as W + scaling * B A, under every published spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoint_writers import Tensors, golden_config, golden_tensors, save, write_folder
from support.golden import GOLDEN

from duologue.checkpoints import CheckpointError
from duologue.checkpoints.folder import ModelFolder
from duologue.checkpoints.load import build_lm, load_lm
from duologue.checkpoints.lora import fuse_adapter
from duologue.checkpoints.tensorfile import TensorDict
from duologue.moshi import MoshiLM

RANK, SCALING = 3, 2.0


def load(folder: Path) -> MoshiLM:
    return load_lm(folder, device="cpu", dtype=torch.float32)


def factors(
    path: str, inputs: int, outputs: int, leaf: str = ".weight", copies: int = 1
) -> Tensors:
    generator = torch.Generator().manual_seed(sum(map(ord, path)))
    return {
        f"{path}.lora_A{leaf}": torch.randn(copies * RANK, inputs, generator=generator),
        f"{path}.lora_B{leaf}": torch.randn(copies * outputs, RANK, generator=generator),
    }


def with_adapter(folder: Path, adapter: Tensors, name: str = "lm_duplex", **config: Any) -> MoshiLM:
    values = {"lora": True, "lora_name": "lora.safetensors", "lora_rank": RANK,
              "lora_scaling": SCALING}  # fmt: skip
    write_folder(folder, golden_config(name) | values | config, golden_tensors(name))
    save(folder / "lora.safetensors", adapter)
    return load(folder)


def update(adapter: Tensors, path: str, leaf: str = ".weight") -> torch.Tensor:
    return SCALING * adapter[f"{path}.lora_B{leaf}"] @ adapter[f"{path}.lora_A{leaf}"]


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    return load(GOLDEN / "lm_duplex").state_dict()


PATHS = [
    (
        "transformer.layers.0.self_attn.in_projs.0",
        "transformer.layers.0.self_attn.in_proj",
        64,
        192,
    ),
    ("transformer.layers.1.self_attn.in_proj", "transformer.layers.1.self_attn.in_proj", 64, 192),
    (
        "transformer.layers.1.self_attn.out_projs.0",
        "transformer.layers.1.self_attn.out_proj",
        64,
        64,
    ),
    ("transformer.layers.0.gating.linear_in", "transformer.layers.0.gating.linear_in", 64, 352),
    ("depformer.layers.0.self_attn.in_projs.2", "depformer.layers.0.self_attn.in_proj.2", 32, 96),
    ("depformer.layers.1.gating.3.linear_out", "depformer.layers.1.gating.3.linear_out", 64, 32),
    ("linears.1", "linears.1", 32, 48),
    ("depformer_in.3", "depformer_in.3", 64, 32),
    ("text_linear", "text_linear", 64, 96),
]


@pytest.mark.parametrize(("path", "ours", "inputs", "outputs"), PATHS)
@pytest.mark.parametrize("own", [False, True], ids=["published", "ours"])
def test_each_linear_map(
    path: str, ours: str, inputs: int, outputs: int, own: bool, plain: Tensors, tmp_path: Path
) -> None:
    path, leaf = (ours, "") if own else (path, ".weight")
    adapter = factors(path, inputs, outputs, leaf)
    state = with_adapter(tmp_path, adapter).state_dict()
    for name, weight in state.items():
        base = plain[name]
        if name == f"{ours}.weight":
            assert torch.allclose(weight, base + update(adapter, path, leaf), atol=1e-6)
            assert not torch.equal(weight, base)
        else:
            assert torch.equal(weight, base), name


def test_depth_adapters_below_one_another(plain: Tensors, tmp_path: Path) -> None:
    """Fused spelling: one adapter for each depth step, stacked along rows as the weights are."""
    path = "depformer.layers.0.self_attn.in_proj"
    adapter = factors(path, 32, 96, copies=4)
    state = with_adapter(tmp_path, adapter).state_dict()
    downs, ups = (adapter[f"{path}.lora_{side}.weight"].chunk(4) for side in "AB")
    for step in range(4):
        name = f"depformer.layers.0.self_attn.in_proj.{step}.weight"
        assert torch.allclose(
            state[name], plain[name] + SCALING * ups[step] @ downs[step], atol=1e-6
        )


def test_cross_attention_shares_one_adapter(tmp_path: Path) -> None:
    base = load(GOLDEN / "lm_cross").state_dict()
    path = "transformer.layers.0.cross_attention.in_projs.0"
    adapter = factors(path, 64, 192)
    state = with_adapter(tmp_path, adapter, "lm_cross").state_dict()
    stem = "transformer.layers.0.cross_attention."
    whole = update(adapter, path)
    for name, part in (("query_proj", whole[:64]), ("condition_proj", whole[64:])):
        key = f"{stem}{name}.weight"
        assert torch.allclose(state[key], base[key] + part, atol=1e-6)


def test_whole_tensors_replace_the_models(plain: Tensors, tmp_path: Path) -> None:
    table = torch.randn(97, 64)
    adapter = factors("linears.0", 32, 48) | {"text_emb.weight": table}
    state = with_adapter(tmp_path, adapter).state_dict()
    assert torch.equal(state["text_emb.weight"], table)
    assert torch.equal(state["emb.0.weight"], plain["emb.0.weight"])


def test_dtype_of_the_sum() -> None:
    """A weight keeps its dtype unless another is asked for."""
    lm = build_lm(ModelFolder.open(GOLDEN / "lm_duplex"))
    weights = {
        name: torch.ones(t.shape, dtype=torch.bfloat16) for name, t in lm.state_dict().items()
    }
    adapter = TensorDict("adapter", factors("text_linear", 64, 96))
    exact = 1 + update(dict(adapter), "text_linear")
    for dtype in (None, torch.float32):
        fused = fuse_adapter(dict(weights), adapter, lm, SCALING, dtype)["text_linear.weight"]
        assert isinstance(fused, torch.Tensor)
        assert fused.dtype == (dtype or torch.bfloat16)
        assert torch.equal(fused, exact.to(fused.dtype))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"text_emb.weight": torch.zeros(97, 64)}, "has no adapter"),
        (factors("text_linear", 64, 97), "do not make an update"),
        (factors("text_linear", 63, 96), "do not make an update"),
        (factors("nowhere", 64, 96), "nowhere.lora_A.weight fits no linear map"),
        ({"text_linear.lora_A.weight": torch.zeros(RANK, 64)}, "lacks text_linear.lora_B.weight"),
        ({"text_linear.lora_B.weight": torch.zeros(96, RANK)}, "lacks text_linear.lora_A.weight"),
        (factors("text_linear", 64, 96) | {"stray": torch.zeros(1)}, "unexpected tensor stray"),
        (factors("text_linear", 64, 96) | {"text_emb.weight": torch.zeros(3)}, "text_emb.weight"),
        (factors("depformer.layers.0.self_attn.in_proj", 32, 95), "do not split into 4"),
    ],
)
def test_adapters_that_do_not_fit(adapter: Tensors, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        with_adapter(tmp_path, adapter)
    assert "lora.safetensors" in str(error.value)


def test_quantised_models_take_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="text_linear is quantised"):
        with_adapter(tmp_path, factors("text_linear", 64, 48), "lm_q8")
