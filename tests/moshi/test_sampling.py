from __future__ import annotations

import pytest
import torch

from duologue.moshi.sampling import GenerationDefaults, Sampling, gumbel, pooled, sample

DRAWS = 20_000


def draw(logits: torch.Tensor, temperature: float, top_k: int, draws: int = DRAWS) -> torch.Tensor:
    """Draws of one slot over many frames."""
    rows = logits.expand(draws, -1)
    return sample(
        rows,
        torch.full((draws,), temperature),
        torch.full((draws,), top_k),
        torch.full((draws,), 42),
        torch.arange(draws),
        3,
        widest=top_k,
    )


def frequencies(tokens: torch.Tensor, card: int) -> torch.Tensor:
    return torch.bincount(tokens, minlength=card) / len(tokens)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.7, 0), (1.0, 4), (1.5, 7)])
def test_tokens_come_with_their_probability(temperature: float, top_k: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(10) * 1.5
    kept = logits.clone()
    if top_k:
        kept[logits < logits.topk(top_k).values[-1]] = float("-inf")
    expected = torch.softmax(kept / temperature, dim=0)
    observed = frequencies(draw(logits, temperature, top_k), 10)
    assert (observed[expected == 0] == 0).all()
    deviation = 4.5 * (expected * (1 - expected) / DRAWS).sqrt()
    assert ((observed - expected).abs() <= deviation + 1e-9).all()


def test_draws_of_neighbouring_frames_streams_and_seeds_are_independent() -> None:
    frame = torch.arange(DRAWS)
    seed = torch.zeros(DRAWS, dtype=torch.int64)
    token = torch.zeros(DRAWS, 1, dtype=torch.int64)
    base = gumbel(seed, frame, 0, token)[:, 0]
    others = [
        gumbel(seed, frame + 1, 0, token),
        gumbel(seed, frame, 1, token),
        gumbel(seed + 1, frame, 0, token),
        gumbel(seed, frame, 0, token + 1),
        gumbel(seed + 2**32, frame, 0, token),
    ]
    for other in others:
        correlation = torch.corrcoef(torch.stack([base, other[:, 0]]))[0, 1]
        assert abs(float(correlation)) < 4 / DRAWS**0.5
    # Gumbel noise: mean is Euler's constant, variance pi squared over six.
    assert abs(float(base.mean()) - 0.5772) < 0.04
    assert abs(float(base.var()) - 1.6449) < 0.08


def test_no_noise_is_infinite() -> None:
    """The seed, found by going back through the hash, draws the greatest of all numbers."""
    noise = gumbel(torch.tensor([1115695785]), torch.tensor([1]), 0, torch.tensor([[37]]))
    assert 16 < float(noise) < 18
    barred = torch.full((1, 64), -1.0)
    barred[0, 37] = -40.0
    drawn = sample(
        barred, torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.tensor([1115695785]),
        torch.tensor([1]), 0, widest=0,
    )  # fmt: skip
    assert int(drawn) != 37


def test_temperature_zero_takes_the_largest_also_beside_drawing_slots() -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 50)
    tokens = sample(
        logits,
        torch.tensor([0.0, 1.0, 0.0, 2.0]),
        torch.tensor([0, 5, 3, 0]),
        torch.arange(4),
        torch.zeros(4, dtype=torch.int64),
        0,
        widest=0,
    )
    assert tokens[0] == logits[0].argmax()
    assert tokens[2] == logits[2].argmax()
    greedy = sample(
        logits, torch.zeros(4), torch.zeros(4), torch.arange(4), torch.arange(4), 0, widest=1
    )
    assert torch.equal(greedy, logits.argmax(dim=1))


def test_a_draw_does_not_depend_on_the_batch_or_on_how_many_tokens_others_keep() -> None:
    torch.manual_seed(2)
    logits = torch.randn(5, 40)
    settings = (torch.full((5,), 0.9), torch.tensor([3, 8, 0, 1, 20]))
    seeds, frames = torch.arange(5) + 100, torch.arange(5) * 7
    together = sample(logits, *settings, seeds, frames, 2, widest=0)
    for row in range(5):
        one = slice(row, row + 1)
        k = int(settings[1][row])
        alone = sample(
            logits[one], settings[0][one], settings[1][one], seeds[one], frames[one], 2,
            widest=0 if k == 0 else max(k, 2),
        )  # fmt: skip
        assert alone[0] == together[row]


def test_pooled_tokens_come_with_the_probability_of_all() -> None:
    """Whether to speak is as likely as before; what is said is always the likeliest."""
    torch.manual_seed(3)
    logits = torch.randn(12) * 1.5
    probabilities = torch.softmax(logits, dim=0)
    pool = pooled(logits[None], torch.tensor([4]))
    observed = frequencies(draw(pool[0], 1.0, 0), 12)
    expected = probabilities.clone()
    expected[4:] = 0
    expected[4 + int(logits[4:].argmax())] = probabilities[4:].sum()
    assert (observed[expected == 0] == 0).all()
    deviation = 4.5 * (expected * (1 - expected) / DRAWS).sqrt()
    assert ((observed - expected).abs() <= deviation + 1e-9).all()


def test_pooling_is_each_slots_own() -> None:
    logits = torch.randn(4, 12)
    pool = pooled(logits, torch.tensor([0, 4, 11, 12]))
    assert torch.equal(pool[0], logits[0])
    assert torch.equal(pool[2], logits[2]), "a pool of one"
    assert torch.equal(pool[3], logits[3]), "past the last token"
    assert torch.equal(pool[1], pooled(logits[1:2], torch.tensor([4]))[0])
    assert torch.isfinite(pool[1]).sum() == 5


def test_a_favoured_piece_is_said_no_sooner_but_rather_than_others() -> None:
    logits, first = torch.randn(5, 12), torch.tensor([4, 4, 4, 0, 4])
    logits[:, 7], logits[:, 8] = 4.0, 6.0
    favoured = torch.tensor([7, 0, 2, 7, 7])
    plain = pooled(logits, first)
    for by, chosen in ((1.0, 8), (3.0, 7)):
        bent = pooled(logits, first, favoured, torch.tensor([by, by, by, by, 0.0]))
        assert torch.equal(bent[4], plain[4])
        assert torch.equal(bent[1:4], plain[1:4]), "favours nothing, no word, or is not pooled"
        assert bent[0, 4:].argmax() == chosen - 4
        assert torch.equal(bent[0, 4:].max(), plain[0, 4:].max()), "what all are likely"
        assert torch.equal(bent[0, :4], plain[0, :4])
    assert torch.equal(pooled(logits, first, favoured, torch.zeros(5)), plain)


@pytest.mark.parametrize("quoting", [-0.1, 20.5, float("nan")])
def test_how_much_is_favoured_is_bounded(quoting: float) -> None:
    with pytest.raises(ValueError, match="quoting"):
        GenerationDefaults(quoting=quoting)


@pytest.mark.parametrize(
    "values",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"pooled_from": -1}],
)
def test_settings_are_checked(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Sampling(**values)
