"""Dialogue `index` of a seed: a main scene, what comes before it and what after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from duologue.synthesis.draw import Draw
from duologue.synthesis.script import Backchannel, Dialogue, Speaker, Turn
from duologue.synthesis.splits import Split
from duologue.synthesis.writer import scenes, talk

Scene = Callable[[Draw, Split], list[Turn]]


@dataclass(frozen=True)
class _Class:
    scene: Scene
    weight: float


CLASSES: dict[str, _Class] = {
    "fact": _Class(scenes.fact_scene, 20.0),
    "personal": _Class(scenes.personal_scene, 16.0),
    "tool": _Class(scenes.tool_scene, 8.0),
    "followup": _Class(scenes.followup_scene, 9.0),
    "correction": _Class(scenes.correction_scene, 6.0),
    "barge_in": _Class(scenes.barge_in_scene, 11.0),
    "pause": _Class(scenes.pause_scene, 10.0),
    "backchannel": _Class(scenes.backchannel_scene, 4.0),
    "unknown": _Class(scenes.unknown_scene, 6.0),
    "small_talk": _Class(scenes.small_talk_scene, 8.0),
    "off_topic": _Class(scenes.off_topic_scene, 8.0),
    "greeting": _Class(scenes.greeting_scene, 4.0),
    "silence": _Class(scenes.silence_scene, 2.0),
    "noise": _Class(scenes.noise_scene, 4.0),
}
"""The classes of dialogues and how often each is the main scene."""

_WREN_BEGINS = 0.45
_MORE_SCENES = {0: 0.5, 1: 0.35, 2: 0.15}
_USER_BACKCHANNEL = 0.06


def write_dialogue(seed: int, index: int, split: Split, label: str | None = None) -> Dialogue:
    """The script of one dialogue; the same for ever for the same arguments.

    Args:
        label: force the class of the main scene.
    """
    draw = Draw("dialogue", seed, split, index)
    chosen = draw.weighted({name: kind.weight for name, kind in CLASSES.items()})
    main = label or chosen
    turns: list[Turn] = []
    wren_begins = draw.chance(_WREN_BEGINS) and main != "greeting"
    if wren_begins:
        greeting = draw.choice(talk.GREETINGS)
        turns.append(Turn(Speaker.WREN, "greeting", greeting, draw.between(0.15, 0.5)))
    elif draw.chance(0.15) and main != "greeting":
        turns += scenes.greeting_scene(draw.split("greeting"), split)
    turns += CLASSES[main].scene(draw.split("main"), split)
    for number in range(draw.weighted(_MORE_SCENES)):
        name = draw.weighted({key: kind.weight for key, kind in CLASSES.items()})
        turns += CLASSES[name].scene(draw.split("more", number), split)
    if draw.chance(0.2):
        turns += scenes.thanks_scene(draw.split("thanks"), split)
    if draw.chance(0.12):
        turns += scenes.farewell_scene(draw.split("farewell"), split)
    turns = [_listen(draw, turn) for turn in turns]
    return Dialogue(
        seed, index, split, main, tuple(turns), wren_begins, tail_s=draw.between(0.5, 1.4)
    )


def _listen(draw: Draw, turn: Turn) -> Turn:
    """Now and then the user says a quiet "uh-huh" into an answer; wren goes on."""
    words = len(turn.text.split())
    if turn.speaker is not Speaker.WREN or words < 7 or not draw.chance(_USER_BACKCHANNEL):
        return turn
    sign = Backchannel(draw.integer(3, words - 2), 0.0, draw.choice(talk.USER_BACKCHANNELS))
    return replace(turn, backchannels=(sign,))
