"""Rows of texts encoded lately, kept within bounds: the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from duologue.encoder.metrics import EncoderMetrics
from duologue.encoder.ports import RowEncoder

MAX_ENTRIES = 4_096
MAX_BYTES = 64 << 20
"""Rows kept: some 200 references of fifty words at the published width."""


class CachedEncoder:
    """A `RowEncoder` before another one. Failures are not kept; texts are compared exactly."""

    def __init__(
        self,
        inner: RowEncoder,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        metrics: EncoderMetrics | None = None,
    ) -> None:
        self._inner = inner
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._metrics = metrics or EncoderMetrics()
        self._rows: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int | None:
        return self._inner.dim

    @property
    def bytes(self) -> int:
        """Size of the rows kept; the texts themselves are small beside them."""
        return self._bytes

    async def encode(self, text: str, deadline_s: float) -> Tensor:
        """See `RowEncoder.encode`; a text that is known does not wait."""
        known = self._rows.get(text)
        if known is not None:
            self._rows.move_to_end(text)
            self._metrics.cache_hits.inc()
            return known
        self._metrics.cache_misses.inc()
        rows = await self._inner.encode(text, deadline_s)
        self._keep(text, rows)
        return rows

    async def aclose(self) -> None:
        self._rows.clear()
        self._bytes = 0
        await self._inner.aclose()

    def _keep(self, text: str, rows: Tensor) -> None:
        if rows.nbytes > self._max_bytes or self._max_entries < 1:
            return
        earlier = self._rows.pop(text, None)  # two at once may have asked for the same
        self._bytes += rows.nbytes - (0 if earlier is None else earlier.nbytes)
        self._rows[text] = rows
        while len(self._rows) > self._max_entries or self._bytes > self._max_bytes:
            _, dropped = self._rows.popitem(last=False)
            self._bytes -= dropped.nbytes
        self._metrics.cache_bytes.set(self._bytes)
