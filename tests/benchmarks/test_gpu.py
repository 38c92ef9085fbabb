"""The GPU benchmark runs from end to end where there is none, on models of no size."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The program; what it sets for its whole process is put back."""
    monkeypatch.syspath_prepend(FOLDER)
    harness = importlib.import_module("harness")
    monkeypatch.setattr(harness, "RESULTS", harness.RESULTS)
    with torch.no_grad():
        yield importlib.import_module("gpu")


def test_a_trial_on_the_cpu_fills_record_plot_and_page(gpu: Any, tmp_path: Path) -> None:
    page = FOLDER.parent / "docs" / "benchmarks.md"
    before = page.read_bytes()
    options = ["--device", "cpu", "--tiny", "--frames", "10", "--out", str(tmp_path)]
    gpu.main(["moshi-7b-1", "capacity", *options])
    gpu.main(["moshi-7b-3", *options])
    assert page.read_bytes() == before
    rows = {row["case"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert rows.keys() == {"moshi-7b-1", "moshi-7b-3", "capacity"}
    one, three = rows["moshi-7b-1"], rows["moshi-7b-3"]
    assert three["cache_gb"] == pytest.approx(3 * one["cache_gb"], rel=1e-3)
    assert three["weights_gb"] == one["weights_gb"]
    found = one["systems"]["eager"]
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
    assert found["times_floor"] == pytest.approx(found["p50_ms"] / one["floor_ms"], abs=0.01)
    assert rows["capacity"]["tried"]
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.count("| moshi-7b | ") == 2
    assert "Most conversations of moshi-7b" in text
    assert (tmp_path / "gpu.png").exists()
    gpu.main(["--report", str(tmp_path / "gpu.json"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "benchmarks.md").read_text() == text


def test_a_trial_must_not_go_into_the_documentation(gpu: Any) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--tiny", "--device", "cpu"])


def test_the_search_ends_at_the_most_that_fits(gpu: Any) -> None:
    class Machine:
        runtimes, machine, tiny = ("eager", "graph"), {}, False

        def __init__(self, most: int, room: int) -> None:
            self.most, self.room = most, room

        def row(self, model: str, batch: int, runtimes: tuple[str]) -> dict[str, Any]:
            if batch > self.room:
                return {"case": "", "systems": {}, "failure": "out of memory"}
            p99 = 79.0 if batch <= self.most else 81.0
            return {"case": "", "systems": {runtimes[0]: {"p99_ms": p99}}}

    assert gpu.capacity(Machine(most=200, room=85))["conversations"] == 85
    assert gpu.capacity(Machine(most=70, room=85))["conversations"] in range(67, 71)
    assert gpu.capacity(Machine(most=0, room=85))["conversations"] == 0
    found = gpu.capacity(Machine(most=20, room=85))
    assert 16 <= found["conversations"] <= 20
    assert len(found["tried"]) <= gpu.MAX_TRIES
