"""Static embeddings as an optional second opinion on what the lexical search found.

An embedder turns texts into unit vectors. Static ones (a table look-up and a mean) take
microseconds and so fit the deadline; anything slower does not belong here. Without an embedder
nothing of this is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Embedder(Protocol):
    """`embed` maps texts to unit vectors, float32 [N, width]; `name` changes with the model."""

    @property
    def name(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class StaticEmbedder:
    """A model2vec model from a local folder (or a hub id, if that may be fetched)."""

    def __init__(self, model: str | Path) -> None:
        try:
            from model2vec import StaticModel
        except ImportError:
            raise ImportError(
                "static embeddings need: pip install 'duologue[embeddings]'"
            ) from None
        self._model = StaticModel.from_pretrained(str(model))
        self._name = f"model2vec:{Path(model).name}"

    @property
    def name(self) -> str:
        return self._name

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return unit(np.asarray(self._model.encode(list(texts)), np.float32))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length one; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)
