"""Our draws have the distribution that temperature and top-k ask for, and the reference's have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peers.peer_models import import_peer, lm_values, open_lm, seeded, write_lm
from torch import Tensor

from duologue.moshi import Generator, Sampling
from duologue.moshi.sampling import sample

import_peer("moshi.models")

DRAWS = 100_000
CARD = 60
IMPLAUSIBLE = 1e-4
"""A p-value below this fails; with fixed seeds a right sampler passes always or never."""


def draw(logits: Tensor, temperature: float, top_k: int, count: int, stream: int = 0) -> Tensor:
    """`count` draws, each from a slot with a seed of its own: int64 [count]."""
    rows = logits.expand(count, -1)
    return sample(
        rows, torch.full((count,), temperature), torch.full((count,), top_k),
        torch.arange(count), torch.zeros(count, dtype=torch.int64), stream, widest=top_k,
    )  # fmt: skip


def wanted_probabilities(logits: Tensor, temperature: float, top_k: int) -> Tensor:
    p = torch.softmax(logits.double() / temperature, dim=-1)
    if top_k:
        p[p < p.topk(top_k).values[-1]] = 0
    return p / p.sum()


def plausibility(counts: Tensor, expected: Tensor) -> float:
    """p-value of the chi-square test; rare classes are pooled, impossible ones must be empty."""
    assert counts[expected == 0].sum() == 0
    order = expected.argsort()
    rare = order[expected[order].cumsum(0) < 10]
    kept = torch.ones_like(expected, dtype=torch.bool)
    kept[rare] = False
    pooled = torch.stack([counts[~kept].sum(), expected[~kept].sum()]).double()
    counts, expected = counts[kept].double(), expected[kept]
    if pooled[1] > 5:
        counts, expected = torch.cat([counts, pooled[:1]]), torch.cat([expected, pooled[1:]])
    statistic = ((counts - expected).square() / expected).sum()
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(freedom, statistic / 2).item()


@pytest.mark.parametrize(("temperature", "top_k"), [(0.8, 0), (0.7, 25), (1.3, 5), (0.3, 250)])
def test_draws_follow_the_probabilities(temperature: float, top_k: int) -> None:
    peer = import_peer("moshi.utils.sampling")
    logits = 2 * torch.randn(CARD, generator=seeded(1))
    expected = wanted_probabilities(logits, temperature, min(top_k, CARD)) * DRAWS
    ours = draw(logits, temperature, top_k, DRAWS)
    assert plausibility(ours.bincount(minlength=CARD), expected) > IMPLAUSIBLE
    # The same test passes what the reference draws, so it is no stricter with us.
    torch.manual_seed(2)
    theirs = peer.sample_token(logits.expand(DRAWS, -1), True, temperature, top_k)
    assert plausibility(theirs.bincount(minlength=CARD), expected) > IMPLAUSIBLE


def test_streams_frames_and_seeds_are_independent() -> None:
    """Pairs of draws that differ only in stream, frame or seed are spread like products."""
    card, temperature = 12, 0.9
    logits = torch.randn(card, generator=seeded(3))
    p = wanted_probabilities(logits, temperature, 0)
    rows, zeros = logits.expand(DRAWS, -1), torch.zeros(DRAWS, dtype=torch.int64)
    seeds, warmth = torch.arange(DRAWS), torch.full((DRAWS,), temperature)

    def one(seed: Tensor, frame: Tensor, stream: int) -> Tensor:
        return sample(rows, warmth, zeros, seed, frame, stream, widest=0)

    first = one(seeds, zeros, 0)
    others = {
        "stream": one(seeds, zeros, 1),
        "far stream": one(seeds, zeros, 16),
        "frame": one(seeds, zeros + 1, 0),
        "far frame": one(seeds, zeros + 3000, 0),
        "seed": one(seeds + DRAWS, zeros, 0),
        "long seed": one(seeds + (1 << 40), zeros, 0),
        "frame and stream": one(seeds, zeros + 1, 1),
    }
    for name, second in others.items():
        pairs = (first * card + second).bincount(minlength=card * card)
        assert plausibility(pairs, torch.outer(p, p).flatten() * DRAWS) > IMPLAUSIBLE, name
    # One slot's own stream of frames, and neighbouring frames of it.
    frames = one(zeros + 77, seeds, 3)
    assert plausibility(frames.bincount(minlength=card), p * DRAWS) > IMPLAUSIBLE
    pairs = (frames[0::2] * card + frames[1::2]).bincount(minlength=card * card)
    assert plausibility(pairs, torch.outer(p, p).flatten() * (DRAWS // 2)) > IMPLAUSIBLE


def test_generation_draws_like_the_reference(tmp_path: Path) -> None:
    """A first step in thousands of slots: text and first codebook against the peer's logits."""
    peer, lm = open_lm(write_lm(tmp_path, lm_values(), seed=31))
    slots, text, audio = 8_000, Sampling(0.7, 25), Sampling(0.8, 10)
    given = torch.full((slots, lm.config.n_q - lm.config.dep_q, 1), -1)
    ours = Generator(lm, slots, text=text, audio=audio, seed=8).step(given)
    initial = peer._get_initial_token()
    with torch.no_grad():
        z, logits = peer.forward_text(initial)
        p = wanted_probabilities(logits[0, 0, 0], text.temperature, text.top_k)
        counts = ours.sampled_text.bincount(minlength=len(p))
        assert plausibility(counts, p * slots) > IMPLAUSIBLE
        for token in counts.topk(3).indices:
            with peer.depformer.streaming(1):
                logits = peer.forward_depformer(0, token.view(1, 1, 1), z)[0, 0, 0]
            p = wanted_probabilities(logits, audio.temperature, audio.top_k)
            codes = ours.sampled_audio[ours.sampled_text == token, 0]
            assert len(codes) > 300
            counts_of_code = codes.bincount(minlength=len(p))
            assert plausibility(counts_of_code, p * len(codes)) > IMPLAUSIBLE
