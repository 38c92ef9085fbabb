"""Bundles: what stays of the folder that one replaces."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.folders import write_model

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import read_json
from duologue.checkpoints.save import write_json, write_tensors
from duologue.stt import front_end_file
from duologue.training.bundle import bundle_model


def test_a_floor_policy_outlives_the_weights_and_gives_way_to_another(tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    recogniser = (model / "stt").rename(tmp_path / "stt")
    # One that hears by itself need not fit the codec.
    write_tensors(recogniser / front_end_file.NAME, {"filter": torch.eye(3)}, {})
    bundle_model(model, recogniser, out)
    config = read_json(out / "config.json")
    assert "floor" not in config
    write_json(out / "config.json", {**config, "floor": {"turn_frames": 9}})
    (out / "README.md").write_text("kept")
    bundle_model(model, recogniser, out)
    assert read_json(out / "config.json") == {**config, "floor": {"turn_frames": 9}}
    assert (out / "README.md").read_text() == "kept"
    write_json(model / "config.json", {**read_json(model / "config.json"), "floor": {}})
    bundle_model(model, recogniser, out)
    assert read_json(out / "config.json")["floor"] == {}


def test_a_folder_with_a_recogniser_stands_for_it(tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    write_tensors(model / "stt" / front_end_file.NAME, {"filter": torch.eye(3)}, {})
    bundle_model(model, model, out)
    assert read_json(out / "stt" / "config.json") == read_json(model / "stt" / "config.json")
    shutil.rmtree(model / "stt")
    with pytest.raises(CheckpointError, match="without a recogniser"):
        bundle_model(model, model, out)
