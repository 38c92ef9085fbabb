"""The reference encoder against a direct, one-text-at-a-time reading of its description."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from duologue.conditioning.reference import (
    ReferenceConditioner,
    ReferenceConfig,
    ReferenceConfigError,
    ReferenceEncoder,
    pooling_matrix,
)

CONFIG = ReferenceConfig(
    vocab_size=40, dim=16, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=6, hidden_dim=20,
    pooling=4, bridge_hidden=10, bridge_out=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> ReferenceEncoder:
    torch.manual_seed(0)
    return ReferenceEncoder(CONFIG).eval().requires_grad_(False)


def by_hand(encoder: ReferenceEncoder, tokens: list[int]) -> Tensor:
    """One text, plain loops and complex numbers."""
    weights = encoder.state_dict()
    n = len(tokens)

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain

    def rotate(x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[0])[:, None] * 500_000.0 ** (
            -torch.arange(0, 6, 2, dtype=torch.float64) / 6
        )
        turn = torch.polar(torch.ones_like(angles), angles)[:, None]
        pairs = torch.view_as_complex(x.double().reshape(*x.shape[:2], 3, 2).contiguous())
        return torch.view_as_real(pairs * turn).flatten(2).float()

    def pooled(x: Tensor) -> Tensor:
        groups = math.ceil(n / 4)
        sizes = [n // groups + (g < n % groups) for g in range(groups)]
        return torch.stack([part.mean(0) for part in x.split(sizes)])

    x = weights["embedder.tok_embeddings.weight"][tokens]
    for layer in range(3):
        prefix = f"embedder.layers.{layer}."
        w = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        queries = pooled(x) if layer == 2 else x
        normed = norm(x, w["attention_norm.weight"])
        q = norm(queries, w["attention_norm.weight"]) @ w["attention.wq.weight"].T
        k, v = normed @ w["attention.wk.weight"].T, normed @ w["attention.wv.weight"].T
        q, k = rotate(q.view(-1, 4, 6)), rotate(k.view(n, 2, 6))
        heads = []
        for head in range(4):
            scores = q[:, head] @ k[:, head // 2].T / 6**0.5
            heads.append(torch.softmax(scores, -1) @ v.view(n, 2, 6)[:, head // 2])
        x = queries + torch.cat(heads, -1) @ w["attention.wo.weight"].T
        y = norm(x, w["ffn_norm.weight"])
        gate = torch.nn.functional.silu(y @ w["feed_forward.w1.weight"].T)
        x = x + (gate * (y @ w["feed_forward.w3.weight"].T)) @ w["feed_forward.w2.weight"].T
    return x @ weights["bridge_module.layer1.weight"].T @ weights["bridge_module.layer2.weight"].T


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 10, 17])
def test_parity_with_the_description(encoder: ReferenceEncoder, length: int) -> None:
    tokens = [(7 * i + 3) % 40 for i in range(length)]
    (rows,) = encoder([tokens])
    assert rows.shape == (math.ceil(length / 4), 12)
    torch.testing.assert_close(rows, by_hand(encoder, tokens), atol=1e-5, rtol=1e-4)


def test_a_batch_is_its_texts(encoder: ReferenceEncoder) -> None:
    texts = [[1, 2, 3], [5] * 11, [9, 8], list(range(30))]
    for text, rows in zip(texts, encoder(texts), strict=True):
        torch.testing.assert_close(rows, encoder([text])[0], atol=1e-5, rtol=1e-4)


def test_order_matters_and_both_directions_are_seen(encoder: ReferenceEncoder) -> None:
    (plain,), (turned,), (ending,) = (
        encoder([text]) for text in ([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 7])
    )
    assert not torch.allclose(plain, turned)
    assert not torch.allclose(plain[0], ending[0])


def test_groups_are_as_equal_as_can_be_larger_first() -> None:
    widths = [
        [int(w) for w in (row[:groups] > 0).sum(-1)]
        for row, groups in zip(pooling_matrix([10, 7, 4, 1], 4), [3, 2, 1, 1], strict=True)
    ]
    assert widths == [[4, 3, 3], [4, 3], [4], [1]]
    assert torch.allclose(pooling_matrix([10, 7], 4).sum(-1)[0], torch.ones(3))


def test_no_texts_and_no_tokens(encoder: ReferenceEncoder) -> None:
    assert encoder([]) == []
    with pytest.raises(ValueError, match="without tokens"):
        encoder([[1], []])


def test_published_options_give_the_published_shape() -> None:
    options = {
        "embedder_params": {"compress_rates": [-4]},
        "bridge_module": {"in_dim": 3072, "out_dim": 4096, "hidden_dim": 2048},
        "hf_repo": "kyutai/ARC4_Encoder_Llama",
        "finetune": False,
        "ref_dropout": 0.2,
        "frame_rate": 12.5,
        "learn_padding": True,
    }
    assert ReferenceConfig.from_options(options) == ReferenceConfig()
    with torch.device("meta"):
        conditioner = ReferenceConditioner(4096, options)
        encoder = ReferenceEncoder(ReferenceConfig())
    assert conditioner.output_proj.weight.shape == (4096, 4096)
    shapes = {k: tuple(v.shape) for k, v in encoder.state_dict().items()}
    assert shapes["embedder.tok_embeddings.weight"] == (128_256, 3072)
    assert shapes["embedder.layers.25.attention.wk.weight"] == (1024, 3072)
    assert shapes["embedder.layers.0.feed_forward.w2.weight"] == (3072, 8192)
    assert shapes["bridge_module.layer1.weight"] == (2048, 3072)
    assert len(shapes) == 1 + 26 * 9 + 2
    assert encoder.rows(50) == 13


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"embedder_params": {"compress_rates": [4]}}, "compress_rates"),
        ({"embedder_params": {"layers": 3}}, "layers"),
        ({"bridge_module": {"in_dim": 12}}, "in_dim"),
    ],
)
def test_bad_options_name_the_entry(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ReferenceConfigError, match=complaint):
        ReferenceConfig.from_options(options)
