"""A dialogue as a two-channel recording and its side-car.

Left is wren, clean, at one level; right is the user, through a room and a line. The side-car has
the published keys (`alignments`) and, besides:

    kind, class, id, seed, index, split   what it is
    init_speaker     "model" if wren greets first, else "user"
    retrieval        one entry a lookup: trigger_time (the frame before the lead's first word),
                     lead_start, lead_end, reference_text, outcome (found, empty, failed, lost),
                     reference_delay and arrival_time (null if lost), body_start and body_end
                     (null if never said), question_end, interrupted, answer, fact
    turns            speaker, act, start, end, text (as written, also if cut off), phrasing
    events           kind and time of barge_in (silent_by), pause (end), backchannel (speaker),
                     silence and noises (end)
    question_end, answer   of the last lookup, for quick scoring
    voice, conditions      the user's
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from duologue.synthesis import room
from duologue.synthesis.babble import babble
from duologue.synthesis.draw import Draw
from duologue.synthesis.item import Item, alignments
from duologue.synthesis.noises import foreground_noise
from duologue.synthesis.samples import RATE
from duologue.synthesis.script import Dialogue
from duologue.synthesis.script import Speaker as Side
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split
from duologue.synthesis.timeline import Timeline, lay_out
from duologue.synthesis.utterance import shift_words
from duologue.synthesis.voices import Voice, cast
from duologue.synthesis.writer.dialogues import write_dialogue

_SPEECH_DB = -23.0


def render_dialogue(seed: int, index: int, split: Split, speaker: Speaker) -> Item:
    """Item `index` of a seed."""
    return render_script(write_dialogue(seed, index, split), speaker)


def render_script(dialogue: Dialogue, speaker: Speaker, voice: Voice | None = None) -> Item:
    """Speak a script and mix it: samples [2, T], left wren, right user.

    Args:
        voice: the user's; None casts one by the dialogue's key.
    """
    draw = Draw("mix", dialogue.seed, dialogue.split, dialogue.index)
    voice = voice or cast_user(dialogue)
    conditions = room.draw_conditions(draw.split("room"), _SPEECH_DB)
    line = lay_out(dialogue, voice, speaker)
    wren, user = _tracks(line)
    needs_babble = conditions.noise == "babble" or any(k == "far_speech" for _, k, _ in line.noises)
    others = babble(speaker) if needs_babble else np.zeros(1, np.float32)
    for start_s, kind, duration_s in line.noises:
        noise = foreground_noise(kind, duration_s, draw.seed(), others)
        start = round(start_s * RATE)
        end = min(len(user), start + len(noise))
        user[start:end] += noise[: end - start]
    heard = room.apply(user, conditions, far=wren, babble=others)
    sidecar = describe(dialogue, line)
    sidecar |= {"voice": asdict(voice), "conditions": asdict(conditions)}
    return Item(np.stack([wren, heard]), sidecar)


def describe(dialogue: Dialogue, line: Timeline) -> dict[str, Any]:
    """What the side-car says of a dialogue on its time line, but for how the user sounds."""
    last = line.retrieval[-1] if line.retrieval else None
    return {
        "kind": "dialogue",
        "class": dialogue.label,
        "id": dialogue.id,
        "seed": dialogue.seed,
        "index": dialogue.index,
        "split": dialogue.split,
        "init_speaker": "model" if dialogue.wren_begins else "user",
        "alignments": _alignments(line),
        "retrieval": line.retrieval,
        "turns": line.turns,
        "events": line.events,
        "question_end": last["question_end"] if last else None,
        "answer": last["answer"] if last else None,
    }


def cast_user(dialogue: Dialogue) -> Voice:
    """The voice that the user of a dialogue has."""
    draw = Draw("mix", dialogue.seed, dialogue.split, dialogue.index, "voice")
    return cast(draw, dialogue.split)


def _tracks(line: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Both sides, dry, each [T]."""
    length = round(line.seconds * RATE)
    tracks = {Side.WREN: np.zeros(length, np.float32), Side.USER: np.zeros(length, np.float32)}
    for placed in line.placed:
        start = round(placed.start_s * RATE)
        pcm = placed.utterance.samples * np.float32(placed.gain)
        end = min(length, start + len(pcm))
        tracks[placed.side][start:end] += pcm[: end - start]
    return tracks[Side.WREN], tracks[Side.USER]


def _alignments(line: Timeline) -> list[list[object]]:
    words = [
        entry
        for placed in line.placed
        for entry in alignments(shift_words(placed.utterance.words, placed.start_s), placed.side)
    ]
    return sorted(words, key=lambda entry: (entry[1][0], entry[1][1]))
