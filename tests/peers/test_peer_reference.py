"""The reference encoder's parts against published code that has them.

The published encoder itself needs a package that runs on CUDA alone, so its parts are compared: the
trunk is a Llama that attends in both directions (transformers), and what follows the bridge is the
base of all of Moshi's conditioners (moshi). Pooling is checked by hand in `tests/conditioning`.
"""

from __future__ import annotations

import pytest
import torch
from peers.peer_models import assert_near, import_peer, randomize
from torch import Tensor

from duologue.conditioning import ReferenceConditioner, ReferenceConfig, ReferenceEncoder

CONFIG = ReferenceConfig(
    vocab_size=50, dim=48, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=8, hidden_dim=72,
    pooling=1, bridge_hidden=24, bridge_out=32,
)  # fmt: skip
LLAMA_NAMES = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}  # fmt: skip


def halves_of_pairs(weight: Tensor) -> Tensor:
    """Rows of a projection whose rotated pairs are neighbours, for one that rotates halves."""
    heads = weight.unflatten(0, (-1, CONFIG.head_dim // 2, 2))
    return heads.transpose(1, 2).flatten(0, 2)


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_the_trunk_is_a_llama_that_looks_both_ways(tokens: int) -> None:
    transformers = import_peer("transformers")
    encoder = ReferenceEncoder(CONFIG).eval().requires_grad_(False)
    randomize(encoder, seed=tokens)
    llama = transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=CONFIG.vocab_size, hidden_size=CONFIG.dim, head_dim=CONFIG.head_dim,
            num_hidden_layers=CONFIG.n_layers, num_attention_heads=CONFIG.n_heads,
            num_key_value_heads=CONFIG.n_kv_heads, intermediate_size=CONFIG.hidden_dim,
            rms_norm_eps=CONFIG.norm_eps, max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},
        )
    )  # fmt: skip
    weights = {"embed_tokens.weight": encoder.embedder.tok_embeddings.weight}
    for number, layer in enumerate(encoder.embedder.layers):
        own = layer.state_dict()
        for ours, theirs in LLAMA_NAMES.items():
            weight = own[f"{ours}.weight"]
            paired = ours in ("attention.wq", "attention.wk")
            weights[f"layers.{number}.{theirs}.weight"] = (
                halves_of_pairs(weight) if paired else weight
            )
    llama.load_state_dict(weights | {"norm.weight": torch.ones(CONFIG.dim)})
    llama.norm = torch.nn.Identity()
    llama.eval()
    ids = torch.randint(50, (1, tokens), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        everywhere = torch.zeros(1, 1, tokens, tokens)  # added to scores: nothing is hidden
        hidden = llama(input_ids=ids, attention_mask=everywhere, use_cache=False).last_hidden_state
        (ours,) = encoder([ids[0].tolist()])
        bridge = encoder.bridge_module
        assert_near(ours, bridge.layer2(bridge.layer1(hidden))[0])


def test_what_follows_the_bridge_is_a_published_conditioner() -> None:
    import_peer("moshi.conditioners")
    from moshi.conditioners import TensorCondition
    from moshi.conditioners.tensors import TensorConditioner

    shape = {name: getattr(CONFIG, name) for name in ("dim", "n_heads", "n_kv_heads", "head_dim")}
    ours = ReferenceConditioner(
        20, {"embedder_params": shape, "bridge_module": {"hidden_dim": 24, "out_dim": 32}}
    ).requires_grad_(False)
    theirs = TensorConditioner(32, 20, "cpu")
    randomize(ours, seed=2)
    theirs.load_state_dict(ours.state_dict())
    vectors = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        given, _ = theirs(theirs.prepare(TensorCondition.from_tensor(vectors)))
        assert_near(ours(vectors), given)
        absent = TensorCondition(vectors[:, :1], torch.zeros(1, 1, dtype=torch.bool))
        assert_near(ours.absent, theirs(theirs.prepare(absent))[0][0])
