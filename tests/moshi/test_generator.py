"""What generation promises beyond the golden vectors: slots apart, seeds, forcing, references."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contract import assert_slots_equal
from support.golden import GOLDEN
from torch import Tensor

import duologue
from duologue.conditioning import ConditionProvider, FuserConfig
from duologue.moshi import Generator, Guidance, LMConfig, MoshiLM, Sampling, StepHooks
from duologue.moshi.config import UNGENERATED
from duologue.moshi.generator import MAX_REFERENCE_ROWS

SLOTS = 3
WARM = Sampling(1.0, 20)


@lru_cache
def duplex() -> MoshiLM:
    return duologue.load_lm(GOLDEN / "lm_duplex", device="cpu", dtype=torch.float32)


@lru_cache
def retrieving() -> MoshiLM:
    """A model with a prepended speaker and streamed references."""
    torch.manual_seed(0)
    config = LMConfig(
        dim=32, num_heads=2, num_layers=2, n_q=4, dep_q=2, delays=(0, 0, 1, 0, 1), card=20,
        text_card=30, hidden_scale=3, context=12, depformer_dim=16, depformer_num_heads=2,
        depformer_num_layers=1, rag_token_id=4,
    )  # fmt: skip
    conditioners = {
        "first_speaker": {
            "type": "lut",
            "lut": {"n_bins": 2, "dim": 8, "possible_values": ["SPEAKER_MAIN", "SPEAKER_OTHER"]},
        },
        "reference_with_time": {
            "type": "multi_arc_encoder",
            "multi_arc_encoder": {
                "embedder_params": {
                    "compress_rates": [-4], "dim": 16, "n_layers": 2, "n_heads": 2,
                    "n_kv_heads": 1, "head_dim": 8, "hidden_dim": 24, "vocab_size": 50,
                },
                "bridge_module": {"in_dim": 16, "hidden_dim": 12, "out_dim": 24},
            },
        },
    }  # fmt: skip
    fuser = FuserConfig(streaming_sum=("reference_with_time",), prepend=("first_speaker",))
    lm = MoshiLM(config, ConditionProvider(config.dim, conditioners, fuser))
    return lm.eval().requires_grad_(False)


def user_codes(lm: MoshiLM, steps: int, slots: int = SLOTS, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    shape = (steps, slots, lm.config.given_q, 1)
    return torch.randint(0, lm.config.card, shape, generator=source)


def play(gen: Generator, codes: Tensor, active: Tensor | None = None) -> list[Tensor]:
    """[slots, 1 + generated] drawn in each step."""
    outputs = [gen.step(frame, active) for frame in codes]
    return [torch.cat([o.sampled_text[:, None], o.sampled_audio], dim=1) for o in outputs]


@pytest.mark.parametrize("options", [{}, {"guidance": Guidance(2.0, no_text=True)}])
def test_a_batch_is_its_slots(options: dict[str, Any]) -> None:
    lm, steps = duplex(), 30
    codes = user_codes(lm, steps)
    seeds = [7, 8, 9]
    together = play(lm.generator(SLOTS, sampling=WARM, seed=seeds, **options), codes)
    for slot in range(SLOTS):
        alone = lm.generator(1, sampling=WARM, seed=[seeds[slot]], **options)
        singly = play(alone, codes[:, slot : slot + 1])
        assert [t[slot].tolist() for t in together] == [t[0].tolist() for t in singly]


def test_inactive_slots_keep_every_bit_and_give_nothing() -> None:
    lm = duplex()
    gen = lm.generator(SLOTS, sampling=WARM)
    codes = user_codes(lm, 6)
    play(gen, codes[:4])
    before = gen.state.clone()
    out = gen.step(codes[4], torch.tensor([True, False, True]))
    assert_slots_equal(gen.state, before, [1])
    assert out.ready.tolist() == [True, False, True]
    assert out.text[1] == UNGENERATED
    assert (out.audio[1] == UNGENERATED).all()


def test_reset_of_one_slot_leaves_the_others_bit_identical() -> None:
    """The reference wipes every slot's tokens and drops a frame for all."""
    lm = duplex()
    codes = user_codes(lm, 20)
    gen, undisturbed = (lm.generator(SLOTS, sampling=WARM) for _ in range(2))
    for t in range(20):
        if t == 9:
            before = gen.state.clone()
            gen.reset(torch.tensor([False, True, False]))
            assert_slots_equal(gen.state, before, [0, 2])
        mine, theirs = gen.step(codes[t]), undisturbed.step(codes[t])
        for slot in (0, 2):
            assert torch.equal(mine.text_logits[slot], theirs.text_logits[slot])
            assert torch.equal(mine.audio[slot], theirs.audio[slot])
            assert mine.ready[slot] == theirs.ready[slot]
    fresh = lm.generator(SLOTS, sampling=WARM)
    replayed = play(fresh, codes[9:])
    assert torch.equal(replayed[-1][1], torch.cat([mine.sampled_text[1:2], mine.sampled_audio[1]]))


@pytest.mark.parametrize("make", [duplex, retrieving])
def test_snapshot_and_restore_continue_bit_identically(make: Any) -> None:
    lm = make()
    codes = user_codes(lm, 24)
    gen = lm.generator(SLOTS, sampling=WARM, seed=[5, 6, 7])
    if lm is retrieving():
        gen.set_reference(1, torch.randn(9, lm.config.dim))
    play(gen, codes[:7])
    blob = gen.state.save()
    rest = play(gen, codes[7:])
    other = lm.generator(SLOTS, sampling=WARM, seed=0)
    other.state.load(blob)
    other.refresh_sampling()
    assert [t.tolist() for t in play(other, codes[7:])] == [t.tolist() for t in rest]


def test_a_slot_moves_to_another_batch_and_goes_on() -> None:
    lm = duplex()
    codes = user_codes(lm, 16)
    gen = lm.generator(SLOTS, sampling=WARM, seed=[1, 2, 3])
    play(gen, codes[:8])
    target = lm.generator(2, sampling=WARM)
    target.state.assign([1], gen.state.select([2]))
    moved = play(target, codes[8:, [0, 2]])
    stayed = play(gen, codes[8:])
    assert [t[1].tolist() for t in moved] == [t[2].tolist() for t in stayed]


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS) | st.integers(0, SLOTS - 1),
        min_size=5,
        max_size=25,
    )
)
def test_random_interleavings_leave_each_slot_as_if_alone(events: list[Any]) -> None:
    lm = retrieving()
    codes = user_codes(lm, 30)
    torch.manual_seed(1)
    rows = torch.randn(3, lm.config.dim)

    def run(present: set[int]) -> list[list[list[int]]]:
        gen = lm.generator(SLOTS, sampling=WARM, seed=[4, 5, 6])
        heads, drawn = [0] * SLOTS, [[] for _ in range(SLOTS)]
        for event in events:
            if isinstance(event, int):
                if event in present:
                    gen.reset(torch.arange(SLOTS) == event)
                    gen.set_reference(event, rows)
                continue
            moving = torch.tensor([w and s in present for s, w in enumerate(event)])
            frame = torch.stack([codes[heads[s], s] for s in range(SLOTS)])
            if not moving.any():
                continue
            out = gen.step(frame, moving)
            for slot in moving.nonzero().flatten().tolist():
                heads[slot] += 1
                drawn[slot].append([int(out.sampled_text[slot]), *out.sampled_audio[slot].tolist()])
        return drawn

    busy = run(set(range(SLOTS)))
    for slot in range(SLOTS):
        assert busy[slot] == run({slot})[slot]


def test_codes_given_at_the_very_first_step_never_reach_the_model() -> None:
    lm = duplex()
    codes = user_codes(lm, 10)
    changed = codes.clone()
    changed[0] = (changed[0] + 1) % lm.config.card
    # The delayed codebooks of frame 0 arrive one step later; only the undelayed ones are lost.
    delays = torch.tensor(lm.config.delays[1 + lm.config.dep_q :])
    changed[0][:, delays > 0] = codes[0][:, delays > 0]
    one, other = (play(lm.generator(SLOTS, sampling=Sampling(0.0)), c) for c in (codes, changed))
    assert [t.tolist() for t in one] == [t.tolist() for t in other]


def test_seeds_decide_and_differ() -> None:
    lm = duplex()
    codes = user_codes(lm, 12, slots=1)

    def drawn(seed: int) -> list[list[int]]:
        return [t[0].tolist() for t in play(lm.generator(1, sampling=WARM, seed=seed), codes)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(2**40 + 1) != drawn(1)


def test_slots_may_draw_differently() -> None:
    lm = duplex()
    codes = user_codes(lm, 15)
    gen = lm.generator(SLOTS, sampling=WARM)
    gen.set_sampling(
        text=Sampling(0.0), audio=Sampling(0.0), mask=torch.tensor([False, True, False])
    )
    greedy = lm.generator(SLOTS, sampling=Sampling(0.0))
    mixed, plain = play(gen, codes), play(greedy, codes)
    assert all(torch.equal(m[1], p[1]) for m, p in zip(mixed, plain, strict=True))
    assert any(not torch.equal(m[0], p[0]) for m, p in zip(mixed, plain, strict=True))


def test_forced_frames_come_out_as_they_were_given() -> None:
    lm = duplex()
    codes = user_codes(lm, 10, slots=1)
    gen = lm.generator(1, sampling=WARM)
    text, audio = torch.arange(10) + 5, torch.arange(40).view(10, 4) % lm.config.card
    frames = []
    for t in range(10):
        gen.force(text[t : t + 1], audio[t : t + 1])
        out = gen.step(codes[t])
        if out.ready[0]:
            frames.append((int(out.text[0]), out.audio[0].tolist()))
    # What was forced before step t is frame t + 1 of the ring, and column 0 is the initial one.
    assert frames == [(int(text[t]), audio[t].tolist()) for t in range(len(frames))]


def test_hooks_see_and_change_what_is_drawn() -> None:
    lm = duplex()
    gen = lm.generator(1, sampling=WARM)
    hooks = StepHooks(
        on_text_logits=lambda logits: torch.where(
            torch.arange(logits.shape[1]) == 11, logits, float("-inf")
        ),
        on_text=lambda text: text + 1,
        on_audio=lambda audio: audio * 0 + 3,
    )
    out = gen.step(user_codes(lm, 1, 1)[0], hooks=hooks)
    assert out.sampled_text.tolist() == [12]
    assert out.sampled_audio.tolist() == [[3, 3, 3, 3]]


def test_fewer_generated_codebooks_take_the_rest_from_outside() -> None:
    lm = duplex()
    gen = lm.generator(1, sampling=WARM, generated_q=2)
    assert gen.given_q == 6
    out = gen.step(torch.zeros(1, 6, 1, dtype=torch.int64))
    assert out.audio.shape == (1, 2)
    with pytest.raises(ValueError, match="generated_q"):
        lm.generator(1, generated_q=5)


def test_references_are_added_one_row_a_step_and_the_newest_wins() -> None:
    lm = retrieving()
    gen = lm.generator(2, sampling=Sampling(0.0))
    added: list[Tensor] = []
    original = lm.transformer.step

    def spy(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        added.append(x[:, 0] - lm.embed(gen._input_column(None)[..., None])[:, 0])
        return original(x, *args, **kwargs)

    first, second = torch.randn(3, lm.config.dim), torch.randn(1, lm.config.dim)
    codes = user_codes(lm, 6, 2)
    gen.set_reference(1, first)
    lm.transformer.step = spy  # type: ignore[method-assign]
    try:
        for t in range(5):
            if t == 2:
                gen.set_reference(1, second)
            gen.step(codes[t])
    finally:
        lm.transformer.step = original  # type: ignore[method-assign]
    zero = torch.zeros(lm.config.dim)
    for row, expected in zip(added, [first[0], first[1], second[0], zero, zero], strict=True):
        torch.testing.assert_close(row[1], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(row[0], zero, atol=1e-6, rtol=0)


def test_pending_reference_waits_while_its_slot_stands_still_and_goes_with_a_reset() -> None:
    lm = retrieving()
    gen = lm.generator(2)
    gen.set_reference(0, torch.randn(4, lm.config.dim))
    gen.step(user_codes(lm, 1, 2)[0], torch.tensor([False, True]))
    reference = gen.state.reference
    assert reference is not None
    assert reference.position.tolist() == [0, 0]
    gen.reset(torch.tensor([True, False]))
    assert reference.length.tolist() == [0, 0]
    assert reference.rows.abs().sum() == 0


def test_reference_bounds() -> None:
    lm = retrieving()
    gen = lm.generator(1)
    with pytest.raises(ValueError, match="at most"):
        gen.set_reference(0, torch.zeros(MAX_REFERENCE_ROWS + 1, lm.config.dim))
    with pytest.raises(ValueError, match="reference rows"):
        gen.set_reference(0, torch.zeros(2, 5))
    with pytest.raises(ValueError, match="no references"):
        duplex().generator(1).set_reference(0, torch.zeros(1, 64))


def test_prepended_condition_takes_one_position_and_returns_with_a_reset() -> None:
    lm = retrieving()
    codes = user_codes(lm, 6, 2)
    gen = lm.generator(2, sampling=WARM, conditions={"first_speaker": "SPEAKER_MAIN"})
    assert gen.state.temporal.offset.tolist() == [1, 1]
    first = play(gen, codes)
    gen.reset(torch.tensor([True, False]))
    assert gen.state.temporal.offset.tolist() == [1, 7]
    assert [t[0].tolist() for t in play(gen, codes)] == [t[0].tolist() for t in first]
    other = lm.generator(2, sampling=WARM, conditions={"first_speaker": "SPEAKER_OTHER"})
    out = [g.step(codes[0]).text_logits for g in (gen, other)]
    assert not torch.allclose(out[0][0], out[1][0])


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (torch.zeros(2, 4, 1, dtype=torch.int64), "user_codes must be"),
        (torch.zeros(1, 3, 1, dtype=torch.int64), "frame of 4"),
        (torch.zeros(1, 4, 2, dtype=torch.int64), "frame of 4"),
        (torch.zeros(4, dtype=torch.int64), "user_codes must be"),
    ],
)
def test_misshapen_input_is_refused(codes: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        duplex().generator(1).step(codes)


def test_no_input_is_silence() -> None:
    lm = duplex()
    given = torch.full((1, lm.config.given_q, 1), -1)
    one, other = (lm.generator(1, sampling=WARM) for _ in range(2))
    for _ in range(4):
        assert torch.equal(one.step(None).text_logits, other.step(given).text_logits)
