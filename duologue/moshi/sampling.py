"""Drawing tokens, reproducibly for each slot.

The randomness of a draw is a hash of (the slot's seed, its frame, the stream, the token): no
generator is carried along, so a slot draws the same tokens in whatever batch it runs, from a
snapshot, in a replay or in a captured graph. A draw is the argmax of logits / temperature plus
Gumbel noise, which needs neither a softmax nor a host synchronisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Sampling:
    """How to draw. Temperature 0 takes the most likely token; `top_k` 0 keeps all tokens."""

    temperature: float = 0.8
    top_k: int = 250
    pooled_from: int = 0
    """From this token on, all are drawn as one: the likeliest of them, with the probability of all.
    So whether to say something is drawn apart from what to say. 0: each token for itself."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: {self.temperature} is not a number from 0 on")
        if self.top_k < 0:
            raise ValueError(f"top_k: {self.top_k} is negative")
        if self.pooled_from < 0:
            raise ValueError(f"pooled_from: {self.pooled_from} is negative")


AUDIO_SAMPLING = Sampling(0.8, 250)
"""Published defaults for audio."""
TEXT_SAMPLING = Sampling(0.7, 25)
"""Published defaults for text."""
GREEDY = Sampling(0.0, 0)
MAX_QUOTING = 20.0


@dataclass(frozen=True)
class GenerationDefaults:
    """How a model draws unless its caller says otherwise (`lm_gen_config` of a checkpoint)."""

    text: Sampling = TEXT_SAMPLING
    audio: Sampling = AUDIO_SAMPLING
    generated_q: int | None = None
    """Codebooks to generate, when that is fewer than the model can."""
    quoting: float = 0.0
    """Of what is said (`Sampling.pooled_from`), the piece that goes on with a looked-up text is
    chosen as if it were up to e^quoting times as likely. At most `MAX_QUOTING`; 0 for none."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.quoting <= MAX_QUOTING:
            raise ValueError(f"quoting: {self.quoting} is not a number from 0 to {MAX_QUOTING}")


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    seed: Tensor,
    frame: Tensor,
    stream: int,
    *,
    widest: int,
) -> Tensor:
    """Draw one token for each slot.

    Args:
        logits: [B, card].
        temperature: [B] float; slots at 0 take the argmax.
        top_k: [B] int; slots at 0 keep all tokens.
        seed: [B] int64.
        frame: [B] int64, the slot's own frame number.
        stream: 0 for text, 1 + k for codebook k.
        widest: most tokens that any slot keeps (a host number, so that shapes are known); 0 for
            all, and 1 only if all slots are greedy.
    """
    logits = logits.float()
    if widest == 1:
        return logits.argmax(dim=-1)
    card = logits.shape[-1]
    kept = card if widest == 0 else min(widest, card)
    values, tokens = logits.topk(kept, dim=-1)
    rank = torch.arange(kept, device=logits.device)
    limit = torch.where(top_k > 0, top_k, card)
    # Greedy slots keep the best token alone, and a temperature that divides nothing by zero.
    limit = torch.where(temperature > 0, limit, 1)[:, None]
    scale = torch.where(temperature > 0, temperature, 1.0)[:, None]
    noise = gumbel(seed, frame, stream, tokens)
    scores = torch.where(rank < limit, values / scale + noise, float("-inf"))
    return tokens.gather(-1, scores.argmax(dim=-1, keepdim=True))[:, 0]


def pooled(
    logits: Tensor, first: Tensor, favoured: Tensor | None = None, favour: Tensor | None = None
) -> Tensor:
    """Logits [B, card] with the tokens from `first` int64 [B] on as one (see `Sampling`).

    Slots whose `first` is 0, or past the last token, keep theirs. Which of the tokens it is that
    stands for all is chosen as if the logit of `favoured` int64 [B] were greater by `favour` [B].
    """
    logits = logits.float()
    token = torch.arange(logits.shape[-1], device=logits.device)
    inside = (token >= first[:, None]) & (first > 0)[:, None]
    members = torch.where(inside, logits, float("-inf"))
    together = torch.logsumexp(members, dim=-1, keepdim=True)
    if favoured is not None and favour is not None:
        members = torch.where(token == favoured[:, None], members + favour[:, None], members)
    best = (token == members.argmax(dim=-1, keepdim=True)) & inside
    return torch.where(best, together, torch.where(inside, float("-inf"), logits))


def gumbel(seed: Tensor, frame: Tensor, stream: int, tokens: Tensor) -> Tensor:
    """Gumbel noise for `tokens` [B, n] of slots with `seed` and `frame` [B] -> float32 [B, n]."""
    key = _mix(_mix(_mix(seed & _MASK32) ^ (seed >> 32 & _MASK32)) ^ (frame & _MASK32))
    key = _mix(key ^ (stream * 0x9E3779B1 & _MASK32))
    bits = _mix(_mix(key[:, None] ^ tokens) ^ 0x85EBCA6B)
    # 24 bits fill a float32 exactly; the half keeps the uniform off 0, and off 1 all but the
    # greatest, to which float32 cannot add it.
    uniform = (((bits >> 8).float() + 0.5) * 2.0**-24).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log(uniform))


def _mix(x: Tensor) -> Tensor:
    """Bijective 32-bit mixing (xor-shift and odd multiplications) on int64 lanes."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK32
    return x ^ (x >> 16)
