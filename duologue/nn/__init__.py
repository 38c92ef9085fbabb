"""Streaming primitives: layers whose state is an explicit tree of tensors with a slot dimension.

Each stateful layer offers the same three calls. `forward(x)` treats whole signals; `init_state(n)`
makes the state of n slots; `step(x, state, active)` treats the next piece of each active slot and
updates the state in place. A run of steps gives what `forward` gives, at any chunking. This room
knows no model.
"""

from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from duologue.nn.linear import (
    Linear,
    LoRALinear,
    PerStep,
    QuantizedLinear,
    QuantizedWeight,
    add_lora,
    fuse_lora,
)
from duologue.nn.norm import LayerScale, RMSNorm
from duologue.nn.state import State, StateError, assign_active, tensor_field
from duologue.nn.transformer import Transformer, TransformerConfig, TransformerState

__all__ = [
    "CausalConv1d",
    "CausalConvTranspose1d",
    "LayerScale",
    "Linear",
    "LoRALinear",
    "PerStep",
    "QuantizedLinear",
    "QuantizedWeight",
    "RMSNorm",
    "State",
    "StateError",
    "Transformer",
    "TransformerConfig",
    "TransformerState",
    "add_lora",
    "assign_active",
    "fuse_lora",
    "tensor_field",
]
