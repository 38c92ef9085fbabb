"""Text to rows in one thread: tokenizer, reference encoder, the conditioner's projection.

Knows tensors and nothing of queues. A text fails alone: what is wrong with one never fails the
others of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from duologue.conditioning import ReferenceConditioner, ReferenceEncoder, ReferenceTokenizer
from duologue.encoder.ports import MAX_ROWS, EncoderError, TextRefused

MAX_BATCH_TOKENS = 4_096
"""Tokens of one forward pass, padding included."""


class RowModel:
    """See the module. Not safe for several threads at once."""

    def __init__(
        self,
        tokenizer: ReferenceTokenizer,
        encoder: ReferenceEncoder,
        conditioner: ReferenceConditioner,
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.conditioner = conditioner
        self._max_tokens = MAX_ROWS * encoder.config.pooling

    @property
    def dim(self) -> int:
        """Width of the rows: that of the language model."""
        return self.conditioner.output_proj.weight.shape[0]

    def encode(self, texts: Sequence[str]) -> list[Tensor | EncoderError]:
        """For each text float32 rows [n, dim] on the CPU, or why it has none."""
        results: dict[int, Tensor | EncoderError] = {}
        tokens: dict[int, list[int]] = {}
        for index, text in enumerate(texts):
            ids = self.tokenizer.encode(text)
            if not ids:
                results[index] = torch.zeros(1, self.dim)
            elif len(ids) > self._max_tokens:
                results[index] = TextRefused(
                    f"a reference of {len(ids)} tokens; at most {self._max_tokens} fit"
                )
            else:
                tokens[index] = ids
        for batch in _batches({index: len(ids) for index, ids in tokens.items()}):
            rows = self._encode_or_say([tokens[index] for index in batch])
            results |= zip(batch, rows, strict=True)
        return [results[index] for index in range(len(texts))]

    def _encode_or_say(self, batch: list[list[int]]) -> list[Tensor | EncoderError]:
        try:
            return [*self._forward(batch)]
        except Exception as error:
            if len(batch) > 1:
                return [result for ids in batch for result in self._encode_or_say([ids])]
            # The type only: a message may repeat what it was given.
            return [EncoderError(f"the encoder failed with {type(error).__name__}")]

    @torch.no_grad()
    def _forward(self, batch: list[list[int]]) -> list[Tensor]:
        vectors = self.encoder(batch)
        rows = self.conditioner(torch.cat(vectors)).float().cpu()
        if not bool(rows.isfinite().all()):
            raise FloatingPointError("rows that are not finite")
        return [part.clone() for part in rows.split([len(v) for v in vectors])]


def _batches(lengths: dict[int, int]) -> list[list[int]]:
    """Indexes by length, in batches of at most `MAX_BATCH_TOKENS` padded tokens each."""
    batches: list[list[int]] = []
    for index in sorted(lengths, key=lambda i: lengths[i]):
        # Ascending, so this text is the longest of the batch that it joins.
        if batches and (len(batches[-1]) + 1) * lengths[index] <= MAX_BATCH_TOKENS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
