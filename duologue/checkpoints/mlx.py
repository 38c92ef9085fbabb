"""MLX files of the language models: bf16, 8 bit (groups of 64) and 4 bit (groups of 32).

A quantised matrix is three tensors: `weight`, uint32 words that hold a row's codes from the lowest
bits up, and `scales` and `biases`, one each for a group of columns: w = code * scale + bias. MLX
quantises embeddings too; they are widened. Its Mimi is Kyutai's file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.layout import Layout
from duologue.checkpoints.sliced import SliceSpelling, sliced_layout
from duologue.checkpoints.sources import SourceView
from duologue.checkpoints.tensorfile import TensorInfo, TensorSource
from duologue.moshi.lm import MoshiLM
from duologue.nn.linear import QuantizedWeight

_SPELLING = SliceSpelling(
    step="depformer.slices.{k}.",
    audio_embedding="audio_embs.{k}",
    in_proj="in_proj.weight",
    gain="weight",
    flat_gain=True,
)


def mlx_lm_layout(lm: MoshiLM) -> Layout:
    """Layout of `lm`; it may be on the meta device."""
    return sliced_layout(lm, _SPELLING)


class MLXSource(SourceView):
    """An MLX file, each quantised matrix as one tensor."""

    def __init__(self, inner: TensorSource, columns: Mapping[str, int]) -> None:
        """
        Args:
            columns: true width of each matrix by key; the file does not say how many bits a code
                has, so it takes the width to tell 4 from 8.
        """
        super().__init__(inner)
        self._columns = columns

    def __iter__(self) -> Iterator[str]:
        return (key for key in self.inner if not self._is_part(key))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, key: str) -> Tensor:
        quantized = self.quantized(key)
        return self.inner[key] if quantized is None else quantized.dequantize()

    def info(self, key: str) -> TensorInfo:
        info = self.inner.info(key)
        if not self._is_quantized(key):
            return info
        return TensorInfo((info.shape[0], info.shape[1] * 32 // self._bits(key)), torch.float32)

    def quantized(self, key: str) -> QuantizedWeight | None:
        if not self._is_quantized(key):
            return None
        bits = self._bits(key)
        parts = [self._part(key, part) for part in ("scales", "biases")]
        if parts[1] not in self.inner:
            raise CheckpointError(f"{self.name}: lacks {parts[1]}, which {key} needs")
        scales, biases = (self.inner[part] for part in parts)
        # On a little-endian machine the bytes of the words are the codes in order.
        codes = self.inner[key].contiguous().view(torch.uint8)
        try:
            return QuantizedWeight(codes, scales, biases, bits)
        except ValueError as error:
            raise CheckpointError(f"{self.name}: {key}: {error}") from error

    def _bits(self, key: str) -> int:
        info = self.inner.info(key)
        if len(info.shape) != 2 or info.dtype not in (torch.uint32, torch.int32):
            raise CheckpointError(
                f"{self.name}: {key} is {info.dtype} {info.shape}, expected a matrix of 32-bit "
                "words beside its scales"
            )
        columns = self._columns.get(key)
        bits, rest = divmod(32 * info.shape[1], columns) if columns else (0, 1)
        if rest or bits not in (4, 8):
            raise CheckpointError(
                f"{self.name}: {key} has rows of {info.shape[1]} words for {columns} columns; "
                "only 4 and 8 bits are supported"
            )
        return bits

    def _is_quantized(self, key: str) -> bool:
        return key.endswith(".weight") and self._part(key, "scales") in self.inner

    def _is_part(self, key: str) -> bool:
        stem, _, leaf = key.rpartition(".")
        return leaf in ("scales", "biases") and f"{stem}.scales" in self.inner

    @staticmethod
    def _part(key: str, part: str) -> str:
        return f"{key.removesuffix('weight')}{part}"
