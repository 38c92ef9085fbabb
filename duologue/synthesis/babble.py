"""Other people talking: a fixed minute of overlapping speech, made once per process."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from duologue.synthesis.draw import Draw
from duologue.synthesis.engines.program import Pcm
from duologue.synthesis.samples import RATE
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.voices import Voice
from duologue.synthesis.writer.sentences import free_sentence

_SECONDS = 24
_TALKERS = ("en-us+m1", "en-gb+f2", "en-us+f3", "en-gb-x-rp+m2", "en-us+m5", "en-gb-scotland+f1")
_made: WeakKeyDictionary[Speaker, Pcm] = WeakKeyDictionary()


def babble(speaker: Speaker) -> Pcm:
    """Samples [T] of several people at once; always the same."""
    if speaker not in _made:
        _made[speaker] = _mix(speaker)
    return _made[speaker]


def _mix(speaker: Speaker) -> Pcm:
    mixed = np.zeros(_SECONDS * RATE, np.float32)
    for name in _TALKERS:
        draw = Draw("babble", name)
        voice = Voice("espeak-ng", name.split("+")[1], name)
        place = 0
        while place < len(mixed):
            pcm = speaker.say(free_sentence(draw, "train"), voice).samples
            end = min(len(mixed), place + len(pcm))
            mixed[place:end] += pcm[: end - place]
            place = end + round(draw.between(0.1, 0.6) * RATE)
    return mixed
