"""A front end's weights beside the recogniser's (`front_end.safetensors`); its shape stands in the
folder's `stt_config`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from duologue.checkpoints.duologue_format import FORMAT, DuologueSource, identity_layout
from duologue.checkpoints.save import write_tensors
from duologue.checkpoints.tensorfile import open_tensors
from duologue.nn.linear import QuantizedWeight
from duologue.stt.front_end import MelFrontEnd, MelFrontEndConfig

KEY, NAME = "front_end", "front_end.safetensors"


def load_front_end(path: Path, config: MelFrontEndConfig, device: torch.device) -> MelFrontEnd:
    """Load a front end, which computes in float32.

    Raises:
        CheckpointError: names the file and tensor, and what is wrong.
    """
    with torch.device("meta"):
        front_end = MelFrontEnd(config)
    source = DuologueSource(open_tensors(path))
    weights = identity_layout(front_end).read(source, front_end.state_dict())
    front_end.load_state_dict(
        {
            name: (weight.dequantize() if isinstance(weight, QuantizedWeight) else weight).to(
                device=device, dtype=torch.float32, copy=True
            )
            for name, weight in weights.items()
        },
        assign=True,
    )
    return front_end.eval().requires_grad_(False)


def save_front_end(path: Path, front_end: MelFrontEnd, dtype: torch.dtype | None = None) -> None:
    """Write the weights, narrowed to `dtype` if one is given."""
    weights = front_end.state_dict()
    write_tensors(path, {n: w.to(dtype or w.dtype) for n, w in weights.items()}, {"format": FORMAT})
