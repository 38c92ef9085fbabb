"""Who speaks: wren's one voice, and the speakers that users are cast from.

A voice is a speaker of one of the programs, changed in rate, pitch and length of the vocal tract
(the spectrum is stretched by resampling, rate and pitch are put back by the program), so that one
recorded speaker becomes a family. Which speakers a split may use is `splits.HELD_OUT_VOICES`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from duologue.synthesis.draw import Draw
from duologue.synthesis.splits import Split, speaker_split
from duologue.synthesis.wordlist import listed

Engine = Literal["flite", "festival", "espeak-ng"]


@dataclass(frozen=True)
class Voice:
    """A speaker of a program, and what is changed about it (1 = the speaker's own)."""

    engine: Engine
    speaker: str
    """Whose voice it is, in whatever program; held-out lists go by this."""
    name: str
    """What the program calls it."""
    rate: float = 1.0
    pitch: float = 1.0
    tract: float = 1.0
    """Scale of the formants: above 1 is a smaller speaker."""

    @property
    def id(self) -> str:
        changes = f"r{self.rate:.2f}p{self.pitch:.2f}t{self.tract:.2f}"
        return f"{self.engine}:{self.name}:{changes}"


WREN = Voice("flite", "slt", "slt")

FLITE_PITCH_HZ = {"slt": 170.0, "awb": 124.0, "kal": 95.0, "kal16": 95.0, "rms": None}
"""Natural mean pitch; None where flite offers no control over it."""

_ACCENTS = {
    "en-us": 6.0,
    "en-gb": 2.0,
    "en-us-nyc": 1.0,
    "en-gb-x-rp": 1.0,
    "en-gb-scotland": 0.7,
    "en-gb-x-gbclan": 0.5,
    "en-gb-x-gbcwmd": 0.4,
    "en-029": 0.5,
}
_VARIANTS = listed(
    """
    m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 adam Andy Annie anika antonio belinda benjamin
    boris caleb david ed edward iven john linda max michel Mike pablo paul pedro quincy rob
    robert shelby steph travis victor zac Alicia Andrea Denis Gene Jacky Lee Mario Michael
    klatt2 klatt4
    """
)

_FOREIGN = {
    "czech_ph": 3.5,
    "czech_machac": 4.0,
    "czech_dita": 3.0,
    "czech_krb": 2.0,
    "pc_diphone": 2.5,
    "lp_diphone": 1.5,
    "hy_fi_mv_diphone": 4.0,
    "suo_fi_lj_diphone": 3.0,
    "hindi_NSK_diphone": 3.0,
}
"""Speakers of other languages, who say English in their own diphones (`engines/foreign.py`): how
often, by how well they are understood."""


@dataclass(frozen=True)
class _Family:
    """A speaker's entry in the catalogue: how often, and how far it may be changed."""

    voice: Voice
    weight: float
    rate: tuple[float, float] = (0.85, 1.2)
    pitch: tuple[float, float] = (0.88, 1.15)
    tract: tuple[float, float] = (0.86, 1.16)
    avoid_own_tract: bool = False
    """Keep clear of the speaker's own sound: it is wren's."""


def _recorded() -> list[_Family]:
    return [
        _Family(Voice("flite", "awb", "awb"), 14.0),
        _Family(Voice("flite", "rms", "rms"), 14.0, tract=(0.88, 1.2)),
        _Family(Voice("flite", "slt", "slt"), 9.0, avoid_own_tract=True),
        _Family(
            Voice("festival", "slt", "cmu_us_slt_arctic_hts"),
            7.0,
            rate=(1.0, 1.0),
            avoid_own_tract=True,
        ),
        _Family(Voice("festival", "ked", "ked_diphone"), 8.0),
        # Speakers of diphones have half of the training's weight; in tests, half of all users are.
        _Family(Voice("flite", "kal", "kal16"), 8.0, tract=(0.8, 1.24)),
        _Family(Voice("flite", "kal", "kal"), 1.0),
        _Family(Voice("festival", "kal", "kal_diphone"), 11.0, tract=(0.8, 1.24)),
        *(
            _Family(Voice("festival", speaker, f"english_{speaker}"), weight)
            for speaker, weight in _FOREIGN.items()
        ),
    ]


def _synthetic() -> list[_Family]:
    return [
        _Family(
            Voice("espeak-ng", variant, f"{accent}+{variant}"),
            weight,
            rate=(0.8, 1.2),
            pitch=(0.8, 1.25),
            tract=(0.9, 1.1),
        )
        for variant in _VARIANTS
        for accent, weight in _ACCENTS.items()
    ]


def catalogue(split: Split) -> tuple[Voice, ...]:
    """All voices that a split may use, unchanged."""
    return tuple(family.voice for family in _families(split))


@cache
def _families(split: Split) -> tuple[_Family, ...]:
    """Those of the split; recorded and synthetic speakers have half of the weight each."""
    groups = [
        [family for family in group if speaker_split(family.voice.speaker) == split]
        for group in (_recorded(), _synthetic())
    ]
    return tuple(
        replace(family, weight=family.weight / sum(member.weight for member in group))
        for group in groups
        for family in group
    )


def cast(draw: Draw, split: Split) -> Voice:
    """A user's voice."""
    families = _families(split)
    family = families[draw.weighted({i: f.weight for i, f in enumerate(families)})]
    tract = draw.between(*family.tract)
    if family.avoid_own_tract and abs(tract - 1.0) < 0.06:
        tract = 1.0 + (0.06 if tract > 1.0 else -0.06) + (tract - 1.0)
    return Voice(
        family.voice.engine,
        family.voice.speaker,
        family.voice.name,
        rate=round(draw.between(*family.rate), 2),
        pitch=round(draw.between(*family.pitch), 2),
        tract=round(tract, 2),
    )
