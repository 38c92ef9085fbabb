"""Web search through a documented HTTP API: SearXNG's JSON format, or Brave's.

The results' snippets are treated as passages of a tiny knowledge base: the one that fits the
question best gives the sentence to say, and its page is the source. Pages themselves are not
fetched.

Bounds: `MAX_RESULTS` results, `MAX_SNIPPET_CHARS` a snippet, `MAX_QUERY_CHARS` of question.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx

from duologue.errors import DuologueError
from duologue.retrieval.breaker import CircuitBreaker
from duologue.retrieval.cleaning import clean_text
from duologue.retrieval.http import Host
from duologue.retrieval.knowledge.answer import speakable_answer
from duologue.retrieval.knowledge.base import KnowledgeBase
from duologue.retrieval.protocol import (
    BackendMalformed,
    Clock,
    Outcome,
    RetrievalContext,
    RetrievalError,
    Retrieved,
    Source,
)
from duologue.retrieval.tools import ToolResult, string_argument

MAX_RESULTS = 8
MAX_SNIPPET_CHARS = 600
MAX_QUERY_CHARS = 380
MIN_COVERAGE = 0.3
BRAVE_URL = "https://api.search.brave.com/res/v1"


class WebSettingsError(DuologueError, ValueError):
    """Settings with which nothing can be searched; the message names what is missing."""


class WebEngine(StrEnum):
    """Whose API is spoken."""

    SEARXNG = "searxng"
    BRAVE = "brave"


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Where to search. SearXNG needs `base_url`, Brave needs `api_key`."""

    engine: WebEngine
    base_url: str = ""
    api_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.engine is WebEngine.SEARXNG and not self.base_url:
            raise WebSettingsError("base_url: a SearXNG server has to be named")
        if self.engine is WebEngine.BRAVE and not self.api_key:
            raise WebSettingsError("api_key: Brave search needs a key")


@dataclass(frozen=True, slots=True)
class WebResult:
    """One result: the page's title, its address, and what it says about the question."""

    title: str
    url: str
    snippet: str


class WebSearch:
    """Searches the web. Both a retriever and (as `WebTool`) a tool for language models."""

    def __init__(
        self,
        settings: WebSettings,
        *,
        name: str = "web",
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._name = name
        self._clock = clock
        self.breaker = CircuitBreaker(name, clock=clock)
        headers = {"Accept": "application/json"}
        if settings.engine is WebEngine.BRAVE:
            headers["X-Subscription-Token"] = settings.api_key
        elif settings.api_key:
            headers["Authorization"] = f"Bearer {settings.api_key}"
        self._host = Host(settings.base_url or BRAVE_URL, headers, transport=transport)

    @property
    def name(self) -> str:
        return self._name

    async def aclose(self) -> None:
        await self._host.aclose()

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        if not context.question:
            return Retrieved(Outcome.EMPTY, backend=self.name)
        results = await self.search(context.question, deadline_s)
        return await asyncio.to_thread(self._answer, context, results)

    async def search(self, query: str, deadline_s: float) -> list[WebResult]:
        """Results in the engine's order; raises RetrievalError."""
        query = clean_text(query, MAX_QUERY_CHARS)
        if self._settings.engine is WebEngine.SEARXNG:
            path, params = "search", {"q": query, "format": "json"}
        else:
            path, params = "web/search", {"q": query, "count": str(MAX_RESULTS)}
        self.breaker.enter()
        started = self._clock()
        reported = False
        try:
            body = await self._host.get(path, params, deadline_s)
            results = _results(self._settings.engine, body)
            self.breaker.succeeded()
            reported = True
            return results
        except RetrievalError:
            self.breaker.failed()
            reported = True
            raise
        finally:
            if not reported:
                self.breaker.cancelled(self._clock() - started, deadline_s)

    def _answer(self, context: RetrievalContext, results: list[WebResult]) -> Retrieved:
        base = KnowledgeBase.from_texts((r.title, r.url, r.snippet) for r in results)
        hits = base.search(context.question, 3)
        confidence = hits[0].coverage if hits else 0.0
        if confidence < MIN_COVERAGE:
            return Retrieved(Outcome.EMPTY, backend=self.name, confidence=confidence)
        weights = base.question_weights(context.question)
        reference, quoted = speakable_answer(weights, hits, context.budget)
        return Retrieved(
            Outcome.ANSWERED if reference else Outcome.EMPTY,
            reference,
            sources=tuple(hit.source for hit in hits[:quoted]),
            confidence=confidence,
            backend=self.name,
        )


class WebTool:
    """Web search for a language model to call."""

    name = "search_web"
    description = "Search the web. Returns titles, addresses and snippets."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"query": {"type": "string"}},
        "required": ["query"],
        "additionalProperties": False,
    }

    def __init__(self, search: WebSearch) -> None:
        self._search = search

    async def call(self, arguments: Mapping[str, Any], deadline_s: float) -> ToolResult:
        results = await self._search.search(string_argument(arguments, "query"), deadline_s)
        sources = tuple(Source(r.title, r.url) for r in results)
        lines = [f"[{r.title}] {r.url}: {r.snippet}" for r in results]
        return ToolResult("\n".join(lines) or "Nothing found.", sources)


def _results(engine: WebEngine, body: bytes) -> list[WebResult]:
    try:
        value = json.loads(body)
        if engine is WebEngine.SEARXNG:
            rows, snippet_key = value["results"], "content"
        else:
            rows, snippet_key = value.get("web", {}).get("results", []), "description"
        return list(_read_rows(rows, snippet_key))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BackendMalformed("the search engine's answer is not as documented") from error


def _read_rows(rows: Iterable[Mapping[str, Any]], snippet_key: str) -> Iterable[WebResult]:
    for row in list(rows)[:MAX_RESULTS]:
        url, snippet = str(row["url"]), _plain(str(row.get(snippet_key) or ""))
        if snippet and url.startswith(("http://", "https://")):
            title = _plain(str(row.get("title") or "")) or url
            yield WebResult(clean_text(title, 120), clean_text(url, 500), snippet)


def _plain(marked_up: str) -> str:
    text = html.unescape(re.sub(r"<[^<>]{0,200}>", "", marked_up[: 4 * MAX_SNIPPET_CHARS]))
    return clean_text(text, MAX_SNIPPET_CHARS)
