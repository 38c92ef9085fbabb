"""Files of the reference encoder: the published ARC encoder's weights, and its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from duologue.checkpoints.duologue_format import identity_layout
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.tensorfile import TensorSource, open_tensors
from duologue.conditioning.reference import ReferenceConfig, ReferenceEncoder, ReferenceTokenizer
from duologue.nn.linear import QuantizedWeight

REPOSITORY = "kyutai/ARC4_Encoder_Llama"
WEIGHTS_FILE = "model.safetensors"


def load_reference_encoder(
    path: str | os.PathLike[str],
    config: ReferenceConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ReferenceEncoder:
    """Load an encoder whose file has the module's own names (`embedder...`, `bridge_module...`).

    Args:
        path: a safetensors file, or a folder with `model.safetensors`.
        config: shape; the published encoder's when `None`.

    Raises:
        CheckpointError: names the file and tensor, and what is wrong.
    """
    where = Path(path)
    with torch.device("meta"):
        encoder = ReferenceEncoder(config or ReferenceConfig())
    source = open_tensors(where / WEIGHTS_FILE if where.is_dir() else where)
    expected = encoder.state_dict()
    weights = identity_layout(encoder).read(source, expected)
    encoder.load_state_dict(
        {
            name: (weight.dequantize() if isinstance(weight, QuantizedWeight) else weight).to(
                device=device, dtype=dtype
            )
            for name, weight in weights.items()
        },
        assign=True,
    )
    return encoder.eval().requires_grad_(False)


def is_reference_encoder(source: TensorSource) -> bool:
    """Whether a file holds such an encoder."""
    return "embedder.tok_embeddings.weight" in source


class _JsonTokenizer:
    """A `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise CheckpointError(
                f"{path} needs another package: pip install 'duologue[tokenizers]'"
            ) from error
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise CheckpointError(f"{path}: not a readable tokenizer: {error}") from error
        # A text that spells out a special token is still just a text.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class _SentencePieceTokenizer:
    """A sentencepiece `.model`."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            self._processor = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable tokenizer: {error}") from error

    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text))


def load_reference_tokenizer(path: str | os.PathLike[str]) -> ReferenceTokenizer:
    """Tokenizer of a reference encoder: a `tokenizer.json`, a `.model`, or a folder with one."""
    where = Path(path)
    if where.is_dir():
        found = [where / "tokenizer.json", *sorted(where.glob("*.model"))]
        where = next((file for file in found if file.is_file()), found[0])
    if not where.is_file():
        raise CheckpointError(f"{where}: no such file")
    return _JsonTokenizer(where) if where.suffix == ".json" else _SentencePieceTokenizer(where)
