"""A whole model folder of very small size, on disk: it talks, hears, and takes references.

Untrained: it says and hears pieces of `WORDS` at random, and asks for knowledge every few dozen
frames.
"""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece
import torch

from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.save import save_codec, save_lm, write_tensors
from duologue.conditioning import ConditionProvider, FuserConfig, ReferenceEncoder
from duologue.mimi import Mimi
from duologue.moshi import LMConfig, MoshiLM
from support.conversations import CODEC, CONDITIONERS, DIM, TRIGGER, _make_codes_telling

WORDS = "tea rat star tart rate tear seat east set rest sara tess tara era area sea as at"
CARD = 32
"""Text tokens: four for silence, the retrieval token, and pieces."""


def write_model(folder: Path) -> Path:
    """Language model, codec, tokenizer, reference encoder and recogniser."""
    torch.manual_seed(5)
    codec = Mimi(CODEC).eval().requires_grad_(False)
    _make_codes_telling(codec)
    save_codec(folder, codec, config_name="codec.json", weights_name="codec.safetensors")
    fuser = FuserConfig(prepend=("first_speaker",), streaming_sum=("reference_with_time",))
    side = (0, 1, 1, 1)
    config = LMConfig(
        dim=DIM, num_heads=2, num_layers=1, n_q=8, dep_q=4, delays=(0, *side, *side), card=48,
        text_card=CARD, hidden_scale=3, context=60, depformer_dim=16, depformer_num_heads=2,
        depformer_num_layers=1, rag_token_id=TRIGGER,
    )  # fmt: skip
    names = {"mimi_name": "codec.safetensors", "mimi_config_name": "codec.json"}
    lm = MoshiLM(config, ConditionProvider(DIM, CONDITIONERS, fuser))
    described = FolderConfig(
        config, conditioners=CONDITIONERS, fuser=fuser, tokenizer_name="text.model", **names
    )
    save_lm(folder, lm, described)
    reference = lm.condition_provider.reference
    assert reference is not None
    weights = ReferenceEncoder(reference.config).state_dict()
    write_tensors(folder / "reference" / "model.safetensors", weights, {})
    train_tokenizer(folder / "reference" / "tokenizer.model", 40)
    tokenizer = train_tokenizer(folder / "text.model", CARD)
    _write_recogniser(folder / "stt", tokenizer)
    return folder


def train_tokenizer(path: Path, pieces: int) -> bytes:
    """A sentencepiece model of `WORDS` whose piece 4 is the retrieval token."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 8), model_writer=written, model_type="bpe",
        vocab_size=pieces, user_defined_symbols=["<ret>"], unk_id=0, bos_id=1, eos_id=2, pad_id=3,
        hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(written.getvalue())
    return written.getvalue()


def _write_recogniser(folder: Path, tokenizer: bytes) -> None:
    """One that hears the codes of the folder around it."""
    config = LMConfig(
        dim=DIM, num_heads=2, num_layers=1, n_q=4, dep_q=0, delays=(0,) * 5, card=48,
        text_card=CARD, hidden_scale=3, context=60, extra_heads_num_heads=3, extra_heads_dim=2,
    )  # fmt: skip
    described = FolderConfig(
        config, model_type="stt", mimi_name="codec.safetensors", tokenizer_name="text.model",
        stt_config={"audio_delay_seconds": 0.16},
    )  # fmt: skip
    save_lm(folder, MoshiLM(config), described)
    (folder / "text.model").write_bytes(tokenizer)
