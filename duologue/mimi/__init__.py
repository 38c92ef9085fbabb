"""Mimi, the streaming neural codec."""

from duologue.configuration import ConfigError
from duologue.mimi.codec import DecoderState, EncoderState, Mimi, MimiState
from duologue.mimi.config import MimiConfig

__all__ = ["ConfigError", "DecoderState", "EncoderState", "Mimi", "MimiConfig", "MimiState"]
