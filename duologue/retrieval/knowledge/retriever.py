"""The knowledge base as a retriever, and as a tool for language models.

Answers carry their sources. Their confidence is the probability that the best passage is the one
asked for (see `confidence`); below `min_confidence` the answer is "nothing found".
Searches run in a thread of their own, so a large index does not hold up the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from duologue.retrieval.cleaning import clean_text
from duologue.retrieval.knowledge.analysis import term_of, words_of
from duologue.retrieval.knowledge.answer import speakable_answer
from duologue.retrieval.knowledge.base import Hit, KnowledgeBase, Mended
from duologue.retrieval.knowledge.followup import asks_nothing, completed, leans
from duologue.retrieval.knowledge.mending import Reading
from duologue.retrieval.knowledge.rehearing import Meanings, by_sound, placed, together
from duologue.retrieval.knowledge.segment import IndexCorrupt
from duologue.retrieval.knowledge.senses import senses_of
from duologue.retrieval.protocol import (
    HearAgain,
    Outcome,
    RetrievalContext,
    Retrieved,
    Role,
    handing_over,
)
from duologue.retrieval.tools import ToolResult

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

MIN_CONFIDENCE = 0.5
MIN_CONFIDENCE_BEFORE_OTHERS = 0.65
"""For a knowledge base with a language model or web search behind it."""
FOLLOW_UP_WORDS = 2
"""A question with at most this many telling words is taken as a follow-up to what came before."""
MAX_TOOL_PASSAGES = 5
SEARCH_S = 0.1
"""Of a deadline, kept for what is searched after a question has been heard again."""

_POINTERS = frozenset(
    """
    it its he she they them his her their this that these those there
""".split()  # noqa: SIM905
)


class KnowledgeRetriever:
    """Answers the newest user turn from a knowledge base."""

    def __init__(
        self,
        base: KnowledgeBase,
        *,
        name: str = "knowledge",
        min_confidence: float = MIN_CONFIDENCE,
        passages: int = 3,
    ) -> None:
        self.base = base
        self._name = name
        self._min_confidence = min_confidence
        self._passages = passages
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"retrieval-{name}")

    @property
    def name(self) -> str:
        return self._name

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        """Search takes milliseconds, and is the caller's to bound; a question is heard again for
        as long as leaves time to search for it.
        """
        found, sure = await self._run(self._first, context)
        if sure or context.hear_again is None or asks_nothing(context.question):
            return found
        try:
            async with asyncio.timeout(handing_over(deadline_s) - SEARCH_S):
                hearings = await self._hear_again(context.hear_again, context)
        except TimeoutError:
            logger.warning("a question could not be heard again in time")
            return found
        except Exception as error:  # what was heard first is what there is
            logger.warning("a question cannot be heard again: %s", type(error).__name__)
            return found
        return await self._run(self._look_up_together, context, hearings)

    async def _hear_again(self, hear_again: HearAgain, context: RetrievalContext) -> list[_Hearing]:
        """The newest turn in all ways that it was heard, with what each may mean."""
        heard = await hear_again()
        hearings = await self._run(self._hearings, context, heard.texts)
        sounds = await heard.likelihoods(
            [placed(one.text, one.question, one.readings) for one in hearings]
        )
        hearings = [
            replace(one, readings=by_sound(one.readings, likely))
            for one, likely in zip(hearings, sounds, strict=True)
        ]
        first = words_of(context.question)
        if all(words_of(one.text) != first for one in hearings):
            hearings += await self._run(self._hearings, context, [context.question])
        return hearings

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def look_up(self, context: RetrievalContext) -> Retrieved:
        """What is found for the words alone, without an event loop."""
        return self._first(context)[0]

    def _first(self, context: RetrievalContext) -> tuple[Retrieved, bool]:
        """What is found for the words alone, and whether it is sure without being mended."""
        question, hits = self._search(context)
        sure = self._is_sure(hits)
        if question and not sure:
            mended = self.base.search_mended(question, self._passages)
            if mended is not None and mended.confidence > _confidence(hits):
                question, hits = mended.question, mended.hits
        return self._answer(context, question, hits), sure

    def _hearings(self, context: RetrievalContext, texts: Sequence[str]) -> list[_Hearing]:
        """Each text as a question; those that are heard alike are searched for once."""
        known = {text: self._hearing(context, text) for text in dict.fromkeys(texts)}
        return [known[text] for text in texts]

    def _hearing(self, context: RetrievalContext, text: str) -> _Hearing:
        question, hits = self._search(context.heard_as(text)) if text else ("", ())
        unsure = question and not self._is_sure(hits)
        return _Hearing(text, question, hits, self.base.readings(question) if unsure else ())

    def _look_up_together(
        self, context: RetrievalContext, hearings: Sequence[_Hearing]
    ) -> Retrieved:
        """What is found for several hearings of the newest turn."""
        mended = together(self._meanings(one) for one in hearings)
        if mended is None:
            return self._answer(context, "", ())
        return self._answer(context, mended.question, mended.hits)

    def _meanings(self, hearing: _Hearing) -> Meanings:
        unmended = [Mended(hearing.question, hearing.hits)] if hearing.hits else []
        if self._is_sure(hearing.hits):
            return Meanings(unmended, [])
        meanings = self.base.meanings(hearing.readings, self._passages)
        if all(one.sound is not None for one in hearing.readings):
            return Meanings(meanings, unmended)
        return Meanings([], [*meanings, *unmended])

    def _search(self, context: RetrievalContext) -> tuple[str, Sequence[Hit]]:
        """The newest turn as it is best understood, and what is found for it."""
        self._refresh()
        unsure: list[tuple[str, Sequence[Hit]]] = []
        for question, background in _turns_read(context):
            hits = self.base.search(question, self._passages, background=background)
            surest = max(hits, key=lambda hit: hit.confidence, default=None)
            if surest is not None and self._is_sure([surest]):
                if not self._is_sure(hits):
                    hits = [surest, *(hit for hit in hits if hit is not surest)]
                return question, hits
            unsure.append((question, hits))
        if not unsure:
            return "", ()
        # What is not understood by itself is taken to go on from the turn before.
        return unsure[0] if leans(context.question) else unsure[-1]

    def _is_sure(self, hits: Sequence[Hit]) -> bool:
        return _confidence(hits) >= self._min_confidence

    def _answer(self, context: RetrievalContext, question: str, hits: Sequence[Hit]) -> Retrieved:
        hits = _of_what_is_asked(question, hits)
        confidence = _confidence(hits)
        if not self._is_sure(hits):
            return Retrieved(Outcome.EMPTY, backend=self.name, confidence=confidence)
        weights = self.base.question_weights(question)
        reference, quoted = speakable_answer(weights, hits, context.budget)
        return Retrieved(
            Outcome.ANSWERED if reference else Outcome.EMPTY,
            reference,
            sources=tuple(hit.source for hit in hits[:quoted]),
            confidence=confidence,
            backend=self.name,
        )

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Carry out a search beside the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(work, *args, **kwargs))

    def _refresh(self) -> None:
        """Take over what was added meanwhile; what cannot be read leaves things as they are."""
        try:
            self.base.refresh()
        except IndexCorrupt as error:
            logger.warning("the index was changed and cannot be read: %s", error)


def _of_what_is_asked(question: str, hits: Sequence[Hit]) -> Sequence[Hit]:
    """Hits without what tells of something else than the one thing that is asked for: "people" are
    in "what do the people of Peru speak", and in a passage on how many they are.
    """
    senses = senses_of([*words_of(question)])
    if len(senses) != 1 or senses[0].probability < 1.0 or len(hits) < 2:
        return hits
    terms = {term for term, _ in senses[0].told}
    first, second = hits[:2]
    telling = [any(term_of(word) in terms for word in words_of(hit.text)) for hit in hits[:2]]
    if telling == [True, False]:
        return [first]
    if telling == [False, True] and second.confidence > first.confidence:
        return [second]
    return hits


class KnowledgeTool:
    """Search in a knowledge base, for a language model to call."""

    name = "search_knowledge"
    description = "Search the documents of this system. Returns passages with their sources."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "what to look for, in words"}},
        "required": ["query"],
        "additionalProperties": False,
    }

    def __init__(self, base: KnowledgeBase, *, passages: int = MAX_TOOL_PASSAGES) -> None:
        self._base = base
        self._passages = min(passages, MAX_TOOL_PASSAGES)

    async def call(self, arguments: Mapping[str, Any], deadline_s: float) -> ToolResult:
        query = clean_text(str(arguments.get("query", "")), 400)
        hits = await asyncio.to_thread(self._base.search, query, self._passages)
        return ToolResult(_listing(hits), tuple(hit.source for hit in hits))


def _listing(hits: Sequence[Hit]) -> str:
    if not hits:
        return "Nothing found."
    return "\n".join(f"[{hit.source.cite()}] {_titled(hit)}" for hit in hits)


def _titled(hit: Hit) -> str:
    return f"{hit.heading}: {hit.text}" if hit.heading else hit.text


@dataclass(frozen=True, slots=True)
class _Hearing:
    """A text that was heard, as a question, with what is found for it or else what it may mean."""

    text: str
    question: str
    hits: Sequence[Hit]
    readings: Sequence[Reading]


def _confidence(hits: Sequence[Hit]) -> float:
    """How sure the best passage is, 0 where nothing was found."""
    return hits[0].confidence if hits else 0.0


def _turns_read(context: RetrievalContext) -> Iterator[tuple[str, str]]:
    """What the newest turn may ask, likeliest first, each with words that may be meant too."""
    question = context.question
    if asks_nothing(question):
        return
    earlier = [turn.text for turn in context.turns if turn.role is Role.USER][:-1]
    whole, meant = completed(question, earlier) if earlier else ("", "")
    if whole and leans(question):
        yield whole, meant
    background = context.background if _is_follow_up(question) else ""
    if background and not _telling_words(question):
        yield f"{background} {question}", ""
    else:
        yield question, background
    if whole and not leans(question):
        yield whole, meant


def _telling_words(question: str) -> int:
    return len({term for word in words_of(question) if (term := term_of(word))})


def _is_follow_up(question: str) -> bool:
    words = words_of(question)
    return _telling_words(question) <= FOLLOW_UP_WORDS or not _POINTERS.isdisjoint(words)
