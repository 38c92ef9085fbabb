"""What a conversation asks of the outside world, and how long that counts in its own time.

Published (MoshiRAG reference, offline inference): the model stands still while something is looked
up and encoded; the time both really took, in whole frames, is how much later the reference arrives.
Or every lookup counts as a given time, as in the paper's comparisons of back ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from duologue.dialogue import EncodeReference, Reply, StartLookup, frames_within
from duologue.encoder.ports import RowEncoder
from duologue.engine.api import FRAME_S
from duologue.retrieval import Outcome, RetrievalContext, Retrieved
from duologue.retrieval.protocol import HearAgain, Source
from duologue.session.lookups import (
    Backends,
    LookupCounters,
    encode,
    look_up,
    retrieval_context,
)

Request = StartLookup | EncodeReference
GROUND_TRUTH = "Ground truth"
"""Published label of references that come from the side-car."""
_ROUNDING_S = 1e-9


class GroundTruth:
    """A retriever that knows the one true answer, whatever is asked."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source = text, Source(source)

    @property
    def name(self) -> str:
        return GROUND_TRUTH

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        return Retrieved(Outcome.ANSWERED, self._text, (self._source,), confidence=1.0)

    async def aclose(self) -> None:
        return None


@dataclass(frozen=True)
class Answered:
    """What came of one request, with the time it really took."""

    request: Request
    replies: tuple[tuple[Reply, Tensor | None], ...]
    measured_s: float


class Outside:
    """Carries out requests; never fails but by replies that say so."""

    def __init__(
        self,
        backends: Backends,
        encoder: RowEncoder | None,
        dim: int,
        hear_again: Callable[[int], HearAgain | None] = lambda lookup: None,
    ) -> None:
        self._backends, self._encoder, self._dim = backends, encoder, dim
        self._hear_again = hear_again

    async def carry_out(self, requests: Sequence[Request]) -> list[Answered]:
        """All of them at the same time; results in the order of the requests."""
        return list(await asyncio.gather(*map(self._answer, requests)))

    async def _answer(self, request: Request) -> Answered:
        if isinstance(request, EncodeReference):
            reply, rows = await encode(self._encoder, request, self._dim)
            return Answered(request, ((reply, rows),), reply.elapsed_s or 0.0)
        route = self._backends.routes.get(request.backend)
        context = retrieval_context(
            request.context,
            backend_id=route.backend_id if route else None,
            hear_again=self._hear_again(request.lookup),
        )
        replies = [reply async for reply in look_up(route, request, context, LookupCounters())]
        measured_s = max((reply.elapsed_s or 0.0 for reply in replies), default=0.0)
        return Answered(request, tuple((reply, None) for reply in replies), measured_s)


class ModelClock:
    """How long requests count. `fixed_s` is what a lookup counts as with its encoding.

    Lookup and encoding are rounded down to frames together, not each: what the lookup's rounding
    left over is added to the encoding that follows it at once.
    """

    def __init__(self, fixed_s: float | None = None) -> None:
        self._fixed_s = fixed_s
        self._left_over: dict[int, float] = {}
        """By the frame in which an answer counts."""

    def count(self, request: Request, reply: Reply) -> Reply:
        """The reply as the conversation is to take it."""
        if self._fixed_s is not None:
            counted_s = self._fixed_s if isinstance(request, StartLookup) else 0.0
            return replace(reply, elapsed_s=counted_s)
        measured_s = reply.elapsed_s or 0.0
        if isinstance(request, EncodeReference):
            left_over_s = self._left_over.pop(request.frame, 0.0)
            return replace(reply, elapsed_s=measured_s + left_over_s)
        frames = frames_within(measured_s)
        # Exactly a frame's border must not fall below it.
        left_over_s = max(0.0, measured_s - frames * FRAME_S - _ROUNDING_S)
        self._left_over[request.frame + frames] = left_over_s
        return reply
