"""How loud a few samples are, without torch; the measure is that of `duologue.audio.levels`."""

from __future__ import annotations

import numpy as np

from duologue.client.events import Pcm

SILENCE_DB = -160.0
AUDIBLE_DB = -45.0
"""Mean power of a frame above which somebody is taken to speak."""


def level_db(pcm: Pcm) -> float:
    """Mean power in dB of full scale; -160 for silence and for no samples."""
    if not len(pcm):
        return SILENCE_DB
    return float(10 * np.log10(np.mean(np.square(pcm, dtype=np.float64)) + 1e-16))
