"""Files of the reference encoder: published names, strictness, tokenizers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from support.checkpoint_writers import save

from duologue.checkpoints import CheckpointError
from duologue.checkpoints.duologue_format import identity_layout
from duologue.checkpoints.reference import load_reference_encoder, load_reference_tokenizer
from duologue.conditioning.reference import ReferenceConfig, ReferenceEncoder

SMALL = ReferenceConfig(
    vocab_size=40, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=48,
    bridge_hidden=24, bridge_out=16,
)  # fmt: skip


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in kyutai/ARC4_Encoder_Llama's model.safetensors."""
    layer = {
        "attention.wq": (3072, 3072), "attention.wk": (1024, 3072), "attention.wv": (1024, 3072),
        "attention.wo": (3072, 3072), "attention_norm": (3072,), "ffn_norm": (3072,),
        "feed_forward.w1": (8192, 3072), "feed_forward.w2": (3072, 8192),
        "feed_forward.w3": (8192, 3072),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        f"embedder.layers.{i}.{name}.weight": shape
        for i in range(26)
        for name, shape in layer.items()
    }
    return shapes | {
        "embedder.tok_embeddings.weight": (128_256, 3072),
        "bridge_module.layer1.weight": (2048, 3072),
        "bridge_module.layer2.weight": (4096, 2048),
    }


def test_published_encoder_has_our_names() -> None:
    with torch.device("meta"):
        encoder = ReferenceEncoder(ReferenceConfig())
    written = identity_layout(encoder).write(encoder.state_dict())
    assert {key: tuple(tensor.shape) for key, tensor in written.items()} == published_shapes()


def test_load(tmp_path: Path) -> None:
    encoder = ReferenceEncoder(SMALL).eval()
    save(tmp_path / "model.safetensors", dict(encoder.state_dict()))
    again = load_reference_encoder(tmp_path, SMALL)
    texts = [[1, 2, 3, 4, 5], [7]]
    with torch.no_grad():
        for ours, theirs in zip(again(texts), encoder(texts), strict=True):
            assert torch.equal(ours, theirs)
    narrow = load_reference_encoder(tmp_path / "model.safetensors", SMALL, dtype=torch.bfloat16)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in narrow.parameters())


def test_strictness(tmp_path: Path) -> None:
    state = dict(ReferenceEncoder(SMALL).state_dict())
    key = "embedder.layers.1.attention.wk.weight"
    for change in (
        {k: v for k, v in state.items() if k != key},
        state | {f"{key}s": torch.zeros(1)},
        state | {key: state[key][:-1]},
    ):
        save(tmp_path / "model.safetensors", change)
        with pytest.raises(CheckpointError, match=key):
            load_reference_encoder(tmp_path, SMALL)
    with pytest.raises(CheckpointError, match="no such file"):
        load_reference_encoder(tmp_path / "gone")


@pytest.fixture
def json_tokenizer(tmp_path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<s>": 0, "<unk>": 1, "the": 2, "sea": 3, "<": 4, "s": 5, ">": 6}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Whitespace(), tokenizers.pre_tokenizers.Punctuation()]
    )
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_json_tokenizer(json_tokenizer: Path) -> None:
    """No special tokens are added, none is made of a text that spells one, nothing is cut off."""
    tokenizer = load_reference_tokenizer(json_tokenizer)
    assert tokenizer.encode("the sea the") == [2, 3, 2]
    assert 0 not in tokenizer.encode("the <s> sea")
    assert load_reference_tokenizer(json_tokenizer.parent).encode("sea") == [3]


def test_json_tokenizer_without_the_package(
    json_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(CheckpointError, match=r"pip install 'duologue\[tokenizers\]'"):
        load_reference_tokenizer(json_tokenizer)


def test_sentencepiece_tokenizer(tmp_path: Path) -> None:
    import sentencepiece

    text = tmp_path / "text.txt"
    text.write_text("the sea is deep\nthe deep blue sea\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "t"), vocab_size=30, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    tokenizer = load_reference_tokenizer(tmp_path)
    ids = tokenizer.encode("the deep sea")
    assert ids
    assert not {1, 2} & set(ids)


@pytest.mark.parametrize("name", ["tokenizer.json", "t.model"])
def test_tokenizers_that_are_none(name: str, tmp_path: Path) -> None:
    if name.endswith("json"):
        pytest.importorskip("tokenizers")
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        load_reference_tokenizer(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such file"):
        load_reference_tokenizer(tmp_path / "gone.model")
