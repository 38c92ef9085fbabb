"""Server-sent events, as chat endpoints stream them: the `data` of each event, bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from duologue.retrieval.protocol import BackendMalformed

MAX_EVENT_BYTES = 256 << 10
MAX_STREAM_BYTES = 4 << 20


async def event_data(response: httpx.Response) -> AsyncIterator[str]:
    """The data of each event in order. Comments and other fields are skipped."""
    pending = bytearray()
    data: list[str] = []
    total = 0
    async for chunk in response.aiter_bytes():
        total += len(chunk)
        pending += chunk
        if total > MAX_STREAM_BYTES or len(pending) > MAX_EVENT_BYTES + len(chunk):
            raise BackendMalformed("a stream without bounds")
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end]).rstrip(b"\r").decode("utf-8", "replace")
            del pending[: end + 1]
            if not line and data:
                yield "\n".join(data)
                data = []
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
    rest = bytes(pending).decode("utf-8", "replace")
    if rest.startswith("data:"):
        data.append(rest[5:].strip())
    if data:
        yield "\n".join(data)
