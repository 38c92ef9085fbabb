"""The guards against slowness: their records are there, and the fast path is fast here too."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def regression(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("regression")


def test_every_guard_has_a_record_that_it_keeps_to(regression: Any) -> None:
    for name, guard in regression.GUARDS.items():
        recorded = guard.recorded()
        assert recorded is not None, name
        ratio, kept = recorded
        assert ratio > 2, name
        assert kept in (regression.KEPT, regression.KEPT_ELSEWHERE), name


def test_less_must_be_kept_of_what_another_processor_was_measured_with(
    regression: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = regression.GUARDS["loop"]
    record = json.loads((regression.harness.RESULTS / "loop.json").read_text())
    for processor, expected in (
        (record["machine"]["processor"], regression.KEPT),
        ("another", regression.KEPT_ELSEWHERE),
    ):
        monkeypatch.setattr(
            regression.harness, "describe_machine", lambda named=processor: {"processor": named}
        )
        assert guard.recorded()[1] == expected


def test_a_broken_guard_ends_with_one(
    regression: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = regression.GUARDS["loop"]

    def slow() -> dict[str, Any]:
        figures = {
            guard.ours: regression.harness.Figures(),
            guard.other: regression.harness.Figures(),
        }
        for found in figures.values():
            found.add_burst({"times": {"frame": [5.0, 5.0]}, "peak_mb": 1.0})
        return figures

    monkeypatch.setitem(regression.GUARDS, "loop", replace(guard, measure=slow))
    assert regression.main(["loop"]) == 1
    assert "SLOWER" in capsys.readouterr().out


@pytest.mark.timeout(180)
def test_the_fast_path_is_the_faster_one(regression: Any) -> None:
    """Far below what is on record, for tests share their machine."""
    assert regression.GUARDS["wren's codec"].measured() > 2
