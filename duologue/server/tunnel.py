"""A public address for a server behind a router, through a program that is installed already.

`cloudflared` needs no account and gives an `https://...trycloudflare.com` address. `ssh:DEST` asks
an SSH server to forward: a service such as `ssh:nokey@localhost.run` says at which address, and
`ssh:PORT:user@host` makes PORT of your own machine the address. A tunnel is public, so the server
asks for its token.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from duologue.errors import DuologueError

logger = logging.getLogger(__name__)

START_S = 30.0
SETTLE_S = 1.0
STOP_S = 5.0
MAX_LINES = 1000

_CLOUDFLARED_URL = re.compile(rb"(?P<url>https://(?!api\.)[a-z0-9-]+\.trycloudflare\.com)\b")
"""Its errors name the API that it asks for an address."""
_SERVICE_URL = re.compile(
    rb"(?i:\b(?:tunnell?ed|forwarding)\b.*?|^\s*)(?P<url>https://[a-z0-9.-]+\.[a-z]{2,})/?\s*$"
)
"""A line that says so, or nothing else: banners name other pages, and the token goes with it."""
_DESTINATION = re.compile(r"[A-Za-z0-9_.@\[\]:-]+")


class TunnelError(DuologueError):
    """There is no tunnel; says what to install or what the program said."""


@dataclass(frozen=True)
class TunnelPlan:
    """The program to run, how it tells its address, or the address when that is known."""

    command: tuple[str, ...]
    pattern: re.Pattern[bytes] | None
    url: str = ""


def plan_tunnel(setting: str, port: int, *, tls: bool) -> TunnelPlan | None:
    """What to run for a setting; nothing for an empty one.

    Raises:
        TunnelError: the setting is malformed, or the program is not installed.
    """
    if not setting:
        return None
    if setting == "cloudflared":
        local = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        command = ["cloudflared", "tunnel", "--no-autoupdate", "--url", local]
        _find("cloudflared", "https://github.com/cloudflare/cloudflared/releases")
        return TunnelPlan((*command, *(["--no-tls-verify"] if tls else [])), _CLOUDFLARED_URL)
    destination = setting.removeprefix("ssh:")
    remote, _, rest = destination.partition(":")
    own_port = int(remote) if remote.isdigit() and rest else None
    destination = rest if own_port else destination
    if not _DESTINATION.fullmatch(destination) or destination.startswith("-"):
        raise TunnelError("tunnel: `ssh:user@host` or `ssh:PORT:user@host`")
    _find("ssh", "your system's OpenSSH client")
    options = ("ExitOnForwardFailure=yes", "ServerAliveInterval=30", "BatchMode=yes")
    command = ["ssh", "-T", *(part for option in options for part in ("-o", option))]
    forward = f"{own_port or 80}:127.0.0.1:{port}"
    if own_port is None:
        return TunnelPlan((*command, "-R", forward, "--", destination), _SERVICE_URL)
    host = destination.rpartition("@")[2]
    url = f"{'https' if tls else 'http'}://{host}:{own_port}"
    return TunnelPlan((*command, "-N", "-R", forward, "--", destination), None, url)


@asynccontextmanager
async def open_tunnel(plan: TunnelPlan, start_s: float = START_S) -> AsyncIterator[str]:
    """Run the program and give the public address; the program ends with the context.

    Raises:
        TunnelError: it ended, or told no address in time.
    """
    process = await asyncio.create_subprocess_exec(
        *plan.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    reader: asyncio.Task[None] | None = None
    try:
        url = await _address(process, plan, start_s)
        reader = asyncio.create_task(_drain(process))
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if reader is not None:
            reader.cancel()


async def _address(process: asyncio.subprocess.Process, plan: TunnelPlan, start_s: float) -> str:
    program = plan.command[0]
    if plan.pattern is None:
        try:
            await asyncio.wait_for(process.wait(), SETTLE_S)
        except TimeoutError:
            return plan.url
        raise TunnelError(f"{program} ended at once (code {process.returncode})")
    assert process.stdout is not None
    last = b""
    try:
        async with asyncio.timeout(start_s):
            for _ in range(MAX_LINES):
                line = await process.stdout.readline()
                if not line:
                    break
                if found := plan.pattern.search(line):
                    return found["url"].decode()
                last = line.strip() or last
    except (TimeoutError, ValueError):
        raise TunnelError(f"{program} told no address within {start_s:g} s") from None
    said = last.decode("utf-8", "replace")[:200]
    raise TunnelError(f"{program} gave no address; it said: {said}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Keep the program's output from filling its pipe, and say when it ends by itself."""
    assert process.stdout is not None
    while await process.stdout.read(4096):
        pass
    await process.wait()
    logger.error("the tunnel is closed", extra={"fields": {"code": process.returncode}})


def _find(program: str, where: str) -> None:
    if shutil.which(program) is None:
        raise TunnelError(f"{program} is not installed; get it from {where}")
