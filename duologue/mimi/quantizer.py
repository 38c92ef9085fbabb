"""Split residual vector quantiser (Moshi paper, arXiv 2410.00037, section 3.3.2).

Two quantisers see the same latent: one level of semantic codes, and a cascade of acoustic levels.
Their outputs are added.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duologue.mimi.config import QuantizerConfig
from duologue.nn.draw import normal
from duologue.nn.linear import Linear
from duologue.nn.modules import ModuleSequence


class Codebook(nn.Module):
    """Table of centroids [bins, dim]."""

    embedding: Tensor

    def __init__(self, bins: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embedding", normal(bins, dim, std=dim**-0.5))

    def nearest(self, x: Tensor) -> Tensor:
        """Index of the centroid nearest to each of [N, dim] -> int64 [N]."""
        half_norm = self.embedding.square().sum(dim=1) / 2
        return torch.addmm(half_norm, x, self.embedding.t(), alpha=-1).argmin(dim=1)

    def lookup(self, codes: Tensor) -> Tensor:
        """int64 [...] -> [..., dim]."""
        return F.embedding(codes, self.embedding)


class ResidualQuantizer(nn.Module):
    """Cascade of codebooks, each coding what the ones before left over."""

    def __init__(self, config: QuantizerConfig, levels: int) -> None:
        super().__init__()
        self.input_proj = Linear(config.input_dimension, config.dimension)
        self.output_proj = Linear(config.dimension, config.output_dimension)
        self.codebooks: ModuleSequence[Codebook] = ModuleSequence(
            Codebook(config.bins, config.dimension) for _ in range(levels)
        )

    def encode(self, x: Tensor, levels: int) -> Tensor:
        """[B, T, dim] -> int64 [B, levels, T]."""
        residual = self.input_proj(x).flatten(0, 1)
        codes = []
        for codebook in self.codebooks[:levels]:
            code = codebook.nearest(residual)
            residual = residual - codebook.lookup(code)
            codes.append(code.view(x.shape[:2]))
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 [B, levels, T] -> [B, T, dim]."""
        levels = zip(self.codebooks, codes.unbind(1), strict=False)
        return self.output_proj(torch.stack([book.lookup(code) for book, code in levels]).sum(0))


class SplitQuantizer(nn.Module):
    """One semantic level and `n_q - 1` acoustic ones over [B, dim, T] latents."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.bins = config.bins
        self.first = ResidualQuantizer(config, 1)
        self.rest = ResidualQuantizer(config, config.n_q - 1)

    def encode(self, latent: Tensor, num_codebooks: int) -> Tensor:
        """[B, dim, T] -> int64 [B, num_codebooks, T], the semantic level first."""
        x = latent.transpose(1, 2)
        codes = self.first.encode(x, 1)
        if num_codebooks > 1:
            codes = torch.cat([codes, self.rest.encode(x, num_codebooks - 1)], dim=1)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """int64 [B, K, T] -> [B, dim, T]; any K from 1 on."""
        x = self.first.decode(codes[:, :1])
        if codes.shape[1] > 1:
            x = x + self.rest.decode(codes[:, 1:])
        return x.transpose(1, 2)
