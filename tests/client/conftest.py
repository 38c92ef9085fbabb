"""A server of the tiny model of the server's tests."""

from __future__ import annotations

from server.conftest import _shared, model, server  # noqa: F401
