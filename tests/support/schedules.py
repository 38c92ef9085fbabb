"""Random lives of a bank of slots: the same calls for each bank that plays them."""

from __future__ import annotations

import random

import numpy as np
import torch

from duologue.engine import SlotBank, SlotFrame, SlotSetup
from duologue.engine.api import Wording
from duologue.moshi import Sampling
from support.conversations import NumberTokenizer, frames_of, speech

GREEDY = Sampling(0.0)
SETUPS = (
    SlotSetup(seed=1),
    SlotSetup(seed=2, text=GREEDY, audio=GREEDY),
    SlotSetup(seed=3, wording=Wording(repetition_penalty=3.0, repetition_context=8)),
    SlotSetup(seed=4, text=Sampling(1.3, 7), init_speaker="user", wording=Wording(pad_mult=0.7)),
)
EVENTS = ("start", "start", "reset", "refer", "append", "pack", "unpack", *("nothing",) * 5)


class PieceTokenizer(NumberTokenizer):
    """Has pieces, half of which begin words, so that a recogniser can be told names."""

    def piece(self, token: int) -> str:
        return "\u2581" if token % 2 else "x"


def begin(bank: SlotBank, slot: int, setup: SlotSetup = SETUPS[0]) -> None:
    for _ in bank.start(slot, setup):
        pass


def play(bank: SlotBank, frames: int, seed: int = 0) -> list[dict[int, SlotFrame]]:
    """Starts, resets, references, snapshots and absences, and what is said meanwhile."""
    source, said = random.Random(seed), []
    audio = frames_of(speech(frames, seed))
    noise = torch.Generator().manual_seed(seed)
    packed = None
    for t in range(frames):
        slot, event = source.randrange(bank.slots), source.choice(EVENTS)
        if event == "start":
            begin(bank, slot, source.choice(SETUPS))
        elif event == "reset":
            bank.reset(slot)
        elif event in ("refer", "append") and bank.model.takes_references:
            rows = torch.randn(source.randint(0, 5), bank.dim, generator=noise)
            bank.set_reference(slot, rows, append=event == "append")
        elif event == "pack":
            packed = bank.pack(slot)
        elif event == "unpack" and packed is not None:
            bank.unpack(slot, packed)
        present = [slot for slot in range(bank.slots) if source.random() < 0.7]
        said.append(bank.step({slot: audio[(t + slot) % frames] for slot in present}))
    return said


def assert_same(
    one: list[dict[int, SlotFrame]], other: list[dict[int, SlotFrame]], atol: float = 0.0
) -> None:
    """The same tokens, and the same samples to the bit (or within `atol`)."""
    assert len(one) == len(other)
    for t, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        assert mine.keys() == theirs.keys()
        for slot, a in mine.items():
            b, where = theirs[slot], f"frame {t}, slot {slot}"
            tokens = [(f.text, f.sampled_text, f.sane, f.heard_text) for f in (a, b)]
            assert tokens[0] == tokens[1], where
            assert (a.pcm is None) == (b.pcm is None), where
            if a.pcm is not None and b.pcm is not None:
                assert np.abs(a.pcm - b.pcm).max() <= atol, where
            assert (a.inactivity is None) == (b.inactivity is None), where
            assert abs((a.inactivity or 0.0) - (b.inactivity or 0.0)) <= atol, where
