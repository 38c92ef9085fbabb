"""How words sound, finely enough to say how likely one is heard as another.

`sounds_of` reads English letters as sounds, one character each: consonants by their letter (S as in
"ship", C "chip", J "gem", T "thin", N "sing"), vowels by quality (small letters are short, capitals
long or double; R is the vowel of "her"). `EXCHANGED` and `LOST` are the costs of one sound heard as
another and of one too many or too few: little for vowels and voicing, which recognisers confuse
first, much for what sounds like nothing near it. `phonetics` has the coarse keys that an index can
be searched by; this decides among candidates.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

VOWELS = "aeiouAEIOUWYR"
SOUNDS = VOWELS + "pbtdkgfvTszSCJhmnNlrwy"
_NUMBER = {sound: number for number, sound in enumerate(SOUNDS)}

# Longest first; capitals stand for the sounds of the module.
_SPELLED = """
    tion=Sn sion=Sn cious=Sus ough=O augh=o eigh=A igh=I tch=C sch=S dge=J ght=t
    ph=f sh=S ch=C th=T wh=w ck=k qu=kw gh=g kn=n ng=N ce=se ci=si cy=si ge=Je gi=Ji gy=Ji
    ee=E ea=E ie=E ei=A oo=U ou=W ow=O oa=O ai=A ay=A au=o aw=o oi=Y oy=Y ew=U ue=U er=R ir=R ur=R
    bb=b cc=k dd=d ff=f gg=g ll=l mm=m nn=n pp=p rr=r ss=s tt=t zz=z x=ks c=k q=k j=J y=i
"""
_SPELLINGS = {
    letters: sounds for letters, _, sounds in (pair.partition("=") for pair in _SPELLED.split())
}
_PIECE = re.compile("|".join([*sorted(_SPELLINGS, key=len, reverse=True), "[a-z]"]))
_SILENT_E = re.compile(r"(?<=[a-z][^aeiou])e$")
_NO_LETTER = re.compile(r"[^a-z]+")

_UNLIKE = 1.0
_VOWEL_FOR_CONSONANT = 1.2
_NEAR = (
    (0.2, "eEiI aAeo oOuUW IAY Rre Rou"),
    (0.25, "pb td kg fv sz SCJ"),
    (0.3, f"mnN {VOWELS}"),
    (0.4, "sS zJ tC Tf Ts Tt Td Tv"),
    (0.55, "lrw bv ptk bdg dn bm hf yi yE"),
)
_LOST = ((0.4, VOWELS), (0.35, "rhwy"), (0.7, "nmltd"))
_LOST_OTHERS = 0.85


def _exchanged() -> NDArray[np.float64]:
    costs = np.full((len(SOUNDS), len(SOUNDS)), _UNLIKE)
    vowel = np.array([sound in VOWELS for sound in SOUNDS])
    costs[vowel[:, None] != vowel] = _VOWEL_FOR_CONSONANT
    np.fill_diagonal(costs, 0.0)
    for cost, groups in reversed(_NEAR):
        for group in groups.split():
            for one, other in combinations(group, 2):
                pair = _NUMBER[one], _NUMBER[other]
                costs[pair] = costs[pair[::-1]] = cost
    return costs


def _lost() -> NDArray[np.float64]:
    costs = np.full(len(SOUNDS), _LOST_OTHERS)
    for cost, sounds in _LOST:
        costs[[_NUMBER[sound] for sound in sounds]] = cost
    return costs


EXCHANGED = _exchanged()
"""Cost of hearing one sound as another [sounds, sounds], 0 for the same."""
LOST = _lost()
"""Cost of a sound more or less [sounds]."""


@lru_cache(maxsize=1 << 15)
def sounds_of(text: str) -> tuple[int, ...]:
    """The sounds of lower-case words, as numbers into `SOUNDS`; other signs are silent."""
    found: list[str] = []
    for word in _NO_LETTER.split(text):
        if len(word) > 3:
            word = _SILENT_E.sub("", word)
        read = "".join(_SPELLINGS.get(piece, piece) for piece in _PIECE.findall(word))
        found.append("y" + read[1:] if word.startswith("y") else read)
    return tuple(_NUMBER[sound] for sound in "".join(found))
