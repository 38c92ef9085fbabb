"""The codec's fast path is the codec: same codes, same audio, same states, whoever computes."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.golden import GOLDEN
from torch import Tensor

import duologue
from duologue.checkpoints.save import save_codec
from duologue.mimi import Mimi, MimiConfig
from duologue.runtime import codec_runner
from duologue.runtime.errors import RuntimeUnavailable

SLOTS = 3
TOLERANCE = 2e-5
"""Of samples, whose largest are about 1."""


@pytest.fixture(scope="module")
def eager() -> Mimi:
    return duologue.load_codec("wren", device="cpu", runtime="eager")


@pytest.fixture(scope="module")
def fast() -> Mimi:
    return duologue.load_codec("wren", device="cpu", runtime="fast")


def audio(frames: int, slots: int = SLOTS, seed: int = 1) -> Tensor:
    """Harmonics that glide under an envelope, and noise: all levels of the quantiser have work."""
    random = torch.Generator().manual_seed(seed)
    t = torch.arange(frames * 1920) / 24_000
    pitch = 90 + 120 * torch.rand(slots, 1, generator=random)
    wave = sum(torch.sin(6.28 * n * (pitch * t + 20 * torch.sin(2 * t))) / n for n in range(1, 6))
    noise = 0.1 * torch.randn(slots, len(t), generator=random)
    return ((0.2 * wave + noise) * (0.5 + 0.5 * torch.sin(9 * t)))[:, None]


def assert_near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)


def test_whole_recordings_agree(eager: Mimi, fast: Mimi) -> None:
    pcm = audio(19)[..., :-100]
    codes = eager.encode(pcm)
    assert torch.equal(fast.encode(pcm), codes)
    assert len(codes.unique()) > 200, "the audio says nothing"
    assert_near(fast.decode(codes), eager.decode(codes))
    for levels in (1, 3):
        assert torch.equal(fast.encode(pcm, num_codebooks=levels), codes[:, :levels])
        assert_near(fast.decode(codes[:, :levels]), eager.decode(codes[:, :levels]))


def test_streams_with_masks_resets_and_handovers_agree(eager: Mimi, fast: Mimi) -> None:
    """Past the attention's window; every third frame the other one computes on the same state."""
    random = torch.Generator().manual_seed(2)
    mine, theirs = eager.init_state(SLOTS), fast.init_state(SLOTS)
    for index, frame in enumerate(audio(30).split(1920, dim=-1)):
        active = torch.rand(SLOTS, generator=random) < 0.8
        if index % 9 == 4:
            fresh = torch.arange(SLOTS) == index % SLOTS
            mine.reset(fresh)
            theirs.reset(fresh)
        codec = eager if index % 3 == 2 else fast
        codes = eager.encode_step(frame, mine, active)
        assert torch.equal(codec.encode_step(frame, theirs, active)[active], codes[active])
        heard = eager.decode_step(codes, mine, active)
        assert_near(codec.decode_step(codes, theirs, active)[active], heard[active])
    others = theirs.tensors()
    for path, tensor in mine.tensors().items():
        torch.testing.assert_close(tensor, others[path], atol=1e-3, rtol=1e-3, msg=path)


def test_bits_depend_on_nothing_but_the_slot(fast: Mimi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone or in a batch, frame by frame or not, with one thread or several."""
    pcm = audio(5)
    codes, heard = fast.encode(pcm), fast.decode(fast.encode(pcm))
    monkeypatch.setattr(codec_runner, "MACS_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for slot in range(SLOTS):
            state = fast.init_state(1)
            for f, frame in enumerate(pcm[slot : slot + 1].split(1920, dim=-1)):
                step = fast.encode_step(frame, state)
                assert torch.equal(step[0, :, 0], codes[slot, :, f])
                said = fast.decode_step(step, state)
                assert torch.equal(said[0, 0], heard[slot, 0, f * 1920 : (f + 1) * 1920])
    finally:
        torch.set_num_threads(before)


def test_threads_may_call_at_once(fast: Mimi) -> None:
    pcm = audio(6)
    expected = fast.encode(pcm)
    with ThreadPoolExecutor(3) as pool:
        for codes in pool.map(lambda _: fast.encode(pcm), range(6)):
            assert torch.equal(codes, expected)


def test_a_number_gone_bad_stays_in_its_slot_and_shows(fast: Mimi) -> None:
    state, clean = fast.init_state(SLOTS), fast.init_state(SLOTS)
    codes = torch.zeros(SLOTS, fast.num_codebooks, 1, dtype=torch.int64)
    state.decoder.upsample.partial[1] = float("nan")
    heard, expected = fast.decode_step(codes, state), fast.decode_step(codes, clean)
    assert heard[1].isnan().any()
    assert torch.equal(heard[[0, 2]], expected[[0, 2]])


def test_bad_codes_are_refused_where_they_count(fast: Mimi) -> None:
    codes = torch.zeros(SLOTS, fast.num_codebooks, 1, dtype=torch.int64)
    codes[1, 0] = fast.quantizer.bins
    with pytest.raises(IndexError, match="outside the codebooks"):
        fast.decode_step(codes, fast.init_state(SLOTS))
    active = torch.tensor([True, False, True])
    silent = fast.decode_step(codes, fast.init_state(SLOTS), active)[1]
    assert torch.equal(silent, torch.zeros(1, 1920))


def test_weights_that_change_are_seen(fast: Mimi) -> None:
    changed = duologue.load_codec(GOLDEN / "mimi", device="cpu", runtime="fast")
    same = duologue.load_codec(GOLDEN / "mimi", device="cpu", runtime="eager")
    pcm = torch.rand(1, 1, 4 * changed.frame_size) - 0.5
    first = changed.encode(pcm)
    for codec in (changed, same):
        with torch.no_grad():
            codec.encoder[0].weight.mul_(-1.5)
    assert torch.equal(changed.encode(pcm), same.encode(pcm))
    assert not torch.equal(changed.encode(pcm), first)


def test_a_copy_computes_by_itself(fast: Mimi) -> None:
    twin = copy.deepcopy(fast)
    assert twin.runtime is None
    pcm = audio(2, 1)
    assert torch.equal(twin.encode(pcm), fast.encode(pcm))


def test_half_is_near(eager: Mimi) -> None:
    half = duologue.load_codec("wren", device="cpu", runtime="half")
    pcm = audio(16, 1)
    codes = eager.encode(pcm)
    assert (half.encode(pcm) == codes)[:, :2].float().mean() > 0.95
    heard = eager.decode(codes)
    distance = (half.decode(codes) - heard).norm() / heard.norm()
    assert 0 < distance < 3e-3


@pytest.mark.parametrize("change", [{"n_residual_layers": 2}], ids=["dilated"])
def test_an_unknown_shape_runs_eagerly(tmp_path: Path, change: dict[str, int]) -> None:
    values = json.loads((GOLDEN / "mimi" / "config.json").read_text())
    values["seanet"] |= change
    save_codec(tmp_path, Mimi(MimiConfig.from_dict(values)))
    codec = duologue.load_codec(tmp_path, device="cpu")
    assert codec.runtime is None
    assert codec.encode(torch.zeros(1, 1, codec.frame_size)).shape[2] == 1
    with pytest.raises(RuntimeUnavailable, match="cannot run this"):
        duologue.load_codec(tmp_path, device="cpu", runtime="fast")
    with pytest.raises(ValueError, match="none of"):
        duologue.load_codec(tmp_path, device="cpu", runtime="warp")


def test_it_is_fast(eager: Mimi, fast: Mimi) -> None:
    """A generous bound; benchmarks/mimi.py has the figures."""

    def step(codec: Mimi) -> Callable[[], None]:
        state, frame = codec.init_state(1), audio(1, 1)

        def run() -> None:
            codec.decode_step(codec.encode_step(frame, state), state)

        return run

    steps = {"eager": step(eager), "fast": step(fast)}
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(8):
        for name, run in steps.items():
            begin = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begin)
    assert best["fast"] * 2 < best["eager"], best
