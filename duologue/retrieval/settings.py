"""From settings to one retriever: what is asked, in which order.

Tools first (microseconds), then the knowledge base (milliseconds), then plug-ins, then whoever
needs the network: the language model and, hedged behind it, web search. The first acceptable answer
wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from duologue.retrieval.compose import Cascade, Member, hedged, in_order
from duologue.retrieval.knowledge.base import KnowledgeBase
from duologue.retrieval.knowledge.retriever import (
    MIN_CONFIDENCE,
    MIN_CONFIDENCE_BEFORE_OTHERS,
    KnowledgeRetriever,
    KnowledgeTool,
)
from duologue.retrieval.llm import LLMOptions, LLMRouter
from duologue.retrieval.plugins import load_plugin
from duologue.retrieval.profiles import LLMProfiles, profiles_from_environment
from duologue.retrieval.protocol import Clock, Retriever
from duologue.retrieval.tools import Tool, ToolRetriever, standard_tools
from duologue.retrieval.web import WebEngine, WebSearch, WebSettings, WebSettingsError, WebTool

DEFAULT_TIMEOUT_S = 1.5
FACTBOOK = "factbook"


@dataclass(frozen=True)
class RetrievalSettings:
    """What may be asked. Everything off is allowed: then nothing is ever found.

    `knowledge` are index folders, documents or folders of documents, whose answers need
    `knowledge_min_confidence` (None: more when somebody else can be asked next). `grounded_only`
    accepts no
    answer without a source. `llm_tools` lets language models call the tools, the knowledge base and
    web search (slower; implied by `grounded_only`, since their answers have no other sources).
    """

    tools: bool = True
    knowledge: tuple[Path, ...] = ()
    knowledge_min_confidence: float | None = None
    llm: LLMProfiles | None = None
    llm_options: LLMOptions = field(default_factory=LLMOptions)
    llm_tools: bool = False
    web: WebSettings | None = None
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grounded_only: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, knowledge: Sequence[str | Path] = ()
    ) -> RetrievalSettings:
        """The published variables for language models, and for web search:

        DUOLOGUE_WEB_SEARCH (searxng or brave), DUOLOGUE_WEB_SEARCH_URL, DUOLOGUE_WEB_SEARCH_KEY.

        Raises:
            ProfileError, WebSettingsError: names the variable and what may be in it.
        """
        return cls(
            knowledge=tuple(map(Path, knowledge)),
            llm=profiles_from_environment(environment),
            web=_web_from_environment(environment),
        )


def _web_from_environment(environment: Mapping[str, str]) -> WebSettings | None:
    variable = "DUOLOGUE_WEB_SEARCH"
    name, url, key = (environment.get(f"{variable}{of}", "").strip() for of in ("", "_URL", "_KEY"))
    if not name:
        return None
    try:
        engine = WebEngine(name.lower())
    except ValueError:
        choices = " or ".join(WebEngine)
        raise WebSettingsError(f"{variable} is {choices}, not {name!r}") from None
    needed, value = ("_URL", url) if engine is WebEngine.SEARXNG else ("_KEY", key)
    if not value:
        raise WebSettingsError(f"{variable}={engine} needs {variable}{needed}")
    return WebSettings(engine, url, key)


def documents_at(name: str | Path) -> Path:
    """A path as it is; the shipped fact book by its name, unless there is something called so."""
    path = Path(name)
    if str(name) == FACTBOOK and not path.exists():
        return Path(__file__).parents[1] / "data" / FACTBOOK / "facts.md"
    return path


def open_knowledge(paths: Sequence[Path]) -> KnowledgeBase:
    """An index folder as it is, or documents (also `factbook`) indexed in memory."""
    paths = [documents_at(path) for path in paths]
    if len(paths) == 1 and (paths[0] / "index.json").is_file():
        return KnowledgeBase.open(paths[0])
    return KnowledgeBase.from_files(paths)


def build_retriever(
    settings: RetrievalSettings,
    *,
    base: KnowledgeBase | None = None,
    extra_tools: Sequence[Tool] = (),
    now: Callable[[], datetime] | None = None,
    clock: Clock = time.monotonic,
) -> Retriever:
    """The retriever that the settings describe; the caller closes it.

    `base` is a knowledge base that is open already, asked in place of the settings' `knowledge`.
    """
    members: list[Member] = []
    callable_tools: list[Tool] = [*extra_tools]

    def add(retriever: Retriever) -> None:
        members.append(Member(retriever, require_sources=settings.grounded_only))

    if settings.tools:
        tools = standard_tools(now)
        callable_tools += tools
        add(ToolRetriever(tools))
    if base is None and settings.knowledge:
        base = open_knowledge(settings.knowledge)
    if base is not None:
        callable_tools.append(KnowledgeTool(base))
        add(KnowledgeRetriever(base, min_confidence=_knowledge_confidence(settings)))
    for name, own_settings in settings.plugins.items():
        add(load_plugin(name, own_settings))
    network = _network(settings, callable_tools, clock)
    if network is not None:
        add(network)
    if not members:
        members.append(Member(ToolRetriever(())))
    return in_order(members, name="retrieval", clock=clock)


def _knowledge_confidence(settings: RetrievalSettings) -> float:
    if settings.knowledge_min_confidence is not None:
        return settings.knowledge_min_confidence
    return MIN_CONFIDENCE_BEFORE_OTHERS if settings.llm or settings.web else MIN_CONFIDENCE


def _network(
    settings: RetrievalSettings, tools: Sequence[Tool], clock: Clock
) -> Cascade | LLMRouter | WebSearch | None:
    web = WebSearch(settings.web, clock=clock) if settings.web else None
    if settings.llm is None:
        return web
    with_tools = settings.llm_tools or settings.grounded_only
    callable_tools = [*tools, *([WebTool(web)] if web else [])] if with_tools else []
    llm = LLMRouter(settings.llm, options=settings.llm_options, tools=callable_tools, clock=clock)
    if web is None:
        return llm
    grounded_only = settings.grounded_only
    return hedged(
        Member(llm, require_sources=grounded_only),
        Member(web, require_sources=grounded_only),
        name="llm, web",
        clock=clock,
    )
