"""Learning the residual codebooks of a codec; what only training needs of a quantiser.

Codebooks follow running averages of the vectors assigned to them (van den Oord et al. 2017); they
start from k-means over latents of an autoencoder that has learnt a little without them, and an
entry that is hardly used is moved onto a recent latent. The gradient passes straight through the
whole cascade. Some items skip the quantiser, some use fewer levels (Moshi, arXiv 2410.00037,
section 3.3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from duologue.mimi.quantizer import Codebook, SplitQuantizer

_EPSILON = 1e-5


@dataclass(frozen=True)
class QuantizerTrainingConfig:
    """How codebooks are learnt."""

    decay: float = 0.99
    start_step: int = 300
    """Until then nothing is quantised, and recent latents are gathered for k-means."""
    pool: int = 8192
    """Recent latents kept."""
    kmeans_iterations: int = 20
    revive_every: int = 20
    revive_below: float = 0.1
    """An entry used less than this share of the mean is moved."""
    bypass: float = 0.3
    """Share of items that go to the decoder unquantised."""
    bypass_end: float = 0.05
    """The same at the end of the decline."""
    bypass_decline_steps: int = 10_000
    full_share: float = 0.5
    """Share of quantised items that use all levels; the others use a random number of them."""
    commitment: float = 0.25

    def bypass_at(self, step: int) -> float:
        """Share of unquantised items at a step."""
        if step < self.start_step:
            return 1.0
        done = min(1.0, (step - self.start_step) / max(1, self.bypass_decline_steps))
        return self.bypass + (self.bypass_end - self.bypass) * done


@dataclass(frozen=True)
class Quantized:
    """What quantising a batch gave."""

    latent: Tensor
    """[B, dim, T] for the decoder, with gradient."""
    semantic: Tensor
    """[B, T, dim] output of the first codebook alone, with gradient."""
    commitment: Tensor
    """Scalar: mean squared distance of the projected latents to their codes."""
    codes: Tensor
    """int64 [B, K, T]."""


class CodebookStatistics:
    """Running averages behind one codebook."""

    def __init__(self, codebook: Codebook) -> None:
        self.codebook = codebook
        bins = codebook.embedding.shape[0]
        self.usage = codebook.embedding.new_ones(bins)
        self.sums = codebook.embedding.detach().clone()

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered, the codebook itself included."""
        return {"usage": self.usage, "sums": self.sums, "embedding": self.codebook.embedding}

    def start(self, vectors: Tensor, iterations: int, generator: torch.Generator) -> None:
        """Place the entries by k-means over [N, dim]."""
        centroids, counts = kmeans(vectors, self.codebook.embedding.shape[0], iterations, generator)
        self.codebook.embedding.copy_(centroids)
        # Counts as if a usual batch had been seen; only their ratios matter.
        self.usage.copy_(counts / counts.mean())
        self.sums.copy_(centroids * self.usage[:, None])

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, decay: float) -> None:
        """Take in a batch: vectors [N, dim] and the entries they chose [N]."""
        bins = self.usage.shape[0]
        counts = torch.zeros_like(self.usage).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors)
        # Usage is relative to the mean, so that the batch size can change during a run.
        scale = bins / vectors.shape[0]
        self.usage.lerp_(counts * scale, 1 - decay)
        self.sums.lerp_(sums * scale, 1 - decay)
        self._refresh()

    def revive(self, candidates: Tensor, below: float) -> Tensor:
        """Move entries used less than `below` times the mean onto candidates [N >= bins, dim].

        Returns:
            How many were moved, as a scalar tensor.
        """
        dead = self.usage < below * self.usage.mean()
        order = (dead.cumsum(0) - 1).clamp(min=0) % candidates.shape[0]
        fresh = candidates[order]
        self.usage.copy_(torch.where(dead, torch.ones_like(self.usage), self.usage))
        self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
        self._refresh()
        return dead.sum()

    def _refresh(self) -> None:
        self.codebook.embedding.copy_(self.sums / self.usage.clamp(min=_EPSILON)[:, None])


class QuantizerTrainer:
    """Trains the codebooks of a split quantiser beside the gradient steps of everything else."""

    def __init__(self, quantizer: SplitQuantizer, config: QuantizerTrainingConfig) -> None:
        self.quantizer, self.config = quantizer, config
        self.branches = (quantizer.first, quantizer.rest)
        self.statistics = [
            [CodebookStatistics(book) for book in branch.codebooks] for branch in self.branches
        ]
        weight = quantizer.first.input_proj.weight
        self.pool = weight.new_zeros(config.pool, quantizer.first.input_proj.in_features)
        self.pool_filled = torch.zeros((), dtype=torch.int64)
        """Latents ever put into the pool (held on the CPU: it only depends on counts)."""
        self.started = torch.zeros((), dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """State of this trainer, for saving and for overwriting."""
        found = {"pool": self.pool, "pool_filled": self.pool_filled, "started": self.started}
        for b, branch in enumerate(self.statistics):
            for level, statistics in enumerate(branch):
                for name, tensor in statistics.tensors().items():
                    found[f"{b}.{level}.{name}"] = tensor
        return found

    def __call__(self, latent: Tensor, step: int, generator: torch.Generator) -> Quantized:
        """Quantise latents [B, dim, T] for one training step; random choices from `generator`."""
        x = latent.transpose(1, 2)
        bypass = self._draw_bypass(x.shape[0], step, generator).to(x.device)
        levels = self._draw_levels(x.shape[0], generator).to(x.device)
        if not self.started:
            zero = latent.new_zeros(())
            codes = torch.zeros(
                x.shape[0], len(self.quantizer.rest.codebooks) + 1, x.shape[1],
                dtype=torch.int64, device=x.device,
            )  # fmt: skip
            module = self.quantizer.first
            return Quantized(latent, module.output_proj(module.input_proj(x)), zero, codes)
        first, commit_first, codes_first = self._cascade(0, x, None)
        rest, commit_rest, codes_rest = self._cascade(1, x, levels)
        quantized = first + rest
        kept = torch.where(bypass[:, None, None], x, quantized)
        return Quantized(
            kept.transpose(1, 2),
            first,
            (commit_first + commit_rest) / 2,
            torch.cat([codes_first, codes_rest], dim=1),
        )

    @torch.no_grad()
    def fixed(self, latent: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise [B, dim, T] as a finished codec does, some items with fewer levels."""
        levels = self._draw_levels(latent.shape[0], generator).to(latent.device)
        codes = self.quantizer.encode(latent, len(self.quantizer.rest.codebooks) + 1)
        whole = torch.stack(
            [
                self.quantizer.decode(item[None, : 1 + int(count)])[0]
                for item, count in zip(codes, levels, strict=True)
            ]
        )
        semantic = self.quantizer.first.decode(codes[:, :1])
        return Quantized(whole, semantic, latent.new_zeros(()), codes)

    @torch.no_grad()
    def after_step(self, latent: Tensor, step: int, generator: torch.Generator) -> int | Tensor:
        """Gather latents; start the codebooks when it is time; revive dead entries.

        Returns:
            Number of entries moved.
        """
        self._gather(latent)
        if not self.started:
            if step + 1 >= self.config.start_step:
                self._start(generator)
            return 0
        if (step + 1) % self.config.revive_every == 0:
            return self._revive(generator)
        return 0

    def _cascade(
        self, branch: int, x: Tensor, levels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, dim] -> its reconstruction, the commitment loss, codes [B, levels, T].

        Args:
            levels: [B] how many levels each item uses; all when `None`.
        """
        module, statistics = self.branches[branch], self.statistics[branch]
        projected = module.input_proj(x)
        residual = projected.detach()
        chosen = torch.zeros_like(residual)
        commitment = x.new_zeros((), dtype=torch.float32)
        codes = []
        for level, one in enumerate(statistics):
            flat = residual.flatten(0, 1)
            code = one.codebook.nearest(flat)
            # The batch is quantised with the entries as they were; they move afterwards.
            entry = one.codebook.lookup(code).view_as(residual)
            one.update(flat, code, self.config.decay)
            # Distance of what this level was given to what it chose; the levels before stand still.
            given = projected - (projected.detach() - residual)
            commitment = commitment + F.mse_loss(given, entry)
            residual = residual - entry
            if levels is not None:
                entry = entry * (level < levels)[:, None, None]
            chosen = chosen + entry
            codes.append(code.view(x.shape[:2]))
        straight = projected + (chosen - projected).detach()
        output = module.output_proj(straight)
        return output, commitment / len(statistics), torch.stack(codes, dim=1)

    def _draw_bypass(self, items: int, step: int, generator: torch.Generator) -> Tensor:
        return torch.rand(items, generator=generator) < self.config.bypass_at(step)

    def _draw_levels(self, items: int, generator: torch.Generator) -> Tensor:
        count = len(self.quantizer.rest.codebooks)
        full = torch.rand(items, generator=generator) < self.config.full_share
        fewer = torch.randint(0, count + 1, (items,), generator=generator)
        return torch.where(full, torch.full_like(fewer, count), fewer)

    def _gather(self, latent: Tensor) -> None:
        rows = latent.detach().float().transpose(1, 2).flatten(0, 1)[-self.pool.shape[0] :]
        start = int(self.pool_filled) % self.pool.shape[0]
        places = (torch.arange(rows.shape[0]) + start) % self.pool.shape[0]
        self.pool.index_copy_(0, places.to(rows.device), rows)
        self.pool_filled += rows.shape[0]

    def _sample_pool(self, count: int, generator: torch.Generator) -> Tensor:
        filled = min(int(self.pool_filled), self.pool.shape[0])
        picked = torch.randint(0, filled, (count,), generator=generator)
        return self.pool[picked.to(self.pool.device)]

    def _start(self, generator: torch.Generator) -> None:
        latents = self.pool[: min(int(self.pool_filled), self.pool.shape[0])]
        for branch, statistics in zip(self.branches, self.statistics, strict=True):
            residual = branch.input_proj(latents)
            for one in statistics:
                one.start(residual, self.config.kmeans_iterations, generator)
                residual = residual - one.codebook.lookup(one.codebook.nearest(residual))
        self.started.fill_(1)

    def _revive(self, generator: torch.Generator) -> Tensor:
        moved = torch.zeros((), dtype=torch.int64, device=self.pool.device)
        latents = self._sample_pool(self.quantizer.bins, generator)
        for branch, statistics in zip(self.branches, self.statistics, strict=True):
            residual = branch.input_proj(latents)
            for one in statistics:
                moved += one.revive(residual, self.config.revive_below)
                residual = residual - one.codebook.lookup(one.codebook.nearest(residual))
        return moved


def kmeans(
    vectors: Tensor, clusters: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Centroids [clusters, dim] of [N, dim], and how many vectors each has.

    An empty cluster takes over a random vector in each iteration.
    """

    def random_rows() -> Tensor:
        if vectors.shape[0] >= clusters:
            rows = torch.randperm(vectors.shape[0], generator=generator)[:clusters]
        else:
            rows = torch.randint(0, vectors.shape[0], (clusters,), generator=generator)
        return vectors[rows.to(vectors.device)]

    centroids = random_rows()
    counts = centroids.new_ones(clusters)
    for _ in range(iterations):
        half_norm = centroids.square().sum(dim=1) / 2
        nearest = torch.addmm(half_norm, vectors, centroids.t(), alpha=-1).argmin(dim=1)
        counts = torch.zeros_like(counts).index_add_(0, nearest, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(centroids).index_add_(0, nearest, vectors)
        means = sums / counts.clamp(min=1)[:, None]
        centroids = torch.where((counts > 0)[:, None], means, random_rows())
    return centroids, counts.clamp(min=0.1)
