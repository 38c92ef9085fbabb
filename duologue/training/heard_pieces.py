"""What a recogniser makes of each piece of text, as a stock to draw from where there is no sound.

A dialogue that is only written has no user to be heard. But a recogniser's vectors mostly say which
piece it is about to write, so vectors that it really made before that piece stand in for what it
would make of the user. Drawn anew each time, they also bring what is accidental about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.checkpoints.save import write_tensors
from duologue.training.text_stream import FIRST_PIECE, PADDING

NAME = "heard_pieces.safetensors"
_STOCK = 24
"""Most vectors kept of a piece."""
_SILENT_STOCK = 4000
"""The same of padding, which is nearly everything that is written."""


@dataclass(frozen=True)
class HeardPieces:
    """Vectors [N, dim] float16, sorted by the piece that was written after them."""

    vectors: NDArray[np.float16]
    ends: NDArray[np.int64]
    """[classes]: where the vectors of each piece end."""

    @property
    def known(self) -> int:
        """Pieces that there are vectors of."""
        return int((np.diff(self.ends, prepend=0) > 0).sum())

    def draw(self, tokens: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        """Vectors [T, dim] that may have come before `tokens` [T].

        What there are no vectors of is heard as padding: it is missed.
        """
        counts = np.diff(self.ends, prepend=0)
        tokens = np.where(counts[tokens] > 0, tokens, PADDING)
        begins = self.ends[tokens] - counts[tokens]
        chosen = begins + (rng.random(len(tokens)) * counts[tokens]).astype(np.int64)
        return self.vectors[chosen].astype(np.float32)

    def misheard(
        self, tokens: NDArray[np.int64], share: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Tokens [T] with a share of the pieces taken for others, a third of these not heard."""
        wrong = (tokens >= FIRST_PIECE) & (rng.random(len(tokens)) < share)
        other = rng.integers(FIRST_PIECE, len(self.ends), len(tokens))
        other = np.where(rng.random(len(tokens)) < 1 / 3, PADDING, other)
        return np.where(wrong, other, tokens)

    def save(self, folder: Path) -> None:
        """Keep it beside what was heard."""
        tensors = {"vectors": torch.from_numpy(self.vectors), "ends": torch.from_numpy(self.ends)}
        write_tensors(folder / NAME, tensors, {})

    @classmethod
    def load(cls, folder: Path) -> HeardPieces | None:
        """What `save` kept in a folder, if it did."""
        path = folder / NAME
        if not path.is_file():
            return None
        tensors = safetensors.torch.load_file(path)
        return cls(tensors["vectors"].numpy(), tensors["ends"].numpy())


@torch.no_grad()
def collect_pieces(
    heard: Iterable[Tensor], head: Callable[[Tensor], Tensor], classes: int, seed: int = 0
) -> HeardPieces:
    """Sort what a recogniser made of recordings by what it wrote next.

    Args:
        heard: vectors [F, dim] of each recording.
        head: makes text logits of them.
    """
    rng = np.random.default_rng(seed)
    stock: list[list[NDArray[np.float16]]] = [[] for _ in range(classes)]
    seen = np.zeros(classes, dtype=np.int64)
    for vectors in heard:
        written = head(vectors.float()).argmax(dim=-1).numpy()
        rows = vectors.half().numpy()
        for token, row in zip(written, rows, strict=True):
            most = _STOCK if token >= FIRST_PIECE else _SILENT_STOCK
            seen[token] += 1
            kept = stock[token]
            # Each of those seen so far has the same chance to be kept.
            if len(kept) < most:
                kept.append(row)
            elif (place := int(rng.integers(seen[token]))) < most:
                kept[place] = row
    ends = np.cumsum([len(rows) for rows in stock])
    everything = [row for rows in stock for row in rows]
    return HeardPieces(np.stack(everything), ends.astype(np.int64))
