"""What was said: samples with words and phones, and the cuts and joints that keep them together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duologue.synthesis import samples
from duologue.synthesis.engines.program import Pcm, Phone
from duologue.synthesis.samples import RATE


@dataclass(frozen=True)
class Word:
    """A word as written, with its times."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Utterance:
    """Speech of one voice: samples float32 [T] at 24 kHz; it starts and ends with speech."""

    samples: Pcm
    words: tuple[Word, ...]
    phones: tuple[Phone, ...]

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def join(first: Utterance, second: Utterance, pause_s: float) -> Utterance:
    """One utterance after the other."""
    return Utterance(
        np.concatenate([first.samples, samples.silence(pause_s), second.samples]),
        first.words + shift_words(second.words, first.seconds + pause_s),
        first.phones
        + shift_phones(second.phones, first.seconds + pause_s, first_word=len(first.words)),
    )


def shift_words(words: tuple[Word, ...], by_s: float) -> tuple[Word, ...]:
    return tuple(Word(word.text, word.start_s + by_s, word.end_s + by_s) for word in words)


def shift_phones(phones: tuple[Phone, ...], by_s: float, first_word: int) -> tuple[Phone, ...]:
    return tuple(
        Phone(
            phone.name,
            phone.start_s + by_s,
            phone.end_s + by_s,
            phone.word + first_word if phone.word >= 0 else -1,
        )
        for phone in phones
    )


def insert_pause(utterance: Utterance, after_words: int, seconds: float) -> Utterance:
    """Silence between two words of an utterance, with fades that hide the cut."""
    if not 0 < after_words < len(utterance.words):
        raise ValueError(f"no gap after {after_words} of {len(utterance.words)} words")
    before, after = utterance.words[after_words - 1], utterance.words[after_words]
    cut = round((before.end_s + after.start_s) / 2 * RATE)
    cut_s = cut / RATE
    added = samples.silence(seconds)
    moved_s = len(added) / RATE
    pcm = np.concatenate(
        [
            samples.fade(utterance.samples[:cut], 0.0),
            added,
            samples.fade(utterance.samples[cut:], end_s=0.0),
        ]
    )
    words = tuple(
        Word(
            word.text,
            word.start_s + (moved_s if place >= after_words else 0.0),
            min(word.end_s, cut_s) if place < after_words else word.end_s + moved_s,
        )
        for place, word in enumerate(utterance.words)
    )
    phones = tuple(
        Phone(
            phone.name,
            phone.start_s + (moved_s if phone.start_s >= cut_s else 0.0),
            phone.end_s + (moved_s if phone.end_s > cut_s and phone.start_s >= cut_s else 0.0),
            phone.word,
        )
        for phone in utterance.phones
    )
    return Utterance(pcm, words, phones)


def cut_short(utterance: Utterance, at_s: float, fade_s: float = 0.03) -> Utterance:
    """The utterance up to a time, with a fade; words that would begin later are dropped."""
    end = min(len(utterance.samples), max(1, round(at_s * RATE)))
    end_s = end / RATE
    words = tuple(
        Word(word.text, word.start_s, min(word.end_s, end_s))
        for word in utterance.words
        if word.start_s < end_s - fade_s
    )
    phones = tuple(
        Phone(phone.name, phone.start_s, min(phone.end_s, end_s), phone.word)
        for phone in utterance.phones
        if phone.start_s < end_s
    )
    return Utterance(samples.fade(utterance.samples[:end], 0.0, fade_s), words, phones)
