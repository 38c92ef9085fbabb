"""The main part of an evaluation: hold all conversations with a system, and judge each.

    OUT/conversations.jsonl          verdicts and what was said, one conversation a line
    OUT/conversations/known-0000.wav left the system, right the user
    OUT/knowledge/                   what the system could look things up in

Which conversations there are, what may be looked up and what the judge listens for does not depend
on how many of them are held, so a quick look is the beginning of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duologue.audio.wav import write_wav
from duologue.evaluation.activity import Pcm
from duologue.evaluation.cases import COUNTS, Case, Group, split_key, write_cases
from duologue.evaluation.ears import Ears
from duologue.evaluation.judge import Verdict, interruption_time, judge
from duologue.evaluation.knowledge import Library
from duologue.evaluation.ledger import Ledger, Progress, key_of
from duologue.evaluation.scene import Scene, render
from duologue.evaluation.talker import SAMPLE_RATE, Conversation, Request, Talker
from duologue.evaluation.world import world_sentences
from duologue.synthesis.draw import Draw
from duologue.synthesis.script import Outcome
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split

VERSION = 1
"""Of cases, sounds and verdicts: results of another one are not reused."""
FOLDER = "conversations"

"""Called with the conversations done and all of them."""


@dataclass(frozen=True)
class Record:
    """One conversation and its verdict, as it is stored."""

    id: str
    group: Group
    verdict: Verdict
    details: Mapping[str, Any]
    """For people: who said what when, lookups, voice, frame times."""
    audio: Path


class Conversations:
    """All conversations of an evaluation with one system."""

    def __init__(
        self,
        out: Path,
        talker: Talker,
        *,
        seed: int = 1,
        limit: int | None = None,
        groups: Sequence[Group] = tuple(Group),
        counts: Mapping[Group, int] = COUNTS,
        split: Split = "test",
        ears: Ears | None = None,
    ) -> None:
        """
        Args:
            limit: conversations in each group; all of `counts` when None.
            ears: who reads the system's voice; made for all of these cases when None.
        """
        self._out, self._talker, self._seed = out, talker, seed
        self._all = [
            case for group in Group for case in write_cases(group, counts[group], seed, split)
        ]
        self._ears = ears or Ears(world_sentences(self._all, split=split))
        wanted = [case for case in self._all if case.group in groups]
        self.cases = [case for case in wanted if limit is None or case.number < limit]
        key = key_of(VERSION, talker.fingerprint, seed, sorted(counts.items()), *split_key(split))
        self._ledger = Ledger(out / f"{FOLDER}.jsonl", key)
        self._sound = out / FOLDER / key

    def hold(self, progress: Progress = lambda done, total: None) -> list[Record]:
        """Hold those conversations that have not been held yet; returns all of them."""
        waiting = [case for case in self.cases if case.id not in self._ledger]
        total = len(self.cases)
        progress(total - len(waiting), total)
        if waiting:
            speaker = Speaker()
            library = Library(self._out / "knowledge", self._all)
            self._sound.mkdir(parents=True, exist_ok=True)
            for place, case in enumerate(waiting, 1):
                scene = render(case, speaker)
                scene, conversation = self._converse(scene, library)
                verdict = judge(scene, conversation, self._ears)
                write_wav(self._audio(case), both_sides(conversation.pcm, scene.heard), SAMPLE_RATE)
                details = _details(scene, conversation)
                self._ledger.add(case.id, {"verdict": verdict.as_dict(), "details": details})
                progress(total - len(waiting) + place, total)
        return [self._record(case) for case in self.cases]

    def _converse(self, scene: Scene, library: Library) -> tuple[Scene, Conversation]:
        """Hold a conversation; a second time, to interrupt what was said the first time."""
        case = scene.case
        delays = [entry["reference_delay"] for entry in scene.facts["retrieval"]]
        delay_s = delays[0] if delays and case.outcome is not Outcome.LOST else None
        knowledge = library.for_case(case, delay_s)
        begins = "model" if case.group is Group.GREETING else "user"

        def talk(scene: Scene) -> Conversation:
            return self._talker.converse(
                Request(scene.heard, knowledge, begins, self._seed + case.number, scene)
            )

        conversation = talk(scene)
        if case.interruption is None:
            return scene, conversation
        share = Draw("interruption", case.script.seed, case.number).unit()
        at_s = interruption_time(conversation, scene, share)
        if at_s is None:
            return scene, conversation
        scene = scene.interrupt(at_s)
        return scene, talk(scene)

    def _audio(self, case: Case) -> Path:
        return self._sound / f"{case.id}.wav"

    def _record(self, case: Case) -> Record:
        stored = self._ledger[case.id]
        verdict = Verdict.from_dict(stored["verdict"])
        return Record(case.id, case.group, verdict, stored["details"], self._audio(case))


def both_sides(system: Pcm, user: Pcm) -> np.ndarray:
    """Samples of both [2, T]: left the system."""
    length = max(len(system), len(user))
    return np.stack([np.pad(side, (0, length - len(side))) for side in (system, user)])


def _details(scene: Scene, conversation: Conversation) -> dict[str, Any]:
    fact = scene.case.fact
    pieces = {
        "text": conversation.text,
        "heard": conversation.heard or (),
    }
    return {
        "voice": scene.speaker,
        "relation": f"{fact.topic} {fact.relation}" if fact else "",
        "answer": fact.answer if fact else "",
        "outcome": str(scene.case.outcome) if fact else "",
        "seconds": round(scene.seconds, 3),
        "user": [[w.text, round(w.start_s, 3), round(w.end_s, 3)] for w in scene.user_words],
        "question_end": scene.question_end_s,
        "pauses": [[round(p.start_s, 3), round(p.end_s, 3)] for p in scene.pauses],
        "interrupted": scene.interrupted_s,
        **{name: [[piece.frame, piece.text] for piece in found] for name, found in pieces.items()},
        "lookups": [asdict(lookup) for lookup in conversation.lookups],
        "frame_ms": _frame_times(conversation.frame_seconds),
    }


def _frame_times(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    times_ms = np.array(seconds) * 1000
    p50, p95 = np.quantile(times_ms, (0.5, 0.95))
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}
