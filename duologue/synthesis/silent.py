"""Words with plausible times and no sound: dialogues for what is learnt from text alone.

Speaking a dialogue takes a synthesizer a second; timing it takes this a millisecond, so a model can
see a new one, with names it has never met, in every sequence of its training.
"""

from __future__ import annotations

import numpy as np

from duologue.synthesis.draw import Draw
from duologue.synthesis.samples import RATE
from duologue.synthesis.utterance import Utterance, Word
from duologue.synthesis.voices import Voice

_LETTER_S, _SYLLABLE_S = 0.058, 0.044
"""Least-squares fit to word times of the synthesizers' speech; the residual is 0.09 s a word."""
_SHORTEST_S = 0.06
_TEMPO = (0.8, 1.2)
_JITTER = (0.75, 1.25)
_SENTENCE_PAUSE_S = (0.18, 0.42)
_VOWELS = frozenset("aeiouy")


class SilentSpeaker:
    """Has the method of `Speaker` that time lines need; its samples are zeros."""

    def say(self, text: str, voice: Voice) -> Utterance:
        """Time a text; the same for the same text and voice."""
        draw = Draw("silent", text, voice.id)
        tempo = draw.between(*_TEMPO)
        words: list[Word] = []
        now_s = 0.0
        for written in text.split():
            long_s = tempo * draw.between(*_JITTER) * _usual_s(written)
            words.append(Word(written, now_s, now_s + long_s))
            now_s += long_s
            if written[-1] in ".?!":
                now_s += draw.between(*_SENTENCE_PAUSE_S)
        end = round(words[-1].end_s * RATE)
        return Utterance(np.zeros(end, np.float32), tuple(words), ())


def _usual_s(word: str) -> float:
    letters = [letter for letter in word.lower() if letter.isalpha()]
    syllables = sum(
        letter in _VOWELS and (place == 0 or letters[place - 1] not in _VOWELS)
        for place, letter in enumerate(letters)
    )
    return max(_SHORTEST_S, _LETTER_S * len(letters) + _SYLLABLE_S * syllables)
