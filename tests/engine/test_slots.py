"""The slots of a model: frames, starts, references, packing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.conversations import DIM, frames_of, listening_model, model, recogniser, speech

from duologue.engine import Duplex, SlotBank, SlotSetup, converse
from duologue.engine.packing import pack_slot
from duologue.engine.slots import SlotFrame, SlotPrompt, speaker_condition
from duologue.moshi import Sampling
from duologue.moshi.config import UNGENERATED
from duologue.moshi.lm import MoshiLM
from duologue.moshi.prompt import Prompt
from duologue.nn.state import StateError
from duologue.stt.recogniser import Recogniser

SETUP = SlotSetup(seed=7)


def start(bank: SlotBank, slot: int, setup: SlotSetup = SETUP) -> int:
    return sum(1 for _ in bank.start(slot, setup))


def run(bank: SlotBank, slot: int, frames: list[np.ndarray]) -> list[SlotFrame]:
    return [bank.step({slot: frame})[slot] for frame in frames]


def same(one: list[SlotFrame], other: list[SlotFrame]) -> bool:
    return len(one) == len(other) and all(
        (a.text, a.sampled_text, a.sane) == (b.text, b.sampled_text, b.sane)
        and (a.pcm is None) == (b.pcm is None)
        and (a.pcm is None or np.array_equal(a.pcm, b.pcm))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("max_delay", [1, 2])
def test_a_slot_says_what_the_plain_loop_says(max_delay: int) -> None:
    loaded = model(max_delay)
    pcm = speech(6)
    bank = SlotBank(loaded, 2, gate_db=None)
    assert start(bank, 1, SlotSetup(seed=3)) == 1
    made = run(bank, 1, frames_of(pcm))
    plain = Duplex(loaded.codec, loaded.lm, 1, seed=3, conditions=speaker_condition(
        loaded.lm, "model"
    ))  # fmt: skip
    reply = converse(plain, torch.from_numpy(pcm))
    late = max(max_delay - 1, 0)
    assert [frame.pcm is None for frame in made] == [k < late for k in range(6)]
    assert [frame.text for frame in made[late:]] == reply.text_tokens[: 6 - late]
    said = np.concatenate([frame.pcm for frame in made if frame.pcm is not None])
    torch.testing.assert_close(torch.from_numpy(said), reply.pcm[: len(said)], atol=1e-5, rtol=0)


def test_frames_below_the_gate_are_heard_as_digital_silence() -> None:
    noise = frames_of(speech(4))  # of -10.8 dB
    silence = [np.zeros(1920, np.float32)] * 4

    def said(gate_db: float | None, frames: list[np.ndarray]) -> list[SlotFrame]:
        bank = SlotBank(model(), 1, gate_db=gate_db)
        start(bank, 0)
        return run(bank, 0, frames)

    quiet = said(None, silence)
    assert same(said(-10.0, noise), quiet)
    assert not same(said(-12.0, noise), quiet)


def told(slots: dict[int, int], ears: Recogniser | None, frames: int = 8) -> list[list[SlotFrame]]:
    """What a model that listens to its recogniser says in these slots, each with a seed."""
    bank = SlotBank(listening_model(), 3, recogniser=ears)
    made: dict[int, list[SlotFrame]] = {slot: [] for slot in slots}
    for slot in slots:
        start(bank, slot)
    pcm = {slot: frames_of(speech(frames, seed)) for slot, seed in slots.items()}
    for t in range(frames):
        for slot, frame in bank.step({slot: pcm[slot][t] for slot in slots}).items():
            made[slot].append(frame)
    return list(made.values())


def test_a_model_listens_to_its_recogniser_slot_by_slot() -> None:
    ears = recogniser()
    alone = told({1: 5}, ears)[0]
    assert same(told({0: 6, 1: 5, 2: 7}, ears)[1], alone), "others make no difference"
    deaf = told({1: 5}, None)[0]
    assert not same(alone, deaf)
    config = replace(ears.lm.config, dim=16)
    other = Recogniser(
        MoshiLM(config).eval(), ears.front_end, ears.tokenizer, delay_s=0.16
    )  # fmt: skip
    assert same(told({1: 5}, other)[0], deaf)


def test_what_was_heard_last_is_part_of_a_slot() -> None:
    bank = SlotBank(listening_model(), 2, recogniser=recogniser())
    start(bank, 0)
    frames = frames_of(speech(8))
    run(bank, 0, frames[:4])
    bank.unpack(1, bank.pack(0))
    assert same(run(bank, 1, frames[4:]), run(bank, 0, frames[4:]))
    bank.reset(0)
    assert not bank.duplex.generator.state.heard[0].any()
    assert bank.duplex.generator.state.heard[1].any()


def test_seed_sampling_and_speaker_belong_to_the_slot() -> None:
    frames = frames_of(speech(5))
    bank = SlotBank(model(), 4)
    greedy = Sampling(0.0)
    setups = [
        SETUP, SlotSetup(seed=8), SlotSetup(seed=7, text=greedy, audio=greedy),
        SlotSetup(seed=7, init_speaker="user"),
    ]  # fmt: skip
    for slot, setup in enumerate(setups):
        start(bank, slot, setup)
    made = [[] for _ in setups]
    for frame in frames:
        for slot, one in bank.step(dict.fromkeys(range(4), frame)).items():
            made[slot].append(one)
    for slot in (1, 2, 3):
        assert not same(made[0], made[slot]), slot
    start(bank, 1, SETUP)
    assert same(run(bank, 1, frames), made[0]), "a slot that starts anew forgets its settings"


def test_reference_rows_are_added_one_a_frame_from_the_next_frame_on() -> None:
    frames = frames_of(speech(6))

    def said(rows: int, append: bool = False) -> list[SlotFrame]:
        bank = SlotBank(model(), 2)
        start(bank, 0)
        first = run(bank, 0, frames[:2])
        if rows:
            bank.set_reference(0, torch.ones(1 if append else rows, DIM))
        if append:
            bank.set_reference(0, torch.ones(rows - 1, DIM), append=True)
        return first + run(bank, 0, frames[2:])

    plain, two = said(0), said(2)
    assert same(plain[:2], two[:2])
    assert plain[2].sampled_text != two[2].sampled_text or not same(plain[2:3], two[2:3])
    assert same(two, said(2, append=True))
    assert not same(two, said(3))


def test_appended_rows_follow_those_that_wait() -> None:
    bank = SlotBank(model(), 1)
    start(bank, 0)
    generator = bank.duplex.generator
    bank.set_reference(0, torch.stack([torch.full((DIM,), v) for v in (1.0, 2.0)]))
    bank.step({0: frames_of(speech(1))[0]})
    bank.set_reference(0, torch.full((1, DIM), 3.0), append=True)
    reference = generator.state.reference
    assert reference is not None
    assert reference.rows[0, :3, 0].tolist() == [2.0, 3.0, 0.0]
    assert (int(reference.position[0]), int(reference.length[0])) == (0, 2)


def test_numbers_gone_bad_are_told_of_that_slot_alone() -> None:
    bank = SlotBank(model(), 2)
    for slot in (0, 1):
        start(bank, slot)
    bank.set_reference(1, torch.full((1, DIM), torch.nan))
    made = bank.step(dict.fromkeys((0, 1), frames_of(speech(1))[0]))
    assert (made[0].sane, made[1].sane) == (True, False)
    start(bank, 1)
    assert run(bank, 1, frames_of(speech(2)))[-1].sane


def test_a_packed_slot_goes_on_in_any_slot() -> None:
    frames = frames_of(speech(30))
    for heard in (3, 25):  # the key/value rings hold 20
        bank, other = SlotBank(model(), 2), SlotBank(model(), 3)
        start(bank, 0)
        run(bank, 0, frames[:heard])
        packed = bank.pack(0)
        start(other, 2, SlotSetup(seed=99))
        run(other, 2, frames[:1])
        other.unpack(2, packed)
        assert same(run(bank, 0, frames[heard : heard + 4]), run(other, 2, frames[heard:][:4]))


def test_packing_leaves_unused_ring_out_and_is_strict() -> None:
    bank = SlotBank(model(), 2)
    start(bank, 0)
    early = sum(t.nbytes for t in bank.pack(0).values())
    run(bank, 0, frames_of(speech(10)))
    packed = bank.pack(0)
    assert early < sum(t.nbytes for t in packed.values())
    before = pack_slot(bank.state, 1)
    for broken in (
        {k: v for k, v in packed.items() if not k.endswith("offset")},
        {**packed, "stranger": torch.zeros(1)},
        {**packed, "duplex.lm.tokens": torch.zeros(1, 2, 3, dtype=torch.int64)},
    ):
        with pytest.raises(StateError):
            bank.unpack(1, broken)
    assert all(torch.equal(t, before[k]) for k, t in pack_slot(bank.state, 1).items())


def test_a_prompt_is_played_once_and_copied_from_then_on() -> None:
    bank = SlotBank(model(prompted=True), 2)
    codes = torch.arange(4)
    prompt = SlotPrompt("role", Prompt(role=(6, 7, 8), silence=codes, tone=codes + 4))
    setup = SlotSetup(seed=4, prompt=prompt)
    steps = start(bank, 0, setup)
    assert steps == 6 + 3 + 6
    assert start(bank, 1, setup) == 1
    frames = frames_of(speech(4))
    made = [bank.step(dict.fromkeys((0, 1), frame)) for frame in frames]
    assert same([m[0] for m in made], [m[1] for m in made])
    assert made[0][0].text != UNGENERATED


def test_measuring_leaves_fresh_slots() -> None:
    frames = frames_of(speech(3))
    bank, fresh = SlotBank(model(), 2), SlotBank(model(), 2)
    one_s, all_s = bank.measure(1)
    assert one_s > 0
    assert all_s > 0
    for one in (bank, fresh):
        start(one, 0)
    assert same(run(bank, 0, frames), run(fresh, 0, frames))
