"""Losses, measures, schedule, configuration and checkpoints, each on its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from duologue.moshi.config import LMConfig
from duologue.moshi.lm import MoshiLM
from duologue.training import checkpoint as checkpoints
from duologue.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from duologue.training.codec import CodecTrainingConfig
from duologue.training.codec_losses import (
    LossBalancer,
    MelLoss,
    SpectralConfig,
    Spectrum,
    STFTLoss,
    mel_filters,
)
from duologue.training.config import TrainingConfigError, parse, read_toml, shortened
from duologue.training.discriminator import (
    DiscriminatorConfig,
    MultiScaleDiscriminator,
    feature_loss,
    hinge_loss,
)
from duologue.training.duplex import DuplexTrainingConfig
from duologue.training.metrics import mel_distance, perplexity, si_sdr, stoi
from duologue.training.optim import OptimizerConfig, WeightAverage, build_optimizer, set_lr
from duologue.training.trainer import _Window


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise and tones with a syllable rhythm."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 24_000)) / 24_000
    carrier = sum(np.sin(2 * np.pi * f * t + f) / f**0.5 for f in range(120, 4000, 120))
    rhythm = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * t + np.cumsum(rng.normal(0, 0.002, len(t))))
    return (0.05 * carrier * rhythm + 0.001 * rng.normal(size=len(t))).astype(np.float32)


def test_stoi_falls_with_noise() -> None:
    clean = speechlike(3.0)
    noise = np.random.default_rng(1).normal(size=len(clean)).astype(np.float32)
    scores = [stoi(clean, clean + level * noise, 24_000) for level in (0.0, 0.05, 0.5)]
    assert scores[0] == pytest.approx(1.0, abs=1e-6)
    assert scores[0] > scores[1] > scores[2]
    assert stoi(clean, 0.3 * clean, 24_000) == pytest.approx(1.0, abs=1e-6)


def test_stoi_of_too_short_a_signal_is_no_number() -> None:
    assert np.isnan(stoi(speechlike(0.1), speechlike(0.1), 24_000))


def test_si_sdr_and_mel_distance() -> None:
    clean = speechlike(1.0)
    noise = np.random.default_rng(1).normal(size=len(clean)).astype(np.float32)
    noise -= clean * (noise @ clean) / (clean @ clean)
    noise *= np.linalg.norm(clean) / np.linalg.norm(noise)
    assert si_sdr(clean, 2 * (clean + 0.1 * noise)) == pytest.approx(20, abs=0.1)
    assert mel_distance(clean, clean, 24_000) == 0
    assert 3 < mel_distance(clean, 2 * clean, 24_000) < 6.1


def test_perplexity_counts_used_entries() -> None:
    codes = torch.stack([torch.arange(64) % 8, torch.zeros(64, dtype=torch.int64)])[None]
    assert perplexity(codes, 16) == pytest.approx([8.0, 1.0])


def test_mel_filters_are_averages_of_their_band() -> None:
    for bands, n_fft in ((128, 2048), (16, 128), (80, 1024)):
        filters = mel_filters(bands, n_fft, 24_000)
        torch.testing.assert_close(filters.sum(dim=0), torch.ones(bands))
        peaks = filters.argmax(dim=0)
        assert (peaks.diff() >= 0).all()


def test_a_full_scale_sine_measures_one() -> None:
    t = torch.arange(24_000) / 24_000
    spectrum = Spectrum(1024)(torch.sin(2 * torch.pi * 1500 * t)[None])
    assert spectrum[0, :, 10:-10].max() == pytest.approx(1.0, abs=0.02)


def test_spectral_losses_vanish_for_equal_signals_and_have_gradients_at_silence() -> None:
    config = SpectralConfig((512, 256), (32, 16), (256,))
    signal = torch.from_numpy(speechlike(0.5))[None]
    for loss in (MelLoss(config, 24_000), STFTLoss(config)):
        assert loss(signal, signal) == 0
        silent = torch.zeros_like(signal, requires_grad=True)
        loss(silent, signal).backward()
        assert silent.grad is not None
        assert silent.grad.isfinite().all()


def test_balanced_shares_do_not_depend_on_the_scale_of_a_loss() -> None:
    decoded = torch.randn(3, 1, 50, requires_grad=True)
    for factor in (1.0, 1e4):
        balancer = LossBalancer({"a": 3.0, "b": 1.0})
        losses = {"a": factor * decoded.square().mean(), "b": decoded.abs().mean()}
        gradient = balancer.gradient(losses, decoded)
        part = torch.autograd.grad(decoded.abs().mean(), decoded)[0]
        part = part / part.flatten(1).norm(dim=1).mean() / 4
        rest = (gradient - part).flatten(1).norm(dim=1).mean()
        assert rest == pytest.approx(0.75, abs=1e-3)


def test_adversary_learns_to_tell_tones_from_noise() -> None:
    torch.manual_seed(0)
    adversary = MultiScaleDiscriminator(DiscriminatorConfig((256, 128), 4))
    optimizer = torch.optim.Adam(adversary.parameters(), lr=3e-3)
    real = torch.from_numpy(speechlike(0.3)).view(1, 1, -1)
    fake = torch.randn_like(real) * real.std()
    first = None
    for _ in range(25):
        loss = hinge_loss(adversary(real), adversary(fake))
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first
    assert feature_loss(adversary(real), adversary(real)) == 0


def test_a_recipe_is_shortened_with_all_of_its_phases() -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "wren"
    whole = parse(DuplexTrainingConfig, read_toml([recipe / "lm.toml"]))
    brief = shortened(whole, 0.1)
    assert (brief.run.steps, brief.scripts.first_steps) == (1000, 125)
    assert (brief.optimizer.warmup_steps, brief.optimizer.decay_steps) == (10, 120)
    assert brief.run.evaluate_every == 50
    assert (brief.run.batch, brief.scripts.batch, brief.data) == (6, 8, whole.data)
    codec = parse(CodecTrainingConfig, read_toml([recipe / "codec.toml"]))
    least = shortened(codec, 1e-5)
    assert least.run.steps == least.adversary.start_step == least.quantizer.start_step == 1
    assert least.codec == codec.codec


def test_schedule_warms_up_holds_and_decays() -> None:
    config = OptimizerConfig(warmup_steps=10, decay_steps=20, final_ratio=0.1)
    scales = [config.scale_at(step, 100) for step in range(100)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[9:80] == pytest.approx([1.0] * 71)
    assert 0.1 < scales[99] < 0.15
    assert scales[80:] == sorted(scales[80:], reverse=True)


def test_only_matrices_of_transformers_are_decayed() -> None:
    config = LMConfig(
        dim=16, num_heads=2, num_layers=1, n_q=4, dep_q=2, delays=(0,) * 5, text_card=8, card=8,
        depformer_dim=16, depformer_num_heads=2, depformer_num_layers=1,
    )  # fmt: skip
    groups = build_optimizer([MoshiLM(config)], OptimizerConfig(weight_decay=0.1)).param_groups
    decays = {name: g["weight_decay"] for g in groups for name in g["names"]}
    decayed = {name for name, decay in decays.items() if decay == 0.1}
    inside = {name for name in decays if ".layers.0." in name and "norm" not in name}
    assert decayed == inside
    assert {name.split(".")[1] for name in decayed} == {"transformer", "depformer"}
    assert {decays[name] for name in decays.keys() - inside} == {0.0}


def test_rates_follow_the_size_of_the_first_weights() -> None:
    module = torch.nn.ModuleDict({"wide": torch.nn.Linear(3, 3), "narrow": torch.nn.Linear(3, 3)})
    torch.nn.init.constant_(module["wide"].weight, 0.01)
    torch.nn.init.constant_(module["narrow"].weight, 0.16)
    optimizer = build_optimizer([module], OptimizerConfig(relative_to=0.04))
    set_lr(optimizer, 1.0)
    rates = {name: g["lr"] for g in optimizer.param_groups for name in g["names"]}
    assert rates == {
        "0.wide.weight": 0.25, "0.narrow.weight": 4.0, "0.wide.bias": 1.0, "0.narrow.bias": 1.0,
    }  # fmt: skip


def test_average_follows_the_weights() -> None:
    module = torch.nn.Linear(1, 1)
    average = WeightAverage(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(8.0)
    for step in range(40):
        average.update(module, step)
    average.copy_to(module)
    assert module.weight.item() == pytest.approx(8.0, abs=1e-4)


@dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = ()


def test_toml_tables_with_overrides(tmp_path: Path) -> None:
    path, over = tmp_path / "a.toml", tmp_path / "b.toml"
    path.write_text('names = ["a", "b"]\n[inner]\nsize = 3\nrate = 1.5\n')
    over.write_text("[inner]\nsize = 4\n")
    assert parse(Outer, read_toml([path, over])) == Outer(Inner(4, 1.5), ("a", "b"))
    tables = read_toml([path], ["inner.rate=2", "names=['c']"])
    assert parse(Outer, tables) == Outer(Inner(3, 2.0), ("c",))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.sise=3", "inner.sise: unknown key"),
        ("inner.size='x'", "inner.size: expected int"),
        ("inner=3", "inner: expected a table"),
        ("inner", "key=value"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    with pytest.raises(TrainingConfigError, match=message):
        parse(Outer, read_toml([path], [override]))


def test_a_checkpoint_that_was_cut_short_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Checkpoint(1, {"a": torch.arange(3)}, {"position": 7})
    save_checkpoint(tmp_path, good, keep=2)

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(checkpoints.os, "fsync", full_disk)
    with pytest.raises(OSError):
        save_checkpoint(tmp_path, Checkpoint(2, {"a": torch.zeros(3)}, {}), keep=2)
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert found.values == {"position": 7}
    assert torch.equal(found.tensors["a"], torch.arange(3))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, Checkpoint(step, {"a": torch.full((4,), step)}, {}), keep=2)
    file = tmp_path / "step_00000002" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_a_diverged_run_stops() -> None:
    window = _Window()
    window.add({"mel": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match="mel is nan near step 5"):
        window.check(5)
