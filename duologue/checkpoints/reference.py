"""Files of the reference encoder: its weights, its tokenizer, and the conditioner it feeds.

A model folder of ours keeps weights and tokenizer in `reference/`. A published one names the
encoder's repository in its configuration (`hf_repo`), and the tokenizer is that of Llama 3.2. The
conditioner (the projection to the language model's width) lies in the language model's own file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from duologue.checkpoints.detect import prepare_lm
from duologue.checkpoints.duologue_format import DuologueSource, identity_layout
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import ModelFolder
from duologue.checkpoints.layout import Layout
from duologue.checkpoints.load import build_lm
from duologue.checkpoints.sources import SelectedSource
from duologue.checkpoints.tensorfile import TensorSource, open_tensors
from duologue.conditioning.reference import (
    ReferenceConditioner,
    ReferenceConfig,
    ReferenceEncoder,
    ReferenceTokenizer,
)
from duologue.nn.linear import QuantizedWeight

FOLDER = "reference"
REPOSITORY = "kyutai/ARC4_Encoder_Llama"
TOKENIZER_REPOSITORY = "meta-llama/Llama-3.2-3B-Instruct"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class ReferenceFiles:
    """Where an encoder's weights and tokenizer are; a file, or a folder with one."""

    weights: Path
    tokenizer: Path


def find_reference_files(
    folder: Path,
    options: Mapping[str, Any],
    *,
    weights: Path | None = None,
    tokenizer: Path | None = None,
) -> ReferenceFiles:
    """Files of the encoder of a model folder: those given, else `reference/`, else the hub's.

    Args:
        options: the conditioner's block of the configuration.
    """
    from duologue.checkpoints.hub import fetch_file

    own = folder / FOLDER
    if weights is None:
        bundled = own / WEIGHTS_FILE
        repository = str(options.get("hf_repo") or REPOSITORY)
        weights = bundled if own.is_dir() else fetch_file(repository, WEIGHTS_FILE)
    if tokenizer is None:
        tokenizer = own if own.is_dir() else fetch_file(TOKENIZER_REPOSITORY, TOKENIZER_FILE)
    return ReferenceFiles(weights, tokenizer)


def reference_conditioner_name(folder: ModelFolder, name: str | None = None) -> str:
    """The conditioner whose rows a model adds frame by frame; `name` must be that one."""
    provider = build_lm(folder).condition_provider
    found = [
        key
        for key in folder.config.fuser.streaming_sum
        if isinstance(provider.conditioners[key], ReferenceConditioner)
    ]
    if not found:
        raise CheckpointError(f"{folder.path}: this model takes no references")
    if name is not None and name not in found:
        raise CheckpointError(f"{folder.path}: {name!r} is no reference; there is {found[0]!r}")
    return name or found[0]


def load_reference_conditioner(
    folder: ModelFolder, name: str, *, device: torch.device | str = "cpu"
) -> ReferenceConditioner:
    """One conditioner in float32, without reading the rest of the language model's file."""
    lm = build_lm(folder)
    conditioner = lm.condition_provider.conditioners[name]
    assert isinstance(conditioner, ReferenceConditioner)
    source, layout = prepare_lm(open_tensors(folder.moshi_path), lm)
    prefix = f"condition_provider.conditioners.{name}."
    expected = {key: t for key, t in lm.state_dict().items() if key.startswith(prefix)}
    part = Layout({key: layout.entries[key] for key in expected})
    keys = {key for entries in part.entries.values() for entry in entries for key in entry.keys}
    weights = part.read(SelectedSource(source, keys.__contains__), expected)
    conditioner.load_state_dict(
        {
            key.removeprefix(prefix): (
                weight.dequantize() if isinstance(weight, QuantizedWeight) else weight
            ).to(device=device, dtype=torch.float32, copy=True)
            for key, weight in weights.items()
        },
        assign=True,
    )
    return conditioner.eval().requires_grad_(False)


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
    source = DuologueSource(open_tensors(where / WEIGHTS_FILE if where.is_dir() else where))
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
