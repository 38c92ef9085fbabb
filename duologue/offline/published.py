"""Models named as the published programs name them: weights, tokenizer and configuration apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from duologue.checkpoints.folder import FolderConfig, read_json, resolve
from duologue.checkpoints.save import write_json
from duologue.moshi.config import MOSHI_7B
from duologue.offline.settings import TalkError


@dataclass(frozen=True)
class ModelFiles:
    """Single files in place of a model folder's own: paths, `file://` or `hf://` addresses."""

    config: str | None = None
    moshi_weight: str | None = None
    mimi_weight: str | None = None
    tokenizer: str | None = None

    @property
    def given(self) -> bool:
        return any((self.config, self.moshi_weight, self.mimi_weight, self.tokenizer))

    @property
    def is_whole(self) -> bool:
        """Whether there is a model without a folder."""
        return all((self.config, self.moshi_weight, self.mimi_weight, self.tokenizer))

    def assemble(self, model: str | None, folder: Path) -> Path:
        """Put a model folder together in `folder`, which must be empty; the rest is `model`'s.

        Raises:
            CheckpointError: something is not there. TalkError: something is no file.
        """
        values = FolderConfig(MOSHI_7B).to_dict()
        if model is not None:
            base = resolve(model)
            for path in base.iterdir():
                if path.name != "config.json":
                    (folder / path.name).symlink_to(path.resolve())
            if (base / "config.json").is_file():
                values = read_json(base / "config.json")
        if self.config:
            values = read_json(resolve(self.config))
        for key, address in (
            ("moshi_name", self.moshi_weight),
            ("mimi_name", self.mimi_weight),
            ("tokenizer_name", self.tokenizer),
        ):
            if not address:
                continue
            file = resolve(address).resolve()
            if not file.is_file():
                raise TalkError(f"{address}: is not a file")
            values[key] = f"given-{key}{file.suffix}"
            (folder / values[key]).symlink_to(file)
        write_json(folder / "config.json", values)
        return folder
