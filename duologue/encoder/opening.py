"""Which encoder a model has: a service if `REFERENCE_ENCODER_URL` names one, else its own files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import FolderConfig, ModelFolder, read_json, resolve
from duologue.checkpoints.load import LARGE_MODEL, pick_device
from duologue.checkpoints.reference import (
    find_reference_files,
    load_reference_conditioner,
    load_reference_encoder,
    load_reference_tokenizer,
    reference_conditioner_name,
)
from duologue.conditioning import ReferenceConditioner, ReferenceEncoder
from duologue.encoder.cache import CachedEncoder
from duologue.encoder.client import RemoteEncoder
from duologue.encoder.local import LocalEncoder
from duologue.encoder.metrics import EncoderMetrics
from duologue.encoder.model import RowModel
from duologue.encoder.ports import RowEncoder

URL_VARIABLE = "REFERENCE_ENCODER_URL"
KEY_VARIABLE = "REFERENCE_ENCODER_API_KEY"


def open_encoder(
    model: str | os.PathLike[str] | ModelFolder,
    *,
    conditioner: ReferenceConditioner | None = None,
    device: str | torch.device | None = None,
    environment: Mapping[str, str] = os.environ,
    metrics: EncoderMetrics | None = None,
) -> RowEncoder:
    """The encoder of a model's references, cached; the caller closes it.

    Args:
        conditioner: that of the loaded language model, which is then not read again.

    Raises:
        CheckpointError: the model takes no references, or files of its encoder are missing.
    """
    folder = as_folder(model)
    reference_conditioner_name(folder)
    metrics = metrics or EncoderMetrics()
    url = environment.get(URL_VARIABLE, "").strip()
    inner: RowEncoder
    if url:
        key = environment.get(KEY_VARIABLE, "").strip() or None
        inner = RemoteEncoder(url, dim=folder.config.lm.dim, api_key=key)
    else:
        rows = load_row_model(folder, conditioner=conditioner, device=device)
        inner = LocalEncoder(rows, metrics=metrics)
    return CachedEncoder(inner, metrics=metrics)


def load_row_model(
    model: str | os.PathLike[str] | ModelFolder,
    *,
    name: str | None = None,
    conditioner: ReferenceConditioner | None = None,
    weights: Path | None = None,
    tokenizer: Path | None = None,
    device: str | torch.device | None = None,
) -> RowModel:
    """The encoder's model from files; nothing else of the language model is read.

    The encoder is held in bfloat16 on CUDA, and on the CPU when it is large; the projection to the
    language model's width always in float32, as in the published service.

    Args:
        name: conditioner; the one of the model's references when `None`.
        weights, tokenizer: files of the encoder, where they are not the model's own.
    """
    folder = as_folder(model)
    where = pick_device(device)
    if conditioner is None:
        conditioner = load_reference_conditioner(
            folder, reference_conditioner_name(folder, name), device=where
        )
    files = find_reference_files(
        folder.path, conditioner.options, weights=weights, tokenizer=tokenizer
    )
    with torch.device("meta"):
        size = sum(p.numel() for p in ReferenceEncoder(conditioner.config).parameters())
    wide = where.type == "cpu" and size < LARGE_MODEL
    encoder = load_reference_encoder(
        files.weights,
        conditioner.config,
        device=where,
        dtype=torch.float32 if wide else torch.bfloat16,
    )
    return RowModel(load_reference_tokenizer(files.tokenizer), encoder, conditioner)


def as_folder(model: str | os.PathLike[str] | ModelFolder) -> ModelFolder:
    """A model's folder from its name, path or hub id."""
    return model if isinstance(model, ModelFolder) else ModelFolder.open(resolve(model))


def published_folder(config: str, weights: str) -> ModelFolder:
    """A model as the published programs name it: two files, each a path, file:// or hf:// URI."""
    file = resolve(weights)
    values = read_json(resolve(config))
    try:
        parsed = FolderConfig.from_dict(values)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{config}: {error}") from error
    return ModelFolder(file.parent, replace(parsed, moshi_name=file.name))
