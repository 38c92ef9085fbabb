"""Sound keys: spellings that an English listener could confuse get the same (or a similar) key.

A key has one letter per sound class, from the alphabet `SOUNDS`: P (p b), F (f v), T (t d th),
K (k g), S (s z), X (sh ch j), M, N, L, R, A (any vowels), and, only as a first sound, H, W, Y.
Voicing and vowel quality are what recognisers (and microphones) lose first, so the key has neither.
It is deliberately coarse: it ranks candidates, it does not identify words.
"""

from __future__ import annotations

import re
from functools import lru_cache

SOUNDS = "PFTKSXMNLRAHWY"

_FIRST = (
    (re.compile(r"^(?:kn|gn|pn|mn)"), "n"),
    (re.compile(r"^wr"), "r"),
    (re.compile(r"^ps"), "s"),
    (re.compile(r"^x"), "s"),
    (re.compile(r"^wh(?=o)"), "h"),
    (re.compile(r"^wh"), "w"),
    (re.compile(r"^gh"), "k"),
    (re.compile(r"^h(?=our|onest|onou?r|eir)"), ""),
)
_VOWEL = "aeiouy"
# (letters that must occur, pattern, sounds in capitals); the order matters, longest context first.
_RULES = tuple(
    (trigger, re.compile(pattern), sound)
    for trigger, pattern, sound in (
        ("ugh", r"(?<=^la)ugh|(?<=^[rtc]o)ugh|(?<=eno)ugh", "f"),
        ("gh", r"ough?t", "At"),
        ("gh", r"(?<=[aeiou])gh", ""),
        ("m", r"(?<=m)[bn]$", ""),
        ("st", r"(?<=s)t(?=[lm]|en)", ""),
        ("tch", r"tch", "X"),
        ("sch", r"sch", "SK"),
        ("ch", r"ch(?=[rl])|^ch(?=aos|or|em|ar[aio])", "K"),
        ("h", r"ss?h|ch", "X"),
        ("dg", r"dg(?=[eiy]|$)", "X"),
        ("i", r"(?:t|c|s|ss|sc)i(?=[aou])", "XA"),
        ("ture", r"ture", "XAR"),
        ("ph", r"ph", "F"),
        ("th", r"th", "T"),
        ("sc", r"sc(?=[eiy])", "S"),
        ("cc", r"cc(?=[eiy])", "KS"),
        ("c", r"c(?=[eiy])", "S"),
        ("gg", r"gg", "K"),
        ("g", r"g(?=[eiy])", "X"),
        ("ng", r"ng(?=$|s)", "N"),
        ("qu", r"qu", "K"),
        ("x", r"x", "KS"),
    )
)
_SINGLE = str.maketrans("fvjgqckszdtpbmnlr", "FFXKKKKSSTTPPMNLR")
_FINAL_LE = re.compile(r"(?<=[^aeiouy])le(?=s?$)")
_SILENT_E = re.compile(r"(?<=[^aeiouA])e(?=s?$)")
_VOWEL_RUN = re.compile(r"[aeiouyA][aeiouyAhw]*")
_NOT_A_SOUND = re.compile(r"[^A-Z]")
_REPEATED = re.compile(r"(.)\1+")
_HEXADECIMAL = str.maketrans(SOUNDS, "123456789abcde")
MAX_SOUNDS = 15
MIN_SHORTENED = 4


@lru_cache(maxsize=1 << 14)
def sound_key(word: str) -> str:
    """The key of one lower-case word without accents; "" when it has no Latin letter."""
    letters = "".join(char for char in word if "a" <= char <= "z")
    if not letters:
        return ""
    for pattern, replacement in _FIRST:
        letters, changed = pattern.subn(replacement, letters)
        if changed:
            break
    first = ""
    if letters[0] in "hw" or (letters[0] == "y" and letters[1:2] and letters[1] in _VOWEL):
        first, letters = letters[0].upper(), letters[1:]
    if len(letters) > 2:
        letters = _SILENT_E.sub("", _FINAL_LE.sub("el", letters.replace("stle", "sle")))
    for trigger, pattern, sound in _RULES:
        if trigger in letters:
            letters = pattern.sub(sound, letters)
    letters = _VOWEL_RUN.sub("A", letters.translate(_SINGLE))
    letters = _REPEATED.sub(r"\1", _NOT_A_SOUND.sub("", letters))
    return (first + letters)[:MAX_SOUNDS]


def sound_codes(key: str, *, shortened: bool = True) -> list[int]:
    """Codes to find keys within one edit: of the key itself, then of it less any one sound.

    Two keys share a code when they are equal, when one has a sound more, or when one sound differs.
    The lowest bit tells the key (0) from its shortenings (1). Short keys are not shortened: too
    many words would meet.
    """
    codes = [_code(key) << 1]
    if shortened and len(key) >= MIN_SHORTENED:
        shorter = dict.fromkeys(key[:i] + key[i + 1 :] for i in range(len(key)))
        codes += [_code(part) << 1 | 1 for part in shorter]
    return codes


def _code(key: str) -> int:
    """A key as a number, four bits a sound."""
    return int(key.translate(_HEXADECIMAL) or "0", 16)
