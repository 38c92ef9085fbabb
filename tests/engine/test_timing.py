"""Durations and admission: arithmetic on made-up steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.engine.api import EngineSettings, SessionOptions
from duologue.engine.timing import BOUNDS_S, Capacity, DurationStats, quantile


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.floats(0.01, 1))
def test_a_quantile_is_the_smallest_that_covers_its_share(durations: list[float], q: float) -> None:
    found = quantile(durations, q)
    assert found in durations
    assert sum(d <= found for d in durations) >= q * len(durations) - 1e-9
    below = [d for d in durations if d < found]
    assert len(below) < q * len(durations) + 1e-9
    assert quantile([], q) == 0.0


def test_a_distribution_counts_all_and_forgets_in_its_quantiles() -> None:
    stats = DurationStats()
    for _ in range(600):
        stats.observe(0.5)
    for _ in range(600):
        stats.observe(0.01)
    report = stats.report()
    assert report.count == 1200
    assert report.p99_s == 0.01
    assert report.max_s == 0.5
    assert dict(report.buckets)[0.01] == 600
    assert report.buckets[-1] == (float("inf"), 1200)
    assert [bound for bound, _ in report.buckets[:-1]] == list(BOUNDS_S)


def test_as_many_are_admitted_as_stay_in_the_budget() -> None:
    capacity = Capacity(8, budget_s=0.072)
    capacity.calibrate(one_s=0.03, all_s=0.10)
    assert capacity.expected_s(5) == pytest.approx(0.07)
    assert capacity.admit(4).ok
    refused = capacity.admit(5)
    assert not refused.ok
    assert refused.retry_after_s > 0
    assert "6 conversations would take 80 ms of 72 ms" in refused.reason


def test_admission_follows_what_is_measured() -> None:
    capacity = Capacity(4, budget_s=0.072)
    capacity.calibrate(one_s=0.01, all_s=0.01)
    assert capacity.admit(1).ok
    for _ in range(300):
        capacity.observe(1, 0.08)
    assert not capacity.admit(1).ok
    assert capacity.admit(0).ok, "the first conversation is never refused for slowness"
    for _ in range(300):
        capacity.observe(1, 0.02)
    assert capacity.admit(1).ok


def test_all_slots_taken_is_full() -> None:
    capacity = Capacity(1)
    assert capacity.admit(0).ok
    assert "all 1 slots" in capacity.admit(1).reason


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 0}, {"resume_s": -1}, {"budget_share": 1.5}, {"backends": ()},
     {"max_session_s": 0}],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineSettings(**wrong)  # type: ignore[arg-type]


def test_a_speaker_is_user_or_model() -> None:
    with pytest.raises(ValueError, match="init_speaker"):
        SessionOptions(init_speaker="nobody")
