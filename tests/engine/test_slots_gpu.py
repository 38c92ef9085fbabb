"""The slots' promise on an accelerator: the same bits whoever else is there."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.conversations import CODEC, NumberTokenizer, _make_codes_telling, frames_of, speech

from duologue.engine import LoadedModel, SlotBank, SlotSetup
from duologue.mimi import Mimi
from duologue.moshi import LMConfig, MoshiLM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SLOTS, FRAMES = 5, 30
AUDIO = [frames_of(speech(FRAMES, seed)) for seed in range(SLOTS)]


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


def run(bank: SlotBank, present: set[int]) -> dict[int, list[bytes]]:
    for slot in present:
        for _ in bank.start(slot, SlotSetup(seed=slot)):
            pass
    said: dict[int, list[bytes]] = {slot: [] for slot in present}
    for t in range(FRAMES):
        if t == 12 and 0 in present:
            for _ in bank.start(0, SlotSetup(seed=77)):
                pass
        active = [slot for slot in present if slot != 1 or t % 3]
        for slot, frame in bank.step({slot: AUDIO[slot][t] for slot in active}).items():
            assert frame.sane
            pcm = b"" if frame.pcm is None else np.ascontiguousarray(frame.pcm).tobytes()
            said[slot].append(bytes([frame.text % 256, frame.sampled_text % 256]) + pcm)
    return said


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slots_together_are_what_they_are_alone(dtype: torch.dtype) -> None:
    model = loaded(dtype)
    together = run(SlotBank(model, SLOTS), set(range(SLOTS)))
    for slot in range(SLOTS):
        assert run(SlotBank(model, SLOTS), {slot})[slot] == together[slot]


def test_a_packed_slot_goes_on_on_the_device() -> None:
    model = loaded(torch.bfloat16)
    bank, other = SlotBank(model, SLOTS), SlotBank(model, SLOTS)
    run(bank, {2})
    other.unpack(4, bank.pack(2))
    for frame in AUDIO[0][:5]:
        one, two = bank.step({2: frame})[2], other.step({4: frame})[4]
        assert one.text == two.text
        assert np.array_equal(one.pcm, two.pcm)
