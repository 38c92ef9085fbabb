"""How far a model in fewer bits is from the same model in more: token agreement and divergence.

Both read the same conversations, teacher-forced, so that one early difference does not make the
rest incomparable. Where there is no recorded conversation, two instances of the wider model talk
to each other and their conversation is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from duologue.errors import DuologueError
from duologue.moshi.config import ZERO_TOKEN
from duologue.moshi.lm import MoshiLM


@dataclass(frozen=True)
class Distance:
    """Means over all frames (and codebooks) that have a target."""

    frames: int
    text_agreement: float
    """Share of frames whose likeliest text token is the same."""
    audio_agreement: float
    text_kl: float
    """Kullback-Leibler divergence KL(wider || narrower) of the text distribution, in nats."""
    audio_kl: float


@torch.no_grad()
def measure_distance(wide: MoshiLM, narrow: MoshiLM, sequences: Iterable[Tensor]) -> Distance:
    """Compare two models on conversations int64 [B, 1 + n_q, T] (-1 where there is nothing)."""
    totals = torch.zeros(2, 3, dtype=torch.float64)
    for codes in sequences:
        one, other = wide(codes), narrow(codes)
        pairs = [(one.text_logits, other.text_logits, one.text_mask)]
        if wide.config.dep_q:
            pairs.append((one.logits, other.logits, one.mask))
        for row, (theirs, mine, mask) in enumerate(pairs):
            p, q = (logits[mask].float().log_softmax(dim=-1) for logits in (theirs, mine))
            same = p.argmax(dim=-1) == q.argmax(dim=-1)
            divergence = (p.exp() * (p - q)).sum(dim=-1)
            totals[row] += torch.tensor([len(p), same.sum().item(), divergence.sum().item()])
    if not totals[0, 0]:
        raise DuologueError("there is no frame with a text token to compare on")
    counts = totals[:, 0].clamp(min=1)
    agreement, divergence = (totals[:, 1] / counts).tolist(), (totals[:, 2] / counts).tolist()
    return Distance(int(totals[0, 0]), *agreement, *divergence)


def self_talk(lm: MoshiLM, frames: int, *, pairs: int = 2, seed: int = 0) -> Iterator[Tensor]:
    """Conversations of a model with itself, int64 [2, 1 + n_q, frames] each: slots hear each
    other. A model that does not speak, or hears otherwise than it speaks, hears silence."""
    for pair in range(pairs):
        generator = lm.generator(2, seed=seed + 2 * pair)
        given, spoken = generator.given_q, generator.generated_q
        heard = torch.full((2, given, 1), ZERO_TOKEN)
        columns: list[Tensor] = []
        while len(columns) < frames:
            out = generator.step(heard)
            if bool(out.ready.all()):
                columns.append(torch.cat([out.text[:, None], out.audio, heard[..., 0]], dim=1))
                if given == spoken:
                    heard = out.audio.flip(0)[..., None]
        yield torch.stack(columns, dim=-1)


def recorded(folder: Path, lm: MoshiLM, tokenizer: Path, frames: int, count: int) -> list[Tensor]:
    """Held-out conversations of an encoded corpus (`duologue train` makes them), cut to length.

    What was looked up is left out: both models read without references.
    """
    from duologue.checkpoints.tokenizer import TextTokenizer
    from duologue.training.encoded import EncodedCorpus
    from duologue.training.lm_data import DuplexSampler, SequenceConfig

    corpus = EncodedCorpus(folder)
    if 2 * corpus.codebooks != lm.config.n_q:
        raise DuologueError(
            f"{folder} has {corpus.codebooks} codebooks a speaker, the model {lm.config.n_q} in all"
        )
    pieces = TextTokenizer(tokenizer)
    held_out = [one for one in corpus.conversations if one.is_dialogue and one.split != "train"]
    sampler = DuplexSampler(
        held_out or corpus.conversations, SequenceConfig(frames=frames), pieces,
        reference_tokenizer=pieces, seed=0, frame_rate=12.5,
    )  # fmt: skip
    return [sampler.batch(index, 1).codes for index in range(count)]
