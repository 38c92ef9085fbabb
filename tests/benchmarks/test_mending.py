"""The benchmark of misheard questions runs from end to end, and its fit finds what decides."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from duologue.synthesis.generate import Dataset, generate

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def mending(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("mending")


def test_questions_are_heard_and_looked_up(
    mending: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    data = tmp_path / "spoken"
    generate(Dataset("dialogue", "valid", 3), data, 0.03, workers=1)
    out = tmp_path / "out" / "mending.json"
    mending.main([str(data), "--fit", "--out", str(out)])
    report = json.loads(out.read_text())
    asked = report["spoken"]["questions with an answer"]
    assert asked >= 3
    told = report["spoken"]["told"]
    assert [*told] == [*mending.WAYS]
    heard = told["all hearings, names by sound"]
    assert heard["rightly"] >= told["words alone"]["rightly"]
    assert heard["rightly"] > 0
    assert all(one["rightly"] + one["wrongly"] <= asked for one in told.values())
    assert report["SPELLING"]["guessed"] == 0.0
    assert (out.parent / "spoken" / "book.md").read_text().count("\n- ") > 1000


def test_the_fit_prefers_what_is_right(mending: Any) -> None:
    """The right reading is the one whose name is likely by its sound; nothing else tells it."""
    torch.manual_seed(0)
    choices = []
    for _ in range(200):
        features = torch.zeros(3, len(mending.FEATURES), dtype=torch.float64)
        features[:, 0] = 1.0
        features[:, mending.FEATURES.index("guessed")] = -25.0 * torch.rand(3, dtype=torch.float64)
        right = features[:, mending.FEATURES.index("guessed")] > -5.0
        if right.sum() < 2:
            choices.append(mending.Choice(features, right, 1.0))
    weights = mending.fit(choices, mending.FEATURES)
    assert weights.guessed > 0.2
    assert weights.bias + weights.guessed * -15.0 < 0.0 < weights.bias + weights.guessed * -1.0
    assert mending.fit(choices, mending.BY_SPELLING).guessed == 0.0
