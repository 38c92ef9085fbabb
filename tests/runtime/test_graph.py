"""Frames between fixed buffers: a replayed frame is the called one, and nothing in it waits.

On the CPU a recorder stands for CUDA graphs that is as strict as they are; tests/engine has the
same on a GPU. All of this takes the attention that accelerators take.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
from support.conversations import frames_of, model, recogniser, speech
from support.recording import HostRecorder, NoWaiting, without_numbers
from support.schedules import SETUPS, PieceTokenizer, assert_same, begin, play
from torch import Tensor

from duologue.engine import SlotBank, SlotSetup
from duologue.moshi import Sampling
from duologue.nn.cache import CachePlan, plan_step
from duologue.runtime.errors import RuntimeUnavailable
from duologue.runtime.graph import MAX_RECORDINGS, CapturedFrames, EagerFrames
from duologue.stt.recogniser import Recogniser

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_on_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    def masked(*given: Any, slotwise: bool | None = None) -> CachePlan:
        return plan_step(*given, slotwise=False)

    monkeypatch.setattr("duologue.nn.transformer.plan_step", masked)


def ears(*names: str) -> Recogniser:
    """A recogniser that leans towards names."""
    plain = recogniser()
    return Recogniser(
        plain.lm, plain.front_end, PieceTokenizer(), delay_s=0.16,  # type: ignore[arg-type]
        vocabulary=names or ["ab cde fghi"],
    )  # fmt: skip


def bank_of(slots: int = 3, listens: bool = True, replays: bool = False) -> SlotBank:
    bank = SlotBank(model(), slots, recogniser=ears() if listens else None, runtime="eager")
    if replays:
        bank.set_runtime("graph", HostRecorder())
    return bank


def state_of(bank: SlotBank) -> dict[str, Tensor]:
    return bank.state.clone().tensors()


def assert_same_state(one: SlotBank, other: SlotBank) -> None:
    theirs = other.state.tensors()
    for path, tensor in one.state.tensors().items():
        torch.testing.assert_close(tensor, theirs[path], rtol=0, atol=0, equal_nan=True, msg=path)


@pytest.mark.parametrize(("seed", "listens"), [(0, True), (1, False), (2, True)])
def test_a_replayed_frame_is_the_called_one_to_the_bit(seed: int, listens: bool) -> None:
    called, replayed = bank_of(listens=listens), bank_of(listens=listens, replays=True)
    assert_same(play(called, 24, seed), play(replayed, 24, seed))
    assert_same_state(called, replayed)
    frames = replayed.frames
    assert isinstance(frames, CapturedFrames)
    assert frames.failure is None
    assert 1 <= frames.recorded <= 2, "seeds, masks, references and steering are no reason"


def test_the_accelerators_attention_says_what_the_cpus_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masked = play(bank_of(), 16)
    monkeypatch.undo()
    assert_same(masked, play(bank_of(), 16), atol=1e-5)


def test_a_frame_is_recorded_anew_for_another_vocabulary_or_sampling() -> None:
    called, replayed = bank_of(1), bank_of(1, replays=True)
    frames = replayed.frames
    assert isinstance(frames, CapturedFrames)
    for recorded, change in enumerate(
        (
            lambda bank: begin(bank, 0),
            lambda bank: bank.recogniser.set_vocabulary(["fghi ab", "cde cde"]),
            lambda bank: begin(bank, 0, SlotSetup(seed=1, text=Sampling(1.0, 0))),
            lambda bank: bank.recogniser.set_vocabulary([]),
        ),
        1,
    ):
        for bank in (called, replayed):
            change(bank)
        said, again = (
            [bank.step({0: pcm}) for pcm in frames_of(speech(3))] for bank in (called, replayed)
        )
        assert_same(said, again)
        assert frames.recorded == recorded
    begin(replayed, 0)
    replayed.step({0: frames_of(speech(1))[0]})
    assert frames.recorded == 5
    begin(replayed, 0, SlotSetup(seed=2, text=Sampling(0.9, 0)))
    replayed.step({0: frames_of(speech(1))[0]})
    assert frames.recorded == 5, "the recording of these settings is still there"


def test_nothing_in_a_frame_waits_or_moves_and_no_frame_changes_nothing() -> None:
    bank = bank_of()
    for slot, setup in enumerate(SETUPS[1:]):
        begin(bank, slot, setup)
    bank.set_reference(1, torch.ones(3, bank.dim))
    bank.step(dict.fromkeys(range(3), frames_of(speech(1))[0]))
    before = state_of(bank)
    places = {path: tensor.data_ptr() for path, tensor in bank.state.tensors().items()}
    bank.frame.steers_all = True
    idle = torch.zeros_like(bank.frames.inputs)
    bank.frame.advance(idle)
    bank.frame.open(torch.zeros(3))
    for path, tensor in bank.state.tensors().items():
        assert torch.equal(tensor.nan_to_num(), before[path].nan_to_num()), path
    busy = idle.uniform_(-0.5, 0.5)
    with NoWaiting():
        rows = bank.frame.advance(busy)
        bank.frame.open(torch.ones(3))
    assert rows.shape == (3, 1926)
    assert places == {path: tensor.data_ptr() for path, tensor in bank.state.tensors().items()}
    assert not torch.equal(before["duplex.lm.offset"], bank.state.duplex.lm.offset)


def test_a_frame_never_asks_for_a_value_and_has_nothing_on_the_host() -> None:
    bank = bank_of()
    begin(bank, 0, SETUPS[2])
    bank.frame.steers_all = True
    frame = without_numbers(bank.frame)
    rows = frame.advance(torch.ones(bank.frames.inputs.shape, device="meta"))
    drawn = frame.open(torch.ones(3, device="meta"))
    assert (rows.device.type, rows.shape) == ("meta", (3, 1926))
    assert (drawn.device.type, drawn.shape) == ("meta", (3,))
    with pytest.raises(RuntimeError, match="meta"):
        frame.duplex.generator.refresh_sampling()  # as starting a conversation does


def counting(size: int, baked: list[int], total: Tensor) -> CapturedFrames:
    """Frames that add `baked[0]` times their inputs up."""

    def advance(inputs: Tensor) -> Tensor:
        total.add_(inputs, alpha=baked[0])
        return total * 1.0

    return CapturedFrames(advance, size, CPU, lambda: baked[0], HostRecorder())


def test_recordings_are_bounded_and_inputs_survive_recording() -> None:
    baked, total = [0], torch.zeros(2)
    frames = counting(2, baked, total)
    frames.inputs.copy_(torch.tensor([1.0, 2.0]))
    for times in range(1, MAX_RECORDINGS + 2):
        baked[0] = times
        frames.run()
    assert frames.recorded == MAX_RECORDINGS + 1
    summed = sum(range(MAX_RECORDINGS + 2))
    assert frames.run().tolist() == [summed + baked[0], 2 * (summed + baked[0])]
    baked[0] = 2
    frames.run()
    assert frames.recorded == MAX_RECORDINGS + 1
    baked[0] = 1
    frames.run()
    assert frames.recorded == MAX_RECORDINGS + 2, "the first is gone"


def test_what_cannot_be_recorded_is_called_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Unable(HostRecorder):
        def record(self, work: object) -> None:  # type: ignore[override]
            try:
                raise RuntimeError("operation not permitted when stream is capturing")
            finally:
                raise RuntimeError("the recording is invalid")

    bank, called = bank_of(2), bank_of(2)
    bank.set_runtime("graph", Unable())
    with caplog.at_level(logging.WARNING):
        for slot in range(2):
            begin(bank, slot)
            begin(called, slot)
        assert_same(play(bank, 8), play(called, 8))
    told = [r.getMessage() for r in caplog.records if r.name == "duologue.runtime.graph"]
    assert len(told) == 2, "once for frames, once for first steps"
    assert all("not permitted when stream is capturing" in line for line in told)


def test_a_conversation_goes_on_from_one_runtime_to_the_other() -> None:
    one, other = bank_of(2), bank_of(2)
    first = [play(bank, 6) for bank in (one, other)]
    other.set_runtime("graph", HostRecorder())
    second = [play(bank, 6, seed=5) for bank in (one, other)]
    other.set_runtime("eager")
    third = [play(bank, 6, seed=6) for bank in (one, other)]
    for mine, theirs in (first, second, third):
        assert_same(mine, theirs)


def test_graphs_need_a_device_that_has_them() -> None:
    bank = SlotBank(model(), 1)
    assert type(bank.frames) is EagerFrames
    with pytest.raises(RuntimeUnavailable, match="CUDA"):
        bank.set_runtime("graph")
    with pytest.raises(ValueError, match="runtime"):
        SlotBank(model(), 1, runtime="fast")
    begin(bank, 0)
    assert bank.step({0: np.zeros(1920, np.float32)})[0].sane


def test_the_host_recorder_is_as_strict_as_a_graph() -> None:
    """What was Python when it was recorded is the same for ever, rebound tensors are not seen."""
    held = {"total": torch.zeros(1), "times": 1}

    def advance(inputs: Tensor) -> Tensor:
        held["total"] = held["total"] + inputs * held["times"]
        return copy.copy(held["total"])

    frames = CapturedFrames(advance, 1, CPU, lambda: 0, HostRecorder())
    frames.inputs.fill_(1.0)
    held["times"] = 5
    assert [frames.run().item() for _ in range(3)] == [5.0, 5.0, 5.0]
