"""What training never sees: the one list of held-out entities, facts, names, phrasings and voices.

`train` uses nothing that is listed or hashed to `valid` or `test`; these two ask about and are
spoken by what is theirs, and add known entities so that the scores can be told apart. A test
checks this on generated dialogues.
"""

from __future__ import annotations

from typing import Literal

from duologue.synthesis.draw import bucket

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

HELD_OUT_ENTITIES: dict[Split, tuple[str, ...]] = {
    "valid": (
        "Bolivia", "Botswana", "Estonia", "Jamaica", "Kenya", "Malta", "Portugal", "Vietnam",
        "cobalt", "radium", "tellurium", "vanadium", "xenon",
    ),
    "test": (
        "Chile", "Cuba", "Fiji", "Finland", "Ghana", "Hungary", "Lebanon", "Mongolia", "Nepal",
        "Rwanda", "Zambia",
        "argon", "bismuth", "gallium", "iodine", "osmium", "tungsten", "uranium",
    ),
}  # fmt: skip
"""Countries and elements of which no fact, and not even the name, occurs in training."""

HELD_OUT_VOICES: dict[Split, tuple[str, ...]] = {
    "valid": ("linda", "m4", "steph", "victor"),
    "test": ("ked", "f4", "m7", "benjamin", "belinda"),
}
"""Speakers (`Voice.speaker`), in whatever program, rate or pitch they speak. Training meets every
way of synthesis, but not every recorded speaker."""

HELD_OUT_PHRASINGS: dict[Split, tuple[str, ...]] = {
    # country
    "valid": (
        "I forgot what the capital of {e} is called, [can you help|can you remind me]?",
        "Which coins and notes do they use in {e}?",
        "Where on the globe would I find {e}, which continent?",
        "If I travel to {e}, which language should I learn?",
        "How big is the population of {e} [today|these days]?",
        "Name the countries around {e}.",
        # element
        "How is {e} abbreviated?",
        "Where does {e} stand in the order of the elements?",
        "Which group of elements does {e} belong to?",
        "If I leave {e} on the table, is it a gas, a liquid or a solid?",
        "How long have people known about {e}?",
        # follow-ups and corrections
        "And how about its {r}?",
        "Wait, that was wrong, I was asking about {e}.",
        # tools
        "Could I get the time from you?",
        "What is the calendar showing today?",
        "Work out {a} for me.",
        "I have {q}, how many {u} is that?",
        # the user's own facts
        "Can you look up {x} for me?",
        "Is there anything in my file on {x}?",
        # asked for in tests until they were looked at
        "Which town is the seat of government in {e}?",
        "If I wanted to see the capital of {e}, where would I go?",
        "When I pay in {e}, what money do I need?",
        "In what part of the world is {e}?",
        "What do the people in {e} speak at home?",
        "Can you tell me the number of inhabitants of {e}?",
        "Who lives next door to {e}, I mean which countries?",
        "How do chemists write {e}?",
        "Can you give me the number of {e} in the table of elements?",
        "In which family would I look for {e}?",
        "Does {e} flow, float or lie still at room temperature?",
        "When did somebody first find {e}?",
        "Fine, now its {r}?",
        "Sorry, wrong one, I wanted {e}.",
        "Is it late already, what does the clock say?",
        "Which day are we on?",
        "How much do I get for {a}?",
        "Turn {q} into {u}.",
    ),
    "test": (
        # country
        "Picture {e} on a map, what is the name beside the star for the capital?",
        "What sort of cash will I get from a bank in {e}?",
        "Is {e} in Africa, in Asia, or on another continent?",
        "In which tongue are the newspapers of {e} written?",
        "If you counted everybody in {e}, how many would there be?",
        "If I walk out of {e}, in which other country might I be?",
        # element
        "Which letters stand for {e} in a formula?",
        "If the elements stood in a queue, at which place would {e} be?",
        "What sort of element would you call {e}?",
        "Could I pour {e} into a glass, or is it solid, or a gas?",
        "Since which year has {e} been known to science?",
        # follow-ups and corrections
        "Then tell me the {r} as well.",
        "Let me put that differently, {e} is what I want.",
        # tools
        "My watch has stopped, how late is it?",
        "What would I write at the top of a letter as today's date?",
        "Help me with a sum, {a}.",
        "Give me {q} in {u}, would you?",
        # the user's own facts
        "I would like to hear about {x}.",
        "My notes should have {x}, what do they say?",
    ),
}
"""Question templates of the phrase bank, in its own words."""

_TEST_SHARE, _VALID_SHARE = 8, 5


def _by_hash(key: str) -> Split:
    place = bucket(key)
    if place < _TEST_SHARE:
        return "test"
    return "valid" if place < _TEST_SHARE + _VALID_SHARE else "train"


def entity_split(name: str) -> Split:
    """The part of the data that a real entity's facts belong to."""
    for split, names in HELD_OUT_ENTITIES.items():
        if name in names:
            return split
    return "train"


def fact_split(entity: str, relation: str) -> Split:
    """Like `entity_split`; besides, some relations of the other entities are held out by hash."""
    own = entity_split(entity)
    return own if own != "train" else _by_hash(f"fact/{entity}/{relation}")


def name_split(name: str) -> Split:
    """The part of the data in which an invented name may occur."""
    return _by_hash(f"name/{name.lower()}")


def speaker_split(speaker: str) -> Split:
    """The part of the data in which a user's voice may be heard."""
    for split, speakers in HELD_OUT_VOICES.items():
        if speaker in speakers:
            return split
    return "train"


def allowed_phrasings(templates: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """Training: what is not held out. Elsewhere: what is held out for it, or, if nothing is, the
    templates that training has too (greetings, small talk)."""
    held_out = {text for texts in HELD_OUT_PHRASINGS.values() for text in texts}
    if split != "train":
        own = tuple(text for text in templates if text in HELD_OUT_PHRASINGS[split])
        if own:
            return own
    return tuple(text for text in templates if text not in held_out)
