"""From a name, folder or file to a codec or language model in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from duologue.checkpoints.detect import prepare_codec, prepare_lm
from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import (
    ModelFolder,
    codec_config_beside,
    read_codec_config,
    resolve,
)
from duologue.checkpoints.layout import Weights
from duologue.checkpoints.quantize import QUANTIZATIONS, STORED, keep_stored, quantize
from duologue.checkpoints.tensorfile import open_tensors
from duologue.conditioning.provider import ConditionProvider
from duologue.mimi.codec import Mimi
from duologue.mimi.config import MimiConfig
from duologue.moshi.lm import MoshiLM
from duologue.moshi.sampling import AUDIO_SAMPLING, TEXT_SAMPLING, GenerationDefaults, Sampling
from duologue.nn.linear import Linear, QuantizedLinear, QuantizedWeight, replace_linears
from duologue.runtime.choice import choose_codec_runtime, choose_lm_runtime

LARGE_MODEL = 10**9
"""Parameters from which on a model is held in bfloat16 on CPU too, unless a dtype is given."""


def pick_device(device: str | torch.device | None) -> torch.device:
    """`None` and "auto" take the first CUDA device if there is one, else the CPU.

    Raises:
        CheckpointError: this machine has no such device.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)  # a device may have a name and yet not be there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise CheckpointError(
            f"device {str(device)!r} is not on this machine; use auto, or one of {', '.join(there)}"
        ) from error
    return where


def load_codec(
    model: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    num_codebooks: int | None = None,
    revision: str | None = None,
    runtime: str = "auto",
) -> Mimi:
    """Load a codec.

    Args:
        model: a bundled model's name, a folder (of a whole model, or of a codec alone), a
            safetensors file, or a hub id.
        num_codebooks: codes per frame; when `None`, what the folder's language model needs, or all.
        runtime: "auto" computes with native programs where they can run, "eager" with the modules,
            "fast" insists on the former, "half" on the former with weights in float16 (nearly the
            same result, half the memory read).

    Raises:
        CheckpointError: names the file and tensor, and what is wrong.
    """
    config, weights_file, needed = _locate_codec(resolve(model, revision))
    if num_codebooks is None and needed is not None and needed > config.quantizer.n_q:
        raise CheckpointError(
            f"{weights_file}: the codec has {config.quantizer.n_q} codebooks, the language model "
            f"beside it needs {needed}"
        )
    with torch.device("meta"):
        codec = Mimi(config, num_codebooks or needed)
    source, layout = prepare_codec(open_tensors(weights_file), codec)
    weights = layout.read(source, codec.state_dict())
    _assign(codec, weights, pick_device(device), lambda _: dtype)
    choose_codec_runtime(codec, runtime)
    return codec


def load_lm(
    model: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
    revision: str | None = None,
    runtime: str = "auto",
) -> MoshiLM:
    """Load a language model.

    Args:
        model: a bundled model's name, a folder, or a hub id.
        dtype: of weights and caches; when `None`, bfloat16 on CUDA and for models of more than
            `LARGE_MODEL` parameters, float32 otherwise. Conditioners always stay in float32.
        quantization: "int8" or "int4" quantises the weights of linear maps after loading; "stored"
            keeps matrices that a small file stores in bytes so in memory, if compiled code runs the
            model; `None` makes them whole (a file that is quantised for computing stays so).
        runtime: of the generators: "auto" takes compiled code where that can run, "eager" the
            modules, "fast" insists on the former.

    Raises:
        CheckpointError: names the file and tensor, and what is wrong.
    """
    if quantization not in (None, STORED, *QUANTIZATIONS):
        known = ", ".join((STORED, *QUANTIZATIONS))
        raise CheckpointError(f"quantization: {quantization!r} is none of {known}")
    folder = ModelFolder.open(_as_folder(resolve(model, revision)))
    where = pick_device(device)
    lm = build_lm(folder)
    if dtype is None:
        count = sum(weight.shape.numel() for weight in lm.state_dict().values())
        small = where.type == "cpu" and count < LARGE_MODEL
        dtype = torch.float32 if small else torch.bfloat16
    lm.defaults = _generation_defaults(folder)
    weights = with_adapter(folder, lm, read_lm(folder, lm), dtype)
    _assign(lm, weights, where, lambda name: _lm_dtype(name, dtype))
    if folder.config.model_type == "hibiki":
        # An early end-of-sequence then behaves like padding (published loader rule).
        lm.text_emb.weight[2] = lm.text_emb.weight[3]
    if quantization in QUANTIZATIONS:
        quantize(lm, quantization)
    choose_lm_runtime(lm, runtime)
    if quantization == STORED and lm.make_runner is not None and folder.config.lora is None:
        keep_stored(lm, open_tensors(folder.moshi_path))
    return lm


def build_lm(folder: ModelFolder) -> MoshiLM:
    """The language model of a folder, on the meta device."""
    config = folder.config
    with torch.device("meta"):
        provider = ConditionProvider(config.lm.dim, config.conditioners, config.fuser)
        return MoshiLM(config.lm, provider)


def read_lm(folder: ModelFolder, lm: MoshiLM) -> Weights:
    """Weights of a folder's model as the file has them; `lm` may be on the meta device."""
    expand = folder.config.model_type == "personaplex"
    source, layout = prepare_lm(open_tensors(folder.moshi_path), lm, expand_depth=expand)
    return layout.read(source, lm.state_dict())


def with_adapter(
    folder: ModelFolder, lm: MoshiLM, weights: Weights, dtype: torch.dtype | None = None
) -> Weights:
    """Weights with the folder's adapter, if it has one, fused in `dtype` (the file's own)."""
    lora = folder.config.lora
    if lora is None:
        return weights
    from duologue.checkpoints.lora import fuse_adapter

    adapter = open_tensors(folder.file(lora.name, "lora_name"))
    return fuse_adapter(weights, adapter, lm, lora.scaling, dtype)


def _locate_codec(path: Path) -> tuple[MimiConfig, Path, int | None]:
    """Shape, weights file and wanted number of codebooks of the codec at `path`."""
    if path.is_file():
        return codec_config_beside(path), path, None
    config = read_codec_config(path / "config.json")
    if config is not None:
        weights = path / "model.safetensors"
        if not weights.exists():
            raise CheckpointError(f"{weights}: no such file beside the codec's config.json")
        return config, weights, None
    folder = ModelFolder.open(path)
    return folder.mimi_config, folder.mimi_path, folder.config.num_codebooks


def _as_folder(path: Path) -> Path:
    if path.is_file():
        raise CheckpointError(
            f"{path}: a language model is a folder with config.json, weights and tokenizer"
        )
    return path


def _generation_defaults(folder: ModelFolder) -> GenerationDefaults:
    values = dict(folder.config.lm_gen_config)
    temp_text = values.pop("temp_text", values.pop("text_temp", TEXT_SAMPLING.temperature))
    text = Sampling(
        temp_text, values.pop("top_k_text", TEXT_SAMPLING.top_k), values.pop("pooled_from_text", 0)
    )
    audio = Sampling(
        values.pop("temp", AUDIO_SAMPLING.temperature), values.pop("top_k", AUDIO_SAMPLING.top_k)
    )
    quoting = values.pop("quoting", 0.0)
    return GenerationDefaults(text, audio, folder.config.generated_q, quoting)


def _lm_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if name.startswith("condition_provider.") else dtype


def _assign(module: nn.Module, weights: Weights, device: torch.device, dtype_of: Any) -> None:
    """Put weights into a module that is on the meta device."""

    def quantized(name: str, _: Linear) -> QuantizedLinear | None:
        weight = weights.get(f"{name}.weight")
        if not isinstance(weight, QuantizedWeight):
            return None
        return QuantizedLinear(weight.copy_to(device))

    replace_linears(module, quantized)
    for name, target in list(module.state_dict().items()):
        weight = weights.get(name)
        if isinstance(weight, QuantizedWeight):
            weight = weight.dequantize(dtype_of(name))
        if weight is not None:
            dtype = dtype_of(name) if target.is_floating_point() else weight.dtype
            # A copy: what the file maps into memory may change with the file, and lies wherever
            # the header's length puts it, which sways the last bit of sums.
            weights[name] = weight.to(device=device, dtype=dtype, copy=True)
    plain = {name: w for name, w in weights.items() if not isinstance(w, QuantizedWeight)}
    missing, _ = module.load_state_dict(plain, strict=False, assign=True)
    if left := [name for name in missing if not name.endswith((".codes", ".scales", ".offsets"))]:
        raise CheckpointError(f"nothing was loaded into {left[0]}")
    module.eval().requires_grad_(False)
