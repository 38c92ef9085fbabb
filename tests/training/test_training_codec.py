"""A tiny codec learns, stops, goes on, and is exported."""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from duologue.checkpoints.load import load_codec
from duologue.training.checkpoint import TrainingStateError, list_checkpoints, load_newest
from duologue.training.codec import CodecTask, CodecTrainingConfig
from duologue.training.config import parse
from duologue.training.data import read_manifest
from duologue.training.trainer import Outcome, Trainer

from .conftest import TINY


def make_trainer(corpus: Path, out: Path, **changes: dict[str, Any]) -> Trainer[Any]:
    tables = copy.deepcopy(TINY)
    for name, values in changes.items():
        tables[name] = {**tables.get(name, {}), **values}
    config = parse(CodecTrainingConfig, tables)
    task = CodecTask(config, read_manifest(corpus), torch.device("cpu"))
    return Trainer(task, config.run, out)


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def test_codec_overfits_a_few_tones(training_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        training_corpus, tmp_path,
        run={"steps": 120, "log_every": 20, "evaluate_every": 1000},
        adversary={"start_step": 1000}, quantizer={"start_step": 40}, losses={"semantic": 2.0},
    )  # fmt: skip
    trainer.run()
    seen = rows(tmp_path, "train")
    assert seen[-1]["mel"] < 0.7 * seen[0]["mel"]
    assert seen[-1]["semantic"] < 0.95 * seen[0]["semantic"]


def test_a_stopped_run_goes_on_bit_for_bit(training_corpus: Path, tmp_path: Path) -> None:
    whole = make_trainer(training_corpus, tmp_path / "whole")
    assert whole.run() is Outcome.FINISHED

    first = make_trainer(training_corpus, tmp_path / "parts")
    assert first.run(stop_after_s=0.0) is Outcome.OUT_OF_TIME
    while True:
        part = make_trainer(training_corpus, tmp_path / "parts")
        assert part.resume()
        if part.run(stop_after_s=0.0) is Outcome.FINISHED:
            break

    expected = load_newest(whole.checkpoints)
    found = load_newest(part.checkpoints)
    assert expected is not None
    assert found is not None
    assert expected.tensors.keys() == found.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(tensor, found.tensors[name]), name
    assert expected.values["position"] == found.values["position"]


def test_sigterm_saves_and_the_metrics_have_no_gap(training_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(training_corpus, tmp_path, run={"steps": 100_000})
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert trainer.run() is Outcome.INTERRUPTED
    timer.join()
    saved = load_newest(trainer.checkpoints)
    assert saved is not None
    assert saved.step == trainer.step > 0
    resumed = make_trainer(training_corpus, tmp_path, run={"steps": trainer.step + 4})
    assert resumed.resume()
    resumed.run()
    steps = [row["step"] for row in rows(tmp_path, "train")]
    assert steps == sorted(set(steps))


def test_exported_codec_loads_and_matches(training_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(training_corpus, tmp_path)
    trainer.run()
    exported = load_codec(tmp_path / "codec")
    finished = trainer.task.finished_codec()
    pcm = torch.randn(1, 1, 2 * 1920) * 0.1
    torch.testing.assert_close(
        exported.decode(exported.encode(pcm)), finished.decode(finished.encode(pcm))
    )
    assert (tmp_path / "samples" / "step_00000004" / "00_decoded.wav").is_file()
    assert {"stoi", "mel_distance_db", "perplexity_first"} <= rows(tmp_path, "evaluation")[0].keys()


def test_evaluation_changes_nothing(training_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(training_corpus, tmp_path)
    trainer.run()
    before = {name: tensor.clone() for name, tensor in trainer.task.tensors().items()}
    trainer.task.evaluate(1, tmp_path / "more")
    after = trainer.task.tensors()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_another_shape_is_refused(training_corpus: Path, tmp_path: Path) -> None:
    make_trainer(training_corpus, tmp_path).run()
    other = make_trainer(training_corpus, tmp_path)
    other.task.config = parse(
        CodecTrainingConfig,
        {**TINY, "codec": {**TINY["codec"], "quantizer": {**TINY["codec"]["quantizer"], "n_q": 2}}},
    )
    with pytest.raises(TrainingStateError, match="another codec"):
        other.resume()


def test_old_checkpoints_are_deleted(training_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(training_corpus, tmp_path, run={"steps": 5, "save_minutes": 0.0})
    trainer.run()
    assert [path.name for path in list_checkpoints(trainer.checkpoints)] == [
        "step_00000004",
        "step_00000005",
    ]


def test_accumulated_steps_draw_the_data_of_a_larger_batch(
    training_corpus: Path, tmp_path: Path
) -> None:
    """The same data and one step of the optimiser; balanced losses are means of each part, so the
    step itself is near the other and not equal to it."""
    still = {"start_step": 1000}
    kwargs: dict[str, Any] = {
        "adversary": still, "quantizer": still,
        "losses": {"waveform": 1.0, "mel": 0.0, "stft": 0.0},
    }  # fmt: skip
    runs = {"whole": {"batch": 4}, "parts": {"batch": 2, "accumulate": 2}, "half": {"batch": 2}}
    moments: dict[str, torch.Tensor] = {}
    positions: dict[str, int] = {}
    for name, run in runs.items():
        trainer = make_trainer(training_corpus, tmp_path / name, run={"steps": 1, **run}, **kwargs)
        trainer.run()
        positions[name] = trainer.position
        # After one step the first moment is the gradient, a tenth of it.
        state = trainer.task.optimizers()["codec"].state
        named = sorted(trainer.task.codec.named_parameters())
        moments[name] = torch.cat([state[p]["exp_avg"].flatten() for _, p in named if p in state])
    assert positions["whole"] == positions["parts"] == 2 * positions["half"]
    whole, parts = moments["whole"], moments["parts"]
    assert whole.abs().max() > 0
    assert torch.cosine_similarity(whole, parts, dim=0) > 0.9
    assert torch.cosine_similarity(whole, moments["half"], dim=0) < torch.cosine_similarity(
        whole, parts, dim=0
    )


def test_only_the_decoder_learns_when_the_codes_are_to_stay(
    training_corpus: Path, tmp_path: Path
) -> None:
    make_trainer(training_corpus, tmp_path / "first").run()
    start = load_codec(tmp_path / "first" / "codec")
    config = parse(
        CodecTrainingConfig, {**copy.deepcopy(TINY), "weight_norm": False, "decoder_only": True}
    )
    recordings = read_manifest(training_corpus)
    task = CodecTask(config, recordings, torch.device("cpu"), start)
    Trainer(task, config.run, tmp_path / "second").run()
    after = load_codec(tmp_path / "second" / "codec")
    pcm = torch.randn(1, 1, 4 * start.frame_size) * 0.1
    assert torch.equal(start.encode(pcm), after.encode(pcm))
    still = ("encoder.", "encoder_transformer.", "downsample.", "quantizer.")
    for name, weight in after.state_dict().items():
        unchanged = torch.equal(weight, start.state_dict()[name])
        assert unchanged == name.startswith(still), name
    better = copy.deepcopy(start)
    better.quantizer.first.codebooks[0].embedding.data.add_(0.1)
    other = CodecTask(config, recordings, torch.device("cpu"), better)
    with pytest.raises(TrainingStateError, match="began with another codec"):
        Trainer(other, config.run, tmp_path / "second").resume()


def test_the_decoder_alone_needs_a_codec_to_start_from(training_corpus: Path) -> None:
    config = parse(
        CodecTrainingConfig, {**copy.deepcopy(TINY), "weight_norm": False, "decoder_only": True}
    )
    with pytest.raises(ValueError, match="to start from"):
        CodecTask(config, read_manifest(training_corpus), torch.device("cpu"))


def test_phones_are_learnt_between_decoded_steps(training_corpus: Path, tmp_path: Path) -> None:
    run = {"steps": 4, "log_every": 1}
    trainer = make_trainer(training_corpus, tmp_path, run=run, quantizer={"start_step": 1})
    trainer.task.config = replace(trainer.task.config, decode_every=2)
    decoder = [p for n, p in trainer.task.codec.named_parameters() if n.startswith("decoder")]
    encoder = [p for n, p in trainer.task.codec.named_parameters() if n.startswith("encoder")]
    seen: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    learn = trainer.task.learn

    def watched(batches: Any, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        report = learn(batches, step, generator)
        seen[step] = tuple([p.detach().clone() for p in part] for part in (decoder, encoder))
        return report

    trainer.task.learn = watched
    trainer.run()
    for step in (1, 2, 3):
        still, moved = (
            all(map(torch.equal, seen[step - 1][part], seen[step][part])) for part in (0, 1)
        )
        assert still == bool(step % 2), step
        assert not moved, step
    assert ["mel" in row for row in rows(tmp_path, "train")] == [True, False, True, False]


def test_how_often_to_decode_is_checked(training_corpus: Path) -> None:
    config = parse(CodecTrainingConfig, {**copy.deepcopy(TINY), "decode_every": 0})
    with pytest.raises(ValueError, match="decode_every"):
        CodecTask(config, read_manifest(training_corpus), torch.device("cpu"))
