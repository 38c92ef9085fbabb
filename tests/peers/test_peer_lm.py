"""Small random language models: the reference's logits and greedy tokens are ours."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peers.peer_models import (
    assert_near,
    import_peer,
    lm_values,
    open_lm,
    random_tokens,
    randomize,
    save_tensors,
    seeded,
    write_lm,
)
from torch import Tensor

import duologue
from duologue.moshi import Generator, Guidance, MoshiLM, Sampling, StepHooks
from duologue.moshi.config import UNGENERATED

import_peer("moshi.models")

GREEDY = Sampling(0.0, 0)
STEPS = 30
"""More than twice the context, so that the key/value ring wraps."""

DESCRIPTION = {
    "type": "lut",
    "lut": {"n_bins": 7, "dim": 10, "tokenizer": "noop", "possible_values": ["bad", "good"]},
}
HASHED = {"type": "lut", "lut": {"n_bins": 5, "dim": 6, "tokenizer": "noop"}}
SPEAKER = {"type": "tensor", "tensor": {"dim": 12}}

SHAPES: dict[str, dict[str, Any]] = {
    "duplex": {},
    "no_delays": {"delays": [0] * 7},
    "delay_2": {"delays": [0, 0, 2, 2, 0, 2, 2], "max_period": 100_000},
    "uneven_delays": {"delays": [1, 0, 3, 2, 2, 0, 1]},
    "no_user_stream": {"n_q": 4, "dep_q": 4, "delays": [0, 0, 1, 1, 2]},
    "schedule_and_low_rank": {
        "n_q": 6, "dep_q": 6, "delays": [0, 0, 2, 2, 2, 2, 2],
        "depformer_weights_per_step_schedule": [0, 1, 2, 2, 3, 3],
        "depformer_low_rank_embeddings": 8, "depformer_norm": "rms_norm_f32",
    },
    "recognition": {
        "dep_q": 0, "delays": [0] * 7, "extra_heads_num_heads": 4, "extra_heads_dim": 6,
        "depformer_dim_feedforward": None,
    },
    "conditioned": {
        "delays": [0, 0, 2, 2, 0, 2, 2], "conditioners": {"description": DESCRIPTION},
        "fuser": {"sum": ["description"]},
    },
    "two_conditions": {
        "conditioners": {"description": DESCRIPTION, "hashed": HASHED},
        "fuser": {"sum": ["hashed", "description"], "cross": [], "prepend": []},
    },
    "synthesis": {
        "n_q": 5, "dep_q": 5, "delays": [0, 0, 2, 2, 2, 2], "text_card_out": 30,
        "demux_second_stream": True, "depformer_low_rank_embeddings": 8, "cross_attention": True,
        "depformer_weights_per_step_schedule": [0, 1, 2, 2, 2], "context": 11,
        "conditioners": {"speaker": SPEAKER, "description": DESCRIPTION},
        "fuser": {
            "sum": ["description"], "cross": ["speaker"], "cross_attention_pos_emb": True,
            "cross_attention_pos_emb_scale": 0.7,
        },
    },
    "shared_heads": {
        "kv_repeat": 2, "depformer_kv_repeat": 1, "positional_embedding": "rope_concat",
        "max_period": 20_000.0, "hidden_scale": 6, "depformer_norm": "layer_norm",
        "depformer_dim_feedforward": None, "depformer_weights_per_step_schedule": [0, 1, 1],
    },
    "narrow_gating": {"hidden_scale": 4, "depformer_dim_feedforward": None},
    "odd_gating": {"hidden_scale": 3.7, "depformer_dim_feedforward": 101},
    "layer_norms_and_scales": {
        "norm": "layer_norm", "layer_scale": 0.1,
    },
    "rms_norm": {"norm": "rms_norm", "kv_repeat": 4, "depformer_kv_repeat": 1},
    "one_depth_input": {"depformer_multi_linear": False},
    "no_positions": {"positional_embedding": "none"},
}  # fmt: skip

ATTRIBUTES: dict[str, list[Any]] = {
    "description": ["good", None, "bad"],
    "hashed": ["any word at all", "another", None],
}


def random_shape(seed: int) -> dict[str, Any]:
    """A configuration drawn at random from what the published ones vary."""
    draw = random.Random(seed)
    dep_q = draw.randint(2, 6)
    n_q = dep_q + draw.randint(0, 4)
    sets = draw.randint(1, dep_q)
    return {
        "n_q": n_q, "dep_q": dep_q, "delays": [draw.randint(0, 3) for _ in range(1 + n_q)],
        "num_heads": draw.choice([2, 4, 6]), "num_layers": draw.randint(1, 3),
        "dim": draw.choice([48, 72]), "context": draw.randint(5, 20),
        "kv_repeat": draw.choice([1, 2]), "depformer_kv_repeat": 1,
        "positional_embedding": draw.choice(["rope", "rope_concat"]),
        "hidden_scale": draw.choice([3, 4, 4.125, 6]),
        "depformer_dim_feedforward": draw.choice([None, 64, 96, 128]),
        "depformer_norm": draw.choice([None, "layer_norm"]),
        "depformer_low_rank_embeddings": draw.choice([None, 6]),
        "depformer_weights_per_step_schedule": draw.choice(
            [None, sorted([*range(sets), *draw.choices(range(sets), k=dep_q - sets)])]
        ),
        "demux_second_stream": draw.random() < 0.3,
        "max_period": draw.choice([10_000, 100_000]),
        "depformer_num_layers": draw.randint(1, 3),
    }  # fmt: skip


SHAPES |= {f"random_{seed}": random_shape(seed) for seed in range(6)}
WITHOUT_TRAINING_PASS = {"recognition", "schedule_and_low_rank"}
"""Shapes for which the reference's own whole-sequence pass fails."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, MoshiLM]]:
    """Any shape by name, as the reference and we have it; built once."""
    built: dict[str, tuple[Any, MoshiLM]] = {}

    def get(name: str) -> tuple[Any, MoshiLM]:
        if name not in built:
            seed = list(SHAPES).index(name)
            values = lm_values(**SHAPES[name])
            folder = tmp_path_factory.mktemp(name)
            # Both spellings that published files have, in turn.
            built[name] = open_lm(write_lm(folder, values, seed, fused_names=seed % 2 == 0))
        return built[name]

    return get


def attributes(lm: MoshiLM, batch: int) -> list[dict[str, Any]]:
    """One mapping of conditions per slot, different from slot to slot."""
    wanted: list[dict[str, Any]] = [{} for _ in range(batch)]
    for name in lm.condition_provider.conditioners:
        for slot, one in enumerate(wanted):
            if name == "speaker":
                # Sequences of different lengths; the shorter ones are padded.
                one[name] = torch.randn(5 - slot % 2, 12, generator=seeded(slot))
            else:
                one[name] = ATTRIBUTES[name][slot % len(ATTRIBUTES[name])]
    return wanted


def peer_conditions(peer: Any, given: list[dict[str, Any]], *, null: bool = False) -> Any:
    """The reference's condition tensors; with `null`, the dropped ones follow the given ones."""
    if peer.condition_provider is None:
        return None
    base = import_peer("moshi.conditioners.base")
    wanted = []
    for one in given:
        tensors = {
            name: base.TensorCondition.from_tensor(value[None])
            for name, value in one.items()
            if isinstance(value, Tensor)
        }
        text = {name: value for name, value in one.items() if not isinstance(value, Tensor)}
        wanted.append(base.ConditionAttributes(text=text, tensor=tensors))
    if null:
        wanted += base.dropout_all_conditions(wanted)
    with torch.no_grad():
        return peer.condition_provider.prepare_and_provide(wanted)


@dataclass
class Recording:
    """What the reference computes inside of its steps."""

    text_logits: list[Tensor] = field(default_factory=list)
    """[B, classes] of each step, after guidance."""
    audio_logits: list[Tensor] = field(default_factory=list)
    """[rows, dep_q, card] of each step, before guidance."""


@contextmanager
def recorded(peer: Any, batch: int, **options: Any) -> Iterator[tuple[Any, Recording]]:
    """A greedy generator of the reference, streaming, that records its logits."""
    models = import_peer("moshi.models")
    recording, books = Recording(), []

    def on_text(logits: Tensor) -> None:
        recording.text_logits.append(logits[:, 0, 0].clone())

    def on_book(_module: Any, _inputs: Any, logits: Tensor) -> None:
        books.append(logits.flatten(1).clone())
        if len(books) == peer.dep_q:
            recording.audio_logits.append(torch.stack(books, dim=1))
            books.clear()

    handles = [linear.register_forward_hook(on_book) for linear in peer.linears]
    generator = models.LMGen(
        peer, use_sampling=False, support_out_of_sync=True, on_text_logits_hook=on_text, **options
    )
    try:
        with generator.streaming(batch):
            yield generator, recording
    finally:
        for handle in handles:
            handle.remove()


def given_tokens(lm: MoshiLM, batch: int, seed: int) -> Tensor:
    rows = range(1 + lm.config.dep_q, 1 + lm.config.n_q)
    return random_tokens(lm.config, rows, (batch, STEPS), seed)


def column(ours: Any) -> Tensor:
    return torch.cat([ours.text[:, None], ours.audio], dim=1)


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_generation(name: str, model: Any) -> None:
    peer, lm = model(name)
    batch = 3
    given = attributes(lm, batch)
    tokens = given_tokens(lm, batch, seed=11)
    conditions = peer_conditions(peer, given)
    generator = Generator(lm, batch, sampling=GREEDY, keep_audio_logits=True, conditions=given)
    seen = set()
    with recorded(peer, batch, condition_tensors=conditions) as (theirs, recording):
        for step in range(STEPS):
            expected, heads = theirs.step_with_extra_heads(tokens[..., step : step + 1])
            ours = generator.step(tokens[..., step : step + 1])
            assert torch.equal(column(ours), expected[..., 0]), step
            assert torch.equal(ours.ready, expected[:, 0, 0] != UNGENERATED)
            assert_near(ours.text_logits, recording.text_logits[-1], 1e-5)
            if lm.config.dep_q:
                assert ours.audio_logits is not None
                assert_near(ours.audio_logits, recording.audio_logits[-1], 1e-5)
            for mine, head in zip(ours.extra_heads, heads, strict=True):
                assert_near(mine, head[:, 0], 1e-5)
            seen |= set(ours.sampled_text.tolist())
    assert len(seen) > 5, "the random model is degenerate"


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - WITHOUT_TRAINING_PASS))
def test_whole_sequence_pass(name: str, model: Any) -> None:
    peer, lm = model(name)
    batch, length = 2, 20
    given = attributes(lm, batch)
    codes = random_tokens(lm.config, range(1 + lm.config.n_q), (batch, length), seed=4)
    with torch.no_grad():
        theirs = peer(codes, peer_conditions(peer, given))
        fused = lm.condition_provider(given)
        ours = lm(codes, fused.sum, fused.cross)
    assert torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.text_mask, theirs.text_mask)
    assert_near(ours.text_logits, theirs.text_logits, 1e-5)
    assert_near(ours.logits, theirs.logits, 1e-5)


@pytest.mark.parametrize("name", ["duplex", "uneven_delays", "synthesis", "recognition"])
def test_batch_with_pauses_and_resets(name: str, model: Any) -> None:
    peer, lm = model(name)
    batch = 4
    given = attributes(lm, batch)
    tokens = given_tokens(lm, batch, seed=12)
    active = torch.rand(STEPS, batch, generator=seeded(3)) < 0.7
    conditions = peer_conditions(peer, given)
    generator = Generator(lm, batch, sampling=GREEDY, keep_audio_logits=True, conditions=given)
    with recorded(peer, batch, condition_tensors=conditions) as (theirs, recording):
        for step in range(STEPS):
            if step % 6 == 5:
                fresh = torch.arange(batch) == step % batch
                theirs.reset_streaming(fresh)
                generator.reset(fresh)
            now = active[step]
            theirs.set_exec_mask(now)
            expected = theirs.step(tokens[..., step : step + 1])
            ours = generator.step(tokens[..., step : step + 1], now)
            assert torch.equal(column(ours), expected[..., 0]), step
            assert_near(ours.text_logits[now], recording.text_logits[-1][now], 1e-5)
            if lm.config.dep_q:
                assert ours.audio_logits is not None
                assert_near(ours.audio_logits[now], recording.audio_logits[-1][now], 1e-5)


@pytest.mark.parametrize(
    ("name", "options", "guidance"),
    [
        ("conditioned", {}, Guidance(2.5)),
        ("synthesis", {}, Guidance(1.7)),
        ("synthesis", {"cfg_is_no_text": True}, Guidance(3.0, no_text=True)),
        (
            "synthesis",
            {"cfg_is_masked_until": [4, 9]},
            Guidance(2.0, masked_until=torch.tensor([4, 9])),
        ),
        (
            "uneven_delays",
            {"cfg_is_masked_until": [6, 2], "cfg_is_no_text": True},
            Guidance(2.2, no_text=True, masked_until=torch.tensor([6, 2])),
        ),
    ],
)
def test_guidance(name: str, options: dict[str, Any], guidance: Guidance, model: Any) -> None:
    peer, lm = model(name)
    batch = 2
    given = attributes(lm, batch)
    conditions = peer_conditions(peer, given, null=True)
    tokens = given_tokens(lm, batch, seed=13)
    generator = Generator(
        lm, batch, sampling=GREEDY, keep_audio_logits=True, conditions=given, guidance=guidance
    )
    options = {**options, "cfg_coef": guidance.coefficient, "condition_tensors": conditions}
    with recorded(peer, batch, **options) as (theirs, recording):
        for step in range(STEPS):
            if step == 17:
                fresh = torch.tensor([False, True])
                theirs.reset_streaming(fresh)
                generator.reset(fresh)
            expected = theirs.step(tokens[..., step : step + 1])
            ours = generator.step(tokens[..., step : step + 1])
            assert torch.equal(column(ours), expected[..., 0]), step
            if not guidance.no_text:
                # Recorded after guidance, like ours.
                assert_near(ours.text_logits, recording.text_logits[-1], 1e-5)
            wanted, null = recording.audio_logits[-1].chunk(2)
            assert ours.audio_logits is not None
            assert_near(ours.audio_logits, null + (wanted - null) * guidance.coefficient, 1e-5)


@pytest.mark.parametrize("name", ["uneven_delays", "synthesis"])
def test_tokens_from_outside(name: str, model: Any) -> None:
    """Text by a hook and audio in place of the depth loop, now and then, as in synthesis."""
    peer, lm = model(name)
    batch, dep_q = 2, lm.config.dep_q
    given = attributes(lm, batch)
    conditions = peer_conditions(peer, given)
    tokens = given_tokens(lm, batch, seed=14)
    texts = random_tokens(lm.config, [0], (batch, STEPS), seed=15, absent=0.3)[:, 0]
    codes = random_tokens(lm.config, range(1, 1 + dep_q), (batch, STEPS), seed=16)
    now = 0

    def on_text(text: Tensor) -> Tensor:
        return text.copy_(texts[:, now]) if now % 3 else text

    generator = Generator(lm, batch, sampling=GREEDY, conditions=given)
    hooked = Generator(lm, batch, sampling=GREEDY, conditions=given)
    options = {"on_text_hook": on_text, "condition_tensors": conditions}
    with recorded(peer, batch, **options) as (theirs, _):
        for now in range(STEPS):
            piece = tokens[..., now : now + 1]
            forced = codes[..., now : now + 1] if now % 2 else None
            expected = theirs.step(piece, forced)
            audio = None if forced is None else forced[..., 0]
            ours = generator.step(piece, text=texts[:, now] if now % 3 else None, audio=audio)
            assert torch.equal(column(ours), expected[..., 0]), now
            ours = hooked.step(piece, audio=audio, hooks=StepHooks(on_text=on_text))
            assert torch.equal(column(ours), expected[..., 0]), now


@pytest.mark.parametrize("name", ["shared_heads", "synthesis", "recognition"])
def test_reference_reads_what_we_write(name: str, model: Any) -> None:
    from duologue.checkpoints.kyutai_lm import lm_layout

    peer, lm = model(name)
    kept = {key: tensor.clone() for key, tensor in peer.state_dict().items()}
    written = lm_layout(lm).write(lm.state_dict())
    try:
        peer.load_state_dict({key: torch.zeros_like(tensor) for key, tensor in kept.items()})
        peer.load_state_dict(written)
        assert all(torch.equal(tensor, kept[key]) for key, tensor in peer.state_dict().items())
    finally:
        peer.load_state_dict(kept)


@pytest.mark.parametrize("fuse", [False, True])
def test_adapter(fuse: bool, tmp_path: Path) -> None:
    """Adapters on every linear map: the reference adds their output or fuses them, we fuse."""
    loaders = import_peer("moshi.models.loaders")
    values = lm_values(
        depformer_weights_per_step_schedule=[0, 1, 1], depformer_low_rank_embeddings=8,
        conditioners={"description": DESCRIPTION}, fuser={"sum": ["description"]},
    )  # fmt: skip
    lora = {"lora": True, "lora_rank": 4, "lora_scaling": 1.5}
    folder = write_lm(tmp_path, values, seed=24)
    base, _ = open_lm(folder)
    adapted = loaders.get_lora_moshi(base, None, 4, 1.5, torch.float32, "cpu", fuse_lora=False)
    randomize(adapted, seed=25)
    factors = {key: t for key, t in adapted.state_dict().items() if ".lora_" in key}
    save_tensors(folder / "adapter.safetensors", factors)
    names = {"moshi_name": "model.safetensors", "lora_name": "adapter.safetensors"}
    (folder / "config.json").write_text(json.dumps({**values, **lora, **names}))
    peer = loaders.get_moshi_lm(
        folder / "model.safetensors", copy.deepcopy({**values, **lora}), dtype=torch.float32,
        lora_weights=folder / "adapter.safetensors", fuse_lora=fuse,
    )  # fmt: skip
    lm = duologue.load_lm(folder, device="cpu", dtype=torch.float32)
    codes = random_tokens(lm.config, range(1 + lm.config.n_q), (2, 20), seed=26)
    given: list[dict[str, Any]] = [{"description": "good"}, {"description": None}]
    with torch.no_grad():
        theirs = peer(codes, peer_conditions(peer, given))
        ours = lm(codes, lm.condition_provider(given).sum)
    assert_near(ours.text_logits, theirs.text_logits, 1e-5)
    assert_near(ours.logits, theirs.logits, 1e-5)


def test_small_precision_is_as_near_as_the_reference(tmp_path: Path) -> None:
    """In bfloat16 nobody's bits are right; ours are no farther from float32 than theirs."""
    loaders = import_peer("moshi.models.loaders")
    values = lm_values(num_layers=4, dim=96)
    folder = write_lm(tmp_path, values, seed=21)
    codes = random_tokens(duologue.load_lm(folder).config, range(7), (2, 40), seed=22)
    with torch.no_grad():
        exact = duologue.load_lm(folder, device="cpu", dtype=torch.float32)(codes)
        ours = duologue.load_lm(folder, device="cpu", dtype=torch.bfloat16)(codes)
        theirs = loaders.get_moshi_lm(
            folder / "model.safetensors", values, dtype=torch.bfloat16
        )(codes)  # fmt: skip
    for mine, other, right in (
        (ours.text_logits, theirs.text_logits, exact.text_logits),
        (ours.logits, theirs.logits, exact.logits),
    ):
        noise = (other.float() - right).nan_to_num().norm()
        assert (mine.float() - right).nan_to_num().norm() < 1.3 * noise
