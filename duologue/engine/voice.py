"""Prompts: voices from recordings or files, and roles."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.audio.loudness import normalise_loudness
from duologue.engine.duplex import MismatchError
from duologue.engine.slots import SlotPrompt
from duologue.mimi.codec import Mimi
from duologue.moshi.prompt import Prompt, SavedVoice, tagged_role

if TYPE_CHECKING:
    from duologue.engine.model import LoadedModel

VOICE_LUFS = -24.0
"""Loudness that PersonaPlex gives voice samples."""
TONE_HZ = 440.0
"""What the user's stream carries during a prompt, at half amplitude."""


def voice_codes(codec: Mimi, pcm: NDArray[np.float32], num_codebooks: int) -> Tensor:
    """Codes int64 [K, frames] of a voice sample [T] at the codec's rate, brought to VOICE_LUFS.

    The last frame is filled up with silence.
    """
    level = torch.from_numpy(normalise_loudness(pcm, codec.sample_rate, VOICE_LUFS))
    device = next(codec.parameters()).device
    return codec.encode(level.to(device)[None, None], num_codebooks=num_codebooks)[0]


def frame_codes(codec: Mimi, pcm: Tensor, num_codebooks: int, settle_frames: int = 25) -> Tensor:
    """Codes int64 [K] that a steady sound [frame_size] has once the codec has settled on it."""
    state = codec.init_encoder_state(1)
    for _ in range(settle_frames):
        codes = codec.encode_step(pcm[None, None], state, num_codebooks=num_codebooks)
    return codes[0, :, 0]


def load_prompt(model: LoadedModel, voice: Path | None, role: str | None) -> SlotPrompt | None:
    """What a conversation with this voice (a recording, or a saved voice) and role starts with.

    Raises:
        DuologueError: the file is no voice, or a role is given and the model has no tokenizer.
    """
    if voice is None and not role:
        return None
    if role and model.tokenizer is None:
        raise MismatchError("a role needs the model's tokenizer file, which is not there")
    codec, books = model.codec, generated_codebooks(model)
    silence, tone = _silence_and_tone(codec, books)
    prompt = Prompt(
        voice=None if voice is None else _read_voice(codec, voice, books),
        role=model.tokenizer.encode(tagged_role(role)) if model.tokenizer and role else (),
        silence=silence,
        tone=tone,
    )
    name = ""
    if voice is not None:
        stat = voice.stat()
        name = f"{voice.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return SlotPrompt(f"{name}\n{role or ''}", prompt)


def generated_codebooks(model: LoadedModel) -> int:
    """Codebooks that the model speaks with."""
    chosen = model.lm.defaults.generated_q
    return model.lm.config.dep_q if chosen is None else chosen


@lru_cache(maxsize=2)
def _silence_and_tone(codec: Mimi, books: int) -> tuple[Tensor, Tensor]:
    device = next(codec.parameters()).device
    at = torch.arange(codec.frame_size, device=device) / codec.sample_rate
    sounds = (torch.zeros_like(at), 0.5 * torch.sin(2 * torch.pi * TONE_HZ * at))
    silence, tone = (frame_codes(codec, sound, books) for sound in sounds)
    return silence, tone


def _read_voice(codec: Mimi, path: Path, books: int) -> Tensor | SavedVoice:
    from duologue.audio import read_audio
    from duologue.checkpoints.voices import load_voice

    if path.suffix not in (".pt", ".pth", ".safetensors"):
        return voice_codes(codec, read_audio(path, codec.sample_rate), books)
    saved = load_voice(path)
    if saved.codes is not None:
        return saved.codes
    assert saved.embeddings is not None
    assert saved.cache is not None
    return SavedVoice(saved.embeddings, saved.cache)
