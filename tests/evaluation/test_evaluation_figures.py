"""Statistics, word errors and speech runs against values worked out otherwise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from duologue.evaluation import statistics
from duologue.evaluation.activity import Span, joined, sounding_at, speech_runs
from duologue.evaluation.words import Errors, errors, said, spoken_words

RATE = 24_000


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Wilson score intervals as tabulated for 95 % (Newcombe 1998, method 3).
    [
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)  # fmt: skip
def test_shares_have_wilson_intervals(hits: int, n: int, low: float, high: float) -> None:
    found = statistics.share([place < hits for place in range(n)])
    assert found.value == pytest.approx(hits / n)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = statistics.mean(values)
    error = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.1 * error)
    assert statistics.mean(values) == found


def test_error_rates_weigh_conversations_by_their_words() -> None:
    found = statistics.ratio([(1, 10), (0, 30), (2, 0)])
    assert found.value == pytest.approx(3 / 40)
    assert found.n == 3
    assert statistics.difference_of_ratios([(5, 2, 10), (1, 1, 10)]).value == pytest.approx(0.15)


def test_medians_ignore_outliers() -> None:
    assert statistics.quantile([0.3, 0.2, 9.0], 0.5).value == pytest.approx(0.3)


@pytest.mark.parametrize(
    "found",
    [
        statistics.share([]), statistics.mean([]), statistics.ratio([]), statistics.ratio([(1, 0)]),
        statistics.quantile([], 0.5),
    ],
)  # fmt: skip
def test_nothing_gives_nothing(found: statistics.Estimate) -> None:
    assert found.value is None
    assert found.low is None
    assert found.scaled(100).value is None


def test_errors_are_the_fewest() -> None:
    right = ["the", "capital", "of", "france", "is", "lyon"]
    assert errors(right, right) == Errors(0, 0, 0, 6)
    assert errors(right, ["the", "capital", "of", "of", "france", "lyons"]) == Errors(1, 1, 1, 6)
    assert errors(right, []) == Errors(0, 6, 0, 6)
    assert errors([], ["hm"]).count == 1


def test_errors_agree_with_a_search_of_all_edits() -> None:
    def fewest(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(
            fewest(a[1:], b[1:]) + (a[0] != b[0]), fewest(a[1:], b) + 1, fewest(a, b[1:]) + 1
        )

    texts = [text for n in range(5) for text in itertools.product("ab", repeat=n)]
    for one, other in itertools.product(texts, texts):
        assert errors(one, other).count == fewest(one, other)


def test_answers_must_be_said_together() -> None:
    heard = ["let", "me", "see", "the", "answer", "is", "two", "point", "nine", "million", "people"]
    assert said(["two", "point", "nine", "million"], heard)
    assert not said(["two", "point", "five", "million"], heard)
    assert not said(["two", "nine"], heard)
    assert not said([], heard)
    assert not said(["two"], [])


def test_long_answers_may_have_one_error_in_five_words() -> None:
    note = ["your", "red", "umbrella", "is", "in", "the", "kitchen"]
    assert said(note, ["well", "your", "red", "umbrella", "is", "in", "a", "kitchen"])
    assert not said(note, ["well", "your", "red", "umbrella", "was", "in", "a", "kitchen"])


def test_words_are_compared_as_they_are_spoken() -> None:
    assert spoken_words("Uh-huh, it's  F E!") == ("uh", "huh", "it's", "f", "e")
    assert spoken_words("... 12 -") == ()


def test_runs_are_found_where_the_sound_is() -> None:
    t = np.arange(2 * RATE) / RATE
    tone = (0.1 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)
    silent = (t < 0.5) | ((t >= 1.0) & (t < 1.1)) | (t >= 1.6)
    pcm = np.where(silent, 1e-4, tone).astype(np.float32)
    (run,) = speech_runs(pcm, RATE)
    assert run.start_s == pytest.approx(0.5, abs=0.021)
    assert run.end_s == pytest.approx(1.6, abs=0.021)
    assert len(speech_runs(pcm, RATE, gap_s=0.05)) == 2
    assert sounding_at([run], 1.0) == run
    assert sounding_at([run], 1.7) is None


def test_silence_and_clicks_are_no_speech() -> None:
    pcm = np.zeros(RATE, np.float32)
    assert speech_runs(pcm, RATE) == ()
    pcm[5000:5200] = 0.5
    assert speech_runs(pcm, RATE) == ()


def test_close_runs_are_joined() -> None:
    runs = [Span(0, 1), Span(1.3, 2), Span(3, 4)]
    assert joined(runs, 0.5) == (Span(0, 2), Span(3, 4))
