"""Who may come in: tokens, origins, names; and what one client may take."""

from __future__ import annotations

import base64
import hmac

import pytest
from starlette.datastructures import URL
from starlette.requests import HTTPConnection

from duologue.server import access as access_module
from duologue.server.access import Access, is_loopback, new_token
from duologue.server.limits import ClientSessions, Pace, client_of
from duologue.server.refusals import Refusal

TOKEN = "correct-horse-battery"


def request(path: str = "/api/chat", query: str = "", **headers: str) -> HTTPConnection:
    headers = {"host": "127.0.0.1:8998", **headers}
    return HTTPConnection(
        {
            "type": "http",
            "path": path,
            "query_string": query.encode(),
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
            "scheme": "http",
            "server": ("127.0.0.1", 8998),
        }
    )


def refusal(access: Access, connection: HTTPConnection) -> tuple[int, str] | None:
    try:
        access.check(connection)
    except Refusal as refused:
        return refused.status, refused.code
    return None


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "shown",
    [
        request(authorization=f"Bearer {TOKEN}"),
        request(authorization=f"bearer {TOKEN}"),
        request(authorization=basic(f"anybody:{TOKEN}")),
        request(kyutai_api_key=TOKEN),
        request(query=f"token={TOKEN}"),
        request(query=f"auth_id={TOKEN}&email="),
        request(query=f"worker_auth_id={TOKEN}"),
        request(authorization="Bearer wrong", query=f"token={TOKEN}"),
    ],
)
def test_ways_to_show_the_token(shown: HTTPConnection) -> None:
    assert refusal(Access(TOKEN), shown) is None


@pytest.mark.parametrize(
    "shown",
    [
        request(),
        request(authorization="Bearer"),
        request(authorization=f"Bearer {TOKEN}x"),
        request(authorization=f"Bearer {TOKEN[:-1]}"),
        request(authorization="Basic ///"),
        request(authorization=basic(TOKEN)),
        request(query="token="),
        request(query=f"other={TOKEN}"),
        request("/metrics"),
        request("/api/knowledge"),
        request("/v1/realtime"),
        request("/api/anything"),
    ],
)
def test_without_the_token_it_is_401(shown: HTTPConnection) -> None:
    assert refusal(Access(TOKEN), shown) == (401, "token")


@pytest.mark.parametrize("path", ["/", "/assets/x.js", "/health", "/ready", "/api/availability"])
def test_the_page_and_what_tells_nothing_need_no_token(path: str) -> None:
    assert refusal(Access(TOKEN), request(path)) is None


def test_comparison_takes_equal_lengths_and_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def compare(given: bytes, wanted: bytes) -> bool:
        seen.append((len(given), len(wanted)))
        return real(given, wanted)

    real = hmac.compare_digest
    monkeypatch.setattr(access_module.hmac, "compare_digest", compare)
    assert refusal(Access(TOKEN), request(query="token=x")) == (401, "token")
    assert refusal(Access(TOKEN), request(query=f"token={TOKEN}")) is None
    assert seen == [(32, 32), (32, 32)], "only digests are compared, and only in constant time"


def test_a_refusal_does_not_repeat_the_token() -> None:
    with pytest.raises(Refusal) as refused:
        Access(TOKEN).check(request(query="token=guess-guess-guess"))
    answer = refused.value.response()
    assert b"guess" not in bytes(answer.body)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://127.0.0.1:8998", "127.0.0.1:8998", True),
        ("http://LOCALHOST:8998", "localhost:8998", True),
        ("https://talk.example.org", "talk.example.org", True),
        ("https://talk.example.org", "talk.example.org:443", True),
        ("https://evil.example", "talk.example.org", False),
        ("http://localhost:5173", "localhost:8998", False),
        ("http://127.0.0.1:8998.evil.example", "127.0.0.1:8998", False),
        ("null", "127.0.0.1:8998", False),
        ("null", "", False),
        ("file://", "127.0.0.1:8998", False),
        ("http://[", "127.0.0.1:8998", False),
        ("", "127.0.0.1:8998", False),
    ],
)
def test_origins(origin: str, host: str, allowed: bool) -> None:
    access = Access(TOKEN)
    shown = request(query=f"token={TOKEN}", origin=origin, host=host)
    assert refusal(access, shown) == (None if allowed else (403, "origin"))


def test_origins_can_be_allowed() -> None:
    shown = request(origin="https://page.example")
    assert refusal(Access(None, origins=["https://page.example/"]), shown) is None
    assert refusal(Access(None, origins=["*"]), shown) is None
    assert refusal(Access(None, origins=["https://other.example"]), shown) == (403, "origin")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8998", True),
        ("127.0.0.1:8998", True),
        ("[::1]:8998", True),
        ("192.168.1.5:8998", True),
        ("rebound.evil.example:8998", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("a@127.0.0.1", False),
        ("evil/127.0.0.1", False),
    ],
)
def test_without_a_token_only_names_nobody_can_take_on(host: str, allowed: bool) -> None:
    for path in ("/", "/api/chat"):
        assert refusal(Access(None), request(path, host=host)) == (
            None if allowed else (403, "host")
        )


@pytest.mark.parametrize(
    "host",
    [
        "a/x?",
        "a/x",
        "a?x",
        "a#x",
        "a\\x",
        "a@127.0.0.1",
        "127.0.0.1:8998/health?",
        "a b",
        "[",
        "[::1",
    ],
)
def test_a_host_that_is_more_than_a_name_is_refused_everywhere(host: str) -> None:
    for access in (Access(TOKEN), Access(None, hosts=["*"])):
        for path in ("/", "/health", "/api/chat"):
            shown = request(path, query=f"token={TOKEN}", host=host)
            assert refusal(access, shown) == (403, "host")


def test_the_path_is_the_one_that_is_routed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the URL's, which is made of what the client says of the host (Starlette 1.0 let it)."""
    monkeypatch.setattr(HTTPConnection, "url", property(lambda _: URL("http://a/x?/api/chat")))
    assert refusal(Access(TOKEN), request()) == (401, "token")
    foreign = request(query=f"token={TOKEN}", origin="https://evil.example")
    assert refusal(Access(TOKEN), foreign) == (403, "origin")


def test_names_can_be_allowed() -> None:
    shown = request(host="duo.example:8998")
    assert refusal(Access(None, hosts=["Duo.Example"]), shown) is None
    assert refusal(Access(None, hosts=["*"]), shown) is None


def test_loopback_and_new_tokens() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "example.org", ""]))
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) >= 32


# Limits.


def test_pace_lets_bursts_through_and_then_holds_to_the_rate() -> None:
    pace = Pace(rate=10.0, burst=5.0)
    assert pace.delay(5, now=0.0) == 0.0
    assert pace.delay(1, now=0.0) == pytest.approx(0.1)
    assert pace.delay(1, now=0.2) == 0.0
    assert pace.delay(5, now=100.0) == 0.0, "no more than the burst is saved up"
    assert pace.delay(20, now=100.0) == pytest.approx(2.0)


def test_pace_never_lets_more_through_than_its_rate() -> None:
    pace = Pace(rate=25_200.0, burst=36_000.0)
    now = taken = 0.0
    for size in [1920, 960, 48_000, 10, 1920, 24_000] * 50:
        taken += size
        now += pace.delay(size, now)
        assert taken <= 36_000 + 25_200 * now + 1


def test_clients_hold_so_many_sessions_and_no_more() -> None:
    clients = ClientSessions(2)
    with clients.enter("10.0.0.1"), clients.enter("10.0.0.1"):
        with pytest.raises(Refusal) as refused, clients.enter("10.0.0.1"):
            pass
        assert refused.value.status == 429
        with clients.enter("10.0.0.2"):
            pass
    with clients.enter("10.0.0.1"):
        pass
    assert not clients._open, "nothing is remembered of clients that have left"


def test_who_comes_back_needs_no_room_and_makes_none() -> None:
    clients = ClientSessions(1)
    with (
        clients.enter("10.0.0.1"),
        clients.enter("10.0.0.1", comes_back=True),
        pytest.raises(Refusal),
        clients.enter("10.0.0.1"),
    ):
        pass
    assert clients.room("10.0.0.1") == 1


def test_what_counts_as_one_client() -> None:
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff") == "2001:db8::/64"
    assert client_of("2001:db8:0:1::1") != client_of("2001:db8::1")
    assert client_of("::ffff:10.0.0.1") == client_of("10.0.0.1") == "10.0.0.1"
    assert client_of("unknown") == "unknown"
