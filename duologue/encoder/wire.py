"""What the encoder service and its clients exchange, byte for byte as published.

A request is `{"text": ...}`; the answer is one safetensors blob without metadata, whose only entry
`tensor` is F32 [1, rows, dim]. `/spec` tells which conditioner the rows are of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from duologue.encoder.ports import MAX_ROWS, EncoderMalformed

ENTRY = "tensor"
BLOB_TYPE = "application/octet-stream"
HEALTH = {"status": "healthy", "service": "condition_encoder"}
MAX_HEADER_BYTES = 4_096
_WIDEST = 16_384
"""Width of the widest rows taken while the language model's width is not known."""


@dataclass(frozen=True)
class ServiceSpec:
    """Answer of `/spec` for the conditioner of references `name`, fused by streaming sum."""

    name: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "conditioner_name": self.name,
            "text_conditioners": [self.name],
            "tensor_conditioners": [],
            "fuser": {"sum": [], "cross": [], "prepend": [], "streaming_sum": [self.name]},
        }


def pack_rows(rows: Tensor) -> bytes:
    """Rows [n, dim] -> blob."""
    return safetensors.torch.save({ENTRY: rows.float()[None].contiguous()})


def unpack_rows(blob: bytes, dim: int | None) -> Tensor:
    """Blob -> rows [n, dim], finite; `dim` None takes any width.

    Raises:
        EncoderMalformed: says what the blob is instead.
    """
    try:
        tensors = safetensors.torch.load(blob)
    except (SafetensorError, ValueError, KeyError) as error:
        raise EncoderMalformed("the encoder service sent no safetensors blob") from error
    rows = tensors.get(ENTRY)
    if rows is None or len(tensors) != 1:
        raise EncoderMalformed(f"the encoder service sent a blob without just {ENTRY!r}")
    shape = list(rows.shape)
    if rows.dtype != torch.float32 or rows.dim() != 3 or shape[0] != 1 or shape[1] < 1:
        raise EncoderMalformed(
            f"the encoder service sent {rows.dtype} {shape}, expected float32 [1, rows, dim]"
        )
    if dim is not None and shape[2] != dim:
        raise EncoderMalformed(
            f"the encoder service sends rows of {shape[2]} values, this model takes {dim}; "
            "does it serve the encoder of another model?"
        )
    if shape[1] > MAX_ROWS:
        raise EncoderMalformed(f"the encoder service sent {shape[1]} rows; at most {MAX_ROWS} fit")
    if not bool(rows.isfinite().all()):
        raise EncoderMalformed("the encoder service sent values that are not finite")
    return rows[0]


def max_blob_bytes(dim: int | None) -> int:
    """Longest blob that can hold acceptable rows."""
    return 8 + MAX_HEADER_BYTES + 4 * MAX_ROWS * (dim or _WIDEST)
