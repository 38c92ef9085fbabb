"""A case as sound: the user's microphone, and how the synthesizer's wren would have replied.

Unlike training recordings, the user's channel has no echo of wren, since what wren is going to say
is not known yet. The recorded reply is for oracles and for knowing what an answer looks like; a
system under test only hears `heard`. An interruption is kept apart until it is known when there is
something to interrupt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from duologue.evaluation.activity import Pcm, Span
from duologue.evaluation.cases import Case, split_key
from duologue.synthesis import room
from duologue.synthesis.babble import babble
from duologue.synthesis.draw import Draw
from duologue.synthesis.mixer import cast_user, describe
from duologue.synthesis.noises import foreground_noise
from duologue.synthesis.samples import RATE
from duologue.synthesis.script import Speaker as Side
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.timeline import Timeline, lay_out
from duologue.synthesis.utterance import Word

_SPEECH_DB = -23.0
_PEAK = 0.98


@dataclass(frozen=True)
class Scene:
    """Everything that is known about a case. Samples are float32 [T] at 24 kHz."""

    case: Case
    heard: Pcm
    """The user's microphone."""
    recorded: Pcm
    """Wren's side as the synthesizer speaks it."""
    facts: Mapping[str, Any]
    """The side-car: alignments, turns, lookups, events (see `synthesis.mixer`)."""
    speaker: str
    """The user's voice."""
    interruption: Pcm | None = None
    interruption_words: tuple[Word, ...] = ()
    interrupted_s: float | None = None
    """When the interruption was mixed in."""

    @property
    def seconds(self) -> float:
        return len(self.heard) / RATE

    @property
    def user_words(self) -> tuple[Word, ...]:
        """What the user says, the interruption included once it is mixed in."""
        words = self._words(Side.USER)
        if self.interrupted_s is not None:
            at_s = self.interrupted_s
            moved = (
                Word(w.text, w.start_s + at_s, w.end_s + at_s) for w in self.interruption_words
            )
            words = tuple(sorted((*words, *moved), key=lambda word: word.start_s))
        return words

    @property
    def recorded_words(self) -> tuple[Word, ...]:
        return self._words(Side.WREN)

    @property
    def user_turns(self) -> tuple[Span, ...]:
        return tuple(
            Span(turn["start"], turn["end"])
            for turn in self.facts["turns"]
            if turn["speaker"] == Side.USER
        )

    @property
    def question_end_s(self) -> float | None:
        """When the (first) user turn has ended."""
        turns = self.user_turns
        return turns[0].end_s if turns else None

    @property
    def pauses(self) -> tuple[Span, ...]:
        """Silences inside the user's turns."""
        return tuple(
            Span(event["time"], event["end"])
            for event in self.facts["events"]
            if event["kind"] == "pause"
        )

    def interrupt(self, at_s: float) -> Scene:
        """The scene with its interruption begun at a time."""
        assert self.interruption is not None
        heard = self.heard.copy()
        start = round(at_s * RATE)
        part = self.interruption[: max(0, len(heard) - start)]
        heard[start : start + len(part)] += part
        peak = float(np.abs(heard).max(initial=0.0))
        if peak > _PEAK:
            heard *= np.float32(_PEAK / peak)
        return replace(self, heard=heard, interrupted_s=at_s)

    def _words(self, side: Side) -> tuple[Word, ...]:
        return tuple(
            Word(text, start, end)
            for text, (start, end), speaker in self.facts["alignments"]
            if speaker == side
        )


def render(case: Case, speaker: Speaker) -> Scene:
    """Speak a case; the same for the same case, on any machine."""
    script = case.script
    draw = Draw("evaluation sound", script.seed, script.index, *split_key(script.split))
    voice = cast_user(script)
    conditions = room.draw_conditions(draw.split("room"), _SPEECH_DB)
    line = lay_out(script, voice, speaker)
    needs_babble = conditions.noise == "babble" or any(k == "far_speech" for _, k, _ in line.noises)
    others = babble(speaker) if needs_babble else np.zeros(1, np.float32)
    user = _track(line, Side.USER)
    for start_s, kind, seconds in line.noises:
        noise = foreground_noise(kind, seconds, draw.seed(), others)
        start = round(start_s * RATE)
        part = noise[: max(0, len(user) - start)]
        user[start : start + len(part)] += part
    scene = Scene(
        case,
        room.apply(user, conditions, babble=others),
        _track(line, Side.WREN),
        describe(script, line),
        voice.speaker,
    )
    if case.interruption is None:
        return scene
    spoken = speaker.say(case.interruption.text, voice)
    # The room's own noise is in the microphone already.
    without_noise = replace(conditions, noise="none", noise_db=-90.0)
    return replace(
        scene,
        interruption=room.apply(spoken.samples, without_noise),
        interruption_words=spoken.words,
    )


def _track(line: Timeline, side: Side) -> Pcm:
    """One side, dry."""
    track = np.zeros(round(line.seconds * RATE), np.float32)
    for placed in line.placed:
        if placed.side is side:
            start = round(placed.start_s * RATE)
            part = placed.utterance.samples[: max(0, len(track) - start)]
            track[start : start + len(part)] += part * np.float32(placed.gain)
    return track
