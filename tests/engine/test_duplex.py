from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from support.contract import assert_slots_equal

import duologue
from duologue.checkpoints.untrained import TINY_CODEC, create_untrained
from duologue.engine import Duplex, MismatchError, converse
from duologue.mimi import Mimi, MimiConfig
from duologue.moshi import LMConfig, MoshiLM, Sampling


@lru_cache
def models(max_delay: int = 1) -> tuple[Mimi, MoshiLM]:
    torch.manual_seed(0)
    codec = Mimi(TINY_CODEC, num_codebooks=4).eval().requires_grad_(False)
    side = (0, *(max_delay,) * 3)
    lm = MoshiLM(
        LMConfig(
            dim=32, num_heads=2, num_layers=1, n_q=8, dep_q=4, delays=(0, *side, *side),
            text_card=40, hidden_scale=3, context=20, depformer_dim=16, depformer_num_heads=2,
            depformer_num_layers=1,
        )
    )  # fmt: skip
    return codec, lm.eval().requires_grad_(False)


def recording(frames: float, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(int(frames * 1920), generator=source) - 0.5


@pytest.mark.parametrize("max_delay", [0, 1, 2])
@pytest.mark.parametrize("frames", [1, 5, 5.3])
def test_a_reply_is_as_long_as_its_recording_in_whole_frames(max_delay: int, frames: float) -> None:
    duplex = Duplex(*models(max_delay), seed=1)
    seen = []
    reply = converse(duplex, recording(frames), tail_frames=2, on_frame=lambda *at: seen.append(at))
    expected = int(-(-frames // 1)) + 2
    assert len(reply.pcm) == expected * 1920
    assert len(reply.text_tokens) == expected
    assert seen[-1] == (expected, expected)
    assert torch.isfinite(reply.pcm).all()


@pytest.mark.parametrize("max_delay", [0, 1, 2])
def test_a_reply_after_a_prompt_is_as_long_too(max_delay: int) -> None:
    duplex = Duplex(*models(max_delay), seed=1)
    for _ in range(5):
        duplex.generator.step(None)
    reply = converse(duplex, recording(4))
    assert len(reply.pcm) == 4 * 1920
    assert len(reply.text_tokens) == 4


def test_the_whole_recording_reaches_the_model() -> None:
    """Also its first frame, which a live caller would lose."""
    heard = recording(6)
    for changed_frame in (0, 3):
        other = heard.clone()
        other[changed_frame * 1920 : (changed_frame + 1) * 1920] *= -1
        duplex = Duplex(*models(), sampling=Sampling(0.0))
        one = converse(duplex, heard)
        duplex.reset()
        two = converse(duplex, other)
        assert not torch.equal(one.pcm, two.pcm)


def test_conversations_repeat_after_a_reset() -> None:
    duplex = Duplex(*models(), seed=5)
    first = converse(duplex, recording(4))
    duplex.reset()
    again = converse(duplex, recording(4))
    assert torch.equal(first.pcm, again.pcm)
    assert first.text_tokens == again.text_tokens


def test_slots_stay_apart_through_the_whole_loop() -> None:
    busy, alone = (Duplex(*models(), batch_size=3, seed=[1, 2, 3]) for _ in range(2))
    frames = torch.stack([recording(12, seed) for seed in range(3)]).view(3, 12, 1, 1920)
    only = torch.tensor([False, True, False])
    for t in range(12):
        active = torch.tensor([t % 2 == 0, True, t > 4])
        if t == 6:
            busy.reset(torch.tensor([True, False, False]))
        one = busy.step(busy.encode(frames[:, t], active), active)
        other = alone.step(alone.encode(frames[:, t], only), only)
        assert torch.equal(one.pcm[1], other.pcm[1])
        assert one.text[1] == other.text[1]
        assert one.ready[1] == other.ready[1]


def test_snapshot_of_the_whole_loop_continues_bit_identically() -> None:
    duplex = Duplex(*models(), seed=3)
    frames = recording(10).view(10, 1, 1, 1920)
    for t in range(5):
        duplex.step(duplex.encode(frames[t]))
    other = Duplex(*models(), seed=99)
    other.state.load(duplex.state.save())
    assert_slots_equal(other.state, duplex.state, [0])
    for t in range(5, 10):
        one, two = (d.step(d.encode(frames[t])) for d in (duplex, other))
        assert torch.equal(one.pcm, two.pcm)


def test_what_does_not_belong_together_is_refused() -> None:
    codec, lm = models()
    small = Mimi(MimiConfig.from_dict({**TINY_CODEC.to_dict(), "quantizer": {
        "dimension": 32, "n_q": 3, "bins": 2048, "input_dimension": 64, "output_dimension": 64,
    }}))  # fmt: skip
    with pytest.raises(MismatchError, match="4 codebooks"):
        Duplex(small, lm)
    with pytest.raises(ValueError, match="batch of one"):
        converse(Duplex(codec, lm, 2), recording(1))


def test_an_untrained_folder_talks(tmp_path: Path) -> None:
    create_untrained(tmp_path / "model", "tiny", seed=3)
    lm = duologue.load_lm(tmp_path / "model", device="cpu")
    codec = duologue.load_codec(tmp_path / "model", device="cpu")
    assert codec.num_codebooks == 8
    reply = converse(Duplex(codec, lm), recording(3))
    assert float(reply.pcm.std()) > 0
