"""The knowledge base as a retriever, and as a tool for language models.

Answers carry their sources. Their confidence is the probability that the best passage is the one
asked for (see `confidence`); below `min_confidence` the answer is "nothing found".
Searches run in a thread of their own, so a large index does not hold up the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from duologue.retrieval.cleaning import clean_text
from duologue.retrieval.knowledge.analysis import term_of, words_of
from duologue.retrieval.knowledge.answer import speakable_answer
from duologue.retrieval.knowledge.base import Hit, KnowledgeBase
from duologue.retrieval.knowledge.followup import asks_nothing, completed, leans
from duologue.retrieval.knowledge.segment import IndexCorrupt
from duologue.retrieval.protocol import Outcome, RetrievalContext, Retrieved, Role
from duologue.retrieval.tools import ToolResult

logger = logging.getLogger(__name__)

MIN_CONFIDENCE = 0.5
MIN_CONFIDENCE_BEFORE_OTHERS = 0.65
"""For a knowledge base with a language model or web search behind it."""
FOLLOW_UP_WORDS = 2
"""A question with at most this many telling words is taken as a follow-up to what came before."""
MAX_TOOL_PASSAGES = 5

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
        """Search takes milliseconds, a question heard again more; the deadline is the caller's to
        hold.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self.look_up, context)
        if found.answered or context.hear_again is None or asks_nothing(context.question):
            return found
        try:
            others = await context.hear_again()
        except Exception as error:  # what was heard first is what there is
            logger.warning("a question cannot be heard again: %s", type(error).__name__)
            return found
        contexts = [context.heard_as(other) for other in dict.fromkeys(others) if other]
        again = await loop.run_in_executor(
            self._threads, lambda: [self.look_up(one) for one in contexts]
        )
        return max((found, *again), key=lambda one: (one.answered, one.confidence))

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def look_up(self, context: RetrievalContext) -> Retrieved:
        """The same without an event loop."""
        self._refresh()
        question = ""
        hits: Sequence[Hit] = ()
        for question, background in _readings(context):
            hits = self.base.search(question, self._passages, background=background)
            if hits and hits[0].confidence >= self._min_confidence:
                break
        confidence = hits[0].confidence if hits else 0.0
        if question and confidence < self._min_confidence:
            mended = self.base.search_mended(question, self._passages)
            if mended is not None and mended.hits[0].confidence > confidence:
                question, hits = mended.question, mended.hits
                confidence = hits[0].confidence
        if confidence < self._min_confidence:
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

    def _refresh(self) -> None:
        """Take over what was added meanwhile; what cannot be read leaves things as they are."""
        try:
            self.base.refresh()
        except IndexCorrupt as error:
            logger.warning("the index was changed and cannot be read: %s", error)


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


def _readings(context: RetrievalContext) -> Iterator[tuple[str, str]]:
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
