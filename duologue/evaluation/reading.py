"""How a model speaks what it is given to say: true answers as its text row, read aloud.

Neither ears nor knowledge count here, only the voice. Texts are replies of the evaluation set, laid
on the text row as wren's recordings have them; the user is silent. What is judged is whether the
independent recogniser chooses the right answer among its candidates, and what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from duologue.evaluation import statistics
from duologue.evaluation.activity import Pcm
from duologue.evaluation.cases import ANSWERED, Case, split_key, write_cases
from duologue.evaluation.ears import Ears
from duologue.evaluation.ledger import Ledger, Progress, key_of
from duologue.evaluation.table import Figure
from duologue.evaluation.words import errors, spoken_words
from duologue.evaluation.world import answer_key, world_sentences
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split
from duologue.synthesis.voices import WREN
from duologue.training.text_stream import Word, text_row

if TYPE_CHECKING:
    from duologue.moshi.sampling import Sampling
    from duologue.session.moshi import Moshi

VERSION = 1
COUNT = 120
_LEAD_S, _TAIL_S = 0.8, 0.8
_SEEDS_A_GROUP = 10_000
_AT_ONCE = 8


@dataclass(frozen=True)
class Reply:
    """What is to be read aloud, and the case that it answers."""

    case: Case
    text: str
    words: tuple[Word, ...]
    seconds: float


class Voice(Protocol):
    """What reads aloud."""

    @property
    def fingerprint(self) -> str: ...

    def read(self, replies: Sequence[Reply], seeds: Sequence[int]) -> list[Pcm]:
        """Samples [T] of each."""
        ...


class Reader:
    """A model's voice, given its text."""

    def __init__(self, moshi: Moshi, sampling: Sampling | None = None) -> None:
        from duologue.evaluation.systems import model_fingerprint

        self._model, self._sampling = moshi.model, sampling
        self.fingerprint = f"reading {model_fingerprint(moshi)} {sampling}"

    def read(self, replies: Sequence[Reply], seeds: Sequence[int]) -> list[Pcm]:
        """Samples [T] of each."""
        lm, codec, tokenizer = self._model.lm, self._model.codec, self._model.tokenizer
        assert tokenizer is not None
        device, delay = lm.device, max(lm.config.delays)
        frames = max(int(one.seconds * codec.frame_rate) for one in replies) + delay
        rows = [
            text_row(one.words, frames, codec.frame_rate, tokenizer, wait=True).tokens
            for one in replies
        ]
        text = torch.from_numpy(np.stack(rows)).to(device)
        silence = codec.silent_column().to(device)[None, :, None].expand(len(replies), -1, -1)
        generator = lm.generator(len(replies), sampling=self._sampling, seed=seeds)
        codes = []
        for frame in range(frames):
            out = generator.step(silence, text=text[:, frame])
            if bool(out.ready.all()):
                codes.append(out.audio)
        with torch.no_grad():
            pcm = codec.decode(torch.stack(codes, dim=2))[:, 0].float().cpu().numpy()
        return list(np.ascontiguousarray(pcm))


def cases(seed: int, count: int, split: Split = "test") -> list[Case]:
    """The first cases of each group with answers, as many of each."""
    each = -(-count // len(ANSWERED))
    return [case for group in ANSWERED for case in write_cases(group, each, seed, split)]


def reply(case: Case, speaker: Speaker) -> Reply:
    """A case's recorded reply, as it is to be read."""
    text = next(turn.text for turn in case.script.turns if turn.lookup)
    said = speaker.say(text, WREN)
    words = tuple((word.text, word.start_s + _LEAD_S, word.end_s + _LEAD_S) for word in said.words)
    return Reply(case, text, words, _LEAD_S + said.seconds + _TAIL_S)


def measure(
    reader: Voice,
    out: Path,
    *,
    seed: int = 1,
    count: int = COUNT,
    split: Split = "test",
    ears: Ears | None = None,
    progress: Progress = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Let all replies be read; those that have been before are not read again."""
    key = key_of(VERSION, reader.fingerprint, seed, *split_key(split))
    ledger = Ledger(out / "reading.jsonl", key)
    everything = cases(seed, count, split)
    waiting = [case for case in everything if case.id not in ledger]
    if waiting:
        speaker, ears = Speaker(), ears or Ears(world_sentences(everything, split=split))
        for first in range(0, len(waiting), _AT_ONCE):
            part = [reply(case, speaker) for case in waiting[first : first + _AT_ONCE]]
            seeds = [_seed_of(one.case, seed) for one in part]
            for one, pcm in zip(part, reader.read(part, seeds), strict=True):
                ledger.add(one.case.id, _judged(one, pcm, ears))
            progress(len(everything) - len(waiting) + first + len(part), len(everything))
    return [ledger[case.id] for case in everything]


def _seed_of(case: Case, seed: int) -> int:
    """That of its own, whoever is read beside it."""
    return seed + _SEEDS_A_GROUP * ANSWERED.index(case.group) + case.number


def _judged(one: Reply, pcm: Pcm, ears: Ears) -> dict[str, Any]:
    key, right = answer_key(one.case), spoken_words(one.text)
    chosen, read = ears.choose(pcm, key.grammar), ears.read(pcm)
    ears.learn(right)
    return {
        "group": str(one.case.group), "text": one.text, "chosen": " ".join(chosen),
        "read": " ".join(read), "answer": key.heard_in(chosen, ears.lexicon.same),
        "errors": errors(right, read, ears.lexicon.same).count, "words": len(right),
    }  # fmt: skip


def reading_figures(results: Sequence[dict[str, Any]]) -> list[Figure]:
    """The lines of the table."""
    chosen = statistics.share(r["answer"] for r in results)
    wrong = statistics.ratio((r["errors"], r["words"]) for r in results)
    return [
        Figure("reading_answers", "reads a given answer so that it is understood", "%",
               chosen.scaled(100)),
        Figure("reading_wer", "reading given answers: word error rate", "%", wrong.scaled(100)),
    ]  # fmt: skip
