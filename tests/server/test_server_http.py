"""The HTTP side: health, page, documents, metrics, feedback; headers on all of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.serving import Running, run, serving

from duologue.engine.model import LoadedModel

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "assets").mkdir()
    (folder / "assets" / "app-1a2b.js").write_text("export {}")
    return folder


@pytest.fixture(scope="module")
def _shared(model: LoadedModel, page: Path) -> Iterator[Running]:
    with serving(model, token=TOKEN, static=page, upload_bytes=5000) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=server.http, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    ) as opened:
        yield opened


def test_health_is_public_and_the_rest_is_not(server: Running) -> None:
    def get(path: str) -> tuple[int, object]:
        answer = httpx.get(server.http + path, timeout=60)
        return answer.status_code, answer.json()

    assert get("/health") == (200, {"status": "ok"})
    assert get("/ready") == (200, {"status": "ok"})
    assert get("/api/health") == (200, {"status": "ok"})
    assert get("/api/availability") == (200, {"available": True})
    for path in ("/api/models", "/api/knowledge", "/metrics", "/api/nothing"):
        status, body = get(path)
        assert status == 401
        assert body["error"]["code"] == "token"  # type: ignore[index]


def test_models(client: httpx.Client) -> None:
    told = client.get("/api/models").json()
    assert told["models"][0]["current"] is True
    text = {"temperature": 0.7, "top_k": 25, "pooled_from": 0}
    assert told["models"][0]["sampling"]["text"] == text
    assert told["retrieval_backend_default"] == "default"
    assert told["audio"] == ["opus", "pcm16", "pcmf32"]
    assert told["limits"]["idle_s"] == 60.0


def test_models_of_other_servers(model: LoadedModel) -> None:
    with serving(model, other_models=("lark=http://127.0.0.1:9/",)) as server:
        told = httpx.get(f"{server.http}/api/models").json()["models"]
    assert told[1:] == [{"id": "lark", "current": False, "url": "http://127.0.0.1:9"}]


def test_documents(client: httpx.Client) -> None:
    text = "The harbour master is called Ines.\n"
    added = client.post("/api/knowledge", params={"name": "../harbour.md"}, content=text)
    assert added.status_code == 201
    entry = added.json()
    assert entry["name"] == "harbour.md"
    again = client.post("/api/knowledge", params={"name": "harbour.md"}, content=text + "\n")
    assert again.status_code == 200
    listed = client.get("/api/knowledge").json()
    assert [document["name"] for document in listed["documents"]] == ["harbour.md"]
    assert ".md" in listed["limits"]["kinds"]
    assert listed["persistent"] is False
    found = client.post("/api/knowledge/search", json={"query": "who is the harbour master"})
    assert found.json()["hits"][0]["citation"] == "harbour.md, line 1"
    identity = listed["documents"][0]["id"]
    assert client.delete(f"/api/knowledge/{identity}").status_code == 204
    assert client.delete(f"/api/knowledge/{identity}").status_code == 404
    assert client.get("/api/knowledge").json()["documents"] == []


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("big.md", b"x" * 5001, 413),
        ("app.exe", b"MZ", 415),
        ("", b"text", 415),
        ("broken.docx", b"no zip", 422),
    ],
)
def test_documents_that_are_refused(
    client: httpx.Client, name: str, content: bytes, status: int
) -> None:
    answer = client.post("/api/knowledge", params={"name": name}, content=content)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_document_of_unknown_length_has_its_bounds_too(client: httpx.Client) -> None:
    chunks = (b"x" * 1000 for _ in range(8))
    assert client.post("/api/knowledge?name=a.md", content=chunks).status_code == 413


@pytest.mark.parametrize("body", [b"", b"[]", b'{"query": 3}', b'{"query": "a", "k": "b"}'])
def test_searches_that_are_none(client: httpx.Client, body: bytes) -> None:
    assert client.post("/api/knowledge/search", content=body).status_code == 400


def test_a_body_has_its_bounds(client: httpx.Client) -> None:
    too_long = client.post("/api/knowledge/search", content=b"x" * 70_000)
    assert too_long.status_code == 413


def test_the_page_and_its_headers(client: httpx.Client) -> None:
    index, script = client.get("/"), client.get("/assets/app-1a2b.js")
    assert "<title>page</title>" in index.text
    assert index.headers["cache-control"] == "no-cache"
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    unchanged = client.get("/", headers={"if-none-match": index.headers["etag"]})
    assert unchanged.status_code == 304
    for answer in (index, script, client.get("/health"), client.get("/nothing")):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
    for path in ("/../conftest.py", "/%2e%2e/conftest.py", "/assets/..%2f..%2fconftest.py"):
        assert client.get(path).status_code == 404


def test_metrics(client: httpx.Client, server: Running) -> None:
    async def talk() -> None:
        async with server.call(token=TOKEN) as caller:
            await caller.socket.send(b"\x03\x00")
            await caller.converse(4)

    run(talk())
    server.wait_until_empty()
    families = {
        family.name: family
        for family in text_string_to_metric_families(client.get("/metrics").text)
    }

    def total(name: str, **labels: str) -> float:
        family = families[f"duologue_{name}"]
        return sum(s.value for s in family.samples if labels.items() <= s.labels.items())

    step = families["duologue_frame_step_seconds"]
    assert step.type == "histogram"
    buckets = [s.value for s in step.samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    count = next(s.value for s in step.samples if s.name.endswith("_count"))
    assert buckets[-1] == count >= 1
    assert families["duologue_slots"].samples[0].value == 3
    assert families["duologue_slots_in_use"].samples[0].value == 0
    assert total("frames") >= 4
    assert total("messages_ignored", reason="control") >= 1
    assert total("sessions_opened", door="kyutai", resumed="false") >= 1
    assert total("sessions_ended", reason="client_closed") >= 1
    assert total("websocket_closes", code="1000") >= 1
    for name in ("frame_overruns", "input_queue_frames", "input_frames_dropped"):
        assert f"duologue_{name}" in families


# Feedback.


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[bytes]]]:
    """A webhook that accepts objects with a `q1`, and what it got."""
    got: list[bytes] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append(body)
            self.send_response(200 if b"q1" in body else 500)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=hook.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{hook.server_port}/hook", got
    hook.shutdown()
    thread.join()
    hook.server_close()


def test_feedback_is_handed_on(
    model: LoadedModel, webhook: tuple[str, list[bytes]], server: Running, client: httpx.Client
) -> None:
    assert client.post("/api/session_feedback", content=b"{}").status_code == 202
    url, got = webhook
    with serving(model, feedback_url=url) as listening:

        def post(body: bytes) -> int:
            path = f"{listening.http}/api/session_feedback"
            return httpx.post(path, content=body, timeout=60).status_code

        wanted = json.dumps({"q1": "yes", "openFeedback": "good"}).encode()
        assert post(wanted) == 204
        assert got == [wanted]
        assert post(b"no json") == 400
        assert post(b"{}") == 502
        object.__setattr__(listening.lobby.settings, "feedback_url", "http://127.0.0.1:9/")
        assert post(wanted) == 502
