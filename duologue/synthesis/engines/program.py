"""Finding and running the speech programs, and what they give back."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]

PACKAGES = {
    "flite": ("flite",),
    "espeak-ng": ("espeak-ng",),
    "festival": ("festival", "festvox-us-slt-hts", "festvox-kallpc16k", "festvox-kdlpc16k"),
}
"""The Debian packages behind each program, voices included."""
TIMEOUT_S = 20.0


class SynthesizerError(RuntimeError):
    """A speech program failed, gave nothing usable or did not end in time."""


class MissingProgramError(SynthesizerError):
    """A speech program, or one of its voices, is not installed; the text says how to get it."""


@dataclass(frozen=True)
class Phone:
    """A speech sound with its times; `word` counts the words of the text from 0, -1 is a pause."""

    name: str
    start_s: float
    end_s: float
    word: int


@dataclass(frozen=True)
class Speech:
    """What a program said: samples [T] at its own rate, and the phones where it tells them."""

    samples: Pcm
    sample_rate: int
    phones: tuple[Phone, ...] | None


@cache
def find(program: str) -> str:
    """Path of an installed program.

    Raises:
        MissingProgramError: with the line that installs it.
    """
    path = shutil.which(program)
    if path is None:
        raise MissingProgramError(
            f"{program} is not installed; on Debian or Ubuntu: "
            f"apt-get install {' '.join(PACKAGES[program])}"
        )
    return path


def run(program: str, *arguments: str, text: str | None = None) -> bytes:
    """Standard output of a run that must succeed within `TIMEOUT_S`."""
    command = [find(program), *arguments]
    try:
        done = subprocess.run(
            command,
            input=None if text is None else text.encode(),
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SynthesizerError(f"{program} did not end within {TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()[-300:]
        raise SynthesizerError(f"{program} ended with status {done.returncode}: {reason}")
    return done.stdout


def parse_wav(data: bytes, program: str) -> tuple[Pcm, int]:
    """Mono samples of a 16-bit WAV; sizes in the header of a pipe are not believed."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            if file.getnchannels() != 1 or file.getsampwidth() != 2:
                raise SynthesizerError(f"{program} gave something other than mono 16-bit audio")
            rate = file.getframerate()
            samples = np.frombuffer(file.readframes(len(data)), dtype="<i2")
    except (wave.Error, EOFError) as error:
        raise SynthesizerError(f"{program} gave no usable WAV: {error}") from error
    if not len(samples):
        raise SynthesizerError(f"{program} gave no sound")
    return samples.astype(np.float32) / 32768.0, rate
