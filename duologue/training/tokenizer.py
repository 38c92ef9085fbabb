"""Makes the sentencepiece models of a small language model from the texts of a corpus.

Ids 0 to 3 are what the published models have there, 4 is the retrieval token. Any character that
the corpus lacks is spelt in bytes, so every text can be written.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

SPECIAL = "<ret>"


def train_tokenizer(
    texts: Iterable[str], out: Path, pieces: int, *, seed_texts: int = 200_000
) -> int:
    """Write a model of about `pieces` pieces; returns how many it has.

    Args:
        seed_texts: at most so many texts are looked at.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="unigram",
        vocab_size=pieces,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        control_symbols=[SPECIAL],
        input_sentence_size=seed_texts,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.part")
    scratch.write_bytes(model.getvalue())
    scratch.replace(out)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return int(processor.get_piece_size())
