"""The speech corpus: one voice at a time, for training the codec and the recogniser.

Half of the texts are free sentences, the rest is what is said in wren's world; a quarter is spoken
by wren's own voice, which stays clean, and some of the others went through a room.
"""

from __future__ import annotations

from dataclasses import asdict

from duologue.synthesis import room
from duologue.synthesis.babble import babble
from duologue.synthesis.draw import Draw
from duologue.synthesis.item import Item, alignments
from duologue.synthesis.script import Speaker as Side
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split
from duologue.synthesis.utterance import join
from duologue.synthesis.voices import WREN, cast
from duologue.synthesis.writer.lines import world_line
from duologue.synthesis.writer.sentences import free_sentence

_WREN_SHARE = 0.25
_FREE_SHARE = 0.5
_ROOM_SHARE = 0.3
_ITEM_S = (3.0, 12.0)
_SPEECH_DB = -23.0


def render_mono(seed: int, index: int, split: Split, speaker: Speaker) -> Item:
    """Item `index` of a seed: sentences of one voice, about 3 to 12 seconds."""
    draw = Draw("mono", seed, split, index)
    own = draw.chance(_WREN_SHARE)
    voice = WREN if own else cast(draw.split("voice"), split)
    wanted_s = draw.between(*_ITEM_S)
    utterance = None
    while utterance is None or utterance.seconds < wanted_s:
        text = free_sentence(draw, split) if draw.chance(_FREE_SHARE) else world_line(draw, split)
        spoken = speaker.say(text, voice)
        utterance = join(utterance, spoken, draw.between(0.25, 0.8)) if utterance else spoken
    conditions = None
    pcm = utterance.samples
    if not own and draw.chance(_ROOM_SHARE):
        conditions = room.draw_conditions(draw.split("room"), _SPEECH_DB)
        pcm = room.apply(pcm, conditions, babble=babble(speaker))
    return Item(
        pcm,
        {
            "kind": "mono",
            "id": f"mono-{split}-{seed}-{index:07d}",
            "split": split,
            "seed": seed,
            "index": index,
            "text": " ".join(word.text for word in utterance.words),
            "alignments": alignments(utterance.words, Side.WREN),
            "phones": [
                [phone.name, round(phone.start_s, 3), round(phone.end_s, 3)]
                for phone in utterance.phones
            ],
            "voice": asdict(voice),
            "conditions": asdict(conditions) if conditions else None,
        },
    )
