"""The way to the microphone: levels, echoes and bands are what the conditions say."""

from __future__ import annotations

import numpy as np
import pytest

from duologue.synthesis import room
from duologue.synthesis.draw import Draw
from duologue.synthesis.noises import foreground_noise
from duologue.synthesis.room import Conditions
from duologue.synthesis.samples import RATE, resample


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.1 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def db(pcm: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm, dtype=np.float64)) + 1e-20))


def test_no_conditions_leave_the_sound_alone() -> None:
    assert np.array_equal(room.apply(tone(440), Conditions(1)), tone(440))


def test_noise_has_the_level_that_was_asked_for() -> None:
    for kind in ("white", "pink", "brown", "hum", "babble"):
        conditions = Conditions(1, noise=kind, noise_db=-40.0)
        heard = room.apply(np.zeros(3 * RATE, np.float32), conditions, babble=tone(300))
        assert db(heard) == pytest.approx(-40.0, abs=3.0), kind


def test_the_echo_comes_late_and_scaled() -> None:
    far = np.zeros(RATE, np.float32)
    far[1000] = 1.0
    conditions = Conditions(1, echo=0.2, echo_delay_s=0.25)
    heard = room.apply(np.zeros(RATE, np.float32), conditions, far=far)
    assert int(np.abs(heard).argmax()) == 1000 + RATE // 4
    assert heard.max() == pytest.approx(0.2, abs=0.01)
    assert np.abs(heard[: 1000 + RATE // 4 - 1]).max() < 1e-4


def test_bands_are_kept_and_removed() -> None:
    line = (300.0, 3400.0)
    assert db(room.band_limit(tone(1000), *line)) == pytest.approx(db(tone(1000)), abs=0.2)
    for outside in (80.0, 6000.0):
        assert db(room.band_limit(tone(outside), *line)[2000:-2000]) < db(tone(outside)) - 30


def test_a_room_keeps_the_time_and_adds_a_tail() -> None:
    click = np.zeros(RATE, np.float32)
    click[100] = 0.5
    heard = room.apply(click, Conditions(1, reverberation_s=0.4, distance_m=1.0))
    assert int(np.abs(heard).argmax()) == 100
    assert np.abs(heard[:100]).max() < 1e-6
    early, late = heard[200 : RATE // 10], heard[RATE // 2 :]
    assert db(early) > db(late) + 20


def test_nothing_clips_and_everything_is_repeatable() -> None:
    draw = Draw("conditions")
    pcm = tone(500, 2.0) * 6
    for _ in range(30):
        conditions = room.draw_conditions(draw, -23.0)
        one = room.apply(pcm, conditions, far=pcm, babble=tone(300))
        assert np.abs(one).max() <= 0.981
        assert len(one) == len(pcm)
        assert np.array_equal(one, room.apply(pcm, conditions, far=pcm, babble=tone(300)))


def test_foreground_noises_are_audible_and_short() -> None:
    for kind in ("knocks", "hiss", "rumble", "far_speech"):
        noise = foreground_noise(kind, 2.0, 5, tone(300, 3.0))
        assert len(noise) == 2 * RATE
        assert -60 < db(noise) < -15, kind


def test_resampling_keeps_length_and_pitch() -> None:
    times = np.arange(16000) / 16000
    source = np.sin(2 * np.pi * 1000 * times).astype(np.float32)
    up = resample(source, 16000)
    assert len(up) == RATE
    spectrum = np.abs(np.fft.rfft(up))
    assert int(spectrum.argmax()) == 1000
