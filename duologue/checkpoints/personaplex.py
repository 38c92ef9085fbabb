"""PersonaPlex: Moshi 7B whose depth transformer predicts the user's codes too.

Twice as many depth steps as Moshi. A checkpoint may hold only the first half of their weights; the
published loader then starts the second half as a copy of the first, and so does ours, but only
where the model is said to be PersonaPlex: for any other model a missing weight stays an error.
Facts: spec of NVIDIA's release (arXiv 2602.06053).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duologue.checkpoints.folder import FolderConfig
from duologue.checkpoints.sources import SourceView
from duologue.checkpoints.tensorfile import TensorInfo, TensorSource
from duologue.moshi.config import LMConfig
from duologue.moshi.presets import PRESETS
from duologue.nn.linear import QuantizedWeight

_PER_STEP = re.compile(
    r"(?P<stem>(?:linears|depformer_in|depformer_emb"
    r"|depformer\.layers\.\d+\.(?:gating|self_attn\.(?:in|out)_projs))\.)(?P<step>\d+)(?P<leaf>\..+)"
)
_FUSED = re.compile(r"depformer\.layers\.\d+\.self_attn\.(?P<side>in|out)_proj[._]weight")


def folder_config(values: Mapping[str, Any], path: Path) -> FolderConfig | None:
    """Configuration of a PersonaPlex folder whose `config.json` leaves the model's shape out."""
    if "dim" in values or "hidden_size" in values:
        return None
    named = "personaplex" in str(values.get("model_type", "")).lower()
    if not named and not (path / "voices").is_dir() and not (path / "voices.tgz").is_file():
        return None
    return FolderConfig(PRESETS["personaplex-7b"], model_type="personaplex", generated_q=8)


def lacks_second_half(source: TensorSource, config: LMConfig) -> bool:
    """Whether a file in Kyutai's layout has depth weights for just half of the steps."""
    half, odd = divmod(config.dep_q, 2)
    return (
        half > 0
        and not odd
        and f"linears.{half - 1}.weight" in source
        and f"linears.{half}.weight" not in source
    )


def expand_depformer(source: TensorSource, config: LMConfig) -> TensorSource:
    """Fill the depth weights that `source` lacks for the second half of the steps."""
    return _ExpandedDepth(source, config)


class _ExpandedDepth(SourceView):
    """Step k + n / 2 has the weights of step k where the file has none for it.

    The embedding that the first step of the second half reads (the agent's last codebook) has no
    counterpart in the first half, where a step reads text; it is zero.
    """

    def __init__(self, inner: TensorSource, config: LMConfig) -> None:
        super().__init__(inner)
        self._half = config.dep_q // 2
        width = config.depformer_dim
        self._fused_rows = {"in": 3 * width * config.dep_q, "out": width * config.dep_q}
        self._copied: dict[str, str] = {}
        for key in inner:
            match = _PER_STEP.fullmatch(key)
            if match and int(match["step"]) < self._half:
                later = f"{match['stem']}{int(match['step']) + self._half}{match['leaf']}"
                if later not in inner:
                    self._copied[later] = key
        self._zero = f"depformer_emb.{self._half - 1}.weight"
        self._like = "depformer_emb.0.weight"
        self._has_zero = self._zero not in inner and self._like in inner
        # The last step's code is no later step's input.
        self._copied.pop(f"depformer_emb.{config.dep_q - 1}.weight", None)

    def __iter__(self) -> Iterator[str]:
        yield from self.inner
        yield from self._copied
        if self._has_zero:
            yield self._zero

    def __contains__(self, key: object) -> bool:
        return key in self.inner or key in self._copied or self._is_zero(key)

    def __len__(self) -> int:
        return len(self.inner) + len(self._copied) + self._has_zero

    def __getitem__(self, key: str) -> Tensor:
        if self._is_zero(key):
            return torch.zeros_like(self.inner[self._like])
        tensor = self.inner[self._copied.get(key, key)]
        return torch.cat([tensor, tensor]) if self._is_half(key) else tensor

    def info(self, key: str) -> TensorInfo:
        if self._is_zero(key):
            return self.inner.info(self._like)
        info = self.inner.info(self._copied.get(key, key))
        if self._is_half(key):
            return TensorInfo((2 * info.shape[0], *info.shape[1:]), info.dtype)
        return info

    def quantized(self, key: str) -> QuantizedWeight | None:
        weight = None if self._is_zero(key) else self.inner.quantized(self._copied.get(key, key))
        if weight is None or not self._is_half(key):
            return weight
        offsets = None if weight.offsets is None else torch.cat([weight.offsets] * 2)
        return QuantizedWeight(
            torch.cat([weight.codes] * 2), torch.cat([weight.scales] * 2), offsets, weight.bits
        )

    def _is_zero(self, key: object) -> bool:
        return self._has_zero and key == self._zero

    def _is_half(self, key: str) -> bool:
        match = _FUSED.fullmatch(key)
        return (
            match is not None
            and 2 * self.inner.info(key).shape[0] == self._fused_rows[match["side"]]
        )
