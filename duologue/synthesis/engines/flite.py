"""flite: small recorded voices with exact phone times.

flite prints the phones of an utterance but not which word they belong to. Each word's own phones
are asked for once (from the quickest voice; all voices share one lexicon) and laid against the
utterance's, which differ in a few reduced vowels at most.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from duologue.synthesis.engines.program import (
    Phone,
    Speech,
    SynthesizerError,
    parse_wav,
    run,
)
from duologue.synthesis.wordlist import listed

PAUSE = "pau"
QUICK_VOICE = "kal16"
_VOWELS = frozenset(listed("aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw"))
_GAP = 1.0
_MOST_PRONUNCIATIONS = 50_000
_TOLERANCE_S = 0.03


def speak(
    text: str, words: Sequence[str], voice: str, stretch: float = 1.0, pitch_hz: float | None = None
) -> Speech:
    """Say a text whose spoken words are `words` (lower case, no punctuation).

    Args:
        stretch: durations relative to the voice's own.
        pitch_hz: mean pitch; None leaves the voice's own.
    """
    options = ["-voice", voice, "-psdur", "--setf", f"duration_stretch={stretch:.3f}"]
    if pitch_hz is not None:
        options += ["--setf", f"int_f0_target_mean={pitch_hz:.1f}"]
    with tempfile.TemporaryDirectory(prefix="flite-") as folder:
        out = Path(folder) / "out.wav"
        printed = run("flite", *options, "-t", text, "-o", str(out)).decode()
        samples, rate = parse_wav(out.read_bytes() if out.exists() else b"", "flite")
    spoken = _parse_times(printed)
    ends = [end for name, _, end in spoken if name != PAUSE]
    if not ends or ends[-1] > len(samples) / rate + _TOLERANCE_S:
        raise SynthesizerError(f"flite's phone times do not fit its sound for {text!r}")
    return Speech(samples, rate, tuple(_assign_words(spoken, words)))


def _parse_times(printed: str) -> list[tuple[str, float, float]]:
    """Names, starts and ends from "pau:0.2 k:0.31"; each utterance begins where the last ended."""
    phones: list[tuple[str, float, float]] = []
    offset = last = 0.0
    for item in printed.split():
        name, _, end_text = item.rpartition(":")
        end = float(end_text) + offset
        if end < last:
            offset = last
            end = float(end_text) + offset
        phones.append((name, last, end))
        last = end
    return phones


def _assign_words(spoken: Sequence[tuple[str, float, float]], words: Sequence[str]) -> list[Phone]:
    expected = [(name, place) for place, names in enumerate(pronounce(words)) for name in names]
    owners = iter(_match([name for name, _, _ in spoken if name != PAUSE], expected, len(words)))
    return [
        Phone(name, start, end, -1 if name == PAUSE else next(owners))
        for name, start, end in spoken
    ]


_pronunciations: dict[str, tuple[str, ...]] = {}


def pronounce(words: Sequence[str]) -> list[tuple[str, ...]]:
    """The phones of each word spoken alone."""
    unknown = list(dict.fromkeys(word for word in words if word not in _pronunciations))
    if unknown:
        if len(_pronunciations) > _MOST_PRONUNCIATIONS:
            _pronunciations.clear()
            unknown = list(dict.fromkeys(words))
        groups = _phone_groups(", ".join(unknown))
        if len(groups) != len(unknown):
            groups = [sum(_phone_groups(word), ()) for word in unknown]
        _pronunciations.update(zip(unknown, groups, strict=True))
    return [_pronunciations[word] for word in words]


def _phone_groups(text: str) -> list[tuple[str, ...]]:
    """The phones of a text between its pauses."""
    printed = run("flite", "-voice", QUICK_VOICE, "-ps", "-t", f" {text} ", "-o", "none").decode()
    groups: list[tuple[str, ...]] = []
    for pause, run_of_phones in groupby(printed.split(), key=PAUSE.__eq__):
        if not pause:
            groups.append(tuple(run_of_phones))
    return groups


def _match(heard: Sequence[str], expected: Sequence[tuple[str, int]], words: int) -> list[int]:
    """The word of each heard phone: the cheapest alignment with the expected ones."""
    if not expected:
        return [min(i, words - 1) for i in range(len(heard))]
    rows, columns = len(heard), len(expected)
    cost = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for j in range(1, columns + 1):
        cost[0][j] = j * _GAP
    for i in range(1, rows + 1):
        cost[i][0] = i * _GAP
        above, here = cost[i - 1], cost[i]
        for j in range(1, columns + 1):
            here[j] = min(
                above[j - 1] + _difference(heard[i - 1], expected[j - 1][0]),
                above[j] + _GAP,
                here[j - 1] + _GAP,
            )
    owners = [0] * rows
    i, j = rows, columns
    while i:
        substitution = (
            cost[i - 1][j - 1] + _difference(heard[i - 1], expected[j - 1][0]) if j else 0
        )
        if j and cost[i][j] == substitution:
            i, j = i - 1, j - 1
            owners[i] = expected[j][1]
        elif cost[i][j] == cost[i - 1][j] + _GAP:
            i -= 1
            owners[i] = expected[max(j - 1, 0)][1]
        else:
            j -= 1
    return owners


def _difference(one: str, other: str) -> float:
    if one == other:
        return 0.0
    return 0.4 if (one in _VOWELS) == (other in _VOWELS) else 1.5
