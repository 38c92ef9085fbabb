"""The n-th segment is a function of n; labels and samples are where the manifest says."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duologue.audio.wav import write_wav
from duologue.training.data import (
    AudioStore,
    DataConfig,
    DataError,
    SegmentSampler,
    batches,
    fingerprint,
    read_manifest,
    split_recordings,
)
from duologue.training.phones import PhoneSet


def make_sampler(corpus: Path, **changes: Any) -> SegmentSampler:
    recordings = read_manifest(corpus)
    phone_set = PhoneSet.of(r.phones for r in recordings)
    config = DataConfig(segment_s=0.64, **changes)
    return SegmentSampler(recordings, config, phone_set, seed=3)


def test_a_segment_depends_on_its_number_alone(training_corpus: Path) -> None:
    one, two = make_sampler(training_corpus), make_sampler(training_corpus)
    forwards = [one.segment(n) for n in range(6)]
    backwards = [two.segment(n) for n in reversed(range(6))]
    for (pcm, phones), (pcm2, phones2) in zip(forwards, reversed(backwards), strict=True):
        assert np.array_equal(pcm, pcm2)
        assert np.array_equal(phones, phones2)
    assert not np.array_equal(forwards[0][0], forwards[1][0])


def test_tempo_changes_sound_and_phones_alike(tmp_path: Path) -> None:
    t = np.arange(4 * 24_000) / 24_000
    write_wav(tmp_path / "tone.wav", (0.3 * np.sin(2 * np.pi * 400 * t)).astype(np.float32), 24_000)
    phones = [["aa", second / 2, second / 2 + 0.25] for second in range(8)]
    row = {"path": "tone.wav", "duration": 4.0, "phones": phones}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")

    def periods(**changes: Any) -> int:
        """How often the tone swings in the first segment."""
        pcm, shares = make_sampler(tmp_path / "m.jsonl", overhang=0.0, **changes).segment(0)
        assert (len(pcm), len(shares)) == (15360, 16)
        return int(((pcm[:-1] < 0) & (pcm[1:] >= 0)).sum())

    assert abs(periods() - 256) <= 1
    assert abs(periods(tempo=(1.25, 1.25), tempo_share=1.0) - 320) <= 1
    assert periods(tempo=(0.5, 2.0), tempo_share=0.0) == periods()
    assert abs(periods(tempo=(0.5, 2.0), tempo_share=1.0) - 256) > 1

    plain = make_sampler(tmp_path / "m.jsonl")
    slow, fast = (plain.phone_targets(plain.recordings[0], 0, 50, tempo) for tempo in (1.0, 1.25))
    changes = [
        np.flatnonzero(np.diff((targets[:, 1] > 0.49).astype(int)) > 0) + 1
        for targets in (slow, fast)
    ]
    assert changes[0][:3].tolist() == [12, 25, 37]
    assert changes[1][:3].tolist() == [10, 20, 30]


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order_whoever_makes_them(training_corpus: Path, workers: int) -> None:
    sampler = make_sampler(training_corpus, workers=workers, prefetch=4)
    stream = batches(sampler, 10, 2)
    for index, batch in enumerate(itertools.islice(stream, 5)):
        expected = sampler.batch(10 + 2 * index, 2)
        assert torch.equal(batch.pcm, expected.pcm)
        assert torch.equal(batch.phones, expected.phones)
    stream.close()  # type: ignore[attr-defined]


def test_an_error_of_a_worker_reaches_the_reader(training_corpus: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"path": "missing.wav", "duration": 1.0}) + "\n")
    sampler = SegmentSampler(
        read_manifest(manifest), DataConfig(segment_s=0.64), PhoneSet(("pau",)), seed=0
    )
    with pytest.raises(OSError):
        next(batches(sampler, 0, 1))


def test_mapped_and_decoded_files_read_alike(tmp_path: Path) -> None:
    pcm = (np.sin(np.arange(5000) / 20) * 0.5).astype(np.float32)
    write_wav(tmp_path / "plain.wav", pcm, 24_000)
    write_wav(
        tmp_path / "float.wav", np.round(pcm * 32768) / 32768, 24_000, sample_format="float32"
    )
    store = AudioStore()
    for start, count in ((0, 5000), (-100, 400), (4900, 300), (9000, 10), (1234, 777)):
        plain = store.read(tmp_path / "plain.wav", start, count)
        assert np.array_equal(plain, store.read(tmp_path / "float.wav", start, count))
        assert len(plain) == count
    assert not store.read(tmp_path / "plain.wav", -100, 100).any()


def test_phone_targets_are_shares_of_time() -> None:
    phone_set = PhoneSet.of([[("ae1", 0.0, 1.0), ("t", 0.0, 1.0), ("SIL", 0.0, 1.0)]])
    assert phone_set.symbols == ("pau", "ae", "t")
    shares = phone_set.targets([("ae1", 0.04, 0.07), ("t", 0.07, 0.12)], 0.0, 4, 0.04)
    expected = [[1, 0, 0], [0, 0.75, 0.25], [0, 0, 1], [1, 0, 0]]
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    shifted = phone_set.targets([("ae1", 0.04, 0.07), ("t", 0.07, 0.12)], -0.04, 4, 0.04)
    np.testing.assert_allclose(shifted[1:], expected[:3], atol=1e-6)


def test_phones_outside_the_set_are_unknown() -> None:
    phone_set = PhoneSet.listing(["aa", "t"])
    shares = phone_set.targets([("aa", 0.0, 0.04), ("@L", 0.04, 0.08)], 0.0, 3, 0.04)
    np.testing.assert_allclose(shares, [[0, 1, 0], [0, 0, 0], [1, 0, 0]], atol=1e-6)


def test_recordings_without_labels_have_no_targets(training_corpus: Path) -> None:
    sampler = make_sampler(training_corpus)
    sums = {float(sampler.segment(n)[1].sum(axis=1).min()) for n in range(60)}
    assert 0.0 in sums
    assert any(abs(value - 1.0) < 1e-5 for value in sums)


def test_facts_may_stand_beside_the_recording(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav", "duration": 1.5}\n')
    facts = {"split": "test", "phones": [["aa", 0, 1]], "duration": 9, "text": "ah"}
    (tmp_path / "a.json").write_text(json.dumps(facts))
    (recording,) = read_manifest(tmp_path / "m.jsonl")
    assert recording.phones == (("aa", 0.0, 1.0),)
    assert (recording.split, recording.text, recording.duration_s) == ("test", "ah", 1.5)


def test_splits_and_fingerprint(training_corpus: Path, tmp_path: Path) -> None:
    recordings = read_manifest(training_corpus)
    train, held_out = split_recordings(recordings)
    assert len(train) == 5
    assert [r.path.name for r in held_out] == ["5.wav"]
    assert fingerprint(train) != fingerprint(train[1:])
    unsplit = [type(r)(r.path, r.duration_s) for r in recordings]
    again_train, again_held = split_recordings(unsplit)
    assert again_held
    assert not {r.path for r in again_train} & {r.path for r in again_held}


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ('{"path": "a.wav"}\n', ":1: not a manifest row"), ("no json\n", ":1:")],
)
def test_bad_manifests_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "m.jsonl")
