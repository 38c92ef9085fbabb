from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor

from duologue.moshi import LMConfig, MoshiLM, Sampling
from duologue.moshi.generator import Generator
from duologue.moshi.prompt import Prompt, PromptError, SavedVoice, play_prompt, tagged_role

SILENCE, TONE = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])


@lru_cache
def persona() -> MoshiLM:
    """The depth stack predicts the user's codebooks too, as PersonaPlex's does."""
    torch.manual_seed(0)
    config = LMConfig(
        dim=32, num_heads=2, num_layers=2, n_q=6, dep_q=6, delays=(0, 0, 1, 1, 0, 1, 1), card=20,
        text_card=30, hidden_scale=3, context=64, depformer_dim=16, depformer_num_heads=2,
        depformer_num_layers=1,
    )  # fmt: skip
    return MoshiLM(config).eval().requires_grad_(False)


def generator(slots: int = 1) -> Generator:
    return persona().generator(slots, sampling=Sampling(1.0, 10), generated_q=3)


def prompt(**parts: object) -> Prompt:
    return Prompt(silence=SILENCE, tone=TONE, **parts)  # type: ignore[arg-type]


def inputs(gen: Generator, run: object) -> Tensor:
    """Token columns [1 + n_q, steps] that slot 0's model reads while `run` runs."""
    seen: list[Tensor] = []
    original = gen.lm.embed

    def spy(column: Tensor) -> Tensor:
        seen.append(column[0, :, 0].clone())
        return original(column)

    gen.lm.embed = spy  # type: ignore[method-assign]
    try:
        run()  # type: ignore[operator]
    finally:
        gen.lm.embed = original  # type: ignore[method-assign]
    return torch.stack(seen, dim=1)


def test_the_model_reads_voice_then_pause_then_role_then_pause() -> None:
    voice = torch.arange(12).view(3, 4) + 7
    gen = generator()

    def run() -> None:
        assert play_prompt(gen, prompt(voice=voice, role=[11, 12])) == 4 + 6 + 2 + 6
        for _ in range(3):
            gen.step(torch.full((1, 3, 1), 9))

    columns = inputs(gen, run)
    # Column 0 is initial; the frame forced before step t stands in column t + 1, plus its delay.
    own = torch.cat([voice, SILENCE[:, None].expand(-1, 14)], dim=1)
    assert columns[0, 1:19].tolist() == [3] * 10 + [11, 12] + [3] * 6
    assert torch.equal(columns[1, 1:19], own[0])
    assert torch.equal(columns[2:4, 2:20], own[1:])
    assert columns[4, 1:18].tolist() == [4] * 17
    assert columns[5:, 2:19].unique(dim=1)[:, 0].tolist() == [5, 6]
    assert columns[4, 18:].tolist() == [9, 9, 9]


def test_only_the_chosen_slots_are_prompted() -> None:
    gen = generator(3)
    before = gen.state.clone()
    play_prompt(gen, prompt(role=[11]), torch.tensor([False, True, False]))
    assert gen.state.offset.tolist() == [0, 13, 0]
    for slot in (0, 2):
        mine, old = gen.state.select([slot]).tensors(), before.select([slot]).tensors()
        assert all(torch.equal(tensor, old[path]) for path, tensor in mine.items())


def test_a_saved_voice_continues_as_the_voice_itself() -> None:
    """Embeddings and token columns taken from a run must lead to the same state as that run."""
    voice = torch.arange(15).view(3, 5) % 20
    original, replayed = generator(), generator()
    embeddings: list[Tensor] = []
    embed = original.lm.embed

    def spy(column: Tensor) -> Tensor:
        x = embed(column)
        embeddings.append(x[0, 0])
        return x

    original.lm.embed = spy  # type: ignore[method-assign]
    try:
        play_prompt(original, prompt(voice=voice))
    finally:
        original.lm.embed = embed  # type: ignore[method-assign]
    saved = SavedVoice(torch.stack(embeddings[:5]), _columns_after(voice))
    play_prompt(replayed, prompt(voice=saved))
    for _ in range(4):
        user = torch.full((1, 3, 1), 9)
        one, other = original.step(user), replayed.step(user)
        torch.testing.assert_close(one.text_logits, other.text_logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(one.sampled_audio, other.sampled_audio)


def _columns_after(voice: Tensor) -> Tensor:
    """Token columns as the published program keeps them after a voice: a ring of delay + 3."""
    frames, config = voice.shape[1], persona().config
    columns = torch.full((1 + config.n_q, frames + 3), -2)
    for frame in range(frames):
        tokens = torch.cat([torch.tensor([3]), voice[:, frame]])
        for row, delay in enumerate(config.delays[:4]):
            columns[row, frame + 1 + delay] = tokens[row]
    for column in range(frames + 1):
        for row, delay in enumerate(config.delays[4:], start=4):
            columns[row, column + delay] = TONE[row - 4]
    ring = torch.full((1 + config.n_q, 4), -2)
    for column in range(columns.shape[1] - 4, columns.shape[1]):
        if column >= 0:
            ring[:, column % 4] = columns[:, column]
    return ring


def test_tags_are_put_around_a_role_once() -> None:
    assert tagged_role(" You teach. ") == "<system> You teach. <system>"
    assert tagged_role("<system> You teach. <system>") == "<system> You teach. <system>"
    assert tagged_role("  ") == ""


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({"voice": torch.zeros(2, 4, dtype=torch.int64)}, "voice"),
        ({"role": [30]}, "role"),
        ({"voice": SavedVoice(torch.zeros(3, 8), torch.zeros(7, 4))}, "embeddings"),
        ({"voice": SavedVoice(torch.zeros(3, 32), torch.zeros(7, 3))}, "token cache"),
        ({"voice": torch.full((3, 4), 99)}, "codes from 99 to 99.*made for another model"),
        ({"voice": SavedVoice(torch.zeros(3, 32), torch.full((7, 4), 99))}, "text tokens from 99"),
    ],
)
def test_misfits_are_refused(parts: dict[str, object], complaint: str) -> None:
    with pytest.raises(PromptError, match=complaint):
        play_prompt(generator(), prompt(**parts))


def test_published_codes_need_the_published_codec() -> None:
    with pytest.raises(PromptError, match="silence"):
        play_prompt(generator(), Prompt())
