"""The server's own certificate, and tunnels through other programs."""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from duologue.server.tls import TlsError, tls_files
from duologue.server.tunnel import TunnelError, open_tunnel, plan_tunnel


def test_a_self_made_certificate_is_good_for_this_machine() -> None:
    with tls_files("self-signed", "127.0.0.1") as files:
        assert files is not None
        assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
        assert len(files.fingerprint.split(":")) == 32
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(files.certificate, files.key)
        client = ssl.create_default_context(cafile=str(files.certificate))
        ours, theirs = socket.socketpair()

        def answer() -> None:
            with server.wrap_socket(ours, server_side=True) as wrapped:
                wrapped.sendall(b"hello")

        thread = threading.Thread(target=answer)
        thread.start()
        with client.wrap_socket(theirs, server_hostname="localhost") as wrapped:
            assert wrapped.recv(5) == b"hello"
        thread.join()
        folder = files.key.parent
    assert not folder.exists(), "the key is gone with the server"


def test_certificates_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match=r"cert\.pem: not there"), tls_files(str(tmp_path), "x"):
        pass
    (tmp_path / "cert.pem").touch()
    (tmp_path / "key.pem").touch()
    with tls_files(str(tmp_path), "x") as files:
        assert files is not None
        assert files.key == tmp_path / "key.pem"
    with tls_files("off", "x") as files:
        assert files is None


def program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a stand-in for a program this machine may not have."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


async def address(setting: str, **options: float) -> str:
    plan = plan_tunnel(setting, 8998, tls=False)
    assert plan is not None
    async with open_tunnel(plan, **options) as url:
        return url


def test_cloudflared_tells_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        'echo "$@" >"$(dirname "$0")/arguments"\n'
        "echo 'INF see https://developers.cloudflare.com' >&2\n"
        "echo 'INF |  https://quiet-owl-12.trycloudflare.com  |' >&2\nexec sleep 60"
    )
    program(tmp_path, "cloudflared", script, monkeypatch)
    assert asyncio.run(address("cloudflared")) == "https://quiet-owl-12.trycloudflare.com"
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments == ["tunnel", "--no-autoupdate", "--url", "http://127.0.0.1:8998"]


BANNER = """
===============================================================================
Follow the service at [https://twitter.com/a_service].
To manage domains go to https://admin.localhost.run/
The documentation is at https://localhost.run/docs/
===============================================================================
"""


def test_ssh_services_and_own_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        'echo "$@" >"$(dirname "$0")/arguments"\n'
        f"echo '{BANNER}' >&2\n"
        "echo 'ab12.lhr.life tunneled with tls termination, https://ab12.lhr.life'\nexec sleep 60"
    )
    program(tmp_path, "ssh", script, monkeypatch)
    assert asyncio.run(address("ssh:nokey@localhost.run")) == "https://ab12.lhr.life"
    assert " -R 80:127.0.0.1:8998 -- nokey@localhost.run" in (tmp_path / "arguments").read_text()
    monkeypatch.setattr("duologue.server.tunnel.SETTLE_S", 0.3)
    assert asyncio.run(address("ssh:8080:me@example.org")) == "http://example.org:8080"
    assert " -R 8080:127.0.0.1:8998 -- me@example.org" in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("Forwarding HTTP traffic from https://quiet.example.net", "https://quiet.example.net"),
        ("https://rn-1-2.a.example.link", "https://rn-1-2.a.example.link"),
    ],
)
def test_ssh_services_tell_addresses_in_their_own_ways(
    line: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "ssh", f"echo '{BANNER}'; echo '{line}'; exec sleep 60", monkeypatch)
    assert asyncio.run(address("ssh:me@service.example")) == url


def test_tunnels_that_fail_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TunnelError, match="cloudflared is not installed; get it from"):
        plan_tunnel("cloudflared", 1, tls=False)
    program(tmp_path, "cloudflared", "echo 'ERR no route' >&2; exit 1", monkeypatch)
    with pytest.raises(TunnelError, match="it said: ERR no route"):
        asyncio.run(address("cloudflared"))
    refused = 'failed: Post "https://api.trycloudflare.com/tunnel": no such host'
    program(tmp_path, "cloudflared", f"echo '{refused}' >&2; exit 1", monkeypatch)
    with pytest.raises(TunnelError, match="it said: failed: Post"):
        asyncio.run(address("cloudflared"))
    program(tmp_path, "cloudflared", "exec sleep 60", monkeypatch)
    with pytest.raises(TunnelError, match="told no address"):
        asyncio.run(address("cloudflared", start_s=0.05))
    program(tmp_path, "ssh", "exit 255", monkeypatch)
    with pytest.raises(TunnelError, match="ended at once"):
        asyncio.run(address("ssh:8080:me@example.org"))
    for malformed in ("ssh:", "ssh:-oProxyCommand=x", "ssh:80:-x", "ssh:a b"):
        with pytest.raises(TunnelError, match="ssh:user@host"):
            plan_tunnel(malformed, 1, tls=False)
    assert plan_tunnel("", 1, tls=False) is None
