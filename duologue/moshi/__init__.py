"""Moshi-family language models: full-duplex dialogue, translation, recognition, synthesis."""

from duologue.configuration import ConfigError
from duologue.moshi.config import MOSHI_7B, LMConfig
from duologue.moshi.generator import Generator, GeneratorState, Guidance, StepHooks, StepOutput
from duologue.moshi.lm import LMOutput, MoshiLM
from duologue.moshi.sampling import Sampling

__all__ = [
    "MOSHI_7B",
    "ConfigError",
    "Generator",
    "GeneratorState",
    "Guidance",
    "LMConfig",
    "LMOutput",
    "MoshiLM",
    "Sampling",
    "StepHooks",
    "StepOutput",
]
