"""The slots' promise on an accelerator: the same bits whoever else is there, called or captured."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from support.conversations import (
    CODEC,
    NumberTokenizer,
    _make_codes_telling,
    frames_of,
    recogniser,
    speech,
)
from support.conversations import model as tiny_model
from support.schedules import PieceTokenizer, assert_same, begin, play
from torch import Tensor

from duologue.engine import LoadedModel, SlotBank, SlotSetup
from duologue.mimi import Mimi
from duologue.moshi import LMConfig, MoshiLM, Sampling
from duologue.runtime.graph import CapturedFrames
from duologue.stt.recogniser import Recogniser

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SLOTS, FRAMES = 5, 30
AUDIO = [frames_of(speech(FRAMES, seed)) for seed in range(SLOTS)]
BOTH = pytest.mark.parametrize("runtime", ["eager", "graph"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
SAME_SAMPLES = 1e-3
"""Captured work may take other algorithms than called work, so samples are compared within this."""


def loaded(dtype: torch.dtype) -> LoadedModel:
    torch.manual_seed(0)
    codec = Mimi(CODEC).eval().requires_grad_(False)
    _make_codes_telling(codec)
    side = (0, 1, 1, 1)
    config = LMConfig(
        dim=512, num_heads=8, num_layers=4, n_q=8, dep_q=4, delays=(0, *side, *side), card=48,
        text_card=100, context=20, depformer_dim=128, depformer_num_heads=4,
        depformer_num_layers=2,
    )  # fmt: skip
    lm = MoshiLM(config).eval().requires_grad_(False)
    return LoadedModel(copy.deepcopy(codec).cuda(), lm.to("cuda", dtype), NumberTokenizer())


def conversing(runtime: str, slots: int = 3) -> SlotBank:
    """With references, conditions, and a recogniser that leans towards names."""
    plain = tiny_model()
    codec, lm = copy.deepcopy(plain.codec).cuda(), copy.deepcopy(plain.lm).cuda()
    ears = Recogniser(
        copy.deepcopy(recogniser().lm).cuda(), codec, PieceTokenizer(),  # type: ignore[arg-type]
        delay_s=0.16, vocabulary=["ab cde fghi"],
    )  # fmt: skip
    model = LoadedModel(codec, lm, NumberTokenizer())
    return SlotBank(model, slots, recogniser=ears, runtime=runtime)


def captured(bank: SlotBank) -> CapturedFrames:
    assert isinstance(bank.frames, CapturedFrames)
    assert bank.frames.failure is None
    return bank.frames


def run(bank: SlotBank, present: set[int]) -> dict[int, list[bytes]]:
    for slot in present:
        begin(bank, slot, SlotSetup(seed=slot))
    said: dict[int, list[bytes]] = {slot: [] for slot in present}
    for t in range(FRAMES):
        if t == 12 and 0 in present:
            begin(bank, 0, SlotSetup(seed=77))
        active = [slot for slot in present if slot != 1 or t % 3]
        for slot, frame in bank.step({slot: AUDIO[slot][t] for slot in active}).items():
            assert frame.sane
            pcm = b"" if frame.pcm is None else np.ascontiguousarray(frame.pcm).tobytes()
            said[slot].append(bytes([frame.text % 256, frame.sampled_text % 256]) + pcm)
    return said


@BOTH
@DTYPES
def test_slots_together_are_what_they_are_alone(dtype: torch.dtype, runtime: str) -> None:
    model = loaded(dtype)
    together = run(SlotBank(model, SLOTS, runtime=runtime), set(range(SLOTS)))
    for slot in range(SLOTS):
        alone = SlotBank(model, SLOTS, runtime=runtime)
        assert run(alone, {slot})[slot] == together[slot]


@BOTH
def test_a_packed_slot_goes_on_on_the_device(runtime: str) -> None:
    model = loaded(torch.bfloat16)
    bank, other = (SlotBank(model, SLOTS, runtime=runtime) for _ in range(2))
    run(bank, {2})
    other.unpack(4, bank.pack(2))
    for frame in AUDIO[0][:5]:
        one, two = bank.step({2: frame})[2], other.step({4: frame})[4]
        assert one.text == two.text
        assert np.array_equal(one.pcm, two.pcm)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_captured_frame_is_the_called_one(seed: int) -> None:
    called, replayed = conversing("eager"), conversing("auto")
    assert_same(play(called, 40, seed), play(replayed, 40, seed), atol=SAME_SAMPLES)
    assert captured(replayed).recorded <= 2
    theirs = replayed.state.tensors()
    for path, tensor in called.state.tensors().items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, theirs[path]), path


@DTYPES
def test_greedy_tokens_are_those_of_called_frames(dtype: torch.dtype) -> None:
    model, greedy = loaded(dtype), Sampling(0.0)
    made = []
    for runtime in ("eager", "graph"):
        bank = SlotBank(model, 2, runtime=runtime)
        for slot in range(2):
            begin(bank, slot, SlotSetup(seed=slot, text=greedy, audio=greedy))
        made.append([bank.step({0: AUDIO[0][t], 1: AUDIO[1][t]}) for t in range(FRAMES)])
    assert_same(*made, atol=SAME_SAMPLES)


def test_a_reset_slot_touches_no_bit_of_another() -> None:
    bank = conversing("graph")
    for slot in range(3):
        begin(bank, slot, SlotSetup(seed=slot))
    for t in range(8):
        bank.step({slot: AUDIO[slot][t] for slot in range(3)})

    def others() -> dict[str, Tensor]:
        return bank.state.select([0, 2]).tensors()

    before = others()
    bank.reset(1)
    begin(bank, 1, SlotSetup(seed=9))
    bank.step({1: AUDIO[1][0]})
    for path, tensor in others().items():
        assert torch.equal(tensor, before[path]), path


def test_capturing_anew_loses_nothing_of_a_conversation() -> None:
    called, replayed = conversing("eager", 2), conversing("graph", 2)
    frames = captured(replayed)
    for recorded, (text, names) in enumerate(
        [(None, None), (Sampling(1.0, 0), None), (None, ["cde ab"]), (None, [])], 1
    ):
        said = []
        for bank in (called, replayed):
            begin(bank, 0, SlotSetup(seed=recorded, text=text))
            if names is not None:
                bank.recogniser.set_vocabulary(names)  # type: ignore[union-attr]
            said.append([bank.step({0: AUDIO[0][t], 1: AUDIO[1][t]}) for t in range(6)])
        assert_same(*said, atol=SAME_SAMPLES)
        assert frames.recorded == recorded


def test_what_cannot_be_captured_is_called_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    called, replayed = conversing("eager", 2), conversing("auto", 2)
    advance = replayed.frames._advance

    def waits(inputs: Tensor) -> Tensor:
        float(inputs.sum())
        return advance(inputs)

    monkeypatch.setattr(replayed.frames, "_advance", waits)
    with caplog.at_level(logging.WARNING):
        assert_same(play(called, 12), play(replayed, 12), atol=SAME_SAMPLES)
    told = [r.getMessage() for r in caplog.records if r.name == "duologue.runtime.graph"]
    assert len(told) == 1
    assert "captur" in told[0]
    torch.cuda.empty_cache()  # an allocator that still waits for the capture's end fails here
    other = conversing("graph", 2)
    other.step({0: AUDIO[0][0]})
    assert captured(other).recorded == 1
