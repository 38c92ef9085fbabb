"""Writing a checkpoint in another layout: codecs, model folders, saved voices.

Weights keep their values and dtypes, with two exceptions. Layouts that keep a codebook as sums and
counts get the centroids as sums, with counts of one. Integer weights stay so where the layout has
them (ours; Kyutai's if they are row-wise); elsewhere they are widened to bfloat16. The whole model
is held in memory meanwhile.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from duologue.checkpoints import kyutai_lm, kyutai_mimi, transformers_layout
from duologue.checkpoints.detect import (
    find_codec_format,
    find_lm_format,
    prepare_codec,
)
from duologue.checkpoints.duologue_format import FORMAT, pack
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import (
    MOSHI_DEFAULT,
    FolderConfig,
    ModelFolder,
    codec_config_beside,
    read_codec_config,
)
from duologue.checkpoints.inspect import CONFIG_FILE
from duologue.checkpoints.layout import Layout, Weight, Weights
from duologue.checkpoints.load import build_lm, read_lm, with_adapter
from duologue.checkpoints.reference import FOLDER as REFERENCE_FOLDER
from duologue.checkpoints.save import write_json, write_tensors
from duologue.checkpoints.tensorfile import open_tensors
from duologue.checkpoints.transformers_format import (
    PREPROCESSOR_FILE,
    dtype_name,
    lm_config_to_transformers,
    mimi_config_to_transformers,
)
from duologue.checkpoints.voices import load_voice, save_voice
from duologue.mimi.codec import Mimi
from duologue.mimi.config import MimiConfig
from duologue.moshi.lm import MoshiLM
from duologue.nn.linear import QuantizedWeight
from duologue.stt import beam, front_end_file
from duologue.stt.load import FOLDER as STT_FOLDER

LAYOUTS = ("kyutai", "duologue", "transformers")
WEIGHTS_FILE = "model.safetensors"
CODEC_FILE, CODEC_CONFIG_FILE = "mimi.safetensors", "codec.json"
WIDE_DTYPE = torch.bfloat16
"""What integer weights become in a layout that has none."""
_OUR_DRAWING = ("pooled_from_text", "quoting")
"""Of `lm_gen_config`: what the published programs do not know."""

_OUR_HEARING = (beam.KEY,)
"""Likewise of `stt_config`."""

Progress = Callable[[str], None]


def convert(
    source: Path,
    target: Path,
    to: str = "duologue",
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write `source` at `target` in another layout.

    Args:
        source: a model folder, a codec's folder or file, or a saved voice (`.pt` or safetensors).
        target: a folder, or for a codec also a `.safetensors` file; for a voice a file.
        to: `kyutai`, `duologue` or `transformers`.
        force: write over what is there.
        progress: told what is being done; `None` shows it on the terminal.

    Raises:
        CheckpointError: nothing was converted; says why.
    """
    if to not in LAYOUTS:
        raise CheckpointError(f"{to!r} is no layout; there are {', '.join(LAYOUTS)}")
    _check_target(source, target, force)
    if progress is not None:
        _convert(source, target, to, progress)
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        _convert(source, target, to, status.update)


def _convert(source: Path, target: Path, to: str, progress: Progress) -> None:
    if source.is_dir():
        config = read_codec_config(source / CONFIG_FILE)
        if config is None:
            _convert_folder(ModelFolder.open(source), target, to, progress)
        else:
            _convert_codec(source / WEIGHTS_FILE, config, target, to, progress)
        return
    if source.suffix in (".pt", ".pth"):
        _convert_voice(source, target)
        return
    tensors = open_tensors(source)
    if find_lm_format(tensors) is not None:
        raise CheckpointError(
            f"{source}: a language model is converted as a folder, with its config.json"
        )
    if find_codec_format(tensors) is not None:
        _convert_codec(source, codec_config_beside(source), target, to, progress)
        return
    _convert_voice(source, target)


def _check_target(source: Path, target: Path, force: bool) -> None:
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or folder")
    if source.resolve() == target.resolve() or source.resolve() in target.resolve().parents:
        raise CheckpointError(f"{target}: is (in) the source itself")
    taken = any(target.iterdir()) if target.is_dir() else target.exists()
    if taken and not force:
        raise CheckpointError(f"{target}: exists; give another target, or force to write over it")
    if target.is_file() and target.suffix != ".safetensors":
        raise CheckpointError(f"{target}: is a file, but no safetensors file")


def _convert_voice(source: Path, target: Path) -> None:
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target}: a voice is written to a .safetensors file")
    save_voice(target, load_voice(source))


def _convert_codec(
    source: Path, config: MimiConfig, target: Path, to: str, progress: Progress
) -> None:
    progress("reading the codec")
    codec, weights = _read_codec(source, config)
    values: Mapping[str, Any] = _codec_values(config, to)
    progress("writing the codec")
    tensors = _codec_tensors(codec, weights, to)
    if target.suffix == ".safetensors":
        write_tensors(target, tensors, _metadata(to))
        return
    write_tensors(target / WEIGHTS_FILE, tensors, _metadata(to))
    write_json(target / CONFIG_FILE, values)


def _convert_folder(folder: ModelFolder, target: Path, to: str, progress: Progress) -> None:
    if target.suffix == ".safetensors":
        raise CheckpointError(f"{target}: a model's target is a folder")
    front_end = folder.path / front_end_file.NAME
    if folder.config.stt_config.get(front_end_file.KEY) and to != "duologue":
        raise CheckpointError(
            f"{folder.path}: this recogniser hears spectra through a front end of its own; only "
            "the duologue layout has room for it"
        )
    progress("reading the language model")
    lm = build_lm(folder)
    weights = read_lm(folder, lm)
    if to != "duologue":
        folder, lm, weights = _without_ours(folder, lm, weights, progress)
    codec: tuple[Mimi, Weights] | None = None
    if (folder.path / folder.config.mimi_name).is_file():
        progress("reading the codec")
        codec = _read_codec(folder.mimi_path, folder.mimi_config)
    progress("writing")
    if to == "transformers":
        _write_transformers(folder, lm, with_adapter(folder, lm, weights), codec, target)
    else:
        _write_published(folder, lm, weights, codec, target, to)
    tokenizer = folder.path / folder.config.tokenizer_name
    if tokenizer.is_file():
        _copy(tokenizer, target)
    if front_end.is_file():
        _copy(front_end, target)
    if to == "duologue":
        for part in (REFERENCE_FOLDER, STT_FOLDER):
            if (folder.path / part).is_dir():
                shutil.copytree(folder.path / part, target / part, dirs_exist_ok=True)


def _without_ours(
    folder: ModelFolder, lm: MoshiLM, weights: Weights, progress: Progress
) -> tuple[ModelFolder, MoshiLM, Weights]:
    """The same without what the published programs do not know."""
    config = folder.config
    drawn = {name: v for name, v in config.lm_gen_config.items() if name not in _OUR_DRAWING}
    stt = {name: value for name, value in config.stt_config.items() if name not in _OUR_HEARING}
    config = replace(
        config, lm=replace(config.lm, heard_dim=None), lm_gen_config=drawn, heard_from=None,
        stt_config=stt,
    )  # fmt: skip
    folder = replace(folder, config=config)
    if lm.config.heard_dim is None:
        return folder, lm, weights
    progress("leaving out what a recogniser tells the model: no other program tells it")
    kept = {name: w for name, w in weights.items() if not name.startswith("hearing.")}
    return folder, build_lm(folder), kept


def _write_published(
    folder: ModelFolder, lm: MoshiLM, weights: Weights, codec: tuple[Mimi, Weights] | None,
    target: Path, to: str,
) -> None:  # fmt: skip
    """Kyutai's folder layout, which is ours too but for the tensors' names."""
    config = replace(folder.config, codec=None, mimi_config_name=None)
    if not config.moshi_name.endswith(".safetensors"):
        config = replace(config, moshi_name=MOSHI_DEFAULT)
    if config.mimi_name in (folder.config.moshi_name, config.moshi_name):
        config = replace(config, mimi_name=CODEC_FILE)
    layout = None if to == "duologue" else kyutai_lm.lm_layout(lm)
    quantized = any(_is_rowwise(weight) for weight in weights.values())
    write_tensors(target / config.moshi_name, _lm_tensors(weights, layout), _metadata(to))
    if codec is not None:
        write_tensors(target / config.mimi_name, _codec_tensors(*codec, to), _metadata(to))
        if codec[0].config != MimiConfig():
            config = replace(config, mimi_config_name=CODEC_CONFIG_FILE)
            write_json(target / CODEC_CONFIG_FILE, _codec_values(codec[0].config, to))
    if config.lora is not None:
        _copy(folder.file(config.lora.name, "lora_name"), target)
    write_json(target / CONFIG_FILE, _folder_values(config, to, quantized))


def _write_transformers(
    folder: ModelFolder, lm: MoshiLM, weights: Weights, codec: tuple[Mimi, Weights] | None,
    target: Path,
) -> None:  # fmt: skip
    if codec is None:
        raise CheckpointError(
            f"{folder.path}: has no codec ({folder.config.mimi_name}), which the transformers "
            "layout keeps with the language model"
        )
    generates = lm.config.dep_q > 0
    prefix = "audio_encoder." if generates else "codec_model."
    layout = (
        transformers_layout.moshi_layout(lm) if generates else transformers_layout.stt_layout(lm)
    )
    tensors = layout.write(_wide(weights))
    dtype = dtype_name(next(iter(tensors.values())).dtype)
    tensors |= _codec_tensors(*codec, "transformers", prefix)
    values = lm_config_to_transformers(lm.config, codec[0].config, dtype)
    write_tensors(target / WEIGHTS_FILE, tensors, _metadata("transformers"))
    if not generates:
        settings = {
            "feature_extractor_type": "KyutaiSpeechToTextFeatureExtractor",
            "sampling_rate": codec[0].sample_rate,
            "feature_size": 1,
            "padding_value": 0.0,
            **folder.config.stt_config,
        }
        write_json(target / PREPROCESSOR_FILE, settings)
    write_json(target / CONFIG_FILE, values)


def _read_codec(path: Path, config: MimiConfig) -> tuple[Mimi, Weights]:
    with torch.device("meta"):
        codec = Mimi(config)
    source, layout = prepare_codec(open_tensors(path), codec)
    return codec, layout.read(source, codec.state_dict())


def _lm_tensors(weights: Weights, layout: Layout | None) -> dict[str, Tensor]:
    """Tensors of Kyutai's file by their layout, or of ours when there is none."""
    if layout is None:
        return pack(weights)
    rowwise = {name: w for name, w in weights.items() if _is_rowwise(w)}
    tensors = layout.write(_wide({n: w for n, w in weights.items() if n not in rowwise}))
    tensors |= layout.write({name: w.codes for name, w in rowwise.items()})
    largest = layout.write({name: _largest(w.scales[:, 0]) for name, w in rowwise.items()})
    return tensors | {f"{key}_scb": scale for key, scale in largest.items()}


def _codec_tensors(codec: Mimi, weights: Weights, to: str, prefix: str = "") -> dict[str, Tensor]:
    if to == "duologue":
        return pack(weights)
    if to == "kyutai":
        return kyutai_mimi.mimi_layout(codec).write(_wide(weights))
    return transformers_layout.mimi_layout(codec, prefix).write(_wide(weights))


def _wide(weights: Weights) -> dict[str, Tensor]:
    return {
        name: weight.dequantize(WIDE_DTYPE) if isinstance(weight, QuantizedWeight) else weight
        for name, weight in weights.items()
    }


def _is_rowwise(weight: Weight) -> TypeGuard[QuantizedWeight]:
    return (
        isinstance(weight, QuantizedWeight)
        and weight.codes.dtype == torch.int8
        and weight.scales.shape[1] == 1
        and weight.offsets is None
    )


def _largest(scales: Tensor) -> Tensor:
    """What Kyutai's files store for a row's scale: a number that is 127 times it when read."""
    scales = scales.float()
    largest = scales * 127.0
    for direction in (torch.inf, -torch.inf):
        neighbour = torch.nextafter(largest, torch.full_like(largest, direction))
        off = (largest / 127.0 != scales) & (neighbour / 127.0 == scales)
        largest = torch.where(off, neighbour, largest)
    return largest


def _codec_values(config: MimiConfig, to: str) -> dict[str, Any]:
    if to == "transformers":
        return mimi_config_to_transformers(config)
    return ({"format": FORMAT} if to == "duologue" else {}) | config.to_dict()


def _folder_values(config: FolderConfig, to: str, quantized: bool) -> dict[str, Any]:
    if to == "duologue":
        return {"format": FORMAT} | config.to_dict()
    return config.to_dict() | ({"quantize": True} if quantized else {})


def _metadata(to: str) -> dict[str, str]:
    """Safetensors metadata; transformers refuses files without its own."""
    return {"format": "pt" if to == "transformers" else to}


def _copy(file: Path, folder: Path) -> None:
    """Copy a small file, complete or not at all."""
    temporary = folder / f".{file.name}.{os.getpid()}"
    try:
        shutil.copyfile(file, temporary)
        os.replace(temporary, folder / file.name)
    finally:
        temporary.unlink(missing_ok=True)
