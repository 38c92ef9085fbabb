"""Adapter files: low-rank updates of linear maps, fused into the weights on load.

Published files (moshi-finetune) name adapters after Kyutai's modules, `in_projs.0.lora_A.weight`
and so on; fused attention projections hold one adapter for each depth step below one another. Our
own training writes our names without `.weight`. Either may also hold whole tensors, such as
embeddings that were trained along: they replace the model's.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.kyutai_lm import lm_layout
from duologue.checkpoints.layout import Entry, Layout, Weights
from duologue.checkpoints.sources import SelectedSource
from duologue.checkpoints.tensorfile import TensorSource
from duologue.moshi.lm import MoshiLM
from duologue.nn.linear import Linear, QuantizedWeight

_FACTOR = re.compile(r"(?P<path>.+)\.lora_[AB](\.weight)?")


def fuse_adapter(
    weights: Weights,
    adapter: TensorSource,
    lm: MoshiLM,
    scaling: float,
    dtype: torch.dtype | None = None,
) -> Weights:
    """Weights with W + scaling * B A in place of W; `lm` may be on the meta device.

    Args:
        weights: the model's, by our names.
        dtype: of the sums, which are formed in float32; each weight's own when `None`.

    Raises:
        CheckpointError: a tensor of the adapter has no place in the model or does not fit, or the
            model is quantised.
    """
    layout = lm_layout(lm)
    expected = lm.state_dict()
    fused = dict(weights) | _whole_tensors(adapter, layout, expected)
    unused = {key for key in adapter if _FACTOR.fullmatch(key)}
    if not unused:
        raise CheckpointError(f"{adapter.name}: has no adapter (no ...lora_A, ...lora_B)")
    for name, module in lm.named_modules():
        if not isinstance(module, Linear):
            continue
        for entry in (Entry((f"{name}.weight",)), *layout.entries[f"{name}.weight"]):
            pair = _factors(adapter, entry)
            if pair is None:
                continue
            unused -= set(pair)
            base = fused[f"{name}.weight"]
            if isinstance(base, QuantizedWeight):
                raise CheckpointError(
                    f"{adapter.name}: {name} is quantised, and an adapter cannot be fused into "
                    "integer weights; use the model's bf16 files"
                )
            update = _update(adapter, entry, pair, base.shape)
            total = base.float() + scaling * update.to(base.device)
            fused[f"{name}.weight"] = total.to(dtype or base.dtype)
            break
    if unused:
        raise CheckpointError(f"{adapter.name}: {min(unused)} fits no linear map of the model")
    return fused


def _whole_tensors(adapter: TensorSource, layout: Layout, expected: dict[str, Tensor]) -> Weights:
    """Tensors that the file holds in full; one that is not the model's is an error."""
    whole = SelectedSource(adapter, lambda key: not _FACTOR.fullmatch(key))
    present = {
        ours: tensor
        for ours, tensor in expected.items()
        if any(all(key in whole for key in entry.keys) for entry in layout.entries[ours])
    }
    return layout.read(whole, present)


def _factors(adapter: TensorSource, entry: Entry) -> tuple[str, str] | None:
    """Keys of A and B for an entry's tensor, which is the weight of a module named likewise."""
    path = re.sub(r"[._]weight$", "", entry.keys[0])
    for leaf in (".weight", ""):
        keys = (f"{path}.lora_A{leaf}", f"{path}.lora_B{leaf}")
        missing = [key for key in keys if key not in adapter]
        if not missing:
            return keys
        if len(missing) == 1:
            raise CheckpointError(f"{adapter.name}: lacks {missing[0]}, the other half is there")
    return None


def _update(
    adapter: TensorSource, entry: Entry, keys: tuple[str, str], shape: torch.Size
) -> Tensor:
    down, up = (adapter[key].float() for key in keys)
    index, count = entry.block
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] % count or up.shape[0] % count:
        raise CheckpointError(
            f"{adapter.name}: {keys[0]} {tuple(down.shape)} and {keys[1]} {tuple(up.shape)} do not "
            f"split into {count}"
        )
    if count > 1:
        down, up = down.chunk(count)[index], up.chunk(count)[index]
    if up.shape[1] == down.shape[0]:
        update = up @ down
        update = update if entry.read is None else entry.read([update])
        if update.shape == shape:
            return update
    raise CheckpointError(
        f"{adapter.name}: {keys[0]} {tuple(down.shape)} and {keys[1]} {tuple(up.shape)} do not "
        f"make an update of shape {tuple(shape)}"
    )
