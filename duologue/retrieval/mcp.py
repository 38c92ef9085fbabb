"""MCP servers as tools, through the official SDK (the `mcp` extra).

`McpServer` says how to reach a server, `McpTools` connects and lists what it offers as `Tool`s. A
connection is owned by one task (the SDK asks for that) and opened again, behind a circuit breaker,
when the server has gone away. The servers' words are untrusted: names and descriptions are bounded,
results are text only, and what they return is cited as theirs.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from duologue.retrieval.breaker import CircuitBreaker
from duologue.retrieval.cleaning import clean_text
from duologue.retrieval.protocol import BackendUnavailable, Clock, RetrievalError, Source
from duologue.retrieval.tools import MAX_TOOL_RESULT_CHARS, Tool, ToolError, ToolResult
from duologue.urls import checked_url

logger = logging.getLogger(__name__)

MAX_TOOLS = 64
MAX_DESCRIPTION_CHARS = 1_000
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class McpServer:
    """A server: either a `command` that is started and spoken to by pipe, or a `url`.

    `server` is for tests: an object that the SDK's client takes as it is.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    server: object = None

    def __post_init__(self) -> None:
        if sum((bool(self.command), bool(self.url), self.server is not None)) != 1:
            raise ValueError(f"MCP server {self.name}: give a command or a url")
        if self.url:
            checked_url(self.url)


class McpTools:
    """The tools of one server. Use `tools()` to connect and list them; close with `aclose`."""

    def __init__(self, server: McpServer, *, clock: Clock = time.monotonic) -> None:
        _sdk()  # a missing extra is told at once, not at the first call
        self._server = server
        self._breaker = CircuitBreaker(f"MCP server {server.name}", clock=clock)
        self._owner: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Any] | None = None
        self._stop = asyncio.Event()
        self._lock = asyncio.Lock()

    async def tools(self, deadline_s: float = CONNECT_TIMEOUT_S) -> Sequence[Tool]:
        """What the server offers; raises BackendUnavailable when it cannot be reached."""
        try:
            async with asyncio.timeout(deadline_s):
                client = await self._client()
                listed = await client.list_tools()
        except TimeoutError:
            raise BackendUnavailable(f"MCP server {self._server.name} does not answer") from None
        return [_McpTool(self, tool) for tool in listed.tools[:MAX_TOOLS]]

    async def call(self, name: str, arguments: Mapping[str, Any], deadline_s: float) -> ToolResult:
        """Call a tool; raises ToolError."""
        try:
            async with asyncio.timeout(deadline_s):
                client = await self._client()
                result = await client.call_tool(name, dict(arguments))
        except TimeoutError:
            raise ToolError(f"MCP server {self._server.name} did not answer in time") from None
        except RetrievalError as error:
            raise ToolError(str(error)) from error
        except Exception as error:
            logger.info("MCP server %s: %s", self._server.name, type(error).__name__)
            if getattr(error, "code", None) == _connection_closed():
                await self.aclose()  # the next call connects again
                self._breaker.failed()
                raise ToolError(f"MCP server {self._server.name} has gone away") from error
            raise ToolError(f"MCP server {self._server.name} refused the call") from error
        texts = [part.text for part in result.content if getattr(part, "type", "") == "text"]
        lines = [clean_text(line, MAX_TOOL_RESULT_CHARS) for line in "\n".join(texts).splitlines()]
        text = "\n".join(lines)[:MAX_TOOL_RESULT_CHARS]
        if result.is_error:
            raise ToolError(text or "the tool failed")
        source = Source(f"{self._server.name}: {name}", self._server.url)
        return ToolResult(text or "Nothing found.", (source,))

    async def aclose(self) -> None:
        owner, self._owner = self._owner, None
        if owner is None:
            return
        self._stop.set()
        done, _ = await asyncio.wait({owner}, timeout=CLOSE_TIMEOUT_S)
        if not done:
            owner.cancel()
            await asyncio.wait({owner}, timeout=CLOSE_TIMEOUT_S)

    async def _client(self) -> Any:
        """The connected client; connects, or connects again, when there is none."""
        async with self._lock:
            if self._owner is None or self._owner.done():
                self._breaker.enter()
                self._stop = asyncio.Event()
                self._ready = asyncio.get_running_loop().create_future()
                self._owner = asyncio.create_task(self._own(self._ready, self._stop))
            ready = self._ready
        assert ready is not None
        return await asyncio.shield(ready)

    async def _own(self, ready: asyncio.Future[Any], stop: asyncio.Event) -> None:
        """Hold the connection open until told to stop."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S) as connecting:
                async with _connect(self._server) as client:
                    connecting.reschedule(None)
                    self._breaker.succeeded()
                    if not ready.done():
                        ready.set_result(client)
                    await stop.wait()
        except Exception as error:
            self._breaker.failed()
            logger.warning("MCP server %s: %s", self._server.name, type(error).__name__)
            if not ready.done():
                ready.set_exception(
                    BackendUnavailable(f"MCP server {self._server.name} cannot be reached")
                )
        finally:
            if not ready.done():
                ready.cancel()


class _McpTool:
    """One tool of a server, under a name that language models accept."""

    def __init__(self, owner: McpTools, described: Any) -> None:
        self._owner = owner
        self._remote_name = str(described.name)
        self.name = re.sub(r"[^A-Za-z0-9_-]", "_", self._remote_name)[:64]
        self.description = clean_text(described.description or self.name, MAX_DESCRIPTION_CHARS)
        self.parameters: Mapping[str, Any] = dict(described.input_schema)

    async def call(self, arguments: Mapping[str, Any], deadline_s: float) -> ToolResult:
        return await self._owner.call(self._remote_name, arguments, deadline_s)


def _sdk() -> Any:
    try:
        import mcp
    except ImportError:
        raise ImportError("MCP servers need: pip install 'duologue[mcp]'") from None
    if not hasattr(mcp, "Client"):
        raise ImportError("MCP servers need version 2 of the SDK: pip install -U 'duologue[mcp]'")
    return mcp


def _connection_closed() -> int:
    """The error code with which the SDK reports a lost connection."""
    from mcp.types import CONNECTION_CLOSED

    return int(CONNECTION_CLOSED)


@asynccontextmanager
async def _connect(server: McpServer) -> AsyncGenerator[Any]:
    """The SDK's client for a server, connected; what it needs for that is closed after it."""
    mcp = _sdk()
    async with AsyncExitStack() as stack:
        target: Any = server.url or server.server
        if server.command:
            command, *arguments = server.command
            target = mcp.StdioServerParameters(
                command=command, args=arguments, env=dict(server.environment) or None
            )
        elif server.headers:
            from mcp.client.streamable_http import streamable_http_client
            from mcp.shared._httpx_utils import create_mcp_http_client

            # The SDK keeps redirects within the endpoint's origin, so the headers stay there.
            http = create_mcp_http_client(headers=dict(server.headers))
            await stack.enter_async_context(http)
            target = streamable_http_client(server.url, http_client=http)
        yield await stack.enter_async_context(mcp.Client(target))
