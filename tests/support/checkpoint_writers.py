"""Golden models in other programs' file layouts, written the long way round.

Independent of `duologue.checkpoints`: nothing here uses our layouts, so that a wrong reading of a
format cannot cancel out against a wrong writing of it.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from support.golden import GOLDEN

Tensors = dict[str, Tensor]


def golden_config(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "config.json").read_text())


def golden_tensors(name: str) -> Tensors:
    """A golden file's tensors in float32 (they are exact in bfloat16)."""
    tensors = safetensors.torch.load_file(GOLDEN / name / "model.safetensors")
    return {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}


def write_folder(
    folder: Path, config: dict[str, Any], tensors: Tensors, name: str = "model.safetensors",
    metadata: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | {"moshi_name": name}))
    save(folder / name, tensors, metadata)
    return folder


def save(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    owned = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    safetensors.torch.save_file(owned, path, metadata)
    return path


def depth_schedule(config: dict[str, Any]) -> list[int]:
    return config.get("depformer_weights_per_step_schedule") or list(range(config["dep_q"]))


def depth_attention(tensors: Tensors, layer: int, side: str, weight_set: int, sets: int) -> Tensor:
    """One set's attention projection, from either of Kyutai's spellings."""
    stem = f"depformer.layers.{layer}.self_attn.{side}_proj"
    if f"{stem}s.{weight_set}.weight" in tensors:
        return tensors[f"{stem}s.{weight_set}.weight"]
    fused = tensors[f"{stem}_weight" if side == "in" else f"{stem}.weight"]
    return fused.chunk(sets)[weight_set]


def sliced(tensors: Tensors, config: dict[str, Any], kind: str) -> Tensors:
    """MLX's or Candle's tensors: a whole depth transformer for each step."""
    mlx = kind == "mlx"
    out: Tensors = {}

    def put(key: str, value: Tensor) -> None:
        if mlx and key.endswith(".alpha"):
            key, value = key.replace(".alpha", ".weight"), value[0, 0]
        for leaf in ("in_proj_weight", "in_projs.0.weight", "in_proj.weight"):
            key = key.replace(leaf, "in_proj.weight" if mlx else "in_proj_weight")
        out[key.replace("out_projs.0", "out_proj")] = value

    schedule = depth_schedule(config)
    for key, value in tensors.items():
        if key.startswith("emb."):
            put(f"audio_embs.{key.removeprefix('emb.')}" if mlx else key, value)
        elif not key.startswith(("depformer", "linears")):
            put(key, value)
    for step, used in enumerate(schedule):
        stem = f"depformer.slices.{step}." if mlx else f"depformer.{step}."
        put(f"{stem}linear_in.weight", tensors[f"depformer_in.{used}.weight"])
        put(f"{stem}linear_out.weight", tensors[f"linears.{step}.weight"])
        table = "depformer_text_emb." if step == 0 else f"depformer_emb.{step - 1}."
        for key, value in tensors.items():
            if key.startswith(table):
                put(f"{stem}emb.{key.removeprefix(table)}", value)
        for layer in range(config["depformer_num_layers"]):
            inner = f"{stem}transformer.layers.{layer}."
            source = f"depformer.layers.{layer}."
            for side in ("in", "out"):
                put(
                    f"{inner}self_attn.{side}_proj.weight",
                    depth_attention(tensors, layer, side, used, max(schedule) + 1),
                )
            for norm in ("norm1", "norm2"):
                put(f"{inner}{norm}.alpha", tensors[f"{source}{norm}.alpha"])
            for part in ("linear_in", "linear_out"):
                put(f"{inner}gating.{part}.weight", tensors[f"{source}gating.{used}.{part}.weight"])
    return out


def is_matrix_of_linear(key: str, value: Tensor) -> bool:
    """Whether MLX would quantise this (embeddings included) at groups that fit."""
    plain = key.startswith("condition_provider.") or key.endswith("learnt_padding")
    return value.dim() == 2 and not plain


def mlx_quantized(tensors: Tensors, bits: int, group: int) -> tuple[Tensors, Tensors]:
    """Tensors with matrices quantised as MLX stores them, and what those widen to."""
    stored, wide = {}, {}
    for key, value in tensors.items():
        if not is_matrix_of_linear(key, value) or value.shape[1] % group:
            stored[key] = wide[key] = value
            continue
        groups = value.unflatten(1, (-1, group))
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / (2**bits - 1)).clamp(min=1e-8).bfloat16().float()
        low = low.bfloat16().float()
        codes = ((groups - low) / scale).round().clamp(0, 2**bits - 1).long()
        stem = key.removesuffix("weight")
        words = codes.flatten(1).unflatten(1, (-1, 32 // bits))
        shifts = torch.arange(32 // bits) * bits
        stored[key] = (words << shifts).sum(-1).to(torch.uint32)
        stored[f"{stem}scales"] = scale[..., 0].bfloat16()
        stored[f"{stem}biases"] = low[..., 0].bfloat16()
        wide[key] = (codes * scale + low).flatten(1)
    return stored, wide


def write_gguf(path: Path, tensors: Tensors, kinds: dict[str, str], *, alignment: int = 32) -> Path:
    """A GGUF file; `kinds` says q8_0, f16 or bf16 for some tensors, the others are f32."""
    numbers = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}
    infos, blobs, offset = b"", b"", 0
    for key, value in tensors.items():
        kind = kinds.get(key, "f32")
        data = _gguf_bytes(value, kind)
        infos += _text(key) + struct.pack("<I", value.dim())
        infos += b"".join(struct.pack("<Q", n) for n in reversed(value.shape))
        infos += struct.pack("<IQ", numbers[kind], offset)
        padding = -len(data) % alignment
        blobs += data + b"\0" * padding
        offset += len(data) + padding
    # Metadata of each kind that a reader must get past.
    values = [
        _text("general.architecture") + struct.pack("<I", 8) + _text("moshi"),
        _text("general.alignment") + struct.pack("<II", 4, alignment),
        _text("flag") + struct.pack("<IB", 7, 1),
        _text("numbers") + struct.pack("<IIQ3f", 9, 6, 3, 1.0, 2.0, 3.0),
        _text("words") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + _text("bc"),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values) + infos
    path.write_bytes(head + b"\0" * (-len(head) % alignment) + blobs)
    return path


def q8_0(value: Tensor) -> tuple[Tensor, Tensor]:
    """float16 scales [rows, blocks] and codes [rows, blocks, 32]."""
    blocks = value.unflatten(1, (-1, 32))
    scale = (blocks.abs().amax(-1) / 127).half()
    codes = (blocks / scale.float().clamp(min=1e-12)[..., None]).round().clamp(-127, 127)
    return scale, codes.to(torch.int8)


def _gguf_bytes(value: Tensor, kind: str) -> bytes:
    if kind == "q8_0":
        scale, codes = q8_0(value)
        blocks = torch.cat([scale[..., None].view(torch.uint8), codes.view(torch.uint8)], -1)
        return blocks.contiguous().numpy().tobytes()
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
    return value.to(dtype).contiguous().view(torch.uint8).numpy().tobytes()


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def half_split_rows(weight: Tensor, head_dim: int) -> Tensor:
    """Each head's even rows, then its odd rows (transformers' rotary order)."""
    heads = weight.split(head_dim)
    return torch.cat([torch.cat([head[0::2], head[1::2]]) for head in heads])


def split_attention(fused: Tensor, head_dim: int, spelling: str) -> Tensors:
    q, k, v = fused.chunk(3)
    turned = (half_split_rows(q, head_dim), half_split_rows(k, head_dim), v)
    return {spelling.format(name): part for name, part in zip("qkv", turned, strict=True)}


def transformers_layers(tensors: Tensors, config: dict[str, Any], prefix: str) -> Tensors:
    """The temporal stack as transformers' decoder."""
    out: Tensors = {}
    head_dim = config["dim"] // config["num_heads"]
    for layer in range(config["num_layers"]):
        theirs, ours = f"{prefix}layers.{layer}.", f"transformer.layers.{layer}."
        fused = next(t for key, t in tensors.items() if key.startswith(f"{ours}self_attn.in_proj"))
        last = next(t for key, t in tensors.items() if key.startswith(f"{ours}self_attn.out_proj"))
        out |= split_attention(fused, head_dim, theirs + "self_attn.{}_proj.linear.weight")
        out[f"{theirs}self_attn.o_proj.linear.weight"] = last
        out[f"{theirs}mlp.fc1.weight"] = tensors[f"{ours}gating.linear_in.weight"]
        out[f"{theirs}mlp.fc2.weight"] = tensors[f"{ours}gating.linear_out.weight"]
        out[f"{theirs}input_layernorm.weight"] = tensors[f"{ours}norm1.alpha"][0, 0]
        out[f"{theirs}post_attention_layernorm.weight"] = tensors[f"{ours}norm2.alpha"][0, 0]
    out[f"{prefix}norm.weight"] = tensors["out_norm.alpha"][0, 0]
    return out


def transformers_moshi(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    out = transformers_layers(tensors, config, "decoder.model.")
    steps = config["dep_q"]
    out["decoder.model.embed_tokens.weight"] = tensors["text_emb.weight"]
    out["decoder.lm_head.weight"] = tensors["text_linear.weight"]
    for k in range(config["n_q"]):
        out[f"embed_tokens.{k}.weight"] = tensors[f"emb.{k}.weight"]
    out["depth_decoder.text_embed_tokens.weight"] = tensors["depformer_text_emb.weight"]
    for k in range(steps - 1):
        out[f"depth_decoder.embed_tokens.{k}.weight"] = tensors[f"depformer_emb.{k}.weight"]

    def stack(key: str) -> Tensor:
        return torch.stack([tensors[key.format(k)] for k in range(steps)])

    out["depth_decoder.input_projections.weight"] = stack("depformer_in.{}.weight")
    out["depth_decoder.lm_heads.weight"] = stack("linears.{}.weight")
    for layer in range(config["depformer_num_layers"]):
        theirs, ours = f"depth_decoder.layers.{layer}.", f"depformer.layers.{layer}."
        sides = {
            side: [depth_attention(tensors, layer, side, k, steps) for k in range(steps)]
            for side in ("in", "out")
        }
        for index, name in enumerate("qkv"):
            parts = [fused.chunk(3)[index] for fused in sides["in"]]
            out[f"{theirs}self_attn.{name}_proj.linear.weight"] = torch.stack(parts)
        out[f"{theirs}self_attn.o_proj.linear.weight"] = torch.stack(sides["out"])
        out[f"{theirs}mlp.fc1.weight"] = stack(ours + "gating.{}.linear_in.weight")
        out[f"{theirs}mlp.fc2.weight"] = stack(ours + "gating.{}.linear_out.weight")
        out[f"{theirs}input_layernorm.weight"] = tensors[f"{ours}norm1.alpha"][0, 0]
        out[f"{theirs}post_attention_layernorm.weight"] = tensors[f"{ours}norm2.alpha"][0, 0]
    return out


def transformers_stt(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    out = transformers_layers(tensors, config, "model.")
    tables = [tensors["text_emb.weight"]]
    tables += [tensors[f"emb.{k}.weight"] for k in range(config["n_q"])]
    row = torch.zeros(1, config["dim"])
    out["model.embed_tokens.embed_tokens.weight"] = torch.cat([*tables, row])
    out["lm_head.weight"] = torch.cat([tensors["text_linear.weight"], row + 7])
    return out


def transformers_mimi(
    tensors: Tensors, config: dict[str, Any], prefix: str = "", nested: bool = False
) -> Tensors:
    shape = config["transformer"]
    head_dim = shape["d_model"] // shape["num_heads"]
    names = {
        "self_attn.out_proj": "self_attn.o_proj", "linear1": "mlp.fc1", "linear2": "mlp.fc2",
        "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
        "layer_scale_1": "self_attn_layer_scale", "layer_scale_2": "mlp_layer_scale",
    }  # fmt: skip
    out: Tensors = {}

    def put(key: str, value: Tensor) -> None:
        if nested and not key.startswith("quantizer"):
            room = key.split(".")[0]
            half = "encoder" if room in ("encoder", "encoder_transformer", "downsample") else (
                "decoder"
            )  # fmt: skip
            key = f"{half}." + (key.replace(half, f"{half}_seanet", 1) if room == half else key)
        out[prefix + key] = value

    for key, value in tensors.items():
        if key.startswith("quantizer"):
            new = key.replace("rvq_first", "semantic_residual_vector_quantizer")
            new = new.replace("rvq_rest", "acoustic_residual_vector_quantizer").replace(".vq.", ".")
            new = new.replace("_codebook._initialized", "codebook.initialized")
            new = new.replace("_codebook.embedding_sum", "codebook.embed_sum")
            put(new.replace("_codebook", "codebook"), value)
        elif "_transformer." in key:
            new = key.replace(".transformer.", ".", 1)
            if "in_proj" in new:
                stem = new.split("in_proj")[0] + "{}_proj.weight"
                for name, part in split_attention(value, head_dim, stem).items():
                    put(name, part)
                continue
            for ours, theirs in names.items():
                new = new.replace(ours, theirs)
            put(new, value)
        else:
            new = key.replace("convtr.convtr.convtr", "conv").replace("conv.conv.conv", "conv")
            new = new.replace("convtr.convtr", "conv").replace("conv.conv", "conv")
            put(new.replace(".model.", ".layers."), value)
    return out


def transformers_mimi_config(config: dict[str, Any]) -> dict[str, Any]:
    seanet, quantizer, shape = config["seanet"], config["quantizer"], config["transformer"]
    return {
        "model_type": "mimi", "sampling_rate": config["sample_rate"], "audio_channels": 1,
        "hidden_size": seanet["dimension"], "num_filters": seanet["n_filters"],
        "num_residual_layers": seanet["n_residual_layers"],
        "upsampling_ratios": seanet["ratios"], "kernel_size": seanet["kernel_size"],
        "last_kernel_size": seanet["last_kernel_size"],
        "residual_kernel_size": seanet["residual_kernel_size"],
        "dilation_growth_rate": seanet["dilation_base"], "compress": seanet["compress"],
        "codebook_size": quantizer["bins"], "codebook_dim": quantizer["dimension"],
        "vector_quantization_hidden_dimension": quantizer["dimension"],
        "num_quantizers": quantizer["n_q"], "upsample_groups": seanet["dimension"],
        "num_hidden_layers": shape["num_layers"], "intermediate_size": shape["dim_feedforward"],
        "num_attention_heads": shape["num_heads"], "num_key_value_heads": shape["num_heads"],
        "sliding_window": shape["context"], "rope_theta": shape["max_period"],
    }  # fmt: skip


def transformers_lm_config(config: dict[str, Any], codec: dict[str, Any]) -> dict[str, Any]:
    """Moshi's or speech-to-text's `config.json` for a golden model with gated blocks."""
    hidden = 2 * int(config["hidden_scale"] * config["dim"]) // 3
    shared = {
        "hidden_size": config["dim"], "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"], "sliding_window": config["context"],
        "ffn_dim": 2 * hidden,
        "rope_parameters": {"rope_theta": config["max_period"], "rope_type": "default"},
    }  # fmt: skip
    if config["dep_q"] == 0:
        return shared | {
            "model_type": "kyutai_speech_to_text", "vocab_size": config["text_card"] + 1,
            "codebook_vocab_size": config["card"] + 1, "num_codebooks": config["n_q"],
            "audio_bos_token_id": config["card"], "codec_config": codec,
        }  # fmt: skip
    depth = config["depformer_dim_feedforward"]
    return shared | {
        "model_type": "moshi", "vocab_size": config["text_card"],
        "audio_vocab_size": config["card"], "num_codebooks": config["dep_q"],
        "audio_encoder_config": codec,
        "depth_decoder_config": {
            "hidden_size": config["depformer_dim"],
            "num_hidden_layers": config["depformer_num_layers"],
            "num_attention_heads": config["depformer_num_heads"], "ffn_dim": 2 * (2 * depth // 3),
        },
    }  # fmt: skip
