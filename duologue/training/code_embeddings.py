"""First weights of code embeddings: what the codec itself makes of its codes.

A language model that begins with random tables has to learn from its corpus which of thousands of
codes sound alike. The codec knows: the sum of the vectors that its codebooks stand for is the
latent that it decodes. Tables that begin as those vectors, turned at random, let a model hear the
latent from the first step on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from duologue.mimi.quantizer import SplitQuantizer
from duologue.moshi.embedding import TokenEmbedding

RMS = 0.3
"""Root mean square of an entry of the summed embedding of a frame."""


@torch.no_grad()
def begin_with_codebooks(
    tables: Sequence[TokenEmbedding], quantizer: SplitQuantizer, *, seed: int
) -> None:
    """Fill the tables of a frame's first len(tables) codebooks, in place.

    Each codebook loses its mean, and all are scaled alike; rows that are no code stay as they are.
    """
    vectors = codebook_vectors(quantizer, len(tables))
    vectors = vectors - vectors.mean(dim=1, keepdim=True)
    width, dim = vectors.shape[-1], tables[0].weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(max(width, dim), max(width, dim), generator=generator)).Q
    vectors = vectors @ turned[:width, :dim].to(vectors)
    total = vectors.square().mean(dim=1).sum(dim=0).mean().sqrt()
    for table, own in zip(tables, vectors * (RMS / total), strict=True):
        table.weight[: own.shape[0]] = own.to(table.weight)


def codebook_vectors(quantizer: SplitQuantizer, levels: int) -> Tensor:
    """What each code adds to the latent that is decoded: [levels, bins, dim]."""
    first, rest = quantizer.first, quantizer.rest
    vectors = [first.output_proj(book.embedding) for book in first.codebooks]
    vectors += [rest.output_proj(book.embedding) for book in rest.codebooks]
    return torch.stack(vectors[:levels])
