"""Codebooks start from k-means, follow their vectors, and dead entries come back."""

from __future__ import annotations

import torch

from duologue.mimi.config import QuantizerConfig
from duologue.mimi.quantizer import Codebook, SplitQuantizer
from duologue.training.quantization import (
    CodebookStatistics,
    QuantizerTrainer,
    QuantizerTrainingConfig,
    kmeans,
)

SHAPE = QuantizerConfig(dimension=4, n_q=4, bins=8, input_dimension=6, output_dimension=6)


def make(**changes: float) -> QuantizerTrainer:
    torch.manual_seed(0)
    values = {"start_step": 0, "pool": 64, "revive_every": 1, "bypass": 0.0, "bypass_end": 0.0}
    config = QuantizerTrainingConfig(**(values | changes))  # type: ignore[arg-type]
    return QuantizerTrainer(SplitQuantizer(SHAPE).requires_grad_(True), config)


def started(**changes: float) -> tuple[QuantizerTrainer, torch.Generator, torch.Tensor]:
    trainer, generator = make(**changes), torch.Generator().manual_seed(1)
    latent = torch.randn(8, 6, 16)
    trainer.after_step(latent, 0, generator)
    assert trainer.started
    return trainer, generator, latent


def test_kmeans_finds_separate_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = centres.repeat_interleave(50, 0) + 0.1 * torch.randn(150, 2, generator=generator)
    found, counts = kmeans(vectors, 3, 20, generator)
    assert torch.cdist(centres, found).min(dim=1).values.max() < 0.2
    assert counts.sum() == 150


def test_nothing_is_quantized_before_the_start() -> None:
    trainer = make(start_step=5)
    latent = torch.randn(2, 6, 3)
    out = trainer(latent, 0, torch.Generator())
    assert torch.equal(out.latent, latent)
    assert out.commitment == 0


def test_quantized_latents_equal_the_modules_own_decoding() -> None:
    trainer, generator, _ = started(full_share=1.0)
    latent = torch.randn(2, 6, 5)
    codes = trainer.quantizer.encode(latent, 4)
    expected = trainer.quantizer.decode(codes)
    out = trainer(latent, 1, generator)
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.latent, expected)


def test_gradient_passes_through_the_cascade() -> None:
    trainer, generator, _ = started(full_share=1.0)
    latent = torch.randn(2, 6, 5, requires_grad=True)
    trainer(latent, 1, generator).latent.sum().backward()
    assert latent.grad is not None
    assert latent.grad.abs().sum() > 0


def test_items_use_different_numbers_of_levels() -> None:
    trainer, generator, _ = started(full_share=0.0, decay=1.0)
    latent = torch.randn(1, 6, 5).repeat(64, 1, 1)
    out = trainer(latent, 1, generator).latent
    assert 3 < len({tuple(item.flatten().mul(100).round().tolist()) for item in out}) <= 4
    semantic_only = trainer.quantizer.decode(trainer.quantizer.encode(latent[:1], 1))
    distances = (out - semantic_only).flatten(1).abs().amax(dim=1)
    assert (distances < 1e-5).any()


def test_the_quantizer_is_skipped_as_often_as_asked() -> None:
    trainer, generator, _ = started(bypass=0.5, bypass_end=0.5, full_share=1.0)
    latent = torch.randn(400, 6, 2)
    out = trainer(latent, 1, generator).latent
    skipped = torch.tensor([torch.equal(a, b) for a, b in zip(out, latent, strict=True)])
    assert 0.4 < skipped.float().mean() < 0.6


def test_entries_follow_the_mean_of_their_vectors() -> None:
    book = Codebook(2, 1)
    book.embedding.copy_(torch.tensor([[-1.0], [1.0]]))
    statistics = CodebookStatistics(book)
    vectors = torch.tensor([[-3.0], [-2.0], [2.0], [4.0]])
    for _ in range(200):
        statistics.update(vectors, book.nearest(vectors), decay=0.9)
    torch.testing.assert_close(book.embedding, torch.tensor([[-2.5], [3.0]]))


def test_unused_entries_are_moved_onto_recent_latents() -> None:
    trainer, generator, latent = started()
    statistics = trainer.statistics[1][0]
    lost = 1000 + torch.arange(4.0)[:, None].expand(4, 4)
    statistics.codebook.embedding[:4] = lost
    statistics.usage[:4] = 1e-3
    statistics.sums[:4] = lost * 1e-3
    moved = trainer.after_step(latent, 1, generator)
    assert moved >= 4
    assert statistics.codebook.embedding.abs().max() < 100
    projected = trainer.quantizer.rest.input_proj(latent.transpose(1, 2)).flatten(0, 1)
    exact = "donot_use_mm_for_euclid_dist"
    gaps = torch.cdist(statistics.codebook.embedding[:4], projected, compute_mode=exact).amin(dim=1)
    assert gaps.max() < 1e-4


def test_used_entries_stay() -> None:
    trainer, generator, latent = started(revive_below=0.0)
    before = trainer.statistics[1][0].codebook.embedding.clone()
    assert trainer.after_step(latent, 1, generator) == 0
    torch.testing.assert_close(trainer.statistics[1][0].codebook.embedding, before)
