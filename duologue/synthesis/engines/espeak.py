"""espeak-ng: many synthetic speakers and accents, quick, without times (see `align.py`)."""

from __future__ import annotations

import math

from duologue.synthesis.engines.program import Speech, parse_wav, run

_NATURAL_WORDS_PER_MINUTE = 165.0
_NATURAL_PITCH = 50.0
_PITCH_STEPS_PER_OCTAVE = 74.0


def speak(text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
    """Say a text with a voice such as `en-us+f2`; rate and pitch are relative to its own."""
    steps = _NATURAL_PITCH + _PITCH_STEPS_PER_OCTAVE * math.log2(pitch)
    samples, sample_rate = parse_wav(
        run(
            "espeak-ng",
            *("-v", voice, "-b", "1", "--stdout"),
            *("-s", str(round(min(max(_NATURAL_WORDS_PER_MINUTE * rate, 80), 400)))),
            *("-p", str(round(min(max(steps, 0), 99)))),
            "--stdin",
            text=text,
        ),
        "espeak-ng",
    )
    return Speech(samples, sample_rate, None)
