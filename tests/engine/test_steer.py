"""What a slot is made to do in a frame: it does it, and no other slot notices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.conversations import TRIGGER, frames_of, model, recogniser, speech

from duologue.engine import SlotBank, SlotSetup
from duologue.engine.api import Steer
from duologue.engine.slots import SlotFrame
from duologue.moshi import Sampling

PAD = 3
WARM = Sampling(1.5, 0)
FRAMES = 12
AUDIO = frames_of(speech(FRAMES))
Said = list[tuple[SlotFrame, NDArray[np.int64]]]


def run(steers: dict[int, Steer], slots: tuple[int, ...], text: Sampling = WARM) -> dict[int, Said]:
    """Frames and codes of conversations that are steered from the fourth frame on."""
    bank = SlotBank(model(), 4)
    for slot in slots:
        for _ in bank.start(slot, SlotSetup(seed=4 + slot, text=text)):
            pass
    said: dict[int, Said] = {slot: [] for slot in slots}
    tokens = bank.duplex.generator.state.tokens
    for number, pcm in enumerate(AUDIO):
        made = bank.step(dict.fromkeys(slots, pcm), steers if number >= 3 else None)
        at = int(bank.duplex.generator.state.offset[slots[0]]) % tokens.shape[2]
        for slot, frame in made.items():
            said[slot].append((frame, tokens[slot, 1:5, at].numpy().copy()))
    return said


def texts(said: Said) -> list[int]:
    return [frame.sampled_text for frame, _ in said]


def test_who_is_held_says_nothing_and_asks_for_nothing() -> None:
    [free], [held] = run({}, (1,)).values(), run({1: Steer(held=True)}, (1,)).values()
    assert texts(free)[:3] == texts(held)[:3]
    assert not {TRIGGER, 7, 9}.isdisjoint(texts(free)[3:]), "it would have said something"
    assert set(texts(held)[3:]) == {PAD}


def test_who_is_muted_has_the_codes_of_silence() -> None:
    silence = model().codec.silent_column()[:4].numpy()
    [muted] = run({0: Steer(muted=True)}, (0,)).values()
    assert set(texts(muted)[3:]) == {PAD}
    assert all(np.array_equal(codes, silence) for _, codes in muted[3:])
    assert not any(np.array_equal(codes, silence) for _, codes in muted[:3])


def test_silence_is_what_the_codec_makes_of_it() -> None:
    codec = model().codec
    codes = codec.encode(torch.zeros(1, 1, 100 * codec.frame_size))[0, :, -1]
    assert torch.equal(codec.silent_column(), codes)


@pytest.mark.parametrize("text", [WARM, Sampling(0.0), Sampling(1.0, 8, pooled_from=5)])
def test_an_urge_makes_it_say_something_and_a_bar_not_ask(text: Sampling) -> None:
    slots = (0, 1, 2, 3)
    urged = run(dict.fromkeys(slots, Steer(urge=1e4)), slots, text)
    drawn = {token for said in urged.values() for token in texts(said)[3:]}
    assert PAD not in drawn
    if text is WARM:
        assert TRIGGER in drawn
    barred = run(dict.fromkeys(slots, Steer(urge=1e4, asks=False)), slots, text)
    drawn = {token for said in barred.values() for token in texts(said)[3:]}
    assert {PAD, TRIGGER}.isdisjoint(drawn)


def test_what_is_favoured_is_said_where_text_is_pooled() -> None:
    in_two_stages = Sampling(1.0, 0, pooled_from=5)
    said = run({1: Steer(favoured=9, favour=20.0)}, (0, 1), in_two_stages)
    assert {token for token in texts(said[1])[3:] if token >= 5} == {9}
    assert {token for token in texts(said[0])[3:] if token >= 5} - {9}
    assert texts(said[0]) == texts(run({}, (0,), in_two_stages)[0])
    assert {
        token for token in texts(run({1: Steer(favoured=9, favour=20.0)}, (1,))[1]) if token >= 5
    } - {9}


def test_others_keep_every_bit() -> None:
    steers = {0: Steer(held=True), 2: Steer(muted=True), 3: Steer(urge=50.0, asks=False)}
    together, alone = run(steers, (0, 1, 2, 3)), run({}, (1,))
    assert texts(together[1]) == texts(alone[1])
    for (one, codes), (other, theirs) in zip(together[1], alone[1], strict=True):
        assert np.array_equal(codes, theirs)
        assert one.pcm is None or np.array_equal(one.pcm, other.pcm)  # type: ignore[arg-type]


def test_a_steer_that_steers_nowhere_changes_no_bit() -> None:
    one, other = run({1: Steer()}, (1,))[1], run({}, (1,))[1]
    assert texts(one) == texts(other)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))


def test_a_look_ahead_leaves_recognition_as_it_was() -> None:
    def bank() -> SlotBank:
        made = SlotBank(model(), 2, recogniser=recogniser())
        for slot in range(2):
            for _ in made.start(slot, SlotSetup(seed=1)):
                pass
        return made

    looking, plain = bank(), bank()
    for number, pcm in enumerate(AUDIO):
        one, other = (b.step({0: pcm, 1: pcm}) for b in (looking, plain))
        assert [frame.heard_text for frame in one.values()] == [
            frame.heard_text for frame in other.values()
        ]
        if number == 5:
            ahead = looking.look_ahead([1])
    assert list(ahead) == [1]
    assert len(ahead[1]) == recogniser().flush_frames
    assert looking.look_ahead([]) == {}
    before = plain.state.stt.tensors()  # type: ignore[union-attr]
    for path, tensor in looking.state.stt.tensors().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, before[path]), path
