"""Model folders: `config.json` beside weights and tokenizer, laid out as on the hub.

What the published keys mean, which file holds what when a key is absent, and how a name, a path or
a hub id becomes a local folder. Nothing here reads tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from duologue.checkpoints.errors import CheckpointError
from duologue.conditioning.provider import FuserConfig
from duologue.mimi.config import MimiConfig
from duologue.moshi.config import MOSHI_7B, LMConfig

MIMI_DEFAULT = "tokenizer-e351c8d8-checkpoint125.safetensors"
MOSHI_DEFAULT = "model.safetensors"
TOKENIZER_DEFAULT = "tokenizer_spm_32k_3.model"
MAX_CONFIG_BYTES = 2**20

_LOADER_KEYS = (
    "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "model_type",
    "lm_gen_config", "tts_config", "stt_config", "model_id", "conditioners", "fuser", "lora",
    "lora_rank", "lora_scaling", "quantize", "generated_q", "format", "floor",
    "heard_from",
)  # fmt: skip


@dataclass(frozen=True)
class LoRAConfig:
    """Adapter that a folder's model carries."""

    name: str
    rank: int = 128
    scaling: float = 2.0


@dataclass(frozen=True)
class FolderConfig:
    """Everything that a model's `config.json` says."""

    lm: LMConfig
    model_type: str = "moshi"
    """moshi, hibiki, stt, tts or personaplex"""
    moshi_name: str = MOSHI_DEFAULT
    mimi_name: str = MIMI_DEFAULT
    mimi_config_name: str | None = None
    tokenizer_name: str = TOKENIZER_DEFAULT
    conditioners: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fuser: FuserConfig = field(default_factory=FuserConfig)
    lora: LoRAConfig | None = None
    lm_gen_config: Mapping[str, Any] = field(default_factory=dict)
    tts_config: Mapping[str, Any] = field(default_factory=dict)
    stt_config: Mapping[str, Any] = field(default_factory=dict)
    model_id: Mapping[str, Any] = field(default_factory=dict)
    generated_q: int | None = None
    """Codebooks to generate when that is fewer than the model's `dep_q`."""
    floor: Mapping[str, Any] | None = None
    """Settings of `duologue.dialogue.FloorRules`: the model is not to decide alone when it speaks.
    Our own key; published models have none."""
    heard_from: str | None = None
    """Fingerprint of the recogniser whose vectors the model learnt to read (`LMConfig.heard_dim`).
    Our own key."""
    codec: MimiConfig | None = None
    """The codec's shape, where `config.json` itself says it (transformers)."""

    @property
    def num_codebooks(self) -> int:
        """Codes per frame that the codec must give or take (published loader rule)."""
        lm = self.lm
        widest = max(lm.dep_q, lm.n_q - lm.dep_q)
        if self.model_type == "personaplex" or self.tts_config.get("multistream"):
            widest //= 2
        return widest

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FolderConfig:
        """Split the published keys into the model's and the loader's."""
        rest = dict(values)
        own = {key: rest.pop(key) for key in _LOADER_KEYS if key in rest}
        given = {
            key: own[key]
            for key in (
                "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "model_type",
                "lm_gen_config", "tts_config", "stt_config", "model_id", "conditioners",
                "generated_q", "floor", "heard_from",
            )
            if own.get(key) is not None
        }  # fmt: skip
        for key, value in given.items():
            if key.endswith("_name"):
                _check_plain_name(key, value)
        lora = None
        if own.get("lora"):
            name = own.get("lora_name") or "lora.safetensors"
            _check_plain_name("lora_name", name)
            lora = LoRAConfig(name, own.get("lora_rank", 128), own.get("lora_scaling", 2.0))
        return cls(
            LMConfig.from_dict(rest), fuser=FuserConfig.from_dict(own.get("fuser")), lora=lora,
            **given,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The published keys."""
        values = self.lm.to_dict()
        values["conditioners"] = {name: dict(block) for name, block in self.conditioners.items()}
        fuser = self.fuser
        values["fuser"] = {
            "cross_attention_pos_emb": fuser.cross_attention_pos_emb,
            "cross_attention_pos_emb_scale": fuser.cross_attention_pos_emb_scale,
            **{m: list(getattr(fuser, m)) for m in ("sum", "cross", "prepend", "streaming_sum")},
        }
        for key in ("model_type", "moshi_name", "mimi_name", "tokenizer_name"):
            values[key] = getattr(self, key)
        optional = (
            "mimi_config_name", "lm_gen_config", "tts_config", "stt_config", "model_id",
            "generated_q",
        )  # fmt: skip
        values |= {key: getattr(self, key) for key in optional if getattr(self, key)}
        if self.floor is not None:
            values["floor"] = dict(self.floor)
        if self.heard_from is not None:
            values["heard_from"] = self.heard_from
        if self.lora is not None:
            values |= {
                "lora": True, "lora_name": self.lora.name, "lora_rank": self.lora.rank,
                "lora_scaling": self.lora.scaling,
            }  # fmt: skip
        return values


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def parse_codec_config(values: Mapping[str, Any], path: Path) -> MimiConfig:
    """A codec's shape from the published layout (which our own files mark with `format`)."""
    try:
        return MimiConfig.from_dict({k: v for k, v in values.items() if k != "format"})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_codec_config(config_file: Path) -> MimiConfig | None:
    """The codec's shape, if that is what a `config.json` describes (ours, or transformers')."""
    values = read_json(config_file) if config_file.is_file() else {}
    if values.get("model_type") == "mimi":
        from duologue.checkpoints.transformers_format import mimi_config_from_transformers

        try:
            return mimi_config_from_transformers(values)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{config_file}: {error}") from error
    return parse_codec_config(values, config_file) if "seanet" in values else None


def codec_config_beside(file: Path) -> MimiConfig:
    """Shape of the codec in `file`: as its folder says, or the published Mimi."""
    config_file = file.parent / "config.json"
    config = read_codec_config(config_file)
    if config is None and config_file.is_file():
        folder = ModelFolder.open(file.parent)
        if folder.config.mimi_name == file.name:
            config = folder.mimi_config
    return config or MimiConfig()


@dataclass(frozen=True)
class ModelFolder:
    """A local folder and what its configuration says."""

    path: Path
    config: FolderConfig

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Read a folder; without `config.json` it holds the published 7B model."""
        if not path.is_dir():
            raise CheckpointError(f"{path}: is not a folder with a model")
        config_file = path / "config.json"
        if not config_file.exists():
            return cls(path, FolderConfig(MOSHI_7B))
        try:
            return cls(path, _parse_config(read_json(config_file), path))
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{config_file}: {error}") from error

    @property
    def moshi_path(self) -> Path:
        return self.file(self.config.moshi_name, "moshi_name")

    @property
    def mimi_path(self) -> Path:
        return self.file(self.config.mimi_name, "mimi_name")

    @property
    def tokenizer_path(self) -> Path:
        return self.file(self.config.tokenizer_name, "tokenizer_name")

    @property
    def mimi_config(self) -> MimiConfig:
        """The codec's shape: `mimi_config_name`'s file, else `codec`, else the published Mimi."""
        name = self.config.mimi_config_name
        if name is None:
            return self.config.codec or MimiConfig()
        path = self.file(name, "mimi_config_name")
        return parse_codec_config(read_json(path), path)

    def file(self, name: str, key: str) -> Path:
        """A file of the folder; absent, an error that says what was looked for."""
        path = self.path / name
        if not path.is_file():
            found = ", ".join(sorted(p.name for p in self.path.iterdir())[:12]) or "nothing"
            raise CheckpointError(f"{path}: no such file ({key} names it); the folder has {found}")
        return path

    def with_config(self, **changes: Any) -> ModelFolder:
        return ModelFolder(self.path, replace(self.config, **changes))


def _parse_config(values: dict[str, Any], path: Path) -> FolderConfig:
    """Our own and the published keys, or those of a format that has others."""
    from duologue.checkpoints import personaplex, transformers_format

    if transformers_format.is_transformers_config(values):
        return transformers_format.folder_config_from_transformers(values, path)
    return personaplex.folder_config(values, path) or FolderConfig.from_dict(values)


def bundled_models() -> Path:
    """Folder of the models that ship with the package."""
    return Path(__file__).parent.parent / "models"


def resolve(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """A bundled model's name, a path, a hub id, `hf://` or `file://` -> local folder or file.

    A path that exists wins; then bundled names; `owner/name` is fetched from the hub.
    """
    path = Path(name)
    if path.exists():
        return path
    text = os.fspath(name)
    bundled = bundled_models() / text
    if "/" not in text and bundled.is_dir():
        return bundled
    if text.startswith("file://") or (text.startswith("hf://") and text.count("/") > 3):
        from duologue.checkpoints.hub import fetch_uri

        return fetch_uri(text, revision)
    text = text.removeprefix("hf://")
    parts = text.split("/")
    if len(parts) == 2 and all(parts) and not text.startswith((".", "/", "~")):
        from duologue.checkpoints.hub import fetch_repository

        return fetch_repository(text, revision)
    known = ", ".join(sorted(p.name for p in bundled_models().glob("*") if p.is_dir())) or "none"
    raise CheckpointError(
        f"{text!r} is no local folder or file, no bundled model ({known}), and no hub id "
        "of the form owner/name"
    )


def _check_plain_name(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value or Path(value).name != value:
        raise CheckpointError(f"{key}: {value!r} is not the plain name of a file in the folder")
