"""How questions that are heard wrong are answered: `python benchmarks/mending.py DATA...`.

DATA are dialogues of the split "valid", with speech (`duologue synthesize DATA --kind dialogue
--split valid --hours 1`). Their questions are heard by the recogniser and looked up in two bases:
one that has the answer, among others of its kind, and one that has not. Reports for each way of
looking up (words alone, names by spelling, all hearings with the sound of names) how many questions
are told rightly and wrongly, and how many are told something where there is nothing to tell.
`--fit` also fits the weights of `duologue.retrieval.knowledge.mending` anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import platform
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duologue.audio.files import read_channels
from duologue.retrieval.knowledge.base import KnowledgeBase
from duologue.retrieval.knowledge.mending import (
    FEW_NAMES,
    LEAST_LIKELY,
    LEAST_SURE,
    LEAST_WRITTEN,
    MAX_LOGIT,
    MAX_PIECES,
    Reading,
    Weights,
)
from duologue.retrieval.knowledge.rehearing import by_sound, placed
from duologue.retrieval.knowledge.retriever import MIN_CONFIDENCE, KnowledgeRetriever
from duologue.retrieval.protocol import Guess, HearAgain, Likelihood, RetrievalContext
from duologue.stt.load import load_recogniser
from duologue.stt.second_hearing import Hearing, SecondHearing
from duologue.synthesis.world import bundled_fact_book, capitalise
from duologue.training.data import read_rows

LEAD_S, TAIL_S = 0.6, 0.25
"""Of a recording, before and after the question."""
OWN = "invented"
TOOL = "tool"
NO_ANSWER = 0.5
"""What a question without an answer counts for in the fit: fewer of them are asked."""
SHRINKAGE = 1e-3
DEADLINE_S = 10.0


@dataclass(frozen=True)
class Question:
    """A question as it was recorded, and the sentence that answers it, if one does."""

    pcm: NDArray[np.float32]
    text: str
    answer: str
    own: bool
    """Whether it is about the user's own facts, not those of the fact book."""


def questions_of(manifest: Path) -> Iterator[Question]:
    """The questions of dialogues; what tools answer, and what leans on an earlier turn, is not."""
    for path, row in read_rows(manifest):
        sound = read_channels(path)[1]
        for lookup in row["retrieval"]:
            fact, end = lookup["fact"], lookup["question_end"]
            asked = [
                turn
                for turn in row["turns"]
                if turn["act"] == "question" and abs(turn["end"] - end) < TAIL_S
            ]
            if not asked or fact["topic"] == TOOL:
                continue
            begin = max(0.0, asked[0]["start"] - LEAD_S)
            pcm = sound[int(begin * 24_000) : int((end + TAIL_S) * 24_000)]
            own = fact["novelty"] == OWN
            yield Question(pcm, asked[0]["text"], lookup["reference_text"], own)


def bases_of(rows: Sequence[dict[str, Any]], folder: Path) -> dict[bool, KnowledgeBase]:
    """The fact book with what the dialogues say otherwise, and (True) their users' own facts."""
    folder.mkdir(parents=True, exist_ok=True)
    lookups = [lookup for row in rows for lookup in row["retrieval"]]
    own = dict.fromkeys(one["reference_text"] for one in lookups if one["fact"]["novelty"] == OWN)
    said = {
        (one["fact"]["entity"], one["fact"]["relation"]): one["reference_text"]
        for one in lookups
        if one["reference_text"]
    }
    lines, heading = ["# Fact book"], ""
    for fact in bundled_fact_book().facts():
        if fact.entity != heading:
            heading = fact.entity
            lines += ["", f"## {capitalise(heading)}", ""]
        lines.append(f"- {said.get((fact.entity, fact.relation), fact.sentence)}")
    (folder / "book.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    notes = ["# My notes", "", *(f"- {sentence}" for sentence in own if sentence)]
    (folder / "own.md").write_text("\n".join(notes) + "\n", encoding="utf-8")
    return {
        False: KnowledgeBase.from_files([folder / "book.md"]),
        True: KnowledgeBase.from_files([folder / "own.md"]),
    }


@dataclass(frozen=True)
class Heard:
    """A hearing as retrievers see it."""

    by: SecondHearing
    hearing: Hearing

    @property
    def texts(self) -> Sequence[str]:
        return self.hearing.texts

    async def likelihoods(
        self, guesses: Sequence[Sequence[Guess]]
    ) -> Sequence[Sequence[Likelihood]]:
        return self.by.likelihoods(self.hearing, guesses)


def again(heard: Heard) -> HearAgain:
    async def hear_again() -> Heard:
        return heard

    return hear_again


Way = Callable[[KnowledgeRetriever, RetrievalContext, Heard], Awaitable[str]]
"""What a question is told, "" for nothing."""


async def words_alone(
    retriever: KnowledgeRetriever, context: RetrievalContext, heard: Heard
) -> str:
    hits = retriever.base.search(context.question, 3)
    return hits[0].text if hits and hits[0].confidence >= MIN_CONFIDENCE else ""


async def by_spelling(
    retriever: KnowledgeRetriever, context: RetrievalContext, heard: Heard
) -> str:
    return retriever.look_up(context).reference


async def all_hearings(
    retriever: KnowledgeRetriever, context: RetrievalContext, heard: Heard
) -> str:
    context = replace(context, hear_again=again(heard))
    return (await retriever.retrieve(context, DEADLINE_S)).reference


WAYS: dict[str, Way] = {
    "words alone": words_alone,
    "names by spelling": by_spelling,
    "all hearings, names by sound": all_hearings,
}


async def measure(
    heard: Sequence[tuple[Question, Heard]], bases: dict[bool, KnowledgeBase]
) -> dict[str, Any]:
    """Counts for each way, and the seconds that the last one takes."""
    retrievers = {own: KnowledgeRetriever(base) for own, base in bases.items()}
    counts = {name: {"rightly": 0, "wrongly": 0, "something": 0} for name in WAYS}
    with_answer = without = 0
    took: list[float] = []
    for question, one in heard:
        context = RetrievalContext.from_question(one.texts[0])
        with_answer += bool(question.answer)
        without += 1 + (not question.answer)
        for there in (True, False):
            for name, way in WAYS.items():
                began = time.perf_counter()
                told = plain(await way(retrievers[question.own is there], context, one))
                if name == [*WAYS][-1]:
                    took.append(time.perf_counter() - began)
                if there and question.answer:
                    right = plain(question.answer) in told
                    counts[name]["rightly"] += right
                    counts[name]["wrongly"] += bool(told) and not right
                else:
                    counts[name]["something"] += bool(told)
    return {
        "questions with an answer": with_answer,
        "without": without,
        "told": counts,
        "looked up within s (95 %)": round(float(np.quantile(took, 0.95)), 3),
    }


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


# -- the fit


FEATURES = tuple(field.name for field in fields(Weights))
BY_SPELLING = FEATURES[: FEATURES.index("sure") + 1]


@dataclass(frozen=True)
class Choice:
    """Readings that compete, and which of them find the answer."""

    features: Tensor
    """[readings, features]"""
    right: Tensor
    weight: float


def features_of(reading: Reading, confidence: float) -> list[float]:
    """What the weights of `mending` are factors of, in their order."""
    spotted, sound = reading.spotted, reading.sound
    assert sound is not None
    return [
        1.0,
        spotted.whole,
        spotted.whole * spotted.distance,
        reading.known,
        spotted.distance == 0.0,
        math.log(max(reading.names, FEW_NAMES)),
        min(math.log(confidence / max(1.0 - confidence, 1e-9)), MAX_LOGIT),
        max(sound.guessed, LEAST_LIKELY),
        min(sound.pieces, MAX_PIECES),
        max(sound.written, LEAST_WRITTEN),
    ]


def choices_of(
    heard: Sequence[tuple[Question, Heard]], bases: dict[bool, KnowledgeBase]
) -> Iterator[Choice]:
    """Every hearing of every question, in both bases, that is not answered as it was heard."""
    for question, one in heard:
        for there in (True, False):
            base = bases[question.own is there]
            readings = [base.readings(text) for text in one.texts]
            guesses = [
                placed(text, text, some) for text, some in zip(one.texts, readings, strict=True)
            ]
            likely = one.by.likelihoods(one.hearing, guesses)
            for text, some, sounds in zip(one.texts, readings, likely, strict=True):
                hits = base.search(text, 1)
                if (hits and hits[0].confidence >= MIN_CONFIDENCE) or len(sounds) != len(some):
                    continue
                rows, right = [], []
                for reading in by_sound(some, sounds):
                    found = base.search(reading.text, 1)
                    if found and found[0].confidence >= LEAST_SURE:
                        rows.append(features_of(reading, found[0].confidence))
                        answers = plain(found[0].text) == plain(question.answer)
                        right.append(there and bool(question.answer) and answers)
                yield Choice(
                    torch.tensor(rows, dtype=torch.float64).reshape(-1, len(FEATURES)),
                    torch.tensor(right, dtype=torch.bool),
                    1.0 if there else NO_ANSWER,
                )


def fit(choices: Sequence[Choice], used: Sequence[str]) -> Weights:
    """Weights by which the right reading wins against the others and against none of them."""
    mask = torch.tensor([name in used for name in FEATURES], dtype=torch.float64)
    weights = torch.zeros(len(FEATURES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        kept = weights * mask
        total = SHRINKAGE * len(choices) * kept[1:].square().sum()
        for one in choices:
            scores = torch.cat([one.features @ kept, kept.new_zeros(1)])
            right = scores[:-1][one.right].logsumexp(0) if one.right.any() else scores[-1]
            total = total + one.weight * (scores.logsumexp(0) - right)
        total = total / len(choices)
        total.backward()
        return total

    optimizer.step(loss)
    return Weights(*(round(value, 2) + 0.0 for value in (weights * mask).tolist()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--recogniser", default="wren")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/mending.json"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    hearing = SecondHearing.of(load_recogniser(args.recogniser, device="cpu"))
    assert hearing is not None, "this recogniser does not hear sound itself"
    report: dict[str, Any] = {"recogniser": args.recogniser, "machine": platform.processor()}
    choices: list[Choice] = []
    for folder in args.data:
        manifest = folder / "manifest.jsonl"
        bases = bases_of([row for _, row in read_rows(manifest)], args.out.parent / folder.name)
        heard = [(one, Heard(hearing, hearing.hear(one.pcm))) for one in questions_of(manifest)]
        report[folder.name] = found = asyncio.run(measure(heard, bases))
        print(json.dumps(found, indent=1), flush=True)
        if args.fit:
            choices += choices_of(heard, bases)
    if args.fit:
        for name, used in (("SPELLING", BY_SPELLING), ("SOUND", FEATURES)):
            report[name] = asdict(fit(choices, used))
            print(f"{name} = {report[name]}", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
