"""Duologue: real-time, full-duplex spoken dialogue with asynchronous knowledge retrieval."""

__version__ = "0.1.0"
