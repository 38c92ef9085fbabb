"""Published key and shape lists, tensor by tensor, against full-size models without weights."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from duologue.checkpoints.candle import candle_lm_layout
from duologue.checkpoints.detect import prepare_codec, prepare_lm
from duologue.checkpoints.folder import FolderConfig, ModelFolder
from duologue.checkpoints.kyutai_lm import lm_layout
from duologue.checkpoints.kyutai_mimi import mimi_layout
from duologue.checkpoints.layout import Layout
from duologue.checkpoints.load import build_lm
from duologue.checkpoints.tensorfile import TensorDict
from duologue.checkpoints.transformers_format import (
    folder_config_from_transformers,
    lm_config_to_transformers,
    mimi_config_from_transformers,
    mimi_config_to_transformers,
)
from duologue.checkpoints.transformers_layout import mimi_layout as transformers_mimi_layout
from duologue.checkpoints.transformers_layout import moshi_layout, stt_layout
from duologue.mimi import Mimi, MimiConfig
from duologue.moshi.lm import MoshiLM

DATA = Path(__file__).parent.parent / "data" / "state_dicts"

PUBLISHED = {
    "moshi_7b": ("config_moshi_7b_202409.json", {}, 7_687_729_152),
    "hibiki_2b": ("hf_config_hibiki-2b.reconstructed.json", {}, None),
    "hibiki_zero_3b": ("hf_config_hibiki-zero-3b.partial.json", {}, 3_131_686_912),
    "stt_1b_en_fr": ("hf_config_stt-1b-en_fr.reconstructed.json", {}, None),
    "stt_1b_en_fr_candle": (
        "hf_config_stt-1b-en_fr.reconstructed.json", {"extra_heads_num_heads": 4}, 989_253_632,
    ),
    "stt_2.6b_en": ("hf_config_stt-2.6b-en.json", {}, None),
    "tts_0.75b_en_public": ("hf_config_tts-0.75b-en-public.reconstructed.json", {}, None),
    "tts_1.6b_en_fr": ("hf_config_tts-1.6b-en_fr.json", {}, 1_836_550_272),
}  # fmt: skip

Shape = tuple[int, ...]
Grouped = dict[tuple[str, Shape], list[tuple[int, ...]]]


def read_json(name: str) -> dict[str, Any]:
    return json.loads((DATA / name).read_text())


def read_table(name: str) -> list[tuple[str, Shape, str]]:
    """Rows of a list: key or pattern, shape, index ranges."""
    lines = (DATA / f"{name}_state_dict.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith(("#", "key"))]
    return [
        (row[0], tuple(int(n) for n in row[1].split("x")), row[3] if len(row) > 3 else "")
        for row in rows
    ]


def grouped(shapes: dict[str, Shape]) -> Grouped:
    """Indices of the keys that are alike but for them."""
    groups: Grouped = defaultdict(list)
    for key, shape in shapes.items():
        indices = tuple(int(n) for n in re.findall(r"(?<=\.)\d+(?=\.)", key))
        groups[re.sub(r"(?<=\.)\d+(?=\.)", "*", key), shape].append(indices)
    return groups


def values_of(ranges: str) -> set[int]:
    parts = [part.split("..") for part in ranges.split(",")]
    return {n for part in parts for n in range(int(part[0]), int(part[-1]) + 1)}


def assert_as_listed(shapes: dict[str, Shape], name: str) -> None:
    ours = grouped(shapes)
    for pattern, shape, ranges in read_table(name):
        indices = ours.pop((pattern, shape), None)
        assert indices is not None, f"{pattern} {shape} is not ours"
        if pattern.count("*") == 0:
            assert indices == [()]
            continue
        *listed, count = ranges.split(" ")
        assert len(indices) == int(re.sub(r"\D", "", count)), pattern
        for position, spelled in enumerate(listed):
            assert {index[position] for index in indices} == values_of(spelled), pattern
    assert not ours, f"not listed: {sorted(ours)[:3]}"


@lru_cache
def published(name: str) -> MoshiLM:
    file, changes, _ = PUBLISHED[name]
    config = FolderConfig.from_dict(read_json(file) | changes)
    return build_lm(ModelFolder(Path(), config))


def written(module: nn.Module, layout: Layout) -> dict[str, torch.Tensor]:
    return layout.write(module.state_dict())


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, Shape]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def assert_read_back(lm: MoshiLM, tensors: dict[str, torch.Tensor]) -> None:
    source, layout = prepare_lm(TensorDict("listed", tensors), lm)
    weights = layout.read(source, lm.state_dict())
    assert weights.keys() == lm.state_dict().keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_language_models(name: str) -> None:
    lm = published(name)
    tensors = written(lm, lm_layout(lm))
    assert_as_listed(shapes_of(tensors), name)
    if elements := PUBLISHED[name][2]:
        assert sum(tensor.numel() for tensor in tensors.values()) == elements
    assert_read_back(lm, tensors)


def test_candle_without_depth_has_the_published_names() -> None:
    lm = published("stt_1b_en_fr_candle")
    assert_as_listed(shapes_of(written(lm, candle_lm_layout(lm))), "stt_1b_en_fr_candle")


def test_mimi() -> None:
    with torch.device("meta"):
        codec = Mimi(MimiConfig())
    tensors = written(codec, mimi_layout(codec))
    assert shapes_of(tensors) == {key: shape for key, shape, _ in read_table("mimi")}
    source, layout = prepare_codec(TensorDict("listed", tensors), codec)
    assert len(layout.read(source, codec.state_dict())) == len(codec.state_dict())


def test_transformers_mimi() -> None:
    values = read_json("hf_transformers_mimi_config_defaults.json")
    config = mimi_config_from_transformers(values)
    assert config == MimiConfig()
    ours = mimi_config_to_transformers(config)
    assert {
        key: values[key] for key in ours.keys() & values.keys() - {"architectures", "dtype"}
    } == {key: ours[key] for key in ours.keys() & values.keys() - {"architectures", "dtype"}}
    with torch.device("meta"):
        codec = Mimi(config)
    listed = {key: shape for key, shape, _ in read_table("hf_transformers_mimi")}
    file = {key: torch.empty(shape, device="meta") for key, shape in listed.items()}
    source, layout = prepare_codec(TensorDict("listed", file), codec)
    assert len(layout.read(source, codec.state_dict())) == len(codec.state_dict())
    flat = written(codec, transformers_mimi_layout(codec))
    assert sorted(shapes_of(flat).values()) == sorted(listed.values())


@pytest.mark.parametrize("kind", ["moshi", "kyutai_stt"])
def test_transformers_language_models(kind: str) -> None:
    values = read_json(f"hf_transformers_{kind}_config_defaults.json")
    folder = folder_config_from_transformers(values, Path("nowhere"))
    assert folder.codec == MimiConfig()
    preset = "moshi_7b" if kind == "moshi" else "stt_2.6b_en"
    reference = published(preset).config
    # The list was made from the defaults, which have another period for speech-to-text.
    for name in ("dim", "num_heads", "num_layers", "hidden_scale", "context", "delays", "card",
                 "n_q", "dep_q", "text_card", "existing_text_padding_id"):  # fmt: skip
        assert getattr(folder.lm, name) == getattr(reference, name), name
    lm = build_lm(ModelFolder(Path(), folder))
    tensors = written(lm, moshi_layout(lm) if kind == "moshi" else stt_layout(lm))
    with torch.device("meta"):
        codec = Mimi(folder.codec)
    prefix = "audio_encoder." if kind == "moshi" else "codec_model."
    tensors |= written(codec, transformers_mimi_layout(codec, prefix))
    # Files are flat where the list, made in memory, is nested.
    assert_as_listed({_nested(key, prefix): s for key, s in shapes_of(tensors).items()},
                     f"hf_transformers_{kind}")  # fmt: skip
    assert_read_back(lm, tensors)
    back = lm_config_to_transformers(folder.lm, folder.codec)
    assert folder_config_from_transformers(back, Path("nowhere")).lm == folder.lm


def _nested(key: str, prefix: str) -> str:
    rest = key.removeprefix(prefix)
    if rest == key or rest.startswith("quantizer."):
        return key
    half = "encoder" if rest.startswith(("encoder", "downsample")) else "decoder"
    rest = re.sub(r"^(encoder|decoder)\.layers", r"\1_seanet.layers", rest)
    return f"{prefix}{half}.{rest}"


def test_moshirag() -> None:
    """Moshi 7B's tensors and those of its two conditioners (the encoder has a file of its own)."""
    values = read_json("config_moshi_7b_202409.json") | {
        "rag_token_id": 4,
        "conditioners": {
            "first_speaker": {
                "type": "lut",
                "lut": {
                    "n_bins": 2, "dim": 16, "tokenizer": "noop",
                    "possible_values": ["SPEAKER_MAIN", "SPEAKER_OTHER"],
                },
            },
            "reference_with_time": {
                "type": "multi_arc_encoder",
                "multi_arc_encoder": {
                    "embedder_params": {"compress_rates": [-4]},
                    "bridge_module": {"in_dim": 3072, "out_dim": 4096, "hidden_dim": 2048},
                    "hf_repo": "kyutai/ARC4_Encoder_Llama", "finetune": False,
                },
            },
        },
        "fuser": {"streaming_sum": ["reference_with_time"], "prepend": ["first_speaker"]},
    }  # fmt: skip
    lm = build_lm(ModelFolder(Path(), FolderConfig.from_dict(values)))
    shapes = shapes_of(written(lm, lm_layout(lm)))
    stem = "condition_provider.conditioners."
    conditions = {key.removeprefix(stem): s for key, s in shapes.items() if key.startswith(stem)}
    assert conditions == {
        "reference_with_time.output_proj.weight": (4096, 4096),
        "reference_with_time.learnt_padding": (1, 1, 4096),
        "first_speaker.embed.weight": (3, 16),
        "first_speaker.output_proj.weight": (4096, 16),
        "first_speaker.learnt_padding": (1, 1, 4096),
    }
    rest = {key: shape for key, shape in shapes.items() if not key.startswith(stem)}
    assert_as_listed(rest, "moshi_7b")


def test_personaplex() -> None:
    """Moshi 7B with twice the depth steps."""
    values = read_json("config_moshi_7b_202409.json") | {"dep_q": 16}
    lm = build_lm(ModelFolder(Path(), FolderConfig.from_dict(values)))
    shapes = shapes_of(written(lm, lm_layout(lm)))
    assert shapes["depformer.layers.5.self_attn.in_proj_weight"] == (16 * 3072, 1024)
    assert shapes["depformer_emb.14.weight"] == (2049, 1024)
    half = shapes_of(written(published("moshi_7b"), lm_layout(published("moshi_7b"))))
    assert half.keys() < shapes.keys()
