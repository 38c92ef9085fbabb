"""The language model: embeddings, temporal stack, depth stack, heads. Weights and arithmetic only.

Who feeds which token when, delays included, is the business of `duologue.moshi.generator`; the
whole-sequence pass used to train and score is `MoshiLM.forward`. Source: Moshi paper
(arXiv 2410.00037) section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from duologue.conditioning.provider import ConditionProvider
from duologue.moshi.config import LMConfig
from duologue.moshi.depth import DepthTransformer
from duologue.moshi.embedding import TokenEmbedding
from duologue.moshi.sampling import GenerationDefaults
from duologue.nn.linear import Linear, PerStep
from duologue.nn.norm import build_norm
from duologue.nn.transformer import Transformer, TransformerState

if TYPE_CHECKING:
    from duologue.moshi.generator import FrameRunner, Generator


@dataclass(frozen=True)
class Reading:
    """What reading one token column gives; rows of inactive slots mean nothing."""

    text_logits: Tensor
    """[B, text classes]"""
    extra_heads: list[Tensor]
    """Softmax of each, [B, extra_heads_dim]."""
    z: Tensor
    """[B, dim]: what both are made from."""


Reader = Callable[[Tensor, TransformerState, Tensor | None, Tensor | None], Reading]
"""Called like `MoshiLM.read`."""


@dataclass(frozen=True)
class LMOutput:
    """Predictions of a whole-sequence pass, delays undone, beside the codes they predict."""

    text_logits: Tensor
    """[B, 1, T, text classes]"""
    text_mask: Tensor
    """bool [B, 1, T], where there is a target and a prediction for it."""
    logits: Tensor
    """[B, dep_q, T, card]"""
    mask: Tensor
    """bool [B, dep_q, T]"""


class MoshiLM(nn.Module):
    """A Moshi-family model; member names are those of the published checkpoints."""

    def __init__(self, config: LMConfig, conditions: ConditionProvider | None = None) -> None:
        super().__init__()
        self.config = config
        dim, depth_dim = config.dim, config.depformer_dim
        self.text_emb = TokenEmbedding(
            config.text_card + 1, dim, multiplexed=config.demux_second_stream
        )
        self.emb = nn.ModuleList(TokenEmbedding(config.card + 1, dim) for _ in range(config.n_q))
        self.transformer = Transformer(config.temporal)
        self.out_norm = build_norm(config.norm, dim)
        self.text_linear = Linear(dim, config.text_classes)
        self.extra_heads = nn.ModuleList(
            Linear(dim, config.extra_heads_dim) for _ in range(config.extra_heads_num_heads)
        )
        if config.dep_q:
            rank = config.depformer_low_rank_embeddings
            self.depformer_in = PerStep(config.depth_input_schedule, lambda: Linear(dim, depth_dim))
            self.depformer_text_emb = TokenEmbedding(
                config.text_card + 1, depth_dim, rank, multiplexed=config.demux_second_stream
            )
            self.depformer_emb = nn.ModuleList(
                TokenEmbedding(config.card + 1, depth_dim, rank) for _ in range(config.dep_q - 1)
            )
            self.depformer = DepthTransformer(config)
            self.depformer_norms = nn.ModuleList(
                build_norm(config.depformer_norm, depth_dim) if config.depformer_norm
                else nn.Identity()
                for _ in range(config.dep_q)
            )  # fmt: skip
            self.linears = nn.ModuleList(
                Linear(depth_dim, config.card) for _ in range(config.dep_q)
            )
        if config.heard_dim is not None:
            self.hearing = Linear(config.heard_dim, dim)
            # What a recogniser tells counts for nothing until that is learnt.
            nn.init.zeros_(self.hearing.weight)
        self.condition_provider = conditions or ConditionProvider.none(dim)
        self.defaults = GenerationDefaults()
        self.make_runner: Callable[[Generator], FrameRunner | None] | None = None
        """Gives a generator another way to run its frames; set by who loads the model."""
        self.make_reader: Callable[[MoshiLM], Reader | None] | None = None
        """Likewise for those who read token columns themselves, with `reader`."""

    @property
    def device(self) -> torch.device:
        return self.text_emb.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text_emb.weight.dtype

    def generator(self, batch_size: int, **options: Any) -> Generator:
        """Start `batch_size` streams of generation; options as for `Generator`."""
        from duologue.moshi.generator import Generator

        return Generator(self, batch_size, **options)

    def embed(self, column: Tensor) -> Tensor:
        """Token columns [B, 1 + n_q, T] -> [B, T, dim]; the token -1 adds nothing."""
        x = self.text_emb(column[:, 0])
        for k, embedding in enumerate(self.emb):
            x = x + embedding(column[:, 1 + k])
        return x

    def reader(self) -> Reader:
        """What reads token columns, one step at a time: `read`, or another way to do the same."""
        other = None if self.make_reader is None else self.make_reader(self)
        return self.read if other is None else other

    @torch.no_grad()
    def read(
        self,
        column: Tensor,
        state: TransformerState,
        active: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Reading:
        """Continue each slot by one token column.

        Args:
            column: int64 [B, 1 + n_q].
            condition: [B or 1, 1, dim], added to the input.
        """
        x = self.embed(column[..., None])
        if condition is not None:
            x = x + condition.to(x.dtype)
        z, logits = self.head(self.transformer.step(x, state, active)[:, 0])
        return Reading(logits, self.extra(z), z)

    def code_tables(self) -> list[TokenEmbedding]:
        """Embeddings of the audio rows, in order."""
        return [table for table in self.emb if isinstance(table, TokenEmbedding)]

    def head(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Temporal output [..., dim] -> (normalised [..., dim], text logits [..., classes])."""
        z = self.out_norm(z)
        return z, self.text_linear(z)

    def extra(self, z: Tensor) -> list[Tensor]:
        """Softmax of each extra head on the normalised vector, [..., extra_heads_dim] each."""
        return [torch.softmax(head(z).float(), dim=-1) for head in self.extra_heads]

    def depth_step(self, z: Tensor, previous: Tensor, k: int, scratch: Tensor) -> Tensor:
        """Logits of codebook `k`.

        Args:
            z: normalised temporal vector [B, dim].
            previous: int64 [B], the text token for k = 0, else the code of codebook k - 1.
            scratch: this frame's keys and values, from `self.depformer.scratch`.
        Returns:
            [B, card]
        """
        embedding = self.depformer_text_emb if k == 0 else self.depformer_emb[k - 1]
        x = (self.depformer_in.at(k)(z) + embedding(previous))[:, None]
        x = self.depformer.step(x, k, scratch)
        return self.linears[k](self.depformer_norms[k](x[:, 0]))

    def forward(
        self, codes: Tensor, condition: Tensor | None = None, cross: Tensor | None = None
    ) -> LMOutput:
        """Predict each token of whole sequences from what comes before it.

        Args:
            codes: int64 [B, 1 + n_q, T] without delays; -1 where there is no target.
            condition: added to each input, [B, 1, dim] or [B, T, dim].
            cross: attended to by each layer, [B, S, dim].
        """
        delayed = self._delayed(codes)
        x = self.embed(delayed[..., :-1])
        if condition is not None:
            x = x + condition.to(x.dtype)
        z, text_logits = self.head(self.transformer(x, cross))
        logits = self.depth_logits(z, delayed[..., 1:])
        text, text_mask = self._undelay(text_logits[:, None], codes[:, :1], first_row=0)
        audio, mask = self._undelay(logits, codes[:, 1 : 1 + self.config.dep_q], first_row=1)
        return LMOutput(text, text_mask, audio, mask)

    def depth_logits(self, z: Tensor, target: Tensor) -> Tensor:
        """Audio logits of whole sequences, the target column's earlier rows given.

        Args:
            z: normalised temporal vectors [B, T, dim].
            target: delayed target columns [B, 1 + n_q, T].
        Returns:
            [B, dep_q, T, card]
        """
        batch, length = z.shape[:2]
        if not self.config.dep_q:
            return z.new_zeros(batch, 0, length, self.config.card)
        inputs = [
            self.depformer_in.at(k)(z)
            + (self.depformer_text_emb if k == 0 else self.depformer_emb[k - 1])(target[:, k])
            for k in range(self.config.dep_q)
        ]
        y = self.depformer(torch.stack(inputs).flatten(1, 2))
        logits = [
            linear(norm(of_step))
            for norm, linear, of_step in zip(self.depformer_norms, self.linears, y, strict=True)
        ]
        return torch.stack(logits, dim=0).unflatten(1, (batch, length)).transpose(0, 1)

    def _delayed(self, codes: Tensor) -> Tensor:
        """One initial column, then each row shifted right by its delay: [B, 1 + n_q, T + 1]."""
        config = self.config
        out = torch.empty(
            (*codes.shape[:2], codes.shape[2] + 1), dtype=codes.dtype, device=codes.device
        )
        for row, delay in enumerate(config.delays):
            shift = min(delay, codes.shape[2])
            out[:, row, : shift + 1] = config.text_initial if row == 0 else config.audio_initial
            out[:, row, shift + 1 :] = codes[:, row, : codes.shape[2] - shift]
        return out

    def _undelay(self, logits: Tensor, codes: Tensor, first_row: int) -> tuple[Tensor, Tensor]:
        """Shift logits [B, K, T, card] left by their delays; the tail is NaN and masked out."""
        out = torch.full_like(logits, float("nan"))
        mask = codes != -1
        length = logits.shape[2]
        for row in range(logits.shape[1]):
            delay = min(self.config.delays[first_row + row], length)
            out[:, row, : length - delay] = logits[:, row, delay:]
            mask[:, row, length - delay :] = False
        return out, mask
