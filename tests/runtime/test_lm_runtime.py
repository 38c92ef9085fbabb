"""Compiled frames against the generator's own: same tokens, same state, slots apart to the bit."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

import duologue
from duologue.checkpoints.quantize import quantize
from duologue.conditioning import ConditionProvider, FuserConfig
from duologue.moshi import Generator, Guidance, LMConfig, MoshiLM, Sampling, StepHooks
from duologue.moshi.config import UNGENERATED
from duologue.runtime.choice import choose_lm_runtime
from duologue.runtime.errors import RuntimeUnavailable

pytest.importorskip("numba")

SLOTS, STEPS = 4, 26
WARM = Sampling(0.9, 12)
CONFIG = LMConfig(
    dim=64, num_heads=4, num_layers=2, n_q=6, dep_q=3, delays=(0, 0, 1, 2, 0, 1, 1), card=40,
    text_card=50, hidden_scale=3, context=12, depformer_dim=32, depformer_num_heads=2,
    depformer_num_layers=2, rag_token_id=4,
)  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared keys": {"kv_repeat": 2, "positional_embedding": "rope_concat", "layer_scale": 0.7},
    "shared depth weights": {"depformer_weights_per_step_schedule": (0, 1, 1)},
    "layer norm": {"norm": "layer_norm", "gating": "none", "depformer_norm": "rms_norm_f32"},
    "no positions": {"positional_embedding": "none", "norm": "rms_norm"},
    "writes only": {"dep_q": 0, "extra_heads_num_heads": 2},
    "listens": {"heard_dim": 10},
}


@lru_cache
def model(shape: str = "plain", dtype: torch.dtype = torch.float32) -> MoshiLM:
    torch.manual_seed(1)
    config = dataclasses.replace(CONFIG, **SHAPES[shape])
    fuser = FuserConfig(streaming_sum=("reference_with_time",), sum=("mood",))
    conditioners = {
        "reference_with_time": {
            "type": "arc_encoder",
            "arc_encoder": {
                "embedder_params": {
                    "vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2,
                    "head_dim": 8, "hidden_dim": 24, "compress_rates": [-1],
                },
                "bridge_module": {"hidden_dim": 16, "out_dim": 64},
            },
        },
        "mood": {"type": "lut", "lut": {"n_bins": 2, "dim": 8, "possible_values": ["a", "b"]}},
    }  # fmt: skip
    lm = MoshiLM(config, ConditionProvider(config.dim, conditioners, fuser))
    lm.condition_provider.float()
    if config.heard_dim:
        torch.nn.init.normal_(lm.hearing.weight)
    for name, child in lm.named_children():
        if name != "condition_provider":
            child.to(dtype)
    lm.eval().requires_grad_(False)
    return lm


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(lm: MoshiLM, runtime: str, slots: int = SLOTS, **options: Any) -> Generator:
    choose_lm_runtime(lm, runtime)
    options = {"sampling": WARM, "seed": 3, "conditions": {"mood": "b"}} | options
    return lm.generator(slots, **options)


def codes_for(lm: MoshiLM, slots: int = SLOTS) -> Tensor:
    source = torch.Generator().manual_seed(7)
    shape = (STEPS, slots, lm.config.given_q, 1)
    return torch.randint(-1, lm.config.card, shape, generator=source)


def drawn(out: Any) -> list[list[int]]:
    return torch.cat([out.sampled_text[:, None], out.sampled_audio], dim=1).tolist()


@pytest.mark.parametrize(("shape", "threads"), [("plain", 2), *((shape, 1) for shape in SHAPES)])
def test_same_conversation_as_the_modules(shape: str, threads: int) -> None:
    """Twice around the ring, slots coming and going, forced and given tokens, references."""
    torch.set_num_threads(threads)
    lm = model(shape)
    eager, fast = (generator(lm, runtime, keep_audio_logits=True) for runtime in ("eager", "fast"))
    source = torch.Generator().manual_seed(5)
    rows = torch.randn(5, lm.config.dim, generator=source)
    for t, codes in enumerate(codes_for(lm)):
        active = None if t % 4 == 0 else torch.rand(SLOTS, generator=source) < 0.7
        given: dict[str, Any] = {}
        for gen in (eager, fast):
            if t in (3, 15):
                gen.set_reference(1, rows)
            if t == 6:
                gen.force(torch.tensor([9, UNGENERATED, 8, 7]), active=active)
            if t == 10:
                pooling = Sampling(0.8, 10, pooled_from=5)
                gen.set_sampling(text=pooling, mask=torch.tensor([False, True] * 2))
            if t == 11:
                pooling = Sampling(0.0, 0, pooled_from=5)
                gen.set_sampling(text=pooling, mask=torch.tensor([True, False, False, False]))
            if t == 12:
                gen.set_sampling(audio=Sampling(0.0), mask=torch.tensor([True, False] * 2))
            if t == 13:
                gen.reset(torch.tensor([False, True, False, False]))
        if t == 9 and lm.config.dep_q:
            given["audio"] = torch.full((SLOTS, lm.config.dep_q), UNGENERATED)
            given["audio"][2] = 11
        if t in (5, 8, 14, 20):
            given["text"] = torch.tensor([UNGENERATED, 3, UNGENERATED, 3])
            given["urge"] = torch.tensor([0.0, 0.0, 4.0 * t, 2.5])
            given["barred"] = torch.tensor([True, False, True, True])
        if t > 10:
            given["favoured"] = torch.tensor([6, 7, 0, 6 + t % 3])
            given["favour"] = torch.tensor([1.5, 20.0, 0.0, 0.1 * t])
        if lm.config.heard_dim and t % 5:
            vectors = torch.randn(SLOTS, lm.config.heard_dim, generator=source)
            for gen in (eager, fast):
                gen.hear(vectors, active)
        one, other = eager.step(codes, active, **given), fast.step(codes, active, **given)
        running = torch.ones(SLOTS, dtype=torch.bool) if active is None else active
        assert torch.equal(one.text, other.text)
        assert torch.equal(one.audio, other.audio)
        assert torch.equal(one.ready, other.ready)
        assert [r for r, on in zip(drawn(one), running, strict=True) if on] == [
            r for r, on in zip(drawn(other), running, strict=True) if on
        ]
        pairs = [(one.text_logits, other.text_logits), (one.audio_logits, other.audio_logits)]
        pairs += list(zip(one.extra_heads, other.extra_heads, strict=True))
        for theirs, mine in pairs:
            if theirs is not None and theirs.numel():
                torch.testing.assert_close(mine[running], theirs[running], rtol=2e-5, atol=2e-5)
    assert_same_state(eager, fast)


def assert_same_state(eager: Generator, fast: Generator) -> None:
    mine, theirs = fast.state.tensors(), eager.state.tensors()
    assert mine.keys() == theirs.keys()
    for path, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[path], rtol=2e-5, atol=2e-5, msg=path)


def test_a_slot_runs_to_the_bit_as_it_does_alone_on_any_number_of_threads() -> None:
    lm = model()
    together, codes = generator(lm, "fast"), codes_for(lm)
    alone = [generator(lm, "fast", 1, seed=[3 + slot]) for slot in range(SLOTS)]
    for slot, gen in enumerate(alone):
        # Conditions are encoded by modules, whose products depend on the batch in the last bit.
        gen.state.sum_condition = together.state.sum_condition[slot : slot + 1].clone()
    source = torch.Generator().manual_seed(9)
    for t in range(STEPS):
        active = torch.rand(SLOTS, generator=source) < 0.8
        torch.set_num_threads(1 + t % 3)
        out = together.step(codes[t], active)
        torch.set_num_threads(1)
        for slot in torch.nonzero(active)[:, 0].tolist():
            single = alone[slot].step(codes[t, slot : slot + 1])
            assert torch.equal(out.text_logits[slot], single.text_logits[0])
            assert drawn(out)[slot] == drawn(single)[0]
    for slot in range(SLOTS):
        mine = together.state.select([slot]).tensors()
        assert all(torch.equal(mine[p], t) for p, t in alone[slot].state.tensors().items())


@pytest.mark.parametrize(("first", "then"), [("fast", "eager"), ("eager", "fast")])
def test_a_conversation_saved_under_one_runtime_goes_on_under_the_other(
    first: str, then: str
) -> None:
    lm = model()
    before, after, codes = generator(lm, first), generator(lm, then, seed=0), codes_for(lm)
    for t in range(15):
        before.step(codes[t])
    after.state.load(before.state.save())
    after.refresh_sampling()
    for t in range(15, STEPS):
        assert drawn(before.step(codes[t])) == drawn(after.step(codes[t]))


@pytest.mark.parametrize("shape", ["plain", "writes only"])
def test_reading_columns_is_the_modules_reading(shape: str) -> None:
    """What a recogniser does: its own tokens, one condition for all slots or one for each."""
    lm = model(shape)
    readers, states = [], []
    for runtime in ("eager", "fast"):
        choose_lm_runtime(lm, runtime)
        readers.append(lm.reader())
        states.append(lm.transformer.init_state(SLOTS))
    assert readers[1] != lm.read
    source = torch.Generator().manual_seed(2)
    condition = torch.randn(SLOTS, 1, lm.config.dim, generator=source)
    for t in range(STEPS):
        active = None if t % 3 == 0 else torch.rand(SLOTS, generator=source) < 0.6
        column = torch.randint(-1, 40, (SLOTS, 1 + lm.config.n_q), generator=source)
        given = (None, condition, condition[:1])[t % 3]
        one, other = (
            read(column, state, active, given) for read, state in zip(readers, states, strict=True)
        )
        running = slice(None) if active is None else active
        assert len(one.extra_heads) == len(other.extra_heads) == lm.config.extra_heads_num_heads
        pairs = zip(
            [one.text_logits, one.z, *one.extra_heads],
            [other.text_logits, other.z, *other.extra_heads],
            strict=True,
        )
        for theirs, mine in pairs:
            torch.testing.assert_close(mine[running], theirs[running], rtol=2e-5, atol=2e-5)
    for path, tensor in states[0].tensors().items():
        torch.testing.assert_close(states[1].tensors()[path], tensor, rtol=2e-5, atol=2e-5)


def test_tokens_without_a_row_are_refused_where_they_would_be_read() -> None:
    lm = model("plain")
    choose_lm_runtime(lm, "fast")
    config = lm.config
    gen = Generator(lm, SLOTS)
    user = torch.zeros(SLOTS, gen.given_q, 1, dtype=torch.int64)
    user[1, 0] = config.card + 1
    one = torch.tensor([True] + [False] * (SLOTS - 1))
    gen.step(user, one)  # nobody reads the others' rows
    with pytest.raises(IndexError, match=f"to {config.card + 1}, the model has -2 to"):
        gen.step(user)
    column = torch.full((SLOTS, 1 + config.n_q), config.text_card + 1)
    with pytest.raises(IndexError, match="the model has"):
        lm.reader()(column, lm.transformer.init_state(SLOTS), None, None)


def test_a_model_that_is_cast_leaves_running_generators_alone() -> None:
    torch.manual_seed(3)
    lm = MoshiLM(CONFIG).eval().requires_grad_(False)
    fast = generator(lm, "fast", conditions=None)
    undisturbed = generator(lm, "fast", conditions=None)
    codes = codes_for(lm)
    wanted = [drawn(undisturbed.step(frame)) for frame in codes]
    lm.half()
    junk = [torch.full((64, 64), float("nan")) for _ in range(200)]
    assert [drawn(fast.step(frame)) for frame in codes] == wanted
    del junk


def test_inactive_slots_keep_every_bit() -> None:
    lm = model()
    gen, codes = generator(lm, "fast"), codes_for(lm)
    for t in range(5):
        gen.step(codes[t])
    before = gen.state.clone().tensors()
    out = gen.step(codes[5], torch.zeros(SLOTS, dtype=torch.bool))
    assert all(torch.equal(tensor, before[path]) for path, tensor in gen.state.tensors().items())
    assert not out.ready.any()
    assert (out.sampled_text == UNGENERATED).all()


def test_steps_with_hooks_are_the_modules() -> None:
    lm = model()
    eager, fast = generator(lm, "eager"), generator(lm, "fast")
    hooks = StepHooks(on_text=lambda text: torch.full_like(text, 17))
    for t, codes in enumerate(codes_for(lm)):
        with_hooks = hooks if t % 3 == 0 else None
        one, other = eager.step(codes, hooks=with_hooks), fast.step(codes, hooks=with_hooks)
        assert drawn(one) == drawn(other)
    assert_same_state(eager, fast)


@pytest.mark.parametrize("held", ["bfloat16", "float16", "int8", "int4"])
def test_other_precisions_stay_near_the_same_weights_widened(held: str) -> None:
    narrow = dataclasses.replace(CONFIG, depformer_dim_feedforward=96)
    torch.manual_seed(2)
    lm = MoshiLM(narrow).eval().requires_grad_(False)
    if held in ("int8", "int4"):
        quantize(lm, held)
    else:
        lm.to(getattr(torch, held))
    fast = generator(lm, "fast", sampling=Sampling(0.0), conditions=None)
    if held in ("float16", "bfloat16"):
        wide = MoshiLM(narrow).eval().requires_grad_(False)
        wide.load_state_dict({name: w.float() for name, w in lm.state_dict().items()})
    else:
        wide = lm
    eager = generator(wide, "eager", sampling=Sampling(0.0), conditions=None)
    for t, codes in enumerate(codes_for(lm)):
        text = torch.full((SLOTS,), t % 50)
        audio = torch.full((SLOTS, 3), t % 40)
        one = eager.step(codes, text=text, audio=audio)
        other = fast.step(codes, text=text, audio=audio)
        # Integer weights meet inputs of 16 bits; with floats of 16 bits caches are rounded, too.
        tolerance = 5e-4 if held in ("int8", "int4") else 2e-2
        torch.testing.assert_close(
            other.text_logits, one.text_logits.float(), rtol=tolerance, atol=tolerance
        )


def test_what_the_kernels_do_not_know_runs_eagerly_or_says_so() -> None:
    config = dataclasses.replace(CONFIG, depformer_low_rank_embeddings=8)
    lm = MoshiLM(config).eval()
    with pytest.raises(RuntimeUnavailable, match="low-rank"):
        choose_lm_runtime(lm, "fast")
    choose_lm_runtime(lm, "auto")
    assert lm.make_runner is None
    with pytest.raises(ValueError, match="runtime"):
        choose_lm_runtime(lm, "quick")
    guided = generator(model(), "fast", guidance=Guidance(2.0))
    assert guided.step(codes_for(model())[0]).text.shape == (SLOTS,)


def test_wren_draws_the_same_tokens_and_is_faster() -> None:
    """The guard of the fast path: on any machine it is at least twice as fast (measured: 3 to 14
    times, docs/benchmarks.md)."""
    lm = duologue.load_lm("wren", device="cpu", runtime="eager")
    eager = generator(lm, "eager", 1, conditions=None, sampling=None)
    fast = generator(lm, "fast", 1, conditions=None, sampling=None)
    times: dict[str, list[float]] = {"eager": [], "fast": []}
    for codes in torch.randint(0, 1024, (16, 1, 8, 1), generator=torch.Generator().manual_seed(0)):
        outs = {}
        for name, gen in (("eager", eager), ("fast", fast)):
            begin = time.perf_counter()
            outs[name] = gen.step(codes)
            times[name].append(time.perf_counter() - begin)
        assert drawn(outs["eager"]) == drawn(outs["fast"])
    slow, quick = (statistics.median(times[name][4:]) for name in ("eager", "fast"))
    assert quick < slow / 2
