"""Web search, MCP servers, plug-ins, and the retriever that settings describe."""

from __future__ import annotations

import asyncio
import builtins
import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import pytest

from duologue.errors import DuologueError
from duologue.retrieval.http import Host
from duologue.retrieval.knowledge import KnowledgeBase
from duologue.retrieval.mcp import McpServer, McpTools
from duologue.retrieval.plugins import PluginError, available_plugins, load_plugin
from duologue.retrieval.profiles import LLMProfile, LLMProfiles
from duologue.retrieval.protocol import (
    BackendMalformed,
    BackendRejected,
    Outcome,
    RetrievalContext,
    RetrievalError,
    Retrieved,
    Retriever,
    attempt,
)
from duologue.retrieval.settings import RetrievalSettings, build_retriever
from duologue.retrieval.tools import ToolError, ToolRetriever
from duologue.retrieval.web import WebEngine, WebSearch, WebSettings, WebTool

QUESTION = RetrievalContext.from_question("how tall is the eiffel tower")
Handler = Callable[[httpx.Request], httpx.Response]

SEARXNG = {
    "results": [
        {"title": "Weather", "url": "https://w.org", "content": "It rains in Paris."},
        {
            "title": "Eiffel Tower",
            "url": "https://e.org/tower",
            "content": "The <b>Eiffel&nbsp;Tower</b> is 330 m tall. It opened in 1889.",
        },
        {"title": "bad", "url": "javascript:alert(1)", "content": "Eiffel tower tall tall tall"},
        {"title": "empty", "url": "https://x.org"},
    ]
}
BRAVE = {
    "web": {
        "results": [
            {"title": r["title"], "url": r["url"], "description": r.get("content")}
            for r in SEARXNG["results"]
        ]
    }
}


def web(handler: Handler, settings: WebSettings | None = None) -> WebSearch:
    settings = settings or WebSettings(WebEngine.SEARXNG, "http://search.local/base/")
    return WebSearch(settings, transport=httpx.MockTransport(handler))


def ask(retriever: Retriever, context: RetrievalContext = QUESTION) -> Retrieved:
    async def run() -> Retrieved:
        try:
            return await attempt(retriever, context, 5.0)
        finally:
            await retriever.aclose()

    return asyncio.run(run())


def test_searxng() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=SEARXNG)

    result = ask(web(handler))
    assert result.reference.startswith("The Eiffel Tower is three hundred thirty meters tall.")
    assert result.sources[0].location == "https://e.org/tower"
    assert result.sources[0].cite() == "Eiffel Tower"
    assert seen[0].url.path == "/base/search"
    assert dict(seen[0].url.params) == {"q": "how tall is the eiffel tower", "format": "json"}
    assert "authorization" not in seen[0].headers


def test_brave() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=BRAVE)

    settings = WebSettings(WebEngine.BRAVE, api_key="secret")
    assert ask(web(handler, settings)).answered
    assert seen[0].url.host == "api.search.brave.com"
    assert seen[0].url.path == "/res/v1/web/search"
    assert seen[0].headers["x-subscription-token"] == "secret"
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (httpx.Response(200, json={"results": []}), Outcome.EMPTY),
        (httpx.Response(200, json=[]), Outcome.FAILED),
        (httpx.Response(200, text="<html>"), Outcome.FAILED),
        (httpx.Response(403), Outcome.FAILED),
        (httpx.Response(200, content=b"x" * (5 << 20)), Outcome.FAILED),
    ],
)
def test_bad_searches(response: httpx.Response, outcome: Outcome) -> None:
    assert ask(web(lambda request: response)).outcome is outcome


def test_web_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="base_url"):
        WebSettings(WebEngine.SEARXNG)
    with pytest.raises(ValueError, match="api_key"):
        WebSettings(WebEngine.BRAVE)


def test_the_web_tool_lists_results() -> None:
    search = web(lambda request: httpx.Response(200, json=SEARXNG))
    result = asyncio.run(WebTool(search).call({"query": "tower"}, 1.0))
    assert "[Eiffel Tower] https://e.org/tower: The Eiffel Tower is 330 m tall." in result.text
    assert "javascript" not in result.text
    assert [source.location for source in result.sources] == [
        "https://w.org",
        "https://e.org/tower",
    ]


def fetch(handler: Handler, method: str = "GET") -> bytes:
    async def run() -> bytes:
        host = Host("http://a.local", {"X-Key": "secret"}, transport=httpx.MockTransport(handler))
        async with host.open(method, "x", 1.0) as response:
            return await response.aread()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "target",
    """
        http://b.local/x https://a.local/x http://a.local:81/x //b.local/x
        http://a.local@b.local/
    """.split(),  # noqa: SIM905
)  # fmt: skip
def test_other_origins_are_not_followed(target: str) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"location": target})

    with pytest.raises(BackendRejected, match="another host"):
        fetch(handler)
    assert asked == ["http://a.local/x"]


def test_redirects_within_the_origin() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/y":
            return httpx.Response(200, text=f"{request.method} ok")
        return httpx.Response(int(request.headers.get("x-status", 307)), headers={"location": "y"})

    assert fetch(handler) == b"GET ok"
    assert fetch(handler, "POST") == b"POST ok"
    with pytest.raises(BackendRejected, match="as a GET"):
        fetch(lambda request: httpx.Response(302, headers={"location": "/y"}), "POST")
    with pytest.raises((BackendMalformed, BackendRejected)):
        fetch(lambda request: httpx.Response(302, headers={"location": "http://[bad"}))


# -- MCP


def test_mcp_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_mcp(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "mcp":
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.delitem(sys.modules, "mcp", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_mcp)
    with pytest.raises(ImportError, match=r"duologue\[mcp\]"):
        McpTools(McpServer("x", url="http://localhost/mcp"))


def test_mcp_servers_are_described_one_way() -> None:
    with pytest.raises(ValueError, match="command or a url"):
        McpServer("x")
    with pytest.raises(ValueError, match="command or a url"):
        McpServer("x", command=("a",), url="http://b")
    with pytest.raises(ValueError, match="base URL"):
        McpServer("x", url="ftp://b")


SERVER = """
import os
from mcp.server.mcpserver import MCPServer
server = MCPServer("test")

@server.tool()
def add(a: int, b: int) -> str:
    "Add two numbers."
    return f"{a + b}\\x00 is the\\nsum"

@server.tool()
def fail() -> str:
    "Fails."
    raise RuntimeError("no")

@server.tool()
def leave() -> str:
    "Ends the server."
    os._exit(1)

server.run()
"""


def test_mcp_tools_over_a_pipe(tmp_path: Path) -> None:
    pytest.importorskip("mcp.server.mcpserver")
    script = tmp_path / "server.py"
    script.write_text(SERVER)

    async def run() -> None:
        tools = McpTools(McpServer("sums", command=(sys.executable, str(script))))
        try:
            offered = {tool.name: tool for tool in await tools.tools(30.0)}
            assert set(offered) == {"add", "fail", "leave"}
            assert offered["add"].description == "Add two numbers."
            assert "a" in offered["add"].parameters["properties"]
            result = await offered["add"].call({"a": 2, "b": 3}, 10.0)
            assert result.text == "5 is the\nsum"
            assert result.sources[0].title == "sums: add"
            for name, arguments in (("fail", {}), ("add", {"a": "x"}), ("leave", {})):
                with pytest.raises(ToolError):
                    await offered[name].call(arguments, 10.0)
            assert (await offered["add"].call({"a": 1, "b": 1}, 30.0)).text.startswith("2")
        finally:
            await tools.aclose()

    asyncio.run(run())


def test_an_mcp_server_that_is_not_there() -> None:
    pytest.importorskip("mcp.server.mcpserver")

    async def run() -> None:
        tools = McpTools(McpServer("gone", command=("/no/such/program",)))
        for _ in range(5):
            with pytest.raises(RetrievalError):
                await tools.tools(10.0)
        await tools.aclose()

    asyncio.run(run())


def test_the_http_client_of_a_server_with_headers_is_closed_with_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mcp.server.mcpserver")
    import mcp
    from mcp.client import streamable_http

    opened: list[Any] = []

    class Client:
        def __init__(self, target: Any) -> None:
            self.target = target

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *exc: object) -> None:
            opened.append(self.target.is_closed)

    monkeypatch.setattr(mcp, "Client", Client)
    monkeypatch.setattr(
        streamable_http, "streamable_http_client", lambda url, *, http_client: http_client
    )

    async def run() -> None:
        tools = McpTools(McpServer("x", url="http://localhost/mcp", headers={"X-Key": "secret"}))
        http = (await tools._client()).target
        assert http.headers["x-key"] == "secret"
        assert http.timeout.read == 300.0
        await tools.aclose()
        assert opened == [False]
        assert http.is_closed

    asyncio.run(run())


# -- plug-ins


def make(settings: Mapping[str, Any]) -> Retriever:
    return ToolRetriever((), name=str(settings["name"]))


def make_nothing(settings: Mapping[str, Any]) -> object:
    return object()


def entry(name: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{name}", "duologue.retrievers")


def test_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[make.__module__])
    entries = [entry("make"), entry("make_nothing"), entry("missing")]
    assert set(available_plugins(entries)) == {"make", "make_nothing", "missing"}
    assert load_plugin("make", {"name": "mine"}, entries).name == "mine"
    for name, message in (
        ("other", "installed: make"),
        ("make_nothing", "gives a object"),
        ("missing", "failed"),
        ("make", "failed"),
    ):
        with pytest.raises(PluginError, match=message):
            load_plugin(name, {}, entries)


# -- settings


def test_what_settings_build(tmp_path: Path, chat_server: Any) -> None:
    facts = tmp_path / "facts.md"
    facts.write_text("# Mill\n\nThe old mill makes paper.\n")
    profile = LLMProfile("x", chat_server.url(), "stream")
    llm = LLMProfiles((profile,), "x")

    def answer(question: str, **options: Any) -> Retrieved:
        settings = RetrievalSettings(knowledge=(facts,), **options)
        retriever = build_retriever(
            settings, now=lambda: datetime.fromisoformat("2026-11-21T09:00:00+00:00")
        )
        return ask(retriever, RetrievalContext.from_question(question))

    assert answer("what time is it").backend == "clock"
    result = answer("what does the old mill make")
    assert (result.backend, result.sources[0].cite()) == ("knowledge", "facts.md, line 3")
    assert answer("who is the president of france").outcome is Outcome.EMPTY
    result = answer("who is the president of france", llm=llm)
    assert result.backend == "stream"
    assert [entry.backend for entry in result.attempts] == ["tools", "knowledge", "stream"]
    assert answer("who is the president of france", llm=llm, grounded_only=True).reference == ""
    assert chat_server.received[-1].payload["tools"]
    assert answer("what time is it", tools=False).outcome is Outcome.EMPTY
    nothing = build_retriever(RetrievalSettings(tools=False))
    assert ask(nothing).outcome is Outcome.EMPTY


def test_settings_open_an_index_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The old mill makes paper.")
    KnowledgeBase.open(tmp_path / "index").add([tmp_path / "a.txt"])
    (tmp_path / "a.txt").unlink()
    retriever = build_retriever(RetrievalSettings(knowledge=(tmp_path / "index",)))
    assert ask(retriever, RetrievalContext.from_question("what does the mill make")).answered


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        ("google", "DUOLOGUE_WEB_SEARCH is searxng or brave, not 'google'"),
        ("searxng", "DUOLOGUE_WEB_SEARCH=searxng needs DUOLOGUE_WEB_SEARCH_URL"),
        ("Brave", "DUOLOGUE_WEB_SEARCH=brave needs DUOLOGUE_WEB_SEARCH_KEY"),
    ],
)
def test_settings_that_cannot_be_used_name_the_variable(engine: str, why: str) -> None:
    with pytest.raises(DuologueError, match=why):
        RetrievalSettings.from_environment({"DUOLOGUE_WEB_SEARCH": engine})


def test_settings_from_the_environment() -> None:
    settings = RetrievalSettings.from_environment(
        {
            "DUOLOGUE_WEB_SEARCH": "searxng",
            "DUOLOGUE_WEB_SEARCH_URL": "http://s",
            "LLM_BASE_URL": "http://l/v1",
            "MOSHI_RETRIEVAL_LLMS_JSON": json.dumps([]),
        },
        knowledge=["facts.md"],
    )
    assert settings.web == WebSettings(WebEngine.SEARXNG, "http://s")
    assert settings.llm is not None
    assert settings.knowledge == (Path("facts.md"),)
    assert RetrievalSettings.from_environment({}) == RetrievalSettings()
