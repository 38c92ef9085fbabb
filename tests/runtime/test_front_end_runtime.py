"""The compiled front end is the front end: same vectors, same states, slots apart to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from duologue.runtime.choice import choose_front_end_runtime
from duologue.runtime.errors import RuntimeUnavailable
from duologue.stt.front_end import MelFrontEnd, MelFrontEndConfig

pytest.importorskip("numba")

from duologue.runtime import codec_runner

SLOTS, FRAME = 3, 1920
SHAPES = {
    "as wren's": MelFrontEndConfig(dim=64),
    "narrow": MelFrontEndConfig(dim=24, channels=(8, 12, 16), units=(0, 1, 2), bands=33),
    "one stage": MelFrontEndConfig(dim=20, channels=(40,), units=(0,), hop=240, low_hz=0.0),
}


def front_end(shape: str, runtime: str) -> MelFrontEnd:
    torch.manual_seed(1)
    made = MelFrontEnd(SHAPES[shape])
    for weight in made.parameters():
        if weight.dim() == 3 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    torch.nn.init.uniform_(made.norm.alpha, 0.5, 2.0)
    made.eval().requires_grad_(False)
    choose_front_end_runtime(made, runtime)
    return made


def sound(frames: int, size: int = FRAME, slots: int = SLOTS) -> Tensor:
    """A glide under noise, and silence between: energies from next to none to loud."""
    random = torch.Generator().manual_seed(4)
    t = torch.arange(frames * size) / 24_000
    glide = 0.3 * torch.sin(6.28 * (200 + 900 * t) * t) * (torch.sin(7 * t) > 0)
    noise = torch.randn(slots, len(t), generator=random)
    return (glide + 0.01 * torch.rand(slots, 1, generator=random) * noise)[:, None]


@pytest.mark.parametrize("shape", SHAPES)
def test_same_vectors_and_states_as_the_modules(shape: str) -> None:
    """Slots coming and going, one to three frames at once; every third call the other computes."""
    eager, fast = front_end(shape, "eager"), front_end(shape, "fast")
    assert fast.runtime is not None
    random = torch.Generator().manual_seed(2)
    mine, theirs = eager.init_encoder_state(SLOTS), fast.init_encoder_state(SLOTS)
    size, at = eager.frame_size, 0
    pcm = sound(26, size)
    for call in range(12):
        frames = 1 + call % 3
        piece, at = pcm[..., at * size : (at + frames) * size], at + frames
        active = None if call % 4 == 0 else torch.rand(SLOTS, generator=random) < 0.7
        if call == 7:
            for state in (mine, theirs):
                state.reset(torch.tensor([False, True, False]))
        computes = eager if call % 3 == 2 else fast
        wanted = eager.encode_step(piece, mine, active)
        made = computes.encode_step(piece, theirs, active)
        running = slice(None) if active is None else active
        torch.testing.assert_close(made[running], wanted[running], atol=1e-4, rtol=1e-4)
    others = theirs.tensors()
    for path, tensor in mine.tensors().items():
        torch.testing.assert_close(tensor, others[path], atol=1e-4, rtol=1e-4, msg=path)


def test_bits_depend_on_nothing_but_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone or in a batch, frame by frame or not, with one thread or several."""
    fast, pcm = front_end("as wren's", "fast"), sound(4)
    together = fast.encode_step(pcm, fast.init_encoder_state(SLOTS))
    monkeypatch.setattr(codec_runner, "MACS_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for slot in range(SLOTS):
            state = fast.init_encoder_state(1)
            for f, piece in enumerate(pcm[slot : slot + 1].split(FRAME, dim=-1)):
                assert torch.equal(fast.encode_step(piece, state)[0, :, 0], together[slot, :, f])
    finally:
        torch.set_num_threads(before)


def test_inactive_slots_keep_every_bit_and_get_zeros() -> None:
    fast, pcm = front_end("narrow", "fast"), sound(2)
    state = fast.init_encoder_state(SLOTS)
    fast.encode_step(pcm[..., :FRAME], state)
    before = state.clone().tensors()
    active = torch.tensor([True, False, True])
    made = fast.encode_step(pcm[..., FRAME:], state, active)
    assert not made[1].any()
    assert made[0].any()
    for path, tensor in state.tensors().items():
        assert torch.equal(tensor[1], before[path][1])
        assert not torch.equal(tensor[0], before[path][0])


def test_where_it_cannot_run() -> None:
    half = front_end("narrow", "eager").half()
    choose_front_end_runtime(half, "auto")
    assert half.runtime is None
    with pytest.raises(RuntimeUnavailable, match="float32"):
        choose_front_end_runtime(half, "fast")
    assert copy.deepcopy(front_end("narrow", "fast")).runtime is None
