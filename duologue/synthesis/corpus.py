"""Speech corpora: one voice at a time, for training the codec and the recogniser.

In the codec's, half of the texts are free sentences, the rest is what is said in wren's world; a
quarter is spoken by wren's own voice, which stays clean, and some of the others went through a
room. The decoder goes on learning with wren's voice alone, which is all that it will ever have to
say. The recogniser's has users only, more rooms, and more of what they say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from duologue.synthesis import room
from duologue.synthesis.babble import babble
from duologue.synthesis.draw import Draw
from duologue.synthesis.item import Item, alignments
from duologue.synthesis.script import Speaker as Side
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split
from duologue.synthesis.utterance import join
from duologue.synthesis.voices import WREN, cast
from duologue.synthesis.writer.english import english_sentence
from duologue.synthesis.writer.lines import world_line
from duologue.synthesis.writer.loose import loose_names, loose_words, patchwork
from duologue.synthesis.writer.open_questions import open_question
from duologue.synthesis.writer.sentences import free_sentence
from duologue.synthesis.writer.talk import stock_phrase


@dataclass(frozen=True)
class _Mixture:
    wren: float
    """Share of items in wren's own voice."""
    free: float
    """Share of free sentences among the texts."""
    loose: float
    """Share of loose words among the texts; in training only."""
    names: float
    """Share of lists of names, likewise."""
    patchwork: float
    """Share of scraps of sentences sewn together, likewise."""
    english: float
    """Share of sentences that others have written, likewise."""
    questions: float
    """Share of questions about anything, likewise."""
    replies: float
    """Share of answers in what is said of wren's world; the others are questions."""
    stock: float
    """Share of wren's stock phrases: greetings, leads, small talk; likewise."""
    rooms: float
    """Share of users' items that went through a room."""


Kind = Literal["mono", "wren", "users"]
_MIXTURES: dict[Kind, _Mixture] = {
    "mono": _Mixture(
        wren=0.25,
        free=0.5,
        loose=0.0,
        names=0.0,
        patchwork=0.0,
        stock=0.0,
        english=0.0,
        questions=0.0,
        replies=0.5,
        rooms=0.3,
    ),
    "wren": _Mixture(
        wren=1.0,
        free=0.3,
        loose=0.1,
        names=0.25,
        patchwork=0.0,
        stock=0.15,
        english=0.15,
        questions=0.0,
        replies=0.9,
        rooms=0.0,
    ),
    "users": _Mixture(
        wren=0.0,
        free=0.2,
        loose=0.1,
        names=0.1,
        patchwork=0.15,
        stock=0.0,
        english=0.35,
        questions=0.2,
        replies=0.3,
        rooms=0.4,
    ),
}
_ITEM_S = (3.0, 12.0)
_SPEECH_DB = -23.0


def render_speech(kind: Kind, seed: int, index: int, split: Split, speaker: Speaker) -> Item:
    """Item `index` of a seed: sentences of one voice, about 3 to 12 seconds."""
    mixture = _MIXTURES[kind]
    draw = Draw(kind, seed, split, index)
    own = draw.chance(mixture.wren)
    voice = WREN if own else cast(draw.split("voice"), split)
    wanted_s = draw.between(*_ITEM_S)
    utterance = None
    while utterance is None or utterance.seconds < wanted_s:
        text = _text(draw, mixture, split)
        spoken = speaker.say(text, voice)
        utterance = join(utterance, spoken, draw.between(0.25, 0.8)) if utterance else spoken
    conditions = None
    pcm = utterance.samples
    if not own and draw.chance(mixture.rooms):
        conditions = room.draw_conditions(draw.split("room"), _SPEECH_DB)
        pcm = room.apply(pcm, conditions, babble=babble(speaker))
    return Item(
        pcm,
        {
            "kind": kind,
            "id": f"{kind}-{split}-{seed}-{index:07d}",
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


def _text(draw: Draw, mixture: _Mixture, split: Split) -> str:
    shares: dict[str, float] = {}
    if split == "train":
        shares = {
            "loose": mixture.loose, "names": mixture.names, "patchwork": mixture.patchwork,
            "stock": mixture.stock, "english": mixture.english,
            "questions": mixture.questions,
        }  # fmt: skip
    free = (1 - sum(shares.values())) * mixture.free
    rest = 1 - sum(shares.values()) - free
    match draw.weighted({**shares, "free": free, "world": rest}):
        case "loose":
            return loose_words(draw)
        case "names":
            return loose_names(draw)
        case "patchwork":
            return patchwork(draw)
        case "stock":
            return stock_phrase(draw)
        case "english":
            return english_sentence(draw)
        case "questions":
            return open_question(draw)
        case "free":
            return free_sentence(draw, split)
        case _:
            return world_line(draw, split, replies=mixture.replies)
