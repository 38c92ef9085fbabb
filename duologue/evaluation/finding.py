"""Retrieval by itself: given the true words of a question, is the right sentence found?

No sound and no model: what this loses, no model can win back. The retriever is the one that a
session with the same files has; it is asked with nothing but the question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from duologue.evaluation import statistics
from duologue.evaluation.cases import ANSWERED, COUNTS, Case, write_cases
from duologue.evaluation.knowledge import Knowledge, Library
from duologue.evaluation.table import Figure
from duologue.evaluation.words import said, spoken_words
from duologue.evaluation.world import answer_of
from duologue.retrieval.protocol import RetrievalContext, Retriever, attempt
from duologue.synthesis.splits import Split

DEADLINE_S = 1.5

Open = Callable[[Knowledge], Retriever]


def measure(
    folder: Path,
    open_retriever: Open,
    *,
    seed: int = 1,
    limit: int | None = None,
    split: Split = "test",
) -> list[dict[str, Any]]:
    """Look up each question of the groups whose answers are judged."""
    everything = {group: write_cases(group, COUNTS[group], seed, split) for group in ANSWERED}
    library = Library(folder, [case for cases in everything.values() for case in cases])
    results: list[dict[str, Any]] = []
    for cases in everything.values():
        retriever = open_retriever(library.for_case(cases[0], None))
        results += asyncio.run(_look_up(retriever, cases[:limit]))
    return results


async def _look_up(retriever: Retriever, cases: Sequence[Case]) -> list[dict[str, Any]]:
    found = []
    try:
        for case in cases:
            assert case.fact is not None
            question = case.script.turns[0].text
            answer = await attempt(retriever, RetrievalContext.from_question(question), DEADLINE_S)
            right = said(answer_of(case.fact), spoken_words(answer.reference))
            found.append({
                "id": case.id, "group": str(case.group), "right": right, "question": question,
                "wanted": case.reference, "outcome": str(answer.outcome),
                "found": answer.reference, "relation": f"{case.fact.topic} {case.fact.relation}",
            })  # fmt: skip
    finally:
        await retriever.aclose()
    return found


def finding_figures(results: Sequence[dict[str, Any]]) -> list[Figure]:
    """The share of right references, by group."""
    figures = []
    for group in ANSWERED:
        hits = [bool(r["right"]) for r in results if r["group"] == group]
        title = f"retrieval alone finds the answer, true words: {group}"
        figures.append(Figure(f"found_{group}", title, "%", statistics.share(hits).scaled(100)))
    return figures
