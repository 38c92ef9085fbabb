"""`duologue serve`, start to stop: bind, load, open, announce; on SIGTERM drain, then end.

The port is bound first, so that a taken port is told before anything is loaded. At the first
SIGTERM or Ctrl-C no new sessions are taken (503, `/ready` too) and those that run go on for up to
`drain_s`; a second one stops at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import FrameType
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette

from duologue.errors import DuologueError
from duologue.server.access import is_loopback, new_token
from duologue.server.app import create_app
from duologue.server.assembly import Loaded, load, open_lobby
from duologue.server.connection import PatientProtocol
from duologue.server.logs import LogWriter
from duologue.server.settings import ServerSettings
from duologue.server.tls import TlsFiles, tls_files
from duologue.server.tunnel import TunnelPlan, open_tunnel, plan_tunnel

logger = logging.getLogger(__name__)

FAREWELLS_S = 5
"""For closing handshakes and running requests, after the sessions have ended."""
UNSPECIFIED = ("", "0.0.0.0", "::")


class ServeError(DuologueError):
    """The server cannot start; says why."""


def serve(
    settings: ServerSettings,
    environment: Mapping[str, str],
    *,
    say: Callable[[str], None] = print,
    tune: Callable[[Loaded], None] = lambda _: None,
) -> None:
    """Serve until stopped.

    Args:
        say: tells the person who started the server.
        tune: called once the models are in memory.
    """
    writer = LogWriter(settings.log_level, settings.log_format, settings.log_file)
    writer.start()
    try:
        sockets = bind(settings.host, settings.port)
        with tls_files(settings.tls, settings.host) as files:
            port = sockets[0].getsockname()[1]
            plan = plan_tunnel(settings.tunnel, port, tls=files is not None)
            logger.info("settings", extra={"fields": settings.shown()})
            loaded = load(settings, environment)
            tune(loaded)
            asyncio.run(_run(settings, environment, loaded, say, writer, sockets, files, plan))
    finally:
        writer.stop()


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of a host name.

    Raises:
        ServeError: the port is taken, or the host is not this machine.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            bound = socket.socket(family, kind, protocol)
            sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            bound.bind((address[0], chosen, *address[2:]))
            bound.setblocking(False)
    except OSError as error:
        for bound in sockets:
            bound.close()
        hint = "; choose another --port" if error.errno == errno.EADDRINUSE else ""
        why = f"{error.strerror or error}{hint}"
        raise ServeError(f"cannot listen at {host}:{port}: {why}") from error
    return sockets


async def _run(
    settings: ServerSettings,
    environment: Mapping[str, str],
    loaded: Loaded,
    say: Callable[[str], None],
    writer: LogWriter,
    sockets: list[socket.socket],
    files: TlsFiles | None,
    plan: TunnelPlan | None,
) -> None:
    token = settings.token.get_secret_value() if settings.token else None
    made = token is None and settings.asks_token
    token = new_token() if made else token
    async with AsyncExitStack() as stack:
        lobby = await stack.enter_async_context(open_lobby(settings, loaded, environment))
        lobby.metrics.watch_log(lambda: writer.lost)

        async def announce() -> None:
            public = await stack.enter_async_context(open_tunnel(plan)) if plan else None
            port = sockets[0].getsockname()[1]
            for line in _announcement(settings, port, files, public, token if made else None):
                say(line)

        async def drain() -> None:
            if talking := len(lobby.visits):
                say(
                    f"Stopping: {talking} may talk on for {settings.drain_s:g} s, or stop me again."
                )
            await lobby.drain()

        config = server_config(create_app(lobby, token), settings, files)
        await DrainingServer(config, announce, drain).serve(sockets)


class DrainingServer(uvicorn.Server):
    """A server that announces itself when it listens, and drains before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        announce: Callable[[], Awaitable[None]],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._announce, self._drain = announce, drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        await self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops at once. The exit code tells no signal."""
        if self._loop is None or not self.started:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """As a signal does; on the event loop."""
        if self._draining is None:
            logger.info("draining")
            self._draining = asyncio.ensure_future(self._drain_then_exit())
        else:
            self.should_exit = self.force_exit = True

    async def _drain_then_exit(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True


def server_config(
    app: Starlette, settings: ServerSettings, files: TlsFiles | None
) -> uvicorn.Config:
    proxies = list(settings.trusted_proxies)
    if settings.tunnel and not proxies:
        proxies = ["127.0.0.1", "::1"]
    try:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            http=PatientProtocol,
            ws="websockets-sansio",
            ws_max_size=settings.message_bytes,
            ws_per_message_deflate=False,
            ws_ping_interval=None,
            limit_concurrency=settings.connections,
            timeout_graceful_shutdown=FAREWELLS_S,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            ssl_certfile=files.certificate if files else None,
            ssl_keyfile=files.key if files else None,
        )
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ServeError(f"the certificate cannot be used: {error}") from error
    return config


def _announcement(
    settings: ServerSettings,
    port: int,
    files: TlsFiles | None,
    public: str | None,
    made_token: str | None,
) -> list[str]:
    """What the person who started the server should know; the only place that shows a token."""
    scheme = "https" if files else "http"
    host = "localhost" if settings.host in UNSPECIFIED or is_loopback(settings.host) else ""
    host = host or (f"[{settings.host}]" if ":" in settings.host else settings.host)
    query = f"/?token={quote(made_token)}" if made_token else ""
    lines = [f"Duologue is ready: {scheme}://{host}:{port}{query}"]
    if public:
        lines.append(f"From anywhere:     {public}{query}")
    if files and files.fingerprint:
        lines.append(f"Certificate SHA-256 {files.fingerprint}")
    if made_token:
        lines.append("The token is shown once; set DUOLOGUE_TOKEN to choose it.")
    elif not settings.asks_token and not is_loopback(settings.host):
        lines.append("WARNING: anybody who reaches this address can talk and change documents.")
    return lines
