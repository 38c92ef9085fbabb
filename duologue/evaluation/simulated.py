"""Systems whose score is known beforehand: they judge the judge.

`recorded` replies as the synthesizer's recording does and must pass everything; `silent` says
nothing; `shuffled` gives other answers in the same voice, at the same times; `deaf` is `recorded`
that does not mind being interrupted.
"""

from __future__ import annotations

import numpy as np

from duologue.evaluation.activity import Pcm
from duologue.evaluation.cases import write_cases
from duologue.evaluation.scene import Scene, render
from duologue.evaluation.talker import (
    FRAME_S,
    SAMPLE_RATE,
    Conversation,
    Lookup,
    Piece,
    Request,
)
from duologue.synthesis.script import Outcome
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.utterance import Word

_REACTION_S = 0.3
_FADE_S = 0.04
_OUTCOMES = {
    Outcome.FOUND: "answered", Outcome.EMPTY: "empty", Outcome.FAILED: "failed",
    Outcome.LOST: "timed_out",
}  # fmt: skip


class RecordedTalker:
    """Says what the recording says, and falls silent when it is interrupted."""

    name = "recorded replies"
    fingerprint = "recorded"

    def __init__(self, reaction_s: float | None = _REACTION_S) -> None:
        """`reaction_s` None goes on talking."""
        self._reaction_s = reaction_s
        if reaction_s is None:
            self.name, self.fingerprint = "recorded replies, deaf to interruptions", "deaf"

    def converse(self, request: Request) -> Conversation:
        scene = _known(request)
        pcm, end_s = scene.recorded.copy(), float("inf")
        if scene.interrupted_s is not None and self._reaction_s is not None:
            end_s = scene.interrupted_s + self._reaction_s
            _cut(pcm, end_s)
        return Conversation(
            pcm,
            text=_pieces(scene.recorded_words, end_s),
            heard=_pieces(scene.user_words, float("inf"), later_s=0.5),
            lookups=_lookups(scene),
        )


class SilentTalker:
    """Never says or looks up anything."""

    name = "silence"
    fingerprint = "silent"

    def converse(self, request: Request) -> Conversation:
        return Conversation(np.zeros_like(request.pcm), heard=())


class ShuffledTalker:
    """Answers each question with the recorded reply to the group's next one."""

    name = "recorded replies to other questions"
    fingerprint = "shuffled"

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def converse(self, request: Request) -> Conversation:
        case = _known(request).case
        script = case.script
        following = write_cases(case.group, case.number + 2, script.seed, script.split)[-1]
        other = render(following, self._speaker)
        pcm = np.zeros_like(request.pcm)
        length = min(len(pcm), len(other.recorded))
        pcm[:length] = other.recorded[:length]
        return Conversation(
            pcm, text=_pieces(other.recorded_words, len(pcm) / SAMPLE_RATE), heard=()
        )


def _cut(pcm: Pcm, end_s: float) -> None:
    end, fade = round(end_s * SAMPLE_RATE), round(_FADE_S * SAMPLE_RATE)
    start = max(0, end - fade)
    part = pcm[start:end]
    part *= np.linspace(1, 0, len(part), dtype=np.float32)
    pcm[end:] = 0.0


def _pieces(words: tuple[Word, ...], before_s: float, later_s: float = 0.0) -> tuple[Piece, ...]:
    return tuple(
        Piece(int((word.start_s + later_s) / FRAME_S), f" {word.text}")
        for word in words
        if word.start_s < before_s
    )


def _known(request: Request) -> Scene:
    assert request.scene is not None, "an oracle has to know what it is asked"
    return request.scene


def _lookups(scene: Scene) -> tuple[Lookup, ...]:
    found = []
    for entry in scene.facts["retrieval"]:
        arrival_s = entry["arrival_time"]
        found.append(
            Lookup(
                int(entry["trigger_time"] / FRAME_S),
                None if arrival_s is None else int(np.ceil(arrival_s / FRAME_S)),
                rows=1,
                outcome=_OUTCOMES[Outcome(entry["outcome"])],
                reference=entry["reference_text"],
            )
        )
    return tuple(found)
