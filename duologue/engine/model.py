"""What a conversation needs of a model folder, loaded once: codec, language model, tokenizer."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from duologue.engine.duplex import MismatchError

if TYPE_CHECKING:
    from duologue.checkpoints.folder import ModelFolder
    from duologue.mimi.codec import Mimi
    from duologue.moshi.lm import MoshiLM

FRAME_RATE = 12.5
"""The only frame rate that conversations run at."""


class TextPieces(Protocol):
    """Text of one stream, token by token."""

    def push(self, token: int) -> str: ...

    def flush(self) -> str: ...


class TextTokenizer(Protocol):
    """What running a model needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def byte(self, token: int) -> int | None: ...

    def stream(self) -> TextPieces: ...


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory. Weights are shared by everyone who runs it and never written."""

    codec: Mimi
    lm: MoshiLM
    tokenizer: TextTokenizer | None = None
    """Without one, the model's text is left out and it can take no role."""
    name: str = "model"
    takes_prompts: bool = False
    """Whether it can start with a voice and a role (PersonaPlex)."""
    folder: ModelFolder | None = None
    """Where it came from; for the files that belong to its other parts."""

    def __post_init__(self) -> None:
        if self.codec.frame_rate != FRAME_RATE:
            raise MismatchError(
                f"conversations run at {FRAME_RATE} frames/s, this codec at {self.codec.frame_rate}"
            )

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def silent_tokens(self) -> frozenset[int]:
        """Text tokens that say nothing."""
        return frozenset({0, 1, 2, self.lm.config.existing_text_padding_id})

    @property
    def takes_references(self) -> bool:
        """Whether rows can be added to its input as they come (retrieval)."""
        return bool(self.lm.condition_provider.fuser.streaming_sum)

    def fingerprint(self) -> str:
        """Names the model to within a change of weights: shapes, precision and some of its bytes.

        Snapshots and logs carry it, so that they are not continued with another model.
        """
        digest = hashlib.blake2b(digest_size=12)
        digest.update(repr(asdict(self.lm.config)).encode())
        digest.update(repr(asdict(self.codec.config)).encode())
        digest.update(str(self.lm.dtype).encode())
        for module in (self.codec, self.lm):
            for name, weight in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(repr(weight.flatten()[:4].float().tolist()).encode())
        return digest.hexdigest()


def load_model(
    model: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
) -> LoadedModel:
    """Load a model folder (a bundled model's name, a path, or a hub id) for conversations.

    Raises:
        CheckpointError: names the file and what is wrong.
        MismatchError: the folder's model cannot hold conversations.
    """
    from duologue.checkpoints.folder import ModelFolder, resolve
    from duologue.checkpoints.load import load_codec, load_lm
    from duologue.checkpoints.tokenizer import TextTokenizer as Sentencepiece

    folder = ModelFolder.open(resolve(model))
    lm = load_lm(folder.path, device=device, dtype=dtype, quantization=quantization or "stored")
    if not lm.config.dep_q:
        raise MismatchError(f"{os.fspath(model)} only writes (it has no voice), so it cannot talk")
    codec = load_codec(folder.path, device=device)
    path = folder.path / folder.config.tokenizer_name
    return LoadedModel(
        codec,
        lm,
        Sentencepiece(path) if path.exists() else None,
        name=os.fspath(model),
        takes_prompts=folder.config.model_type == "personaplex",
        folder=folder,
    )
