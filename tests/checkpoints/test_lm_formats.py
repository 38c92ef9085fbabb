"""Each language model format, written by hand from golden weights, gives the golden tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoint_writers import (
    Tensors,
    golden_config,
    golden_tensors,
    mlx_quantized,
    q8_0,
    save,
    sliced,
    transformers_lm_config,
    transformers_mimi,
    transformers_mimi_config,
    transformers_moshi,
    transformers_stt,
    write_folder,
    write_gguf,
)
from support.golden import conditions, integers
from torch import Tensor

import duologue
from duologue.checkpoints import CheckpointError
from duologue.checkpoints.detect import LMFormat, detect_lm_format
from duologue.checkpoints.load import load_codec, load_lm
from duologue.checkpoints.tensorfile import TensorDict, open_tensors
from duologue.moshi import MoshiLM
from duologue.moshi.embedding import TokenEmbedding
from duologue.nn.linear import QuantizedLinear

GREEDY = duologue.Sampling(0.0)


def load(folder: Path) -> MoshiLM:
    return load_lm(folder, device="cpu", dtype=torch.float32)


def tokens(lm: MoshiLM, name: str, steps: int | None = None) -> Tensor:
    """What greedy generation gives for a golden case's inputs, [1 + generated, T]."""
    user = integers(name, "user_tokens")
    gen = lm.generator(1, sampling=GREEDY, conditions=conditions(name))
    steps = steps or integers(name, "out_tokens").shape[1]
    outputs = [
        gen.step(user[None, :, t : t + 1] if gen.given_q else None) for t in range(steps)
    ]  # fmt: skip
    return torch.stack([torch.cat([o.text[0, None], o.audio[0]]) for o in outputs], dim=1)


def assert_golden(folder: Path, name: str) -> MoshiLM:
    lm = load(folder)
    assert torch.equal(tokens(lm, name), integers(name, "out_tokens"))
    return lm


@pytest.mark.parametrize("name", ["lm_duplex", "lm_cross", "lm_conditioned"])
@pytest.mark.parametrize("kind", ["mlx", "candle"])
def test_sliced_depth(kind: str, name: str, tmp_path: Path) -> None:
    config = golden_config(name)
    folder = write_folder(tmp_path, config, sliced(golden_tensors(name), config, kind))
    assert detect_lm_format(open_tensors(folder / "model.safetensors")) is LMFormat(kind)
    assert_golden(folder, name)


@pytest.mark.parametrize("kind", ["mlx", "candle"])
def test_sliced_without_depth(kind: str, tmp_path: Path) -> None:
    config = golden_config("lm_stt")
    folder = write_folder(tmp_path, config, sliced(golden_tensors("lm_stt"), config, kind))
    assert_golden(folder, "lm_stt")


def test_copies_that_differ_are_refused(tmp_path: Path) -> None:
    """lm_cross shares one weight set among the last two depth steps."""
    config = golden_config("lm_cross")
    tensors = sliced(golden_tensors("lm_cross"), config, "candle")
    key = "depformer.3.transformer.layers.0.gating.linear_in.weight"
    tensors[key] = tensors[key] + 1
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        load(write_folder(tmp_path, config, tensors))


@pytest.mark.parametrize(("bits", "group"), [(8, 64), (4, 32)])
def test_mlx_quantized(bits: int, group: int, tmp_path: Path) -> None:
    """Same tokens as the widened weights; linear maps stay integer, embeddings do not."""
    name = "lm_duplex"
    config = golden_config(name)
    stored, wide = mlx_quantized(sliced(golden_tensors(name), config, "mlx"), bits, group)
    lm = load(write_folder(tmp_path / "q", config, stored, f"model.q{bits}.safetensors"))
    plain = load(write_folder(tmp_path / "wide", config, wide))
    assert torch.equal(tokens(lm, name, 24), tokens(plain, name, 24))
    quantized = [m for m in lm.modules() if isinstance(m, QuantizedLinear)]
    assert quantized
    assert {m.bits for m in quantized} == {bits}
    table = next(m for m in lm.modules() if isinstance(m, TokenEmbedding))
    assert torch.equal(table.weight, wide["text_emb.weight"])


def test_mlx_shared_sets_stay_quantized(tmp_path: Path) -> None:
    config = golden_config("lm_cross")
    stored, wide = mlx_quantized(sliced(golden_tensors("lm_cross"), config, "mlx"), 4, 32)
    lm = load(write_folder(tmp_path / "q", config, stored))
    plain = load(write_folder(tmp_path / "wide", config, wide))
    assert torch.equal(tokens(lm, "lm_cross", 12), tokens(plain, "lm_cross", 12))
    shared = lm.depformer.layers[0].self_attn.in_proj
    assert all(isinstance(module, QuantizedLinear) for module in shared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"text_linear.weight": t["text_linear.weight"][:, :12]}, "only 4 and 8"),
        (lambda t: {k: v for k, v in t.items() if k != "text_linear.biases"}, "text_linear.biases"),
        (lambda t: t | {"text_linear.scales": t["text_linear.scales"][:, :3]}, "text_linear"),
    ],
)
def test_mlx_malformed(change: Any, message: str, tmp_path: Path) -> None:
    config = golden_config("lm_duplex")
    stored, _ = mlx_quantized(sliced(golden_tensors("lm_duplex"), config, "mlx"), 8, 16)
    with pytest.raises(CheckpointError, match=message):
        load(write_folder(tmp_path, config, change(stored)))


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_gguf(kind: str, tmp_path: Path) -> None:
    name = "lm_duplex"
    config = golden_config(name)
    tensors = sliced(golden_tensors(name), config, "candle")
    folder = write_folder(tmp_path, config, {}, "model.q8.gguf")
    write_gguf(folder / "model.q8.gguf", tensors, dict.fromkeys(tensors, kind))
    assert_golden(folder, name)


def test_gguf_q8(tmp_path: Path) -> None:
    name = "lm_duplex"
    config = golden_config(name)
    tensors = sliced(golden_tensors(name), config, "candle")
    kinds = {k: "q8_0" for k, t in tensors.items() if t.dim() == 2 and t.shape[1] % 32 == 0}
    wide = dict(tensors)
    for key in kinds:
        scale, codes = q8_0(tensors[key])
        wide[key] = (codes.float() * scale.float()[..., None]).flatten(1)
    folder = write_folder(tmp_path / "q", config, {}, "model.q8.gguf")
    write_gguf(folder / "model.q8.gguf", tensors, kinds, alignment=64)
    lm = load(folder)
    plain = load(write_folder(tmp_path / "wide", config, wide))
    assert torch.equal(tokens(lm, name, 24), tokens(plain, name, 24))
    assert isinstance(lm.text_linear, QuantizedLinear)
    assert lm.text_linear.scales.shape == (96, 2)
    assert torch.equal(lm.emb[0].weight, plain.emb[0].weight)


def test_transformers_moshi(tmp_path: Path) -> None:
    """One file with both models, and a configuration that says both shapes."""
    name = "lm_duplex"
    codec = golden_config("mimi")
    tensors = transformers_moshi(golden_tensors(name), golden_config(name))
    tensors |= transformers_mimi(golden_tensors("mimi"), codec, "audio_encoder.")
    config = transformers_lm_config(golden_config(name), transformers_mimi_config(codec))
    lm = assert_golden(write_folder(tmp_path, config, tensors), name)
    assert lm.config.delays == tuple(golden_config(name)["delays"])
    mimi = load_codec(tmp_path, device="cpu")
    assert mimi.num_codebooks == 4
    pcm = integers("mimi", "pcm_i16")[None, None].float() / 32768
    assert torch.equal(mimi.encode(pcm)[0], integers("mimi", "codes")[:4])


def test_transformers_stt(tmp_path: Path) -> None:
    """Without the extra heads, which the format does not have."""
    config = golden_config("lm_stt")
    codec = golden_config("mimi")
    tensors = transformers_stt(golden_tensors("lm_stt"), config)
    tensors |= transformers_mimi(golden_tensors("mimi"), codec, "codec_model.", nested=True)
    values = transformers_lm_config(config, transformers_mimi_config(codec))
    assert_golden(write_folder(tmp_path, values, tensors), "lm_stt")
    mimi = load_codec(tmp_path, device="cpu", num_codebooks=6)
    assert mimi.config.quantizer.bins == 64


def test_transformers_shards(tmp_path: Path) -> None:
    name = "lm_duplex"
    codec = golden_config("mimi")
    tensors = transformers_moshi(golden_tensors(name), golden_config(name))
    tensors |= transformers_mimi(golden_tensors("mimi"), codec, "audio_encoder.")
    config = transformers_lm_config(golden_config(name), transformers_mimi_config(codec))
    write_folder(tmp_path, config, {})
    (tmp_path / "model.safetensors").unlink()
    halves: dict[str, Tensors] = {}
    for index, (key, value) in enumerate(tensors.items()):
        halves.setdefault(f"model-{index % 2}.safetensors", {})[key] = value
    for shard, part in halves.items():
        save(tmp_path / shard, part)
    index = {key: shard for shard, part in halves.items() for key in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_golden(tmp_path, name)


def test_unknown_format() -> None:
    with pytest.raises(CheckpointError, match="no language model in a known format"):
        detect_lm_format(TensorDict("x", {"a.weight": torch.zeros(1)}))
