"""The service over loopback: what is published, byte for byte, and an answer at every bound."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from duologue.encoder import MAX_TEXT_CHARS, EncoderError
from duologue.encoder.cache import CachedEncoder
from duologue.encoder.local import LocalEncoder
from duologue.encoder.metrics import EncoderMetrics
from duologue.encoder.model import RowModel
from duologue.encoder.service import ServiceLimits, create_app
from duologue.encoder.wire import ServiceSpec

from .conftest import DIM, NAME, TEXTS, run, serving

SPEC = ServiceSpec(NAME)


@pytest.fixture(scope="module")
def url(rows: RowModel) -> Iterator[str]:
    metrics = EncoderMetrics(CollectorRegistry())
    encoder = CachedEncoder(LocalEncoder(rows, metrics=metrics), metrics=metrics)
    with serving(create_app(encoder, SPEC, metrics=metrics)) as where:
        yield where


def embed(url: str, text: str) -> httpx.Response:
    return httpx.post(f"{url}/embed", json={"text": text})


def read_blob(blob: bytes) -> tuple[dict[str, Any], Tensor]:
    """A safetensors blob, read by hand: its header and the floats behind it."""
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    return header, torch.frombuffer(bytearray(blob[8 + length :]), dtype=torch.float32)


def test_health_and_spec_byte_for_byte(url: str) -> None:
    health = httpx.get(f"{url}/health")
    assert health.status_code == 200
    assert health.headers["content-type"] == "application/json"
    assert health.content == b'{"status":"healthy","service":"condition_encoder"}'
    assert httpx.get(f"{url}/spec").content == (
        b'{"conditioner_name":"reference_with_time","text_conditioners":["reference_with_time"],'
        b'"tensor_conditioners":[],"fuser":{"sum":[],"cross":[],"prepend":[],'
        b'"streaming_sum":["reference_with_time"]}}'
    )


@pytest.mark.parametrize("text", [*TEXTS, "", "caf\u00e9 \U0001f375"])
def test_embed_byte_for_byte(url: str, rows: RowModel, text: str) -> None:
    response = embed(url, text)
    count = max(1, -(-len(rows.tokenizer.encode(text)) // 4))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    header, values = read_blob(response.content)
    size = 4 * count * DIM
    assert header == {
        "tensor": {"dtype": "F32", "shape": [1, count, DIM], "data_offsets": [0, size]}
    }
    assert len(response.content) % 8 == 0
    (expected,) = rows.encode([text])
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(values.view(count, DIM), expected, atol=1e-5, rtol=1e-4)
    if not text:
        assert response.content[-size:] == bytes(size)


def test_a_request_without_text_is_the_empty_one(url: str) -> None:
    assert httpx.post(f"{url}/embed", json={"other": 1}).content == embed(url, "").content


@pytest.mark.parametrize(
    ("body", "kind", "where"),
    [
        (b"", "missing", ["body"]),
        (b"{", "json_invalid", ["body"]),
        (b"\xff\xfe", "json_invalid", ["body"]),
        (b"[" * 5000, "json_invalid", ["body"]),
        (b'["text"]', "model_type", ["body"]),
        (b'{"text": 5}', "string_type", ["body", "text"]),
        (b'{"text": null}', "string_type", ["body", "text"]),
    ],
)
def test_what_is_no_request_is_refused_as_published(
    url: str, body: bytes, kind: str, where: list[str]
) -> None:
    response = httpx.post(f"{url}/embed", content=body)
    assert response.status_code == 422
    (problem,) = response.json()["detail"]
    assert (problem["type"], problem["loc"]) == (kind, where)


def test_other_paths_and_methods(url: str) -> None:
    missing = httpx.get(f"{url}/nothing")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    wrong = httpx.get(f"{url}/embed")
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})


def test_a_lone_surrogate_is_no_crash(url: str) -> None:
    assert httpx.post(f"{url}/embed", content=b'{"text": "\\ud800"}').status_code == 200


def test_length_limits(url: str) -> None:
    assert embed(url, "x" * MAX_TEXT_CHARS).status_code in (200, 413)  # tokens decide
    assert embed(url, " " * MAX_TEXT_CHARS).status_code == 200
    for text in ("x" * (MAX_TEXT_CHARS + 1), "x y " * 600, " " * 70_000):
        response = embed(url, text)
        assert response.status_code == 413
        assert set(response.json()) == {"detail"}
        assert text[:50] not in response.text


def test_a_body_that_is_announced_too_long_or_never_ends(url: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 1024

    assert httpx.post(f"{url}/embed", content=endless()).status_code == 413


def test_concurrent_requests_get_their_own_rows(url: str, rows: RowModel) -> None:
    texts = [f"{text} {number}" for number in range(8) for text in TEXTS]

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient() as client:
            calls = [client.post(f"{url}/embed", json={"text": text}) for text in texts]
            return list(await asyncio.gather(*calls))

    for text, response in zip(texts, run(ask()), strict=True):
        (expected,) = rows.encode([text])
        assert isinstance(expected, Tensor)
        _, values = read_blob(response.content)
        torch.testing.assert_close(values, expected.flatten(), atol=1e-5, rtol=1e-4)


def test_metrics_count_and_keep_texts_to_themselves(url: str) -> None:
    before = httpx.get(f"{url}/metrics").text
    embed(url, "a secret text")
    embed(url, "a secret text")
    page = httpx.get(f"{url}/metrics").text
    assert value(page, "encoder_cache_hits_total") == value(before, "encoder_cache_hits_total") + 1
    answered = 'encoder_requests_total{status="200"}'
    assert value(page, answered) == value(before, answered) + 2
    assert value(page, "encoder_request_seconds_count") > 0
    assert value(page, "encoder_cache_bytes") > 0
    assert "secret" not in page


def value(page: str, name: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].split()[-1]) if lines else 0.0


# -- under stress


class Held(RowModel):
    """A model whose batches wait until they are let go."""

    def __init__(self, rows: RowModel) -> None:
        super().__init__(rows.tokenizer, rows.encoder, rows.conditioner)
        self.go = threading.Event()
        self.started = threading.Event()
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[Tensor | EncoderError]:
        self.started.set()
        assert self.go.wait(10)
        self.texts += texts
        return super().encode(texts)


def test_a_full_queue_says_come_back(rows: RowModel) -> None:
    held = Held(rows)

    async def ask(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient() as client:
            first = asyncio.create_task(client.post(f"{url}/embed", json={"text": "0"}))
            await asyncio.to_thread(held.started.wait, 10)
            calls = [client.post(f"{url}/embed", json={"text": f"{n}"}) for n in range(1, 6)]
            tasks = [asyncio.create_task(call) for call in calls]
            refused = []
            for finished in asyncio.as_completed(tasks):  # those refused come first
                refused.append(await finished)
                if len(refused) == 3:
                    held.go.set()
            return [*refused, await first]

    app = create_app(LocalEncoder(held, max_waiting=2), SPEC)
    with serving(app) as url:
        responses = run(ask(url))
    assert [response.status_code for response in responses] == [503] * 3 + [200] * 3
    assert responses[0].headers["retry-after"] == "1"
    assert set(responses[0].json()) == {"detail"}


def test_a_stuck_model_does_not_hold_its_callers(rows: RowModel) -> None:
    held = Held(rows)
    app = create_app(LocalEncoder(held), SPEC, limits=ServiceLimits(encode_s=0.05))
    with serving(app) as url:
        assert embed(url, "tea").status_code == 504
        assert httpx.get(f"{url}/health").status_code == 200
        held.go.set()
        assert embed(url, "tea").status_code == 200


def test_a_caller_who_hangs_up_withdraws_the_text(rows: RowModel) -> None:
    held = Held(rows)
    metrics = EncoderMetrics(CollectorRegistry())

    def waiting() -> float:
        return metrics.registry.get_sample_value("encoder_waiting_texts") or 0.0

    async def until(condition: Any) -> None:
        while not condition():
            await asyncio.sleep(0.005)

    async def ask(url: str) -> None:
        async with httpx.AsyncClient() as client:
            first = asyncio.create_task(client.post(f"{url}/embed", json={"text": "one"}))
            await asyncio.to_thread(held.started.wait, 10)
            second = asyncio.create_task(client.post(f"{url}/embed", json={"text": "two"}))
            await until(lambda: waiting() == 1)
            second.cancel()
            await until(lambda: waiting() == 0)
            held.go.set()
            assert (await first).status_code == 200

    app = create_app(LocalEncoder(held, metrics=metrics), SPEC, metrics=metrics)
    with serving(app) as url:
        run(ask(url))
    assert held.texts == ["one"]


def test_a_body_that_does_not_come_is_not_waited_for(rows: RowModel) -> None:
    app = create_app(LocalEncoder(rows), SPEC, limits=ServiceLimits(body_s=0.05))
    with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
            assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_failing_model_is_a_500_with_detail(
    rows: RowModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: RowModel, batch: list[list[int]]) -> list[Tensor]:
        raise RuntimeError("device lost while encoding a secret")

    monkeypatch.setattr(RowModel, "_forward", broken)
    with serving(create_app(LocalEncoder(rows), SPEC)) as url:
        response = embed(url, "tea")
    assert response.status_code == 500
    assert response.json() == {"detail": "the encoder failed with RuntimeError"}


def test_a_key_guards_all_but_health(rows: RowModel) -> None:
    with serving(create_app(LocalEncoder(rows), SPEC, api_key="k\u00e9y")) as url:
        good = {"Authorization": "Bearer k\u00e9y".encode()}
        for path in ("/spec", "/metrics"):
            assert httpx.get(url + path).status_code == 401
            assert httpx.get(url + path, headers=good).status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200
        assert embed(url, "tea").status_code == 401
        bad = httpx.post(f"{url}/embed", json={"text": "tea"}, headers={"Authorization": "Bearer"})
        assert bad.status_code == 401
        assert httpx.post(f"{url}/embed", json={"text": "tea"}, headers=good).status_code == 200


def test_the_service_closes_its_encoder(rows: RowModel) -> None:
    encoder = LocalEncoder(rows)
    with serving(create_app(encoder, SPEC)) as url:
        embed(url, "tea")
    with pytest.raises(EncoderError, match="closed"):
        run(encoder.encode("tea", 1))
