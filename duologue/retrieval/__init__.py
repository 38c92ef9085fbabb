"""Retrieval: the conversation in, a short speakable reference out, inside a deadline.

Reading order: `protocol` (the contract), `knowledge` (documents), `tools`, `llm`, `web`, `mcp`
(back ends), `compose` (several as one), `settings` (which ones). `cleaning`, `clauses`, `units` and
`speakable` work on text; `http`, `sse` and `breaker` on connections.

    base = KnowledgeBase.from_files(["facts.md"])
    retriever = in_order([ToolRetriever(standard_tools()), KnowledgeRetriever(base)])
    found = await attempt(retriever, RetrievalContext.from_question("when do you open?"), 1.5)
    found.outcome, found.reference, [source.cite() for source in found.sources]
"""

from duologue.retrieval.compose import Cascade, Member, grounded, hedged, in_order, race
from duologue.retrieval.knowledge import KnowledgeBase, KnowledgeRetriever
from duologue.retrieval.llm import LLMOptions, LLMRetriever, LLMRouter
from duologue.retrieval.profiles import LLMProfile, LLMProfiles, profiles_from_environment
from duologue.retrieval.protocol import (
    Attempt,
    BackendMalformed,
    BackendRejected,
    BackendUnavailable,
    Budget,
    Clause,
    EarlierReference,
    Outcome,
    RetrievalContext,
    RetrievalError,
    RetrievalTimeout,
    Retrieved,
    Retriever,
    Role,
    Source,
    StreamingRetriever,
    Turn,
    attempt,
    stream_attempt,
)
from duologue.retrieval.settings import RetrievalSettings, build_retriever, open_knowledge
from duologue.retrieval.tools import SpokenTool, Tool, ToolResult, ToolRetriever, standard_tools
from duologue.retrieval.web import WebEngine, WebSearch, WebSettings

__all__ = [
    "Attempt",
    "BackendMalformed",
    "BackendRejected",
    "BackendUnavailable",
    "Budget",
    "Cascade",
    "Clause",
    "EarlierReference",
    "KnowledgeBase",
    "KnowledgeRetriever",
    "LLMOptions",
    "LLMProfile",
    "LLMProfiles",
    "LLMRetriever",
    "LLMRouter",
    "Member",
    "Outcome",
    "RetrievalContext",
    "RetrievalError",
    "RetrievalSettings",
    "RetrievalTimeout",
    "Retrieved",
    "Retriever",
    "Role",
    "Source",
    "SpokenTool",
    "StreamingRetriever",
    "Tool",
    "ToolResult",
    "ToolRetriever",
    "Turn",
    "WebEngine",
    "WebSearch",
    "WebSettings",
    "attempt",
    "build_retriever",
    "grounded",
    "hedged",
    "in_order",
    "open_knowledge",
    "profiles_from_environment",
    "race",
    "standard_tools",
    "stream_attempt",
]
