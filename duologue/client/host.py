"""A server of one's own for as long as a conversation lasts: a free port, a token, a thread.

What `duologue chat` talks to when no server is named. It is the same server on loopback, so there
is one way through the program, not two.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from duologue.client.errors import ClientError, ConnectionFailed

if TYPE_CHECKING:
    from duologue.server.assembly import Loaded
    from duologue.server.serve import DrainingServer
    from duologue.server.settings import ServerSettings

HOST = "127.0.0.1"
STOP_S = 15.0


@dataclass
class _Server:
    """The thread's end of it."""

    started: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    loop: asyncio.AbstractEventLoop | None = None
    server: DrainingServer | None = None

    def run(
        self,
        settings: ServerSettings,
        loaded: Loaded,
        environment: Mapping[str, str],
        token: str,
        tell: Callable[[int], None],
    ) -> None:
        try:
            asyncio.run(self._serve(settings, loaded, environment, token, tell))
        except BaseException as error:
            self.error = error
        finally:
            self.started.set()

    async def _serve(
        self,
        settings: ServerSettings,
        loaded: Loaded,
        environment: Mapping[str, str],
        token: str,
        tell: Callable[[int], None],
    ) -> None:
        from duologue.server.app import create_app
        from duologue.server.assembly import open_lobby
        from duologue.server.serve import DrainingServer, bind, server_config

        self.loop = asyncio.get_running_loop()
        sockets = bind(HOST, 0)

        async def announce() -> None:
            tell(sockets[0].getsockname()[1])
            self.started.set()

        try:
            async with open_lobby(settings, loaded, environment) as lobby:
                config = server_config(create_app(lobby, token), settings, None)
                self.server = DrainingServer(config, announce, lobby.drain)
                await self.server.serve(sockets)
        finally:
            for bound in sockets:
                bound.close()

    def stop(self) -> None:
        if self.loop is not None and self.server is not None:
            with suppress(RuntimeError):  # it has stopped by itself
                self.loop.call_soon_threadsafe(setattr, self.server, "should_exit", True)


@contextmanager
def own_server(
    settings: ServerSettings, loaded: Loaded, environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Address and token of a server that runs until the end.

    Raises:
        ConnectionFailed: it did not start. Whatever else stopped it, then or later, is raised as
            it is, in place of what a client made of that.
    """
    from duologue.server.access import new_token

    here, token, ports = _Server(), new_token(), list[int]()
    thread = threading.Thread(
        target=here.run, args=(settings, loaded, environment, token, ports.append),
        name="duologue-server", daemon=True,
    )  # fmt: skip
    thread.start()
    here.started.wait()
    if here.error is not None:
        raise here.error
    if not ports:
        raise ConnectionFailed("the server did not start")
    lost: ClientError | None = None
    try:
        yield f"http://{HOST}:{ports[0]}", token
    except ClientError as error:
        lost = error
    finally:
        here.stop()
        thread.join(STOP_S)
    if here.error is not None:
        raise here.error from lost
    if lost is not None:
        raise lost
