"""Speech recognition by itself: the users of the evaluation set, in voices never heard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from duologue.evaluation import statistics
from duologue.evaluation.activity import Pcm
from duologue.evaluation.cases import COUNTS, Group, split_key, write_cases
from duologue.evaluation.ledger import Ledger, Progress, key_of
from duologue.evaluation.lexicon import Lexicon
from duologue.evaluation.scene import render
from duologue.evaluation.table import Figure, at_most
from duologue.evaluation.words import errors, spoken_words
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split

if TYPE_CHECKING:
    from duologue.stt.recogniser import Recogniser

VERSION = 1
GROUPS = (
    Group.KNOWN, Group.CHANGED, Group.UNSEEN, Group.INVENTED, Group.PERSONAL, Group.PAUSE,
    Group.CHAT, Group.STORY,
)  # fmt: skip


class Listener(Protocol):
    """A recogniser under test."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def transcribe(self, pcm: Pcm) -> str:
        """The words of samples [T] at 24 kHz."""
        ...


class ModelListener:
    """One of our recognisers."""

    def __init__(self, recogniser: Recogniser, name: str, fingerprint: str) -> None:
        self._recogniser = recogniser
        self.name, self.fingerprint = name, fingerprint

    def transcribe(self, pcm: Pcm) -> str:
        import torch

        from duologue.audio.levels import power_gate
        from duologue.stt.offline import transcribe

        heard = power_gate(torch.from_numpy(pcm))
        return transcribe(self._recogniser, [heard])[0].text


def measure(
    listener: Listener,
    out: Path,
    *,
    seed: int = 1,
    limit: int | None = None,
    split: Split = "test",
    progress: Progress = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Transcribe the user's side of each conversation that has not been transcribed before."""
    key = key_of(VERSION, listener.fingerprint, seed, *split_key(split))
    ledger = Ledger(out / "stt.jsonl", key)
    cases = [
        case
        for group in GROUPS
        for case in write_cases(group, min(COUNTS[group], limit or COUNTS[group]), seed, split)
    ]
    waiting = [case for case in cases if case.id not in ledger]
    speaker, lexicon = Speaker(), Lexicon()
    for place, case in enumerate(waiting, 1):
        scene = render(case, speaker)
        heard = spoken_words(listener.transcribe(scene.heard))
        right = [part for word in scene.user_words for part in spoken_words(word.text)]
        lexicon.learn((*right, *heard))
        found = errors(right, heard, lexicon.same)
        ledger.add(case.id, {
            "group": str(case.group), "voice": scene.speaker, "errors": found.count,
            "words": found.words, "right": " ".join(right), "heard": " ".join(heard),
        })  # fmt: skip
        progress(len(cases) - len(waiting) + place, len(cases))
    return [ledger[case.id] for case in cases]


def hearing_figures(results: Sequence[dict[str, Any]]) -> list[Figure]:
    """Word error rates: of all, by group, by voice."""
    figures = [_figure("stt_wer", "recognition: word error rate", results, at_most(15))]
    for name in ("group", "voice"):
        for value in sorted({str(r[name]) for r in results}):
            part = [r for r in results if r[name] == value]
            figures.append(_figure(f"stt_wer_{name}_{value}", f"  {name} {value}", part, None))
    return figures


def _figure(key: str, title: str, results: Sequence[dict[str, Any]], bar: Any) -> Figure:
    rate = statistics.ratio((r["errors"], r["words"]) for r in results)
    return Figure(key, title, "%", rate.scaled(100), bar)
