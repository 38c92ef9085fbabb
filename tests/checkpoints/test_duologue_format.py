"""Our own layout: our names, and quantised matrices in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.golden import GOLDEN

from duologue.checkpoints import CheckpointError, ModelFolder
from duologue.checkpoints.detect import prepare_lm
from duologue.checkpoints.duologue_format import DuologueSource, pack
from duologue.checkpoints.load import build_lm, load_lm
from duologue.checkpoints.save import save_lm
from duologue.checkpoints.tensorfile import TensorDict
from duologue.nn.linear import QuantizedLinear, QuantizedWeight, quantize_rows

WEIGHTS = {
    "a.weight": quantize_rows(torch.randn(4, 8)),
    "b.weight": QuantizedWeight(
        torch.randint(0, 256, (4, 4), dtype=torch.uint8), torch.rand(4, 2), torch.rand(4, 2), bits=4
    ),
    "c.weight": torch.randn(3, 2),
    "c.scales": torch.randn(1),
}


def test_pack_and_read() -> None:
    source = DuologueSource(TensorDict("x", pack(WEIGHTS)))
    assert set(source) == set(WEIGHTS)
    assert len(source) == 4
    for key, weight in WEIGHTS.items():
        assert key in source
        assert source.info(key).shape == tuple(weight.shape)
        read = source.quantized(key)
        if isinstance(weight, QuantizedWeight):
            assert read is not None
            assert read.bits == weight.bits
            assert torch.equal(source[key], weight.dequantize())
        else:
            assert read is None
            assert torch.equal(source[key], weight)
    assert "a.codes" in source
    assert "nothing" not in source


@pytest.mark.parametrize("bits", [8, 4])
def test_saved_model_keeps_its_codes(bits: int, tmp_path: Path) -> None:
    """Scales are not narrowed with the rest, and 4-bit codes are not taken for 8-bit ones."""
    folder = ModelFolder.open(GOLDEN / "lm_duplex")
    lm = load_lm(GOLDEN / "lm_duplex")
    weight = quantize_rows(lm.text_linear.weight)
    if bits == 4:
        codes = torch.randint(0, 256, (96, 32), dtype=torch.uint8)
        weight = QuantizedWeight(codes, torch.rand(96, 2), torch.rand(96, 2), bits=4)
    lm.text_linear = QuantizedLinear(weight)  # type: ignore[assignment]
    save_lm(tmp_path, lm, folder.config, dtype=torch.bfloat16)
    again = load_lm(tmp_path).text_linear
    assert isinstance(again, QuantizedLinear)
    for part in ("codes", "scales", "offsets"):
        ours, theirs = getattr(again.quantized_weight, part), getattr(weight, part)
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours.dtype == theirs.dtype and torch.equal(ours, theirs))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"w.codes": torch.zeros(2, 4, dtype=torch.int8)}, "no w.scales beside it"),
        (
            {"w.codes": torch.zeros(2, 4), "w.scales": torch.ones(2, 1)},
            "expected a matrix of bytes",
        ),
        (
            {"w.codes4": torch.zeros(2, 4, dtype=torch.int8), "w.scales": torch.ones(2, 1)},
            "expected a matrix of bytes",
        ),
        (
            {"w.codes": torch.zeros(8, dtype=torch.int8), "w.scales": torch.ones(2, 1)},
            "expected a matrix of bytes",
        ),
        (
            {"w.codes": torch.zeros(2, 4, dtype=torch.int8), "w.scales": torch.ones(2, 3)},
            "do not fit",
        ),
    ],
)
def test_malformed_parts(parts: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        DuologueSource(TensorDict("x", parts))["w.weight"]


@pytest.mark.parametrize("name", ["lm_duplex", "lm_stt"])
def test_recognised_with_and_without_depth(name: str) -> None:
    lm = build_lm(ModelFolder.open(GOLDEN / name))
    weights = {
        key: quantize_rows(torch.randn(tensor.shape)) if "transformer.layers" in key
        and tensor.dim() == 2 and "depformer" not in key else torch.randn(tensor.shape)
        for key, tensor in lm.state_dict().items()
    }  # fmt: skip
    source, layout = prepare_lm(TensorDict("x", pack(weights)), lm)
    read = layout.read(source, lm.state_dict())
    kept = {key for key, weight in read.items() if isinstance(weight, QuantizedWeight)}
    assert kept == {key for key, weight in weights.items() if isinstance(weight, QuantizedWeight)}
