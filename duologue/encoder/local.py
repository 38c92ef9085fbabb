"""The reference encoder in this process: batched, in a thread of its own, with a bounded queue.

There is no wait to gather a batch: what arrived while the last batch was computed is the next one.
So a lone text is not delayed, and under load batches grow by themselves. At most `max_waiting`
texts wait; another one is refused at once (`EncoderBusy`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from duologue.encoder.metrics import EncoderMetrics
from duologue.encoder.model import RowModel
from duologue.encoder.ports import (
    EncoderBusy,
    EncoderError,
    EncoderTimeout,
    EncoderUnavailable,
    check_text,
)

MAX_BATCH = 8
MAX_WAITING = 64


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    text: str
    rows: asyncio.Future[Tensor]


class LocalEncoder:
    """A `RowEncoder` over a model. For one event loop at a time."""

    def __init__(
        self,
        model: RowModel,
        *,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
        metrics: EncoderMetrics | None = None,
    ) -> None:
        if max_batch < 1 or max_waiting < 1:
            raise ValueError("max_batch and max_waiting must be at least 1")
        self._model = model
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._metrics = metrics or EncoderMetrics()
        self._waiting: deque[_Job] = deque()
        self._working: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reference-encoder")
        self._closed = False

    @property
    def dim(self) -> int:
        return self._model.dim

    async def encode(self, text: str, deadline_s: float) -> Tensor:
        """See `RowEncoder.encode`."""
        try:
            return await self._encode(text, deadline_s)
        except EncoderError as error:
            self._metrics.rejected.labels(type(error).__name__).inc()
            raise

    async def aclose(self) -> None:
        """Fail what waits; a batch already in the thread runs out unheard."""
        self._closed = True
        if self._working is not None:
            self._working.cancel()
        while self._waiting:
            job = self._waiting.popleft()
            if not job.rows.done():
                job.rows.set_exception(EncoderUnavailable("the encoder was closed"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _encode(self, text: str, deadline_s: float) -> Tensor:
        if self._closed:
            raise EncoderUnavailable("the encoder was closed")
        check_text(text)
        if len(self._waiting) >= self._max_waiting:
            raise EncoderBusy(f"{self._max_waiting} references wait to be encoded already")
        job = _Job(text, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._metrics.waiting.set(len(self._waiting))
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="reference-encoder")
        try:
            async with asyncio.timeout(deadline_s):
                return await job.rows
        except TimeoutError:
            raise EncoderTimeout(f"no rows within {deadline_s:.3g} s") from None
        finally:
            if job in self._waiting:  # given up before its batch began
                self._waiting.remove(job)
                self._metrics.waiting.set(len(self._waiting))

    async def _work(self) -> None:
        """Run batches until nothing waits."""
        loop = asyncio.get_running_loop()
        batch: list[_Job] = []
        try:
            while self._waiting:
                batch = [
                    self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))
                ]
                self._metrics.waiting.set(len(self._waiting))
                self._metrics.batch_texts.observe(len(batch))
                begin = time.perf_counter()
                results = await loop.run_in_executor(
                    self._thread, self._model.encode, [job.text for job in batch]
                )
                self._metrics.batch_seconds.observe(time.perf_counter() - begin)
                for job, result in zip(batch, results, strict=True):
                    if job.rows.done():  # nobody waits for it any more
                        continue
                    if isinstance(result, Tensor):
                        job.rows.set_result(result)
                    else:
                        job.rows.set_exception(result)
        finally:
            self._working = None
            for job in batch:
                if not job.rows.done():
                    job.rows.set_exception(EncoderUnavailable("the encoder stopped"))
