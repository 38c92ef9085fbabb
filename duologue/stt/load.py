"""From a name or folder to a recogniser in memory.

A recogniser's folder is laid out like any model's (`config.json` with `stt_config`, weights,
tokenizer, codec). A dialogue model's folder may hold one as `stt/`; it then shares the codec file
of the folder around it unless it brings its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import ModelFolder, resolve
from duologue.checkpoints.load import load_codec, load_lm
from duologue.checkpoints.tokenizer import TextTokenizer
from duologue.mimi.codec import Mimi
from duologue.moshi.lm import MoshiLM
from duologue.runtime.choice import choose_front_end_runtime
from duologue.stt import beam, front_end_file
from duologue.stt.beam import BeamConfig, BeamError
from duologue.stt.biasing import BiasWeights
from duologue.stt.front_end import FrontEndError, MelFrontEnd, MelFrontEndConfig
from duologue.stt.recogniser import Recogniser

FOLDER = "stt"
DEFAULT_DELAY_S = 0.5
"""Of models whose configuration does not say: the published 1B's."""


def recogniser_folder(model: str | os.PathLike[str], revision: str | None = None) -> ModelFolder:
    """The folder of a recogniser: the model itself, or `stt/` inside it.

    Raises:
        CheckpointError: there is none.
    """
    path = resolve(model, revision)
    if path.is_file():
        path = path.parent
    inner = path / FOLDER
    if (inner / "config.json").is_file():
        return ModelFolder.open(inner)
    folder = ModelFolder.open(path)
    if folder.config.lm.dep_q:
        raise CheckpointError(
            f"{path}: a model that speaks, without a recogniser (a folder {FOLDER}/) in it; name a "
            "recogniser, for example kyutai/stt-1b-en_fr"
        )
    return folder


def load_recogniser(
    model: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
    revision: str | None = None,
    codec: Mimi | None = None,
    runtime: str = "auto",
    vocabulary: Iterable[str] | None = None,
    weights: BiasWeights | None = None,
    searches: bool = True,
) -> Recogniser:
    """Load a recogniser.

    Args:
        model: a bundled model's name, a folder, or a hub id; of a recogniser, or of a dialogue
            model that has one.
        dtype, quantization, runtime: as for `load_lm`.
        codec: one that is loaded already. If it is the recogniser's own (same shape and weights),
            it is used in place of a second copy, and its codes can be given to `step`.
        vocabulary: words to lean towards, see `duologue.stt.biasing`.
        searches: follow as many hypotheses as the model's folder says, rather than one.

    Raises:
        CheckpointError: names the file, and what is wrong.
        RecogniserError: the parts do not fit together.
    """
    folder = recogniser_folder(model, revision)
    delay_s, prefix_s = _timing(folder)
    kept = quantization or "stored"
    lm = load_lm(folder.path, device=device, dtype=dtype, quantization=kept, runtime=runtime)
    own = _front_end(folder, lm)
    if isinstance(own, MelFrontEnd):
        choose_front_end_runtime(own, runtime)
    recogniser = Recogniser(
        lm, own, TextTokenizer(folder.tokenizer_path), delay_s=delay_s, prefix_s=prefix_s,
        vocabulary=vocabulary, weights=weights, beam=_beam(folder) if searches else None,
    )  # fmt: skip
    if codec is not None and recogniser.hears_codes_of(codec):
        recogniser.front_end = codec
    return recogniser


def _front_end(folder: ModelFolder, lm: MoshiLM) -> Mimi | MelFrontEnd:
    """What the recogniser hears through: one of its own, or a codec."""
    described = folder.config.stt_config.get(front_end_file.KEY)
    if described is None:
        return _codec(folder, lm.device)
    try:
        config = MelFrontEndConfig.from_dict(described)
    except FrontEndError as error:
        raise CheckpointError(f"{folder.path}: stt_config: {error}") from error
    where = folder.path / front_end_file.NAME
    return front_end_file.load_front_end(where, config, lm.device)


def _codec(folder: ModelFolder, device: torch.device) -> Mimi:
    """The folder's codec, or that of the folder around it."""
    where = folder.path
    if not (where / folder.config.mimi_name).is_file() and where.name == FOLDER:
        where = where.parent
    return load_codec(where, device=device, num_codebooks=folder.config.num_codebooks)


def _beam(folder: ModelFolder) -> BeamConfig | None:
    described = folder.config.stt_config.get(beam.KEY)
    if described is None:
        return None
    try:
        return BeamConfig.from_dict(described)
    except BeamError as error:
        raise CheckpointError(f"{folder.path}: stt_config: {error}") from error


def _timing(folder: ModelFolder) -> tuple[float, float]:
    """Seconds of delay and of leading silence."""
    config = folder.config.stt_config
    return (
        _seconds(config, "audio_delay_seconds", DEFAULT_DELAY_S, folder.path),
        _seconds(config, "audio_silence_prefix_seconds", 0.0, folder.path),
    )


def _seconds(config: Mapping[str, Any], key: str, default: float, path: Path) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{path}: stt_config.{key}: {value!r} is not a number of seconds")
    return float(value)
