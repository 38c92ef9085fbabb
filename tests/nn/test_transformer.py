from __future__ import annotations

import pytest
import torch

from duologue.nn import Transformer, TransformerConfig
from duologue.nn.cache import plan_step

CONFIG = TransformerConfig(dim=16, num_heads=2, num_layers=2, feedforward=32, context=6)


@torch.no_grad()
def test_both_cache_plans_agree_for_slots_at_different_places() -> None:
    torch.manual_seed(1)
    stack = Transformer(CONFIG)
    states = [stack.init_state(3) for _ in range(2)]
    for step in range(20):
        x = torch.randn(3, 1, 16)
        active = torch.tensor([True, step % 2 == 0, step > 9])
        one, other = (
            stack.step(x, state, active, slotwise=slotwise)
            for state, slotwise in zip(states, (True, False), strict=True)
        )
        torch.testing.assert_close(one[active], other[active], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_query_finds_its_whole_context_in_the_ring() -> None:
    """With two positions a call the reference loses a key once its ring is full; we must not."""
    torch.manual_seed(2)
    stack = Transformer(TransformerConfig(**{**vars(CONFIG), "max_chunk": 2}))
    x = torch.randn(1, 40, 16)
    state = stack.init_state(1)
    streamed = torch.cat([stack.step(part, state) for part in x.split(2, dim=1)], dim=1)
    torch.testing.assert_close(streamed, stack(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_nothing_looks_ahead_or_beyond_the_context() -> None:
    torch.manual_seed(3)
    layer = Transformer(TransformerConfig(**{**vars(CONFIG), "num_layers": 1}))
    x = torch.randn(1, 20, 16)
    changed = x.clone()
    changed[:, 10] += 1.0
    differs = (layer(x) != layer(changed)).any(dim=-1)[0]
    assert differs.nonzero().flatten().tolist() == list(range(10, 16))


@torch.no_grad()
def test_branches_of_a_slot_share_positions_but_not_content() -> None:
    torch.manual_seed(4)
    stack = Transformer(CONFIG)
    x = torch.randn(4, 9, 16)
    paired, plain = stack.init_state(2, branches=2), stack.init_state(4)
    for part in x.split(1, dim=1):
        torch.testing.assert_close(stack.step(part, paired), stack.step(part, plain))
    assert paired.slots == 2
    moved = paired.select([1])
    y = torch.randn(4, 1, 16)
    torch.testing.assert_close(stack.step(y[2:], moved), stack.step(y, paired)[2:])


def test_a_chunk_beyond_the_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk of 3"):
        plan_step(torch.zeros(1, dtype=torch.int64), 3, capacity=7, context=6, active=None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"context": 0}, "context"),
        ({"kv_repeat": 3}, "kv_repeat"),
        ({"positional_embedding": "sin"}, "positional_embedding"),
        ({"gating": "gelu"}, "gating"),
        ({"norm": "layer_norm_f32"}, "norm"),
        ({"feedforward": [8]}, "feedforward"),
        ({"context": None}, "context"),
    ],
)
def test_configuration_errors_name_the_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        TransformerConfig(**{**vars(CONFIG), **change})


@torch.no_grad()
def test_rotation_stays_exact_in_a_conversation_of_days() -> None:
    """Attention depends on distances only, also when positions have grown to many millions."""
    torch.manual_seed(5)
    stack = Transformer(CONFIG)
    # Two layers of context 6: the last of 12 positions depends on none before them.
    x = torch.randn(1, 12, 16)
    early, late = stack.init_state(1), stack.init_state(1)
    late.offset += 60_000_000
    one, other = (
        torch.cat([stack.step(part, state) for part in x.split(1, dim=1)], dim=1)
        for state in (early, late)
    )
    torch.testing.assert_close(one[:, -1], other[:, -1], atol=1e-5, rtol=1e-5)
