"""Text in, speech out: samples at 24 kHz, words with times, phones with times.

    speaker = Speaker()
    utterance = speaker.say("The capital of France is Lyon.", WREN)

A text is spoken sentence by sentence; sentences are remembered, in memory and, if asked, on disk.
The result depends on text and voice alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from duologue.synthesis import align, samples
from duologue.synthesis.draw import Draw
from duologue.synthesis.engines import espeak, festival, flite
from duologue.synthesis.engines.program import Pcm, Phone, Speech, SynthesizerError
from duologue.synthesis.samples import RATE
from duologue.synthesis.utterance import Utterance, Word, join
from duologue.synthesis.voices import FLITE_PITCH_HZ, Voice

LEVEL = 0.07
"""Level (active root mean square) of every utterance, about -23 dB of full scale."""
_PEAK = 0.95
_LEAD_IN_S, _LEAD_OUT_S = 0.01, 0.04
"""Kept before the first and after the last phone."""
_SENTENCE_PAUSE_S = (0.18, 0.42)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


class Speaker:
    """Says texts in voices.

    Args:
        remember: sentences kept in memory.
        folder: where sentences are kept on disk; None keeps none.
    """

    def __init__(self, remember: int = 400, folder: Path | None = None) -> None:
        self._remember = remember
        self._folder = folder
        self._known: OrderedDict[tuple[str, Voice], Utterance] = OrderedDict()

    def say(self, text: str, voice: Voice) -> Utterance:
        """Raises: SynthesizerError."""
        sentences = [part for part in _SENTENCE_END.split(text.strip()) if part]
        if not sentences:
            raise SynthesizerError("there is nothing to say in an empty text")
        draw = Draw("pause", text, voice.id)
        joined = self._sentence(sentences[0], voice)
        for sentence in sentences[1:]:
            pause_s = draw.between(*_SENTENCE_PAUSE_S)
            joined = join(joined, self._sentence(sentence, voice), pause_s)
        return joined

    def _sentence(self, text: str, voice: Voice) -> Utterance:
        key = (text, voice)
        known = self._known.get(key)
        if known is None:
            known = self._from_disk(text, voice) or self._to_disk(
                _synthesize(text, voice), text, voice
            )
            self._known[key] = known
            if len(self._known) > self._remember:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known

    def _path(self, text: str, voice: Voice) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.blake2s(f"{voice.id}\n{text}".encode(), digest_size=16).hexdigest()
        return self._folder / name[:2] / f"{name}.npz"

    def _from_disk(self, text: str, voice: Voice) -> Utterance | None:
        path = self._path(text, voice)
        if path is None or not path.exists():
            return None
        with np.load(path, allow_pickle=False) as stored:
            times = json.loads(str(stored["times"]))
            pcm = stored["samples"].astype(np.float32) / 32768.0
        return Utterance(
            pcm,
            tuple(Word(**word) for word in times["words"]),
            tuple(Phone(**phone) for phone in times["phones"]),
        )

    def _to_disk(self, utterance: Utterance, text: str, voice: Voice) -> Utterance:
        # The same whether it comes from there or not.
        coded = np.rint(utterance.samples * 32768).clip(-32768, 32767).astype("<i2")
        utterance = replace(utterance, samples=coded.astype(np.float32) / 32768.0)
        path = self._path(text, voice)
        if path is None:
            return utterance
        path.parent.mkdir(parents=True, exist_ok=True)
        times = json.dumps(
            {
                "words": [asdict(word) for word in utterance.words],
                "phones": [asdict(phone) for phone in utterance.phones],
            }
        )
        partial = path.with_suffix(f".{os.getpid()}.part")
        with partial.open("wb") as file:
            np.savez(file, samples=coded, times=times)
        partial.replace(path)
        return utterance


def spoken_form(word: str) -> str:
    """A written word as the programs' lexicons know it: lower case, letters and apostrophes."""
    return re.sub(r"[^a-z']", "", word.lower()).strip("'")


def _synthesize(text: str, voice: Voice) -> Utterance:
    written = text.split()
    spoken = [spoken_form(word) for word in written]
    if not all(spoken):
        raise SynthesizerError(f"numbers and signs must be written as words: {text!r}")
    speech = _speech(text, spoken, voice)
    rate = samples.exact_rate(speech.sample_rate * voice.tract)
    shrink = speech.sample_rate / rate
    pcm = samples.resample(speech.samples, rate)
    if speech.phones is None:
        phones = _guided_phones(text, spoken, pcm)
    else:
        phones = tuple(
            Phone(phone.name, phone.start_s * shrink, phone.end_s * shrink, phone.word)
            for phone in speech.phones
        )
    return _trim(pcm, written, phones)


def _speech(text: str, spoken: list[str], voice: Voice) -> Speech:
    if voice.engine == "flite":
        own = FLITE_PITCH_HZ[voice.name]
        changed = own is not None and abs(voice.pitch / voice.tract - 1.0) > 0.005
        pitch = own * voice.pitch / voice.tract if own is not None and changed else None
        return flite.speak(text, spoken, voice.name, voice.tract / voice.rate, pitch)
    if voice.engine == "festival":
        stretch, pitch = voice.tract / voice.rate, voice.pitch / voice.tract
        return festival.speak(text, voice.name, stretch, pitch)
    return espeak.speak(text, voice.name, voice.rate / voice.tract, voice.pitch / voice.tract)


def _guided_phones(text: str, spoken: list[str], pcm: Pcm) -> tuple[Phone, ...]:
    """Phones of a voice that tells no times, warped from flite's quickest."""
    guide = flite.speak(text, spoken, flite.QUICK_VOICE)
    assert guide.phones is not None
    target = samples.resample(pcm, RATE, align.RATE)
    return align.transfer(guide.phones, guide.samples, target)


def _trim(pcm: Pcm, written: list[str], phones: tuple[Phone, ...]) -> Utterance:
    """Cut the silence at both ends, set the level, and derive the words from the phones."""
    sounding = [phone for phone in phones if phone.word >= 0 and phone.end_s > phone.start_s]
    if not sounding:
        raise SynthesizerError(f"no speech sound found in {' '.join(written)!r}")
    start = max(0, round((sounding[0].start_s - _LEAD_IN_S) * RATE))
    end = min(len(pcm), round((sounding[-1].end_s + _LEAD_OUT_S) * RATE))
    kept = samples.fade(pcm[start:end])
    level = samples.active_level(kept)
    if not level > 1e-4:
        raise SynthesizerError(f"silence instead of {' '.join(written)!r}")
    gain = min(LEVEL / level, _PEAK / float(np.abs(kept).max()))
    offset_s, length_s = start / RATE, len(kept) / RATE
    moved = tuple(
        Phone(
            phone.name,
            min(max(0.0, phone.start_s - offset_s), length_s),
            min(max(0.0, phone.end_s - offset_s), length_s),
            phone.word,
        )
        for phone in phones
        if phone.end_s > offset_s and phone.start_s < offset_s + length_s
    )
    return Utterance((kept * np.float32(gain)), _words(written, moved, length_s), moved)


def _words(written: list[str], phones: tuple[Phone, ...], length_s: float) -> tuple[Word, ...]:
    """Word times from their phones; a word without any shares the time of its neighbours."""
    starts: list[float | None] = [None] * len(written)
    ends: list[float] = [0.0] * len(written)
    for phone in phones:
        if phone.word >= 0:
            known = starts[phone.word]
            starts[phone.word] = phone.start_s if known is None else known
            ends[phone.word] = phone.end_s
    words: list[Word] = []
    last_end = 0.0
    for place, text in enumerate(written):
        begin = starts[place]
        if begin is None:
            later = [start for start in starts[place + 1 :] if start is not None]
            begin, end = last_end, max(last_end, later[0] if later else length_s)
        else:
            begin, end = max(begin, last_end), max(ends[place], last_end)
        words.append(Word(text, begin, end))
        last_end = end
    return tuple(words)
