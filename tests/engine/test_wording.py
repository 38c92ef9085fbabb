"""Steering of text: as published, for one slot alone, and part of what a slot is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.conversations import frames_of, model, speech

from duologue.engine import SlotBank, SlotSetup
from duologue.engine.api import MAX_REPETITION_CONTEXT, Wording
from duologue.engine.slots import SlotFrame
from duologue.engine.wording import NOTHING, Steering
from duologue.moshi import Sampling

PAD = 3
WARM = Sampling(1.5, 0)


def steering(*wordings: Wording) -> Steering:
    made = Steering(len(wordings), PAD, {0, 1, 2, PAD}, torch.device("cpu"))
    for slot, wording in enumerate(wordings):
        made.configure(torch.arange(len(wordings)) == slot, wording)
    return made


def bend(made: Steering, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    every = torch.ones(len(logits), dtype=torch.bool)
    hooks = made.hooks(every, torch.full((len(logits),), temperature))
    assert hooks is not None
    assert hooks.on_text_logits is not None
    return hooks.on_text_logits(logits)


def say(made: Steering, *tokens: int) -> None:
    """Draw the same tokens in all slots."""
    slots = len(made.state.context)
    hooks = made.hooks(torch.ones(slots, dtype=torch.bool), torch.ones(slots))
    assert hooks is not None
    assert hooks.on_text is not None
    for token in tokens:
        drawn = torch.full((slots,), token)
        assert hooks.on_text(drawn) is drawn


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_silence_is_so_many_times_as_probable(temperature: float) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    bent = bend(steering(Wording(pad_mult=0.7)), logits, temperature)
    before, after = (torch.softmax(x / temperature, -1)[0] for x in (logits, bent))
    odds = (after[PAD] / after) / (before[PAD] / before)
    expected = torch.full((12,), math.exp(0.7))
    expected[PAD] = 1.0
    torch.testing.assert_close(odds, expected)


def test_what_was_said_lately_is_less_likely_again() -> None:
    made = steering(Wording(repetition_penalty=2.0, repetition_context=2), Wording(pad_mult=1.0))
    say(made, 9, 6, PAD, 0, 7)
    logits = torch.tensor([[0.5, -0.5] * 6] * 2)
    bent = bend(made, logits)
    expected = logits.clone()
    expected[0, 6], expected[0, 7] = 0.25, -1.0  # 9 is too long ago, silence counts for nothing
    expected[1, PAD] += 1.0
    assert torch.equal(bent, expected)
    assert (made.state.recent[1] == NOTHING).all(), "nobody looks back there"


def test_a_window_of_any_length_is_bounded() -> None:
    made = steering(Wording(repetition_penalty=2.0, repetition_context=MAX_REPETITION_CONTEXT))
    say(made, 11, *[5] * (MAX_REPETITION_CONTEXT - 1))
    logits = torch.ones(1, 12)
    assert bend(made, logits)[0, 11] == 0.5
    say(made, 5)
    assert bend(made, logits)[0, 11] == 1.0
    with pytest.raises(ValueError, match="repetition_context"):
        Wording(repetition_context=MAX_REPETITION_CONTEXT + 1)


def test_who_is_not_steered_costs_nothing() -> None:
    made = steering(Wording(), Wording(repetition_penalty=1.0, repetition_context=64))
    assert made.hooks(torch.ones(2, dtype=torch.bool), torch.ones(2)) is None


def run(bank: SlotBank, slots: dict[int, Wording], frames: int) -> dict[int, list[SlotFrame]]:
    for slot, wording in slots.items():
        for _ in bank.start(slot, SlotSetup(seed=4, text=WARM, wording=wording)):
            pass
    made: dict[int, list[SlotFrame]] = {slot: [] for slot in slots}
    for frame in frames_of(speech(frames)):
        for slot, one in bank.step(dict.fromkeys(slots, frame)).items():
            made[slot].append(one)
    return made


def texts(frames: list[SlotFrame]) -> list[int]:
    return [frame.sampled_text for frame in frames]


def test_a_slot_is_steered_alone_and_the_others_keep_every_bit() -> None:
    quiet, chatty = Wording(pad_mult=40.0), Wording(pad_mult=-40.0)
    varied = Wording(repetition_penalty=50.0, repetition_context=64)
    together = run(SlotBank(model(), 4), {0: Wording(), 1: quiet, 2: chatty, 3: varied}, 16)
    [alone] = run(SlotBank(model(), 4), {0: Wording()}, 16).values()
    assert texts(together[0]) == texts(alone)
    for one, other in zip(together[0], alone, strict=True):
        assert one.pcm is None or np.array_equal(one.pcm, other.pcm)
    assert set(texts(together[1])) == {PAD}
    assert PAD not in texts(together[2])
    assert PAD in texts(alone)
    assert texts(together[3]) != texts(alone)


def test_what_a_slot_said_goes_with_it() -> None:
    varied = Wording(repetition_penalty=3.0, repetition_context=8)
    bank = SlotBank(model(), 3)
    run(bank, {0: varied}, 10)
    packed = bank.pack(0)
    assert (packed["wording.recent"] != NOTHING).sum() >= 3
    moved = SlotBank(model(), 3)
    moved.unpack(2, packed)
    frames = frames_of(speech(8, seed=2))
    ahead = [bank.step({0: frame})[0] for frame in frames]
    assert texts(ahead) == texts([moved.step({2: frame})[2] for frame in frames])
    bank.reset(0)
    assert (bank.state.wording.recent[0] == NOTHING).all()
