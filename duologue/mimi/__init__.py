"""Mimi, the streaming neural codec."""

from duologue.mimi.codec import DecoderState, EncoderState, Mimi, MimiState
from duologue.mimi.config import ConfigError, MimiConfig

__all__ = ["ConfigError", "DecoderState", "EncoderState", "Mimi", "MimiConfig", "MimiState"]
