from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from duologue.nn import Linear, LoRALinear, PerStep, QuantizedLinear, add_lora, fuse_lora
from duologue.nn.linear import QuantizedWeight, quantize_rows, replace_linears


def test_row_quantisation_is_close_and_keeps_the_largest_weight() -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 64)
    quantized = quantize_rows(weight)
    error = (quantized.dequantize() - weight).abs().amax(dim=1)
    assert (error <= weight.abs().amax(dim=1) / 127 / 2 * 1.01).all()
    assert quantized.codes.abs().amax(dim=1).eq(127).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_grouped_codes_widen_to_scale_times_code_plus_offset(bits: int) -> None:
    torch.manual_seed(1)
    codes = torch.randint(0, 2**bits, (6, 64))
    scales, offsets = torch.rand(6, 4), torch.randn(6, 4)
    packed = codes.to(torch.uint8)
    if bits == 4:
        packed = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)
    weight = QuantizedWeight(packed, scales, offsets, bits)
    by_hand = codes * scales.repeat_interleave(16, 1) + offsets.repeat_interleave(16, 1)
    assert weight.shape == (6, 64)
    torch.testing.assert_close(weight.dequantize(), by_hand)
    torch.testing.assert_close(weight.rows(2, 3).dequantize(), by_hand[2:5])
    x = torch.randn(3, 64)
    torch.testing.assert_close(QuantizedLinear(weight)(x), x @ by_hand.T)


def test_misfitting_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="scales"):
        QuantizedWeight(torch.zeros(4, 10, dtype=torch.int8), torch.ones(4, 3))
    with pytest.raises(ValueError, match="bits"):
        QuantizedWeight(torch.zeros(4, 10, dtype=torch.int8), torch.ones(4, 1), bits=3)


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({"scales": torch.ones(1, 1)}, r"scales \(1, 1\) do not fit a matrix of \(4, 10\)"),
        ({"scales": torch.ones(2, 1)}, "do not fit"),
        ({"scales": torch.ones(4, 0)}, "do not fit"),
        ({"scales": torch.ones(4, 1, dtype=torch.int64)}, "scales are torch.int64"),
        ({"offsets": torch.ones(4, 2)}, r"offsets are torch.float32 \(4, 2\)"),
        ({"codes": torch.zeros(4, 10)}, "torch.float32 are no bytes"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(
    parts: dict[str, torch.Tensor], complaint: str
) -> None:
    fitting = {"codes": torch.zeros(4, 10, dtype=torch.int8), "scales": torch.ones(4, 1)}
    with pytest.raises(ValueError, match=complaint):
        QuantizedWeight(**{**fitting, **parts})


def test_an_adapter_starts_without_effect_trains_alone_and_fuses() -> None:
    torch.manual_seed(2)
    net = torch.nn.Sequential(Linear(8, 6), torch.nn.ReLU(), Linear(6, 4))
    x = torch.randn(5, 8)
    before = net(x)
    add_lora(net, rank=2, scaling=2.0)
    torch.testing.assert_close(net(x), before)
    trainable = [name for name, p in net.named_parameters() if p.requires_grad]
    assert trainable == ["0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B"]
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, LoRALinear):
                module.lora_B.normal_()
    adapted = net(x)
    assert not torch.allclose(adapted, before)
    fuse_lora(net)
    assert all(isinstance(net[i], Linear) for i in (0, 2))
    torch.testing.assert_close(net(x), adapted)


def test_steps_share_modules_by_the_schedule() -> None:
    torch.manual_seed(3)
    steps = PerStep((0, 1, 1, 2), lambda: Linear(4, 3))
    assert len(steps) == 3
    x = torch.randn(4, 2, 4)
    y = steps(x)
    for k, index in enumerate((0, 1, 1, 2)):
        torch.testing.assert_close(y[k], steps[index](x[k]))
        assert steps.at(k) is steps[index]


def test_rows_of_bytes_do_not_overflow_in_float16() -> None:
    weight, x = torch.full((2, 256), 0.05), torch.full((1, 256), 3.0)
    there = QuantizedLinear(quantize_rows(weight))(x.half())
    torch.testing.assert_close(there.float(), F.linear(x, weight), atol=0.1, rtol=5e-3)


def test_replacing_linears_reaches_nested_ones_and_skips_on_none() -> None:
    net = torch.nn.ModuleDict({"a": torch.nn.Sequential(Linear(4, 4)), "b": Linear(4, 4)})
    replace_linears(
        net, lambda name, m: None if name == "b" else QuantizedLinear(quantize_rows(m.weight))
    )
    assert isinstance(net["a"][0], QuantizedLinear)
    assert isinstance(net["b"], Linear)
