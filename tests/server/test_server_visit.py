"""A visit on its own: what it says of itself when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from duologue.server.visit import FAILED, Visit, VisitLimits

SAID = "my own words"


class Socket:
    """A websocket that fails once it is read."""

    async def accept(self) -> None:
        pass

    async def receive(self) -> Any:
        raise ValueError(SAID)

    async def close(self, code: int, reason: str) -> None:
        pass


class Silent:
    """A session in which nothing happens."""

    id = "silent"

    async def events(self) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    async def close(self, detail: str) -> None:
        pass


def test_a_visit_that_fails_is_logged_without_what_was_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door: Any = SimpleNamespace(opening=lambda: (), resumable=False)
    metrics: Any = SimpleNamespace(closed=lambda code: None, forget=lambda id: None)
    session: Any = Silent()
    socket: Any = Socket()
    visit = Visit(socket, session, door, VisitLimits(), metrics)
    with caplog.at_level(logging.ERROR):
        ending = asyncio.run(visit.run())
    assert ending.code == FAILED
    assert "the visit failed with ValueError" in caplog.text
    assert "_listen" in caplog.text
    assert SAID not in caplog.text
