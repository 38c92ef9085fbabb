"""Diphones of other languages, made to speak English with an accent.

Text, durations and intonation are those of festival's American voice kal. Its phones are then
replaced by the nearest ones of another speaker, whose recordings are joined instead of kal's. What
is told of an utterance (names of phones, words, times) stays kal's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from duologue.synthesis.engines.program import SynthesizerError

_FIRST_SHARE = 0.55
"""Of a phone's time, the first part of one that is said as two."""
_PITCH_SPREAD = 0.13
"""Standard deviation of a speaker's pitch, relative to its mean."""

_CZECH = """
    aa a:|a  ae e:|e  ah a  ao o:|o  aw a+u  ax e  ay a+j  eh e  er e+r  ey e+j  ih i|j
    iy i:|i|j  ow o+u  oy o+j  uh u  uw u:|u
    b b|p  ch c~  d d|t  dh d|t  f f  g g|k  hh h|ch  jh dz~|c~  k k  l l  m m  n n|n*|m  ng n*|n
    p p  r r  s s  sh s~  t t  th f  v v|f  w u|v  y j|i  z z|s  zh z~|s~  pau #
"""
_ITALIAN = """
    aa a1|a  ae E1|E|e|e1  ah a  ao O1|O|o  aw a+u  ax E|e|E1|e1|a  ay a+i  eh E|E1|e|e1  er E+r
    ey e+i  ih e|i  iy i1|i  ow o+u  oy O+i  uh o|u  uw u1|u
    b b  ch tS|S  d d  dh d  f f  g g  hh f  jh dZ|tS|S  k k  l l  m m|nf  n n  ng ng|n  p p
    r r  s s  sh S|s  t t  th f  v v  w w|u  y j|i  z z|s  zh Z|dZ|z  pau #
"""
_FINNISH = """
    aa a:|a  ae @:|@  ah a  ao o:|o  aw a+u  ax 7|e  ay a+i  eh e|@  er 7+r  ey e+i  ih i
    iy i:|i  ow o+u  oy o+i  uh u  uw u:|u
    b b  ch t+S  d d  dh d  f f  g g  hh h  jh d+S  k k  l l  m m  n n  ng N|n  p p  r r  s s
    sh S  t t  th T|f  v v  w w|u|v  y j|i  z s  zh S  pau #
"""
_FINNISH_WITHOUT_SH = """
    aa a:|a  ae @:|@  ah a  ao o:|o  aw a+u  ax 7|7:|e  ay a+i  eh e|e:|@  er 7+r  ey e+i  ih i
    iy i:|i  ow o+u  oy o+i  uh u  uw u:|u
    b b|p  ch t+s  d d|d:|t  dh d|d:|t  f f|f:|s  g g|g:|k  hh h|h:  jh t+s  k k|k:  l l|l:|L
    m m|m:|n  n n|n:  ng N|N:|n  p p|p:  r r|r:  s s|s:  sh s|s:  t t|t:  th f|f:|s  v v|f
    w u|v  y j|i  z s|s:  zh s|s:  pau #
"""
_HINDI = """
    aa aa  ae eh  ah a  ao oh  aw aw  ax a  ay ay  eh eh  er a+r  ey ee  ih ih
    iy iy  ow oo  oy oh+y  uh uh  uw uw
    b b  ch ch  d dh|D  dh dh  f f  g g  hh h  jh j  k k  l l  m m  n n  ng N|n  p p  r r  s s
    sh sh  t T|th  th th  v v  w v  y y  z j|s  zh sh  pau pau
"""


@dataclass(frozen=True)
class ForeignVoice:
    """A speaker of another language in festival.

    Args:
        name: what festival calls it.
        phones: English phones, each followed by its replacement here: `a|b` is b where a has
            no such neighbour, `a+b` one after the other.
        pitch_hz: its mean, about that of the speaker's own voice.
        package: where Debian has it.
    """

    name: str
    phones: str
    pitch_hz: float
    package: str


VOICES = {
    f"english_{voice.name}": voice
    for voice in (
        ForeignVoice("czech_ph", _CZECH, 136.0, "festvox-czech-ph"),
        ForeignVoice("czech_machac", _CZECH, 75.0, "festvox-czech-machac"),
        ForeignVoice("czech_dita", _CZECH, 222.0, "festvox-czech-dita"),
        ForeignVoice("czech_krb", _CZECH, 258.0, "festvox-czech-krb"),
        ForeignVoice("lp_diphone", _ITALIAN, 190.0, "festvox-italp16k"),
        ForeignVoice("pc_diphone", _ITALIAN, 110.0, "festvox-itapc16k"),
        ForeignVoice("hy_fi_mv_diphone", _FINNISH, 95.0, "festvox-suopuhe-mv"),
        ForeignVoice("suo_fi_lj_diphone", _FINNISH_WITHOUT_SH, 180.0, "festvox-suopuhe-lj"),
        ForeignVoice("hindi_NSK_diphone", _HINDI, 115.0, "festvox-hi-nsk"),
    )
}

PACKAGES = tuple(dict.fromkeys(voice.package for voice in VOICES.values()))
"""Where Debian has the speakers."""

PROGRAM = r"""
(defvar foreign-parts nil "English phones, each with the one or two that stand for it.")
(defvar foreign-joins nil "Joins that the speaker lacks, each with the nearest that there is.")
(defvar foreign-pitch 1.0 "Relative to the speaker's own.")
(define (foreign-replace s)
  (let ((parts (cdr (assoc_string (item.name s) foreign-parts)))
        (start (item.feat s "segment_start")))
    (if (cdr parts)
        (let ((part (item.insert s (list (item.name s)) 'before)))
          (item.set_feat part "end" (+ start (* SHARE (- (item.feat s "end") start))))
          (item.set_feat part "inserted" 1)
          (item.set_feat part "us_diphone" (car parts))))
    (item.set_feat s "us_diphone" (car (last parts)))))
(define (foreign-join s)
  (let ((next (item.next s)))
    (if next
        (let ((join (assoc_string
                      (string-append (item.feat s "us_diphone") "-" (item.feat next "us_diphone"))
                      foreign-joins)))
          (if join
              (begin
                (item.set_feat s "us_diphone_left" (cadr join))
                (item.set_feat next "us_diphone_right" (car (cddr join)))))))))
(define (foreign-phones u)
  (mapcar foreign-replace (utt.relation.items u 'Segment))
  (mapcar foreign-join (utt.relation.items u 'Segment))
  u)
(define (foreign-voice database parts joins pitch)
  (voice_kal_diphone)
  (set! foreign-parts parts)
  (set! foreign-joins joins)
  (set! int_lr_params
    (list (list 'target_f0_mean (* foreign-pitch pitch))
          (list 'target_f0_std (* SPREAD (* foreign-pitch pitch)))
          '(model_f0_mean 170) '(model_f0_std 34)))
  (set! UniSyn_module_hooks (list foreign-phones))
  (set! after_synth_hooks (list (lambda (u) (utt.wave.rescale u 0.9 t))))
  (us_db_select database))
""".replace("SHARE", str(_FIRST_SHARE)).replace("SPREAD", str(_PITCH_SPREAD))
"""Scheme that the definitions of voices build on. Segments have their end in `end`; those that are
`inserted` are the first of two that stand for one English phone, and no part of what is told."""


def definition(name: str, folder: Path) -> str:
    """Scheme that makes a voice of `VOICES` known to festival, whose files are in a folder.

    Raises: SynthesizerError.
    """
    voice = VOICES[name]
    group = next((folder / "group").glob("*.group"), None)
    if group is None:
        raise SynthesizerError(f"there are no diphones of {voice.name} in {folder}")
    choices = dict(_choices(voice.phones))
    parts = {phone: [options[0] for options in said] for phone, said in choices.items()}
    joins = dict(_missing_joins(choices, _diphones(group)))
    pause = parts["pau"][0]
    return f"""
(us_diphone_init '((name "{name}") (index_file "{group}") (grouped "true")
                   (default_diphone "{pause}-{pause}")))
(set! foreign-parts-{name} '{_alist(parts)})
(set! foreign-joins-{name} '{_alist(joins)})
(define (voice_{name})
  (foreign-voice "{name}" foreign-parts-{name} foreign-joins-{name} {voice.pitch_hz}))
"""


def _choices(phones: str) -> Iterator[tuple[str, list[list[str]]]]:
    words = phones.split()
    for english, said in zip(words[::2], words[1::2], strict=True):
        yield english, [part.split("|") for part in said.split("+")]


def _diphones(group: Path) -> set[str]:
    """Names of a database's diphones, from its index."""
    with group.open("rb") as file:
        count = 0
        while (line := file.readline().split())[0] != b"EST_Header_End":
            if line[0] == b"NumEntries":
                count = int(line[1])
        return {file.readline().split()[0].decode("latin-1") for _ in range(count)}


def _missing_joins(
    choices: Mapping[str, list[list[str]]], diphones: set[str]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Joins of first choices that are missing, each with the first of the others that is not."""
    options: dict[str, dict[str, None]] = {}
    for part in (part for said in choices.values() for part in said):
        options.setdefault(part[0], {}).update(dict.fromkeys(part))
    for left, right in product(options, options):
        if f"{left}-{right}" in diphones:
            continue
        for one, other in product(options[left], options[right]):
            if f"{one}-{other}" in diphones:
                yield f"{left}-{right}", (one, other)
                break


def _alist(entries: Mapping[str, tuple[str, str] | list[str]]) -> str:
    quoted = (" ".join(f'"{word}"' for word in (key, *value)) for key, value in entries.items())
    return "(" + " ".join(f"({entry})" for entry in quoted) + ")"
