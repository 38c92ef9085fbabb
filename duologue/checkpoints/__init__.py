"""Every published format in and out; nothing outside this room knows how files name things."""

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import FolderConfig, ModelFolder, resolve
from duologue.checkpoints.load import load_codec, load_lm

__all__ = ["CheckpointError", "FolderConfig", "ModelFolder", "load_codec", "load_lm", "resolve"]
