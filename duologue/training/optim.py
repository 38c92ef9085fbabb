"""Parameter groups, the learning-rate schedule, and the running average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule: linear warm-up, a plateau, and a linear way down at the end.

    The plateau makes a run extensible: raising the number of steps before the decay has begun
    changes nothing of what was done.
    """

    lr: float = 8e-4
    betas: tuple[float, float] = (0.8, 0.95)
    weight_decay: float = 0.01
    """Of matrices in the layers of transformers; other weights are not decayed."""
    warmup_steps: int = 200
    decay_steps: int = 0
    final_ratio: float = 0.05
    clip_norm: float = 1.0
    relative_to: float = 0.0
    """Root mean square of first weights for which `lr` is meant; tensors with larger or smaller
    ones learn faster or slower by as much. 0 gives all tensors the same rate."""

    def scale_at(self, step: int, total: int) -> float:
        """Factor on `lr` for the step with this number, counted from 0."""
        factor = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        left = total - step
        if self.decay_steps and left < self.decay_steps:
            factor *= self.final_ratio + (1 - self.final_ratio) * left / self.decay_steps
        return factor


def build_optimizer(modules: Iterable[nn.Module], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; only matrices in transformers' layers are decayed.

    Groups carry their parameters' names, under which checkpoints hold the optimiser's memory.
    """
    groups: dict[tuple[float, float], dict[str, nn.Parameter]] = {}
    for index, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                decayed = ".layers." in f".{name}" and parameter.dim() == 2
                decay = config.weight_decay if decayed else 0.0
                group = groups.setdefault((decay, _rate(parameter, config)), {})
                group[f"{index}.{name}"] = parameter
    kinds = {p.device.type for named in groups.values() for p in named.values()}
    return torch.optim.AdamW(
        [
            {
                "params": list(named.values()),
                "names": list(named),
                "weight_decay": decay,
                "rate": rate,
            }
            for (decay, rate), named in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
        fused=kinds <= {"cpu", "cuda"},
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups, each by its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


def _rate(parameter: Tensor, config: OptimizerConfig) -> float:
    """Factor on the learning rate of a tensor; a power of two, so that there are few groups."""
    if not config.relative_to or parameter.dim() < 2:
        return 1.0
    size = float(parameter.detach().square().mean().sqrt()) / config.relative_to
    return 2.0 ** round(math.log2(min(max(size, 1 / 16), 16)))


class WeightAverage:
    """Exponential running average of parameters, kept in float32 on their device."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone().float() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after the step with this number; early on, average over less."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [p.detach().float() for _, p in module.named_parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite a module's parameters with the average."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.tensors[name])
