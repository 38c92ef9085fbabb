"""Resampler: frequency response, alias rejection, delay, and streaming == offline in every way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duologue.audio.resample import Resampler, ResamplerState

COMMON = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000]
PAIRS = [(rate, 24000) for rate in COMMON] + [(24000, rate) for rate in COMMON]
TOLERANCE = 2e-6


def tones(frequencies: list[float], rate: int, seconds: float = 0.25) -> Tensor:
    """Sines [F, T] of amplitude 1."""
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    return torch.sin(2 * torch.pi * torch.tensor(frequencies)[:, None] * time).float()


def amplitude(y: Tensor, frequencies: list[float], rate: int) -> tuple[Tensor, Tensor]:
    """Level in dB of each row's own tone, and of everything else, away from the edges."""
    y = y[:, rate // 20 : -rate // 20].double()
    time = torch.arange(y.shape[1], dtype=torch.float64) / rate
    angle = 2 * torch.pi * torch.tensor(frequencies, dtype=torch.float64)[:, None] * time
    basis = torch.stack([angle.sin(), angle.cos()], dim=-1)
    fit = torch.linalg.lstsq(basis, y[..., None]).solution
    rest = y - (basis @ fit)[..., 0]
    own = fit[..., 0].norm(dim=1)
    return 20 * own.log10(), 20 * (rest.square().mean(dim=1) * 2).sqrt().clamp_min(1e-9).log10()


def run(resampler: Resampler, x: Tensor, cuts: list[int], state: ResamplerState) -> Tensor:
    """Stream [B, T] in pieces of the given lengths, then the rest; no flush."""
    pieces, at = [], 0
    for cut in [*cuts, x.shape[1]]:
        pieces.append(resampler.step(x[:, at : at + cut], state))
        at = min(at + cut, x.shape[1])
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_pass_band_is_flat_and_free_of_images(source: int, target: int) -> None:
    resampler = Resampler(source, target)
    nyquist = min(source, target) / 2
    frequencies = [nyquist * part / 100 for part in (1, 10, 30, 50, 70, 80, 85, 90)]
    level, rest = amplitude(resampler(tones(frequencies, source)), frequencies, target)
    assert level.abs().max() < 0.2
    assert rest.max() < -65
    edge = [nyquist - 320.0]
    level, _ = amplitude(resampler(tones(edge, source)), edge, target)
    assert level.abs().max() < 1.0


@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if pair[0] > pair[1]])
def test_aliases_are_rejected_from_the_nyquist_frequency_on(source: int, target: int) -> None:
    span = (source - target) / 2
    frequencies = [target / 2 + span * part / 20 for part in range(1, 20)] + [target / 2 + 1]
    y = Resampler(source, target)(tones(frequencies, source))[:, target // 20 : -target // 20]
    power = y.square().mean(dim=1) * 2
    assert 10 * power.max().log10() < -65


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_delay_is_what_it_says_and_under_six_ms(source: int, target: int) -> None:
    resampler = Resampler(source, target)
    assert 0.004 < resampler.delay_seconds < 0.006
    assert resampler.delay_seconds * target == resampler.delay_samples
    x = tones([300.0], source)
    live = resampler.step(x, resampler.init_state(1))
    late = torch.arange(live.shape[1], dtype=torch.float64) / target - resampler.delay_seconds
    expected = torch.sin(2 * torch.pi * 300.0 * late).float()
    settled = slice(target // 50, None)
    assert (live[0, settled] - expected[settled]).abs().max() < 1e-3


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("length", [0, 1, 997])
def test_offline_length_is_exact(source: int, target: int, length: int) -> None:
    resampler = Resampler(source, target)
    y = resampler(torch.ones(2, 3, length))
    assert y.shape == (2, 3, -(-length * target // source))
    assert y.shape[-1] == resampler.output_length(length)


def test_offline_is_aligned_with_its_input() -> None:
    x = tones([440.0, 1000.0], 48000)
    y = Resampler(48000, 24000)(x)
    assert (y - x[:, ::2])[:, 500:-500].abs().max() < 1e-3


def test_constant_stays_constant() -> None:
    for source, target in PAIRS:
        y = Resampler(source, target)(torch.ones(1, source // 4))
        # Sums of hundreds of float32 products, in whatever order a processor takes them.
        assert (y[:, 500:-500] - 1).abs().max() < 3e-6


def test_same_rate_is_the_identity_without_delay() -> None:
    resampler = Resampler(24000, 24000)
    x = torch.randn(2, 100)
    state = resampler.init_state(2)
    assert resampler.delay_seconds == 0
    assert torch.equal(resampler.step(x, state), x)
    assert resampler.flush(state).shape == (2, 0)


@settings(max_examples=50, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    cuts=st.lists(st.integers(0, 900), max_size=6),
    batch=st.integers(1, 3),
)
def test_streaming_equals_offline_at_any_chunking(
    pair: tuple[int, int], cuts: list[int], batch: int
) -> None:
    resampler = Resampler(*pair)
    x = torch.randn(batch, 3000, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    state = resampler.init_state(batch)
    live = run(resampler, x, cuts, state)
    assert live.shape[1] == resampler.output_length(x.shape[1])
    whole = torch.cat([live, resampler.flush(state)], dim=1)[:, resampler.delay_samples :]
    offline = resampler(x)
    assert whole.shape == offline.shape
    assert (whole - offline).abs().max() < TOLERANCE


def test_flush_leaves_fresh_state_and_keeps_inactive_slots() -> None:
    resampler = Resampler(44100, 24000)
    state = resampler.init_state(2)
    resampler.step(torch.randn(2, 1000), state)
    before = state.clone()
    tail = resampler.flush(state, torch.tensor([True, False]))
    assert tail.shape == (2, resampler.delay_samples)
    assert torch.equal(tail[1], torch.zeros_like(tail[1]))
    fresh = resampler.init_state(1)
    for path, tensor in state.tensors().items():
        assert torch.equal(tensor[1], before.tensors()[path][1])
        assert torch.equal(tensor[0], fresh.tensors()[path][0])


@settings(max_examples=30, deadline=None)
@given(
    pair=st.sampled_from([(8000, 24000), (44100, 24000), (24000, 48000), (24000, 16000)]),
    plan=st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), max_size=8),
)
def test_slots_are_independent_and_inactive_ones_keep_every_bit(
    pair: tuple[int, int], plan: list[tuple[int, bool, bool]]
) -> None:
    resampler = Resampler(*pair)
    state = resampler.init_state(2)
    alone = [resampler.init_state(1) for _ in range(2)]
    generator = torch.Generator().manual_seed(2)
    for cycles, *flags in plan:
        x = torch.randn(2, cycles * resampler.input_multiple, generator=generator)
        before = state.clone()
        y = resampler.step(x, state, torch.tensor(flags))
        for slot, flag in enumerate(flags):
            if flag:
                expected = resampler.step(x[slot : slot + 1], alone[slot])
                assert (y[slot] - expected[0]).abs().max() < TOLERANCE
            else:
                assert not y[slot].any()
                for path, tensor in state.tensors().items():
                    assert torch.equal(tensor[slot], before.tensors()[path][slot])


def test_slots_of_different_phase_share_steps_of_whole_cycles_only() -> None:
    resampler = Resampler(44100, 24000)
    state = resampler.init_state(2)
    alone = resampler.init_state(1)
    x = torch.randn(2, 100)
    resampler.step(x, state, torch.tensor([True, False]))
    resampler.step(x[:1], alone)
    x = torch.randn(2, 2 * resampler.input_multiple)
    y = resampler.step(x, state)
    assert y.shape == (2, 160)
    assert (y[:1] - resampler.step(x[:1], alone)).abs().max() < TOLERANCE
    with pytest.raises(ValueError, match="multiples of 147"):
        resampler.step(torch.randn(2, 1), state)
    one = resampler.step(torch.randn(2, 1), state, torch.tensor([False, True]))
    assert one.shape == (2, 1)
    assert resampler.step(torch.randn(2, 5), state, torch.zeros(2, dtype=torch.bool)).numel() == 0


def test_reset_of_one_slot_makes_it_fresh_and_leaves_the_others() -> None:
    resampler = Resampler(16000, 24000)
    x = torch.randn(3, 640)
    state = resampler.init_state(3)
    resampler.step(x, state)
    twin = state.clone()
    state.reset(torch.tensor([False, True, False]))
    fresh = resampler.init_state(3)
    y, old, new = (resampler.step(x, tree) for tree in (state, twin, fresh))
    assert torch.equal(y[[0, 2]], old[[0, 2]])
    assert torch.equal(y[1], new[1])


def test_snapshot_continues_identically() -> None:
    resampler = Resampler(44100, 24000)
    state = resampler.init_state(2)
    resampler.step(torch.randn(2, 777), state)
    copy = resampler.init_state(2)
    copy.load(state.save())
    x = torch.randn(2, 500)
    assert torch.equal(resampler.step(x, state), resampler.step(x, copy))


def test_steps_of_whole_cycles_read_nothing_back_from_the_device() -> None:
    resampler = Resampler(48000, 24000).to("meta")  # tensors without values: reading them fails
    state = resampler.init_state(4)
    active = torch.ones(4, dtype=torch.bool, device="meta")
    y = resampler.step(torch.empty(4, 3840, device="meta"), state, active)
    assert y.shape == (4, 1920)
    with pytest.raises((NotImplementedError, RuntimeError)):
        resampler.step(torch.empty(4, 3841, device="meta"), state, active)


def test_inactive_garbage_does_not_leak() -> None:
    resampler = Resampler(8000, 24000)
    state = resampler.init_state(2)
    x = torch.stack([torch.ones(640), torch.full((640,), float("nan"))])
    y = resampler.step(x, state, torch.tensor([True, False]))
    assert torch.isfinite(y).all()
    assert torch.isfinite(state.history).all()


def test_rates_without_short_ratio_need_a_tolerance() -> None:
    with pytest.raises(ValueError, match="no short ratio"):
        Resampler(44099, 24000)
    resampler = Resampler(44099, 24000, ratio_tolerance=1e-6)
    y = resampler(tones([440.0], 44099))
    level, rest = amplitude(y, [440.0], 24000)
    assert level.abs().item() < 0.1
    assert rest.item() < -60


@pytest.mark.parametrize(
    "arguments",
    [{"source_rate": 0}, {"target_rate": -1}, {"delay_ms": 0.0}, {"stopband_db": 10.0}],
)
def test_senseless_settings_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Resampler(**{"source_rate": 48000, "target_rate": 24000, **arguments})  # type: ignore[arg-type]


def test_wrong_batch_is_refused() -> None:
    resampler = Resampler(48000, 24000)
    with pytest.raises(ValueError, match=r"expected \[2, T\]"):
        resampler.step(torch.zeros(3, 10), resampler.init_state(2))
