"""What training the duplex model and the transcription model have in common."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.save import save_codec, save_lm
from duologue.mimi.codec import Mimi
from duologue.moshi.lm import MoshiLM
from duologue.training.checkpoint import TrainingStateError, below, copy_into, plain, under
from duologue.training.data import DataError, batches, generator_at
from duologue.training.encoded import Conversation, EncodedCorpus, codec_fingerprint
from duologue.training.heard_pieces import HeardPieces
from duologue.training.lm_data import LMBatch, SequenceConfig, SequenceSampler, collate
from duologue.training.optim import OptimizerConfig, WeightAverage, build_optimizer, set_lr
from duologue.training.trainer import RunConfig

logger = logging.getLogger(__name__)

_LAYER = re.compile(r"(?P<stack>.*\blayers)\.\d+\.")
_LAYER_OUTPUT = re.compile(r"\b(?:out_proj|linear_out)(?:\.\d+)?\.weight$")
CODEC_NAME, CODEC_CONFIG_NAME = "codec.safetensors", "codec.json"


@dataclass(frozen=True)
class LanguageTrainingConfig:
    """What every language model's training says."""

    lm: dict[str, Any]
    """Published keys of the model."""
    run: RunConfig = field(default_factory=RunConfig)
    data: SequenceConfig = field(default_factory=SequenceConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    )
    ema: float = 0.999
    export_dtype: str = "bfloat16"
    held_out_sequences: int = 32
    compile: bool = False
    """Compile transformers and losses; without a C++ compiler they run as they are."""


@dataclass(frozen=True)
class Corpus:
    """Conversations by use, and what belongs to them."""

    train: list[Conversation]
    held_out: list[Conversation]
    codebooks: int
    frame_rate: float
    fingerprint: str
    silent_vector: Tensor | None = None
    """What the recogniser that has heard the conversations makes of silence, [dim]."""
    pieces: HeardPieces | None = None
    """What it made of pieces of text."""
    recogniser: str | None = None
    """Fingerprint of that recogniser."""

    @classmethod
    def of(cls, folders: Sequence[Path], codec: Mimi) -> Corpus:
        """Read encoded corpora; those that are not of the split "train" are held out.

        Raises:
            DataError: a corpus was encoded with another codec.
        """
        corpora = [EncodedCorpus(folder) for folder in folders]
        for corpus in corpora:
            if corpus.description["codec"] != codec_fingerprint(codec):
                raise DataError(f"{corpus.folder}: encoded with another codec; encode it again")
        heard = {corpus.recogniser: corpus.silent_vector for corpus in corpora}
        heard.pop(None, None)
        if len(heard) > 1:
            raise DataError("the corpora were heard by different recognisers (`train hear`)")
        everything = [one for corpus in corpora for one in corpus.conversations]
        train, held_out = held_out_apart(everything)
        return cls(
            train, held_out, corpora[0].codebooks, codec.frame_rate,
            "-".join(corpus.fingerprint for corpus in corpora), next(iter(heard.values()), None),
            _richest(corpora), next(iter(heard), None),
        )  # fmt: skip


def _richest(corpora: Sequence[EncodedCorpus]) -> HeardPieces | None:
    """The stock that knows the most pieces."""
    stocks = [HeardPieces.load(corpus.folder) for corpus in corpora]
    known = [stock for stock in stocks if stock is not None]
    return max(known, key=lambda stock: stock.known, default=None)


def held_out_apart(
    everything: Sequence[Conversation],
) -> tuple[list[Conversation], list[Conversation]]:
    """Those to learn from and those to judge by: every fiftieth where none is of another split."""
    train = [one for one in everything if one.split == "train"]
    held_out = [one for one in everything if one.split != "train"]
    if held_out:
        return train, held_out
    return [one for i, one in enumerate(train) if i % 50] or train, train[::50]


class LanguageTask:
    """Everything of a language model's training but its sequences, losses and export."""

    kind: str
    sampler: SequenceSampler

    def __init__(
        self,
        config: LanguageTrainingConfig,
        modules: Mapping[str, nn.Module],
        corpus: Corpus,
        device: torch.device,
    ) -> None:
        self.config, self.corpus, self.device = config, corpus, device
        self.modules = {name: module.to(device) for name, module in modules.items()}
        self.averages = {
            name: WeightAverage(module, config.ema) for name, module in self.modules.items()
        }
        self.optimizer = build_optimizer(self.modules.values(), config.optimizer)

    def batches(self, position: int) -> Iterator[LMBatch]:
        return batches(self.sampler, position, self.config.run.batch)

    def losses(
        self, batch: LMBatch, step: int, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is to be minimised, and what is to be reported."""
        raise NotImplementedError

    def learn(
        self, micro_batches: Sequence[LMBatch], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        share = 1 / len(micro_batches)
        report: dict[str, Tensor] = {}
        for batch in micro_batches:
            loss, values = self.losses(batch.to(self.device), step, generator)
            (loss * share).backward()
            for name, value in {"loss": loss, **values}.items():
                report[name] = report.get(name, torch.zeros_like(value)) + value.detach() * share
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        report["grad_norm"] = nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
        scale = config.optimizer.scale_at(step, config.run.steps)
        set_lr(self.optimizer, config.optimizer.lr * scale)
        self.optimizer.step()
        for name, module in self.modules.items():
            self.averages[name].update(module, step)
        frames = sum(batch.codes.shape[0] * batch.codes.shape[2] for batch in micro_batches)
        report["lr"] = torch.tensor(config.optimizer.lr * scale)
        report["audio_s"] = torch.tensor(frames / self.corpus.frame_rate)
        return report

    def held_out_batches(self) -> Iterator[LMBatch]:
        """Sequences to judge by: always the same ones."""
        raise NotImplementedError

    def first_sequences(self, conversations: Sequence[Conversation]) -> Iterator[LMBatch]:
        """The beginnings of some conversations, in batches, nothing blotted out."""
        size = self.config.run.batch
        for first in range(0, len(conversations), size):
            part = conversations[first : first + size]
            yield collate(
                [
                    self.sampler.cut(one, 0, generator_at(0, i), blot=False)
                    for i, one in enumerate(part)
                ]
            )

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            found |= under(name, dict(module.named_parameters()))
            found |= under(f"average.{name}", self.averages[name].tensors)
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        present = self.tensors()
        for name in self.modules:
            for part in (name, f"average.{name}"):
                copy_into(below(part, present), below(part, tensors), part)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"model": self.optimizer}

    def values(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "lm": plain(self.config.lm),
            "training": plain(dataclasses.asdict(self.config)),
            "data": self.corpus.fingerprint,
        }

    def check_values(self, saved: Mapping[str, Any]) -> None:
        mine = self.values()
        for name in ("kind", "lm"):
            if plain(saved.get(name)) != mine[name]:
                raise TrainingStateError(
                    f"the run in this folder was started with another {name}; "
                    "choose another folder, or the old configuration"
                )
        if saved.get("data") != mine["data"]:
            logger.warning("the training data differs from when this run was last saved; going on")

    def swapped(self) -> AveragedWeights:
        """Context in which the modules hold their averaged weights."""
        return AveragedWeights(self)


def go_on_from(module: nn.Module, start: nn.Module, *, optional: tuple[str, ...] = ()) -> None:
    """Give a module the weights of one of the same shape, or of one with fewer layers.

    Layers that `start` lacks keep what they were drawn with but for their outputs, which are
    zeros: until they are trained nothing of what is computed changes.

    Args:
        optional: weights whose names begin so stay as they are where `start` has none.

    Raises:
        TrainingStateError: it has another shape; names what differs.
    """
    weights = {name: tensor.to(torch.float32) for name, tensor in start.state_dict().items()}
    for name, tensor in module.state_dict().items():
        if name.startswith(optional):
            weights.setdefault(name, tensor)
    weights.update(_new_layers(module, weights))
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingStateError(f"the model to start from does not fit: {error}") from error


def _new_layers(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the layers that come after those in `weights`, in the same stacks."""
    found = [match for name in weights if (match := _LAYER.match(name))]
    layers, stacks = {match[0] for match in found}, {match["stack"] for match in found}
    new: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        match = _LAYER.match(name)
        if match and match["stack"] in stacks and match[0] not in layers:
            new[name] = torch.zeros_like(tensor) if _LAYER_OUTPUT.search(name) else tensor
    return new


def spread(items: Sequence[Conversation], count: int) -> list[Conversation]:
    """At most `count` of some items, evenly spread."""
    return list(items[:: max(1, len(items) // max(1, count))][:count])


class AveragedWeights:
    """Puts averaged weights into a task's modules, and the others back."""

    def __init__(self, task: LanguageTask) -> None:
        self.task = task
        self._kept: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def __enter__(self) -> None:
        for name, module in self.task.modules.items():
            self._kept[name] = [p.detach().clone() for p in module.parameters()]
            self.task.averages[name].copy_to(module)

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for name, module in self.task.modules.items():
            for parameter, kept in zip(module.parameters(), self._kept[name], strict=True):
                parameter.copy_(kept)


def save_model_folder(
    folder: Path,
    lm: MoshiLM,
    described: FolderConfig,
    codec: Mimi | None,
    tokenizer: Path,
    dtype: torch.dtype,
) -> None:
    """Write a whole model folder: language model, codec if it has one, tokenizer, configuration.

    The codec stays as it is: narrower, it would give other codes than those that were learnt.
    """
    save_lm(folder, lm, described, dtype=dtype)
    if codec is not None:
        save_codec(folder, codec, config_name=CODEC_CONFIG_NAME, weights_name=CODEC_NAME)
    (folder / described.tokenizer_name).write_bytes(tokenizer.read_bytes())
