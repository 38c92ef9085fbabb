"""Invented names that English letter-to-sound rules read in only one way.

The name of a place, a person or a thing that exists nowhere can only be learnt from the reference
it stands in. There are several million of them; `splits.name_split` decides by hash which part of
the data a name may occur in.
"""

from __future__ import annotations

from collections.abc import Callable

from duologue.synthesis.draw import Draw
from duologue.synthesis.wordlist import listed

_ONSETS = listed(
    """
    b d f g k l m n p r s t v z br dr fl gr kr pl pr st tr bl cl gl sk sl sm sp sw th sh ch
    h j w
    """
)
_SOFT_ONSETS = listed("b d f k l m n p r s t v z m n l r t d")
_VOWELS = ("a", "e", "i", "o", "u", "a", "o", "e", "i", "ee", "oo", "ai", "or", "ar", "er")
_CODAS = ("", "", "", "n", "l", "r", "m", "s", "t", "k", "nd", "st", "x", "p", "lt", "rn")
_PLACE_ENDINGS = listed(
    """
    ia land ora ville ton mar vale dor burg ovia esta una ano stan ford field ria wick mere
    ona ara ilo enza aska ova istan en os is um eth and
    """
)
_PERSON_ENDINGS = listed(
    """
    a o in en el ia an us ik is et or ina ella ard ley son man ski ova ez ti
    """
)
_THING_ENDINGS = listed(
    """
    ium ite on ex um ane ol ix ar or ine ic oid on um in ene yl ode ax ant us is
    """
)
_SUFFIXES = {"place": _PLACE_ENDINGS, "person": _PERSON_ENDINGS, "thing": _THING_ENDINGS}
_REJECTED_PARTS = listed(
    """
    ass cum dic fuck fag fart hell kik kill nazi nig pee pis poo porn rape sex shit slut
    sperm spic tit turd whor xx aa ii uu iii ooo eee
    """
)
_MAX_LETTERS = 12


def invent(draw: Draw, kind: str, allowed: Callable[[str], bool] = lambda name: True) -> str:
    """A capitalised name of a `place`, `person` or `thing` for which `allowed` is true."""
    endings = _SUFFIXES[kind]
    while True:
        name = _stem(draw) + draw.choice(endings)
        if _is_pronounceable(name) and allowed(name := name.capitalize()):
            return name


def invent_full_name(draw: Draw, allowed: Callable[[str], bool] = lambda name: True) -> str:
    """A first name and a family name."""
    return f"{invent(draw, 'person', allowed)} {invent(draw, 'person', allowed)}"


def _stem(draw: Draw) -> str:
    text = draw.choice(_ONSETS) if draw.chance(0.85) else ""
    text += draw.choice(_VOWELS)
    for _ in range(draw.weighted({0: 0.45, 1: 0.45, 2: 0.1})):
        text += draw.choice(_SOFT_ONSETS) + draw.choice(_VOWELS)
    return text + draw.choice(_CODAS)


def _is_pronounceable(name: str) -> bool:
    if not 4 <= len(name) <= _MAX_LETTERS or any(part in name for part in _REJECTED_PARTS):
        return False
    run = 0
    vowels = 0
    for letter in name:
        is_vowel = letter in "aeiou"
        run = run + 1 if not is_vowel else 0
        vowels = vowels + 1 if is_vowel else 0
        if run > 3 or vowels > 2:
            return False
    return not any(name[i] == name[i + 1] == "s" for i in range(len(name) - 1))
