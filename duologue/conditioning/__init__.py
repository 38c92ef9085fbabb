"""Conditions of a conversation, and the encoder that turns a reference text into vectors."""

from duologue.conditioning.provider import (
    Attributes,
    ConditionError,
    ConditionProvider,
    FusedConditions,
    FuserConfig,
)
from duologue.conditioning.reference import (
    ReferenceConditioner,
    ReferenceConfig,
    ReferenceEncoder,
    ReferenceTokenizer,
)

__all__ = [
    "Attributes",
    "ConditionError",
    "ConditionProvider",
    "FusedConditions",
    "FuserConfig",
    "ReferenceConditioner",
    "ReferenceConfig",
    "ReferenceEncoder",
    "ReferenceTokenizer",
]
