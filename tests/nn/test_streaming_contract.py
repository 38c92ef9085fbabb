"""Every stateful primitive keeps the streaming contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.contract import CHECKS, Case
from torch import Tensor, nn

from duologue.mimi.config import SEANetConfig
from duologue.mimi.seanet import build_decoder, build_encoder
from duologue.nn import CausalConv1d, CausalConvTranspose1d, Transformer, TransformerConfig

SMALL = {"dim": 16, "num_heads": 4, "num_layers": 2, "feedforward": 24}


def convolution(module: nn.Module, channels: int, unit: int = 1, units: int = 12) -> Case:
    def sample(slots: int, units: int) -> Tensor:
        return torch.randn(slots, channels, units * unit)

    return Case(module.init_state, module.step, module, sample, unit=unit, units=units)


def transformer(slotwise: bool, **changes: object) -> Case:
    stack = Transformer(TransformerConfig(**{**SMALL, "context": 5, **changes}))
    cross = torch.randn(1, 4, 16) if stack.config.cross_attention else None

    def expanded(slots: int) -> Tensor | None:
        return None if cross is None else cross.expand(slots, -1, -1)

    def init_state(slots: int):
        state = stack.init_state(slots)
        if cross is not None:
            stack.set_condition(state, expanded(slots))
        return state

    return Case(
        init_state,
        lambda x, state, active: stack.step(x, state, active, slotwise=slotwise),
        lambda x: stack(x, expanded(x.shape[0])),
        lambda slots, units: torch.randn(slots, units, 16),
        time=1,
        units=13,
    )


SEANET = SEANetConfig(dimension=8, n_filters=2, ratios=(3, 2), n_residual_layers=2)
CASES: dict[str, Callable[[], Case]] = {
    "conv": lambda: convolution(CausalConv1d(3, 4, 7), 3),
    "conv kernel 1": lambda: convolution(CausalConv1d(3, 4, 1), 3),
    "conv dilated": lambda: convolution(CausalConv1d(3, 4, 3, dilation=4), 3),
    "conv strided": lambda: convolution(CausalConv1d(3, 4, 8, stride=4), 3, unit=4),
    "conv grouped": lambda: convolution(CausalConv1d(4, 4, 5, groups=2, bias=False), 4),
    "conv replicate": lambda: convolution(
        CausalConv1d(3, 4, 4, stride=2, pad_mode="replicate"), 3, unit=2
    ),
    "convtr": lambda: convolution(CausalConvTranspose1d(3, 4, 8, 4), 3),
    "convtr long overlap": lambda: convolution(CausalConvTranspose1d(3, 4, 7, 2), 3),
    "convtr no overlap": lambda: convolution(CausalConvTranspose1d(3, 4, 2, 2), 3),
    "convtr depthwise": lambda: convolution(
        CausalConvTranspose1d(4, 4, 4, 2, groups=4, bias=False), 4
    ),
    "seanet encoder": lambda: convolution(build_encoder(SEANET), 1, unit=6, units=6),
    "seanet decoder": lambda: convolution(build_decoder(SEANET), 8, units=6),
}
for plan, slotwise in (("slotwise", True), ("masked", False)):
    CASES |= {
        f"transformer {plan}": lambda s=slotwise: transformer(s),
        f"transformer {plan} chunk 2": lambda s=slotwise: transformer(s, max_chunk=2),
        f"transformer {plan} gated rms": lambda s=slotwise: transformer(
            s, gating="silu", norm="rms_norm_f32", positional_embedding="rope_concat"
        ),
        f"transformer {plan} kv_repeat": lambda s=slotwise: transformer(
            s, kv_repeat=2, positional_embedding="none", layer_scale=0.5
        ),
        f"transformer {plan} cross": lambda s=slotwise: transformer(s, cross_attention=True),
    }


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_contract(name: str, check: Callable[[Case], None]) -> None:
    torch.manual_seed(0)
    check(CASES[name]())
