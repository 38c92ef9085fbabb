"""Prompted starts: a conversation that begins with a voice and a role (PersonaPlex).

Before the user is heard, the model's own streams are forced through a voice sample, a silence, a
role text at one token per frame, and a silence again, while the user's stream carries a fixed tone.
Source: PersonaPlex (arXiv 2602.06053) and its published procedure. What the prompt leaves behind is
ordinary state, so it can be snapshotted once per voice and copied into any slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duologue.errors import DuologueError
from duologue.moshi.config import UNGENERATED
from duologue.moshi.generator import Generator

SILENCE_CODES = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
"""What the published Mimi makes of a frame of silence once it has settled."""
TONE_CODES = (430, 1268, 381, 1611, 1095, 1495, 56, 472)
"""What it makes of a 440 Hz sine of amplitude 0.5: the user's stream during a prompt."""
SILENCE_SECONDS = 0.5
ROLE_TAG = "<system>"


class PromptError(DuologueError, ValueError):
    """A prompt does not fit the model."""


@dataclass(frozen=True)
class SavedVoice:
    """A voice prompt already run through the embeddings, as published with PersonaPlex."""

    embeddings: Tensor
    """[frames, dim]: inputs of the temporal stack."""
    cache: Tensor
    """int64 [1 + n_q, ring]: token columns after the last of them; the ring has max_delay + 3."""


@dataclass(frozen=True)
class Prompt:
    """How a conversation starts. Parts that are absent are left out."""

    voice: Tensor | SavedVoice | None = None
    """int64 [K, frames] codes of a voice sample, or a saved voice."""
    role: Sequence[int] = ()
    """Text tokens of the role, tags included."""
    silence: Tensor | None = None
    """int64 [K]: a frame of silence; the published Mimi's when `None`."""
    tone: Tensor | None = None
    """int64 [K]: the user's stream meanwhile; the published Mimi's sine when `None`."""


def tagged_role(text: str) -> str:
    """A role text between its tags; empty stays empty, tags are not doubled."""
    text = text.strip()
    if not text or (text.startswith(ROLE_TAG) and text.endswith(ROLE_TAG)):
        return text
    return f"{ROLE_TAG} {text} {ROLE_TAG}"


def play_prompt(
    generator: Generator, prompt: Prompt, mask: Tensor | None = None, frame_rate: float = 12.5
) -> int:
    """Run a prompt through the slots of `mask` [B] (all, when `None`), which must be fresh.

    Returns the number of steps made. Nothing that the model draws meanwhile is used.
    """
    return sum(1 for _ in prompt_steps(generator, prompt, mask, frame_rate))


def prompt_steps(
    generator: Generator, prompt: Prompt, mask: Tensor | None = None, frame_rate: float = 12.5
) -> Iterator[None]:
    """The same, one step at a time, for callers with other slots to keep running in between.

    A prompt that does not fit is refused before the first step.
    """
    config, books = generator.config, generator.generated_q
    if books > generator.given_q:
        raise PromptError(
            f"a prompt needs a user stream of {books} codebooks, the model is given "
            f"{generator.given_q}"
        )
    pad = config.existing_text_padding_id
    silence = _codes(prompt.silence, SILENCE_CODES, books, config.card, "silence")
    tone = _codes(prompt.tone, TONE_CODES, books, config.card, "tone")
    pause = [(pad, silence)] * int(SILENCE_SECONDS * frame_rate)
    frames: list[tuple[int, Tensor]] = []
    voice = prompt.voice
    if isinstance(voice, SavedVoice):
        _check_saved(generator, voice)
    elif voice is not None:
        if voice.dim() != 2 or voice.shape[0] < books:
            raise PromptError(f"voice: expected codes [{books}, frames], got {tuple(voice.shape)}")
        _check_range(voice[:books], 0, config.card - 1, "codes")
        frames += [(pad, voice[:books, t]) for t in range(voice.shape[1])]
    frames += pause
    for token in prompt.role:
        if not 0 <= token < config.text_card:
            raise PromptError(f"role: {token} is no text token of this model")
        frames.append((token, silence))
    if prompt.role:
        frames += pause
    if isinstance(voice, SavedVoice):
        yield from _replay(generator, voice, mask)
    batch, device = generator.batch_size, generator.lm.device
    user = tone.to(device)[None, :, None].expand(batch, -1, -1)
    for text, codes in frames:
        generator.force(
            torch.full((batch,), text, device=device),
            codes.to(device)[None].expand(batch, -1),
            mask,
        )
        generator.step(user, mask)
        yield


def _check_saved(generator: Generator, voice: SavedVoice) -> None:
    config = generator.config
    if voice.embeddings.shape[1:] != (config.dim,):
        raise PromptError(
            f"voice: embeddings are {tuple(voice.embeddings.shape)}, the model needs "
            f"[frames, {config.dim}]"
        )
    if voice.cache.shape != (1 + config.n_q, config.max_delay + 3):
        raise PromptError(
            f"voice: the token cache is {tuple(voice.cache.shape)}, expected "
            f"{(1 + config.n_q, config.max_delay + 3)}"
        )

    # What lies outside the recording holds the tokens that stand for none.
    _check_range(voice.cache[:1], UNGENERATED, config.text_card, "text tokens")
    _check_range(voice.cache[1:], UNGENERATED, config.card, "codes")


def _check_range(tokens: Tensor, least: int, most: int, name: str) -> None:
    if tokens.numel() and not least <= int(tokens.min()) <= int(tokens.max()) <= most:
        raise PromptError(
            f"voice: {name} from {int(tokens.min())} to {int(tokens.max())}, this model has "
            f"{least} to {most}; it was made for another model"
        )


def _replay(generator: Generator, voice: SavedVoice, mask: Tensor | None) -> Iterator[None]:
    """Feed a saved voice, then put the token columns that follow it where they belong."""
    config, device = generator.config, generator.lm.device
    count = len(voice.embeddings)
    for done, row in enumerate(voice.embeddings.to(device), 1):
        generator.step_embedding(row[None].expand(generator.batch_size, -1), mask)
        if done < count:
            yield
    ring = voice.cache.shape[1]
    delays = torch.tensor(config.delays)
    for ahead in range(config.max_delay + 1):
        # Of a column that lies ahead, only tokens with at least that delay are there already.
        column = voice.cache[:, (count + ahead) % ring].clone()
        column[delays < ahead] = UNGENERATED
        given = column.clone()
        given[1 : 1 + generator.generated_q] = UNGENERATED
        if ahead == 0:
            given = column
        else:
            _queue(generator, ahead - 1, column[: 1 + generator.generated_q].to(device), mask)
        rows = given.to(device)[None].expand(generator.batch_size, -1)
        generator.write_column(ahead, rows, mask)
    if count:
        yield


def _queue(generator: Generator, ahead: int, tokens: Tensor, mask: Tensor | None) -> None:
    queue = generator.state.forced[..., ahead]
    chosen = (tokens != UNGENERATED)[None].expand_as(queue)
    if mask is not None:
        chosen = chosen & mask[:, None]
    queue.copy_(torch.where(chosen, tokens[None], queue))


def _codes(
    given: Tensor | None, published: tuple[int, ...], books: int, card: int, name: str
) -> Tensor:
    codes = torch.tensor(published) if given is None else given
    if codes.shape != (books,) or int(codes.max()) >= card:
        raise PromptError(
            f"{name}: expected {books} codes below {card}, got {codes.tolist()}; "
            "the published values belong to the published Mimi"
        )
    return codes
