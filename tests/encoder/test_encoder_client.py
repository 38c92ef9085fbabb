"""The client against our service, and against servers that are dead, slow, wrong or hostile."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import safetensors.torch
import torch
from torch import Tensor

from duologue.encoder import (
    MAX_ROWS,
    MAX_TEXT_CHARS,
    EncoderBusy,
    EncoderError,
    EncoderMalformed,
    EncoderTimeout,
    EncoderUnavailable,
    TextRefused,
)
from duologue.encoder.client import RemoteEncoder
from duologue.encoder.local import LocalEncoder
from duologue.encoder.model import RowModel
from duologue.encoder.service import create_app
from duologue.encoder.wire import ServiceSpec, pack_rows, unpack_rows

from .conftest import DIM, NAME, TEXTS, raw_server, run, serving


def ask(url: str, text: str = "tea", deadline_s: float = 5.0, dim: int | None = DIM) -> Tensor:
    async def once() -> Tensor:
        encoder = RemoteEncoder(url, dim=dim)
        try:
            return await encoder.encode(text, deadline_s)
        finally:
            await encoder.aclose()

    return run(once())


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := connection.recv(4096)):
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"),
        0,
    )
    while len(body) < length:
        body += connection.recv(4096)
    return head + b"\r\n\r\n" + body


def answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@contextmanager
def answering(data: bytes) -> Iterator[str]:
    def handle(connection: socket.socket) -> None:
        if read_request(connection):
            connection.sendall(data)

    with raw_server(handle) as url:
        yield url


# -- with our own service


@pytest.fixture(scope="module")
def url(rows: RowModel) -> Iterator[str]:
    with serving(create_app(LocalEncoder(rows), ServiceSpec(NAME))) as where:
        yield where


@pytest.mark.parametrize("text", [*TEXTS, ""])
def test_remote_equals_local(url: str, rows: RowModel, text: str) -> None:
    (expected,) = rows.encode([text])
    assert isinstance(expected, Tensor)
    for dim in (DIM, None):
        torch.testing.assert_close(ask(url, text, dim=dim), expected, atol=1e-5, rtol=1e-4)
    assert ask(f"{url}/", text).shape == expected.shape


def test_many_at_once_over_few_connections(url: str) -> None:
    async def many() -> None:
        encoder = RemoteEncoder(url, dim=DIM)
        found = await asyncio.gather(*(encoder.encode(f"tea {n}", 5) for n in range(60)))
        assert {rows.shape[1] for rows in found} == {DIM}
        assert await encoder.conditioner_name(5) == NAME
        await encoder.aclose()
        with pytest.raises(EncoderUnavailable, match="closed"):
            await encoder.encode("tea", 5)

    run(many())


def test_the_width_is_learnt_and_held_to(url: str) -> None:
    async def learn() -> None:
        encoder = RemoteEncoder(url)
        assert encoder.dim is None
        await encoder.encode("tea", 5)
        assert encoder.dim == DIM
        await encoder.aclose()

    run(learn())
    with pytest.raises(EncoderMalformed, match="another model"):
        ask(url, dim=64)


def test_refusals_of_the_service(url: str, rows: RowModel) -> None:
    with pytest.raises(TextRefused, match="413"):
        ask(url, "x y " * 600)
    with pytest.raises(TextRefused, match=str(MAX_TEXT_CHARS)):
        ask("http://127.0.0.1:1", "x" * (MAX_TEXT_CHARS + 1))
    app = create_app(LocalEncoder(rows), ServiceSpec(NAME), api_key="right")
    with serving(app) as guarded:
        with pytest.raises(EncoderUnavailable, match="REFERENCE_ENCODER_API_KEY"):
            ask(guarded)

        async def with_key() -> Tensor:
            encoder = RemoteEncoder(guarded, api_key="right")
            try:
                return await encoder.encode("tea", 5)
            finally:
                await encoder.aclose()

        assert len(run(with_key()))


# -- with others


def test_a_dead_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EncoderUnavailable, match="duologue encoder serve"):
        ask(f"http://127.0.0.1:{port}")


def test_a_service_that_never_answers_is_left_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and reads nothing
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(EncoderTimeout, match=r"0\.05 s"):
            ask(url, deadline_s=0.05)
        assert time.monotonic() - begin < 2


def test_a_service_that_trickles_is_left_at_the_deadline() -> None:
    """Each byte comes in time; the whole does not."""

    def trickle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            while True:
                connection.sendall(b"x")
                time.sleep(0.01)
        except OSError:
            pass

    with raw_server(trickle) as url, pytest.raises(EncoderTimeout):
        ask(url, deadline_s=0.1)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (answer(b"{}"), EncoderMalformed),
        (answer(b""), EncoderMalformed),
        (answer(b"\xff" * 64), EncoderMalformed),
        (answer(b"no", headers="Content-Encoding: gzip\r\n"), EncoderMalformed),
        (answer(b"", "204 No Content"), EncoderUnavailable),
        (answer(b"", "302 Found", "Location: http://127.0.0.1:1/embed\r\n"), EncoderUnavailable),
        (answer(b"", "500 Oops"), EncoderUnavailable),
        (answer(b"", "503 Later"), EncoderBusy),
        (answer(b"", "422 No"), TextRefused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf", EncoderUnavailable),
        (b"", EncoderUnavailable),
        (b"SSH-2.0-OpenSSH\r\n", EncoderUnavailable),
    ],
)
def test_wrong_answers(data: bytes, kind: type[EncoderError]) -> None:
    with answering(data) as url, pytest.raises(kind) as caught:
        ask(url)
    assert type(caught.value) is kind


def test_an_endless_answer_is_cut_off() -> None:
    def pour(connection: socket.socket) -> None:
        read_request(connection)
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(bytes(1 << 16))
        except OSError:
            pass

    with raw_server(pour) as url, pytest.raises(EncoderMalformed, match="more than"):
        ask(url)


def test_a_connection_closed_meanwhile_is_replaced() -> None:
    """The first connection answers once and is closed without a word while it lies in the pool."""
    connections = []
    blob = pack_rows(torch.ones(2, DIM))

    def handle(connection: socket.socket) -> None:
        connections.append(connection)
        if read_request(connection):
            connection.sendall(answer(blob))
        if len(connections) > 1 and read_request(connection):
            connection.sendall(answer(blob))

    async def twice(url: str) -> None:
        encoder = RemoteEncoder(url, dim=DIM)
        for _ in range(3):
            assert len(await encoder.encode("tea", 5)) == 2
            await asyncio.sleep(0.02)
        await encoder.aclose()

    with raw_server(handle) as url:
        run(twice(url))
    assert len(connections) == 2


def test_cancelling_hangs_up() -> None:
    ended = []

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        ended.append(connection.recv(1))  # b"" once the other side has closed

    async def cancel(url: str) -> None:
        encoder = RemoteEncoder(url)
        task = asyncio.create_task(encoder.encode("tea", 10))
        await asyncio.sleep(0.03)
        task.cancel()
        await asyncio.wait([task])
        for _ in range(200):
            if ended:
                break
            await asyncio.sleep(0.01)
        await encoder.aclose()
        assert ended == [b""]

    with raw_server(handle) as url:
        run(cancel(url))


# -- blobs


def test_blobs_come_back() -> None:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(unpack_rows(pack_rows(rows), 5), rows)
    assert torch.equal(unpack_rows(pack_rows(rows.T), 3), rows.T)
    assert unpack_rows(pack_rows(rows.half()), None).dtype == torch.float32


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"other": torch.zeros(1, 2, 4)},
        {"tensor": torch.zeros(1, 2, 4), "more": torch.zeros(1)},
        {"tensor": torch.zeros(1, 2, 4, dtype=torch.float16)},
        {"tensor": torch.zeros(1, 2, 4, dtype=torch.int32)},
        {"tensor": torch.zeros(2, 4)},
        {"tensor": torch.zeros(2, 2, 4)},
        {"tensor": torch.zeros(1, 0, 4)},
        {"tensor": torch.zeros(1, 2, 5)},
        {"tensor": torch.zeros(1, MAX_ROWS + 1, 4)},
        {"tensor": torch.full((1, 2, 4), float("nan"))},
        {"tensor": torch.full((1, 2, 4), float("inf"))},
    ],
)
def test_blobs_that_are_no_rows(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(EncoderMalformed):
        unpack_rows(safetensors.torch.save(tensors), 4)


def test_damaged_blobs() -> None:
    good = pack_rows(torch.ones(2, 4))
    for blob in (good[:-1], good + b"x", good[:20], b"", b"\xff" * 8 + good[8:]):
        with pytest.raises(EncoderMalformed):
            unpack_rows(blob, 4)
