"""Streaming recognition of the user's speech, by a local model or by a service.

    ports.py       what the rest of the program relies on: Heard, Word, the two kinds of recogniser
    words.py       text tokens to words with times
    recogniser.py  the local model: batched, explicit state
    beam.py        several hypotheses of what is being said
    second_hearing.py   a question heard again, and what it may have been instead
    front_end.py   mel spectra and convolutions in place of a codec; front_end_file.py, on disk
    opening.py     which of all recognisers it is
    biasing.py     leaning towards a vocabulary
    load.py        from a folder to a recogniser
    offline.py     whole recordings
    remote/        services over websockets

Names are looked up on first use, so that importing this room loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duologue.stt.biasing import BiasWeights
    from duologue.stt.load import load_recogniser
    from duologue.stt.offline import transcribe
    from duologue.stt.ports import (
        Drawn,
        Heard,
        Link,
        LocalRecogniser,
        Notice,
        RemoteRecogniser,
        RemoteStream,
        Transcription,
        Word,
    )
    from duologue.stt.recogniser import Recogniser, RecogniserError, RecogniserState
    from duologue.stt.remote.settings import ServiceError, ServiceSettings, connect_service
    from duologue.stt.words import WordAssembler

_MODULES = {
    "biasing": ("BiasWeights",),
    "load": ("load_recogniser",),
    "offline": ("transcribe",),
    "ports": (
        "Drawn", "Heard", "Link", "LocalRecogniser", "Notice", "RemoteRecogniser", "RemoteStream",
        "Transcription", "Word",
    ),
    "recogniser": ("Recogniser", "RecogniserError", "RecogniserState"),
    "remote.settings": ("ServiceError", "ServiceSettings", "connect_service"),
    "words": ("WordAssembler",),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BiasWeights",
    "Drawn",
    "Heard",
    "Link",
    "LocalRecogniser",
    "Notice",
    "Recogniser",
    "RecogniserError",
    "RecogniserState",
    "RemoteRecogniser",
    "RemoteStream",
    "ServiceError",
    "ServiceSettings",
    "Transcription",
    "Word",
    "WordAssembler",
    "connect_service",
    "load_recogniser",
    "transcribe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
