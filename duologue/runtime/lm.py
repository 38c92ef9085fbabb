"""The language models' fast path on CPU, chosen when a model is loaded.

`attach(lm)` gives a model a `FrameRunner` for each generator made from it. A frame then runs as one
compiled call on the generator's own state: the same tree, to the tensor, so a conversation can be
saved under one path and continued under the other, and a step that the compiled code does not know
(hooks, guidance) is taken by the generator itself. Activations are float32 throughout, whatever
the weights' type; results differ from the eager path's by rounding alone.

A slot's bits depend neither on the other slots nor on the number of threads.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from duologue.moshi.config import UNGENERATED, ZERO_TOKEN
from duologue.moshi.generator import FrameRunner, Generator, GeneratorState, StepOutput
from duologue.moshi.lm import MoshiLM, Reader, Reading
from duologue.nn.transformer import TransformerState
from duologue.runtime.codec_team import TEAM
from duologue.runtime.errors import Unsupported
from duologue.runtime.lm_arithmetic import F32_KIND, attend_address
from duologue.runtime.lm_frame import Given, Model, Result, Streams, Workspace, read, step
from duologue.runtime.lm_layers import aligned_zeros, make_room
from duologue.runtime.lm_tables import KINDS, Tables, build_tables
from duologue.runtime.threads import meeting_point

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MAX_THREADS = 64
MAX_ROOMS = 4
"""Numbers of slots that working memory is kept for."""


def attach(lm: MoshiLM) -> None:
    """Let the generators of `lm` run compiled.

    Raises:
        Unsupported: the kernels do not know some part of it; the message says which.
    """
    build_tables(lm, lm.config.dep_q)
    lm.make_runner, lm.make_reader = _make_runner, _make_reader


def _make_reader(lm: MoshiLM) -> Reader | None:
    try:
        return TemporalReader(lm)
    except Unsupported as reason:
        logger.info("a reader runs without compiled kernels: %s", reason)
        return None


def _make_runner(generator: Generator) -> FrameRunner | None:
    if generator.guidance is not None:
        return None
    try:
        return FastFrames(generator)
    except Unsupported as reason:
        logger.info("a generator runs without compiled kernels: %s", reason)
        return None


class FastFrames:
    """Runs the frames of one generator."""

    def __init__(self, generator: Generator) -> None:
        self._tables: Tables = build_tables(generator.lm, generator.generated_q)
        self._context = generator.config.context
        self._keep_audio_logits = generator.keep_audio_logits
        self._text_card, self._card = generator.config.text_card, generator.config.card
        self._rooms = _Rooms()
        self._everyone = np.arange(generator.batch_size)

    @property
    def read_bytes(self) -> int:
        """Weights that a frame reads, in bytes, for any number of slots."""
        return self._tables.read_bytes

    def step(
        self,
        generator: Generator,
        user_codes: Tensor | None,
        active: Tensor | None,
        text: Tensor | None,
        audio: Tensor | None,
        urge: Tensor | None,
        barred: Tensor | None,
        favoured: Tensor | None,
        favour: Tensor | None,
    ) -> StepOutput:
        """As `Generator.step`, without hooks; arguments have been checked."""
        model, state, slots = self._tables.model, generator.state, generator.batch_size
        rows = 1 + model.generated
        threads = min(torch.get_num_threads(), MAX_THREADS)
        work = self._rooms.get(model, self._context, slots, threads)
        running = self._everyone if active is None else np.flatnonzero(active.numpy())
        given = Given(
            running,
            _integers(user_codes, (slots, len(model.delays) - rows), ZERO_TOKEN),
            _integers(text, (slots,), UNGENERATED),
            _integers(audio, (slots, model.generated), UNGENERATED),
            _floats(urge, slots),
            np.zeros(slots, np.bool_) if barred is None else np.ascontiguousarray(barred.numpy()),
            _integers(favoured, (slots,), 0),
            _floats(favour, slots),
        )
        _check_tokens(given.codes[running], self._card)
        _check_tokens(given.audio[running], self._card)
        _check_tokens(given.text[running], self._text_card)
        _check_tokens(given.favoured[running], model.text_classes - 1)
        out = _make_result(model, slots, keep_audio_logits=self._keep_audio_logits)
        if len(running):
            added = generator.added()
            TEAM.run(partial(step, model, _streams(state, added), given, out, work), threads)
        frame, drawn = torch.from_numpy(out.frame), torch.from_numpy(out.drawn)
        return StepOutput(
            text=frame[:, 0],
            audio=frame[:, 1:],
            ready=torch.from_numpy(out.ready),
            sampled_text=drawn[:, 0],
            sampled_audio=drawn[:, 1:],
            text_logits=torch.from_numpy(out.text_logits),
            audio_logits=torch.from_numpy(out.audio_logits) if self._keep_audio_logits else None,
            extra_heads=[torch.from_numpy(head) for head in out.extra],
        )


class TemporalReader:
    """`MoshiLM.read` as one compiled call. Several threads may call it; they take turns."""

    def __init__(self, lm: MoshiLM) -> None:
        self._lock = threading.Lock()
        self._tables = build_tables(lm, 0)
        self._context = lm.config.context
        self._text_card, self._card = lm.config.text_card, lm.config.card
        self._rooms = _Rooms()

    def __call__(
        self,
        column: Tensor,
        temporal: TransformerState,
        active: Tensor | None,
        condition: Tensor | None,
    ) -> Reading:
        """As `MoshiLM.read`; rows of inactive slots hold zeros."""
        model, slots = self._tables.model, column.shape[0]
        running = np.arange(slots) if active is None else np.flatnonzero(active.numpy())
        threads = min(torch.get_num_threads(), MAX_THREADS)
        out = _make_result(model, slots, keep_audio_logits=False)
        out = out._replace(z=np.zeros((slots, model.temporal.dim), dtype=np.float32))
        columns = np.ascontiguousarray(column.numpy(), dtype=np.int64)
        _check_tokens(columns[running, :1], self._text_card)
        _check_tokens(columns[running, 1:], self._card)
        if len(running):
            streams = _NOTHING._replace(**_temporal_fields(temporal, condition))
            with self._lock:
                work = self._rooms.get(model, self._context, slots, threads)
                TEAM.run(partial(read, model, streams, running, columns, out, work), threads)
        heads = [torch.from_numpy(head) for head in out.extra]
        return Reading(torch.from_numpy(out.text_logits), heads, torch.from_numpy(out.z))


class _Rooms:
    """Workspaces by number of slots."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Workspace]] = {}

    def get(self, model: Model, context: int, slots: int, threads: int) -> Workspace:
        known = self._known.get(slots)
        if known is None or known[0] < threads:
            if len(self._known) >= MAX_ROOMS:
                self._known.clear()
            known = threads, _make_workspace(model, context, slots, threads)
            self._known[slots] = known
        return known[1]


def _make_result(model: Model, slots: int, *, keep_audio_logits: bool) -> Result:
    rows = 1 + model.generated
    kept = (slots, model.generated, model.card) if keep_audio_logits else (0, 0, 0)
    return Result(
        drawn=np.full((slots, rows), UNGENERATED, dtype=np.int64),
        frame=np.full((slots, rows), UNGENERATED, dtype=np.int64),
        ready=np.zeros(slots, dtype=np.bool_),
        text_logits=np.zeros((slots, model.text_classes), dtype=np.float32),
        z=np.zeros((0, 0), dtype=np.float32),
        audio_logits=np.zeros(kept, dtype=np.float32),
        extra=np.zeros((len(model.extra_heads), slots, model.extra_dim), dtype=np.float32),
    )


def _make_workspace(model: Model, context: int, slots: int, threads: int) -> Workspace:
    depth, steps = model.depth, max(model.generated, 1)
    shape = (max(depth.layers, 1), 2, slots, depth.kv_heads, steps, depth.head_dim)
    cache = np.zeros(shape, dtype=np.float32)
    addresses = cache.ctypes.data + cache.strides[0] * np.arange(shape[0])[:, None]
    widest = max(model.text_classes, model.card)
    temporal = make_room(model.temporal, slots, threads, context)
    return Workspace(
        temporal=temporal,
        depth=make_room(depth, slots, threads, steps),
        depth_cache=cache,
        depth_addresses=np.ascontiguousarray(addresses + cache.strides[1] * np.arange(2)),
        depth_attend=attend_address(F32_KIND),
        depth_kind=F32_KIND,
        z=aligned_zeros(temporal.normed.shape),
        depth_x=np.zeros((steps, slots, depth.dim), dtype=np.float32),
        logits=np.zeros((slots, widest), dtype=np.float32),
        room=np.zeros((threads, widest), dtype=np.float32),
        column=np.zeros((threads, len(model.delays)), dtype=np.int64),
        write=np.zeros((threads, slots), dtype=np.int64),
        filled=np.zeros((threads, slots), dtype=np.int64),
        rows=np.arange(slots),
        point=meeting_point(),
    )


def _floats(tensor: Tensor | None, slots: int) -> np.ndarray:
    """[slots] as compiled code takes it; zeros for none."""
    if tensor is None:
        return np.zeros(slots, np.float32)
    return np.ascontiguousarray(tensor.numpy())


def _integers(values: Tensor | None, shape: tuple[int, ...], missing: int) -> NDArray[np.int64]:
    """The first entries of each dimension as an array, or `missing` everywhere."""
    if values is None:
        return np.full(shape, missing, dtype=np.int64)
    if len(values.shape) > len(shape):
        values = values[..., 0]
    if len(shape) > 1:
        values = values[:, : shape[1]]
    return np.ascontiguousarray(values.numpy(), dtype=np.int64)


def _check_tokens(tokens: NDArray[np.int64], most: int) -> None:
    """Compiled code reads the rows of tables unchecked.

    Raises:
        IndexError: a token has no row.
    """
    if tokens.size and not (tokens.min() >= UNGENERATED and tokens.max() <= most):
        raise IndexError(
            f"tokens from {tokens.min()} to {tokens.max()}, the model has {UNGENERATED} to {most}"
        )


_EMPTY = np.zeros(0, dtype=np.int64)
_NOTHING = Streams(
    offset=_EMPTY, tokens=np.zeros((0, 0, 0), dtype=np.int64),
    forced=np.zeros((0, 0, 0), dtype=np.int64), seed=_EMPTY,
    text_temperature=np.zeros(0, dtype=np.float32), text_top_k=_EMPTY,
    text_pooled_from=_EMPTY,
    audio_temperature=np.zeros(0, dtype=np.float32), audio_top_k=_EMPTY, positions=_EMPTY,
    caches=np.zeros((0, 2), dtype=np.int64), capacity=1, attend=0, kind=0, condition=0,
    condition_kind=0, condition_bytes=0, reference=0, reference_kind=0, reference_bytes=0,
    reference_rows=0, reference_length=_EMPTY, reference_position=_EMPTY,
)  # fmt: skip


def _streams(state: GeneratorState, condition: Tensor | None) -> Streams:
    """A state's tensors for one call: addresses are read anew each time, as trees are replaced.

    `condition` [B or 1, 1, dim] is added to each input; the caller keeps it alive.
    """
    streams = _NOTHING._replace(
        offset=state.offset.numpy(),
        tokens=state.tokens.numpy(),
        forced=state.forced.numpy(),
        seed=state.seed.numpy(),
        text_temperature=state.text_sampling.temperature.numpy(),
        text_top_k=state.text_sampling.top_k.numpy(),
        text_pooled_from=state.text_sampling.pooled_from.numpy(),
        audio_temperature=state.audio_sampling.temperature.numpy(),
        audio_top_k=state.audio_sampling.top_k.numpy(),
        **_temporal_fields(state.temporal, condition),
    )
    if state.reference is None:
        return streams
    rows = state.reference.rows
    return streams._replace(
        reference=rows.data_ptr(),
        reference_kind=KINDS[rows.dtype],
        reference_bytes=rows.stride(1) * rows.element_size(),
        reference_rows=rows.shape[1],
        reference_length=state.reference.length.numpy(),
        reference_position=state.reference.position.numpy(),
    )


def _temporal_fields(temporal: TransformerState, condition: Tensor | None) -> dict[str, Any]:
    """Fields of the temporal stack's state and of what is added to its input, [B or 1, 1, dim]."""
    pairs = [
        (layer.cache.keys.data_ptr(), layer.cache.values.data_ptr()) for layer in temporal.layers
    ]
    cache = temporal.layers[0].cache
    kind = KINDS[cache.keys.dtype]
    fields = {
        "positions": temporal.offset.numpy(),
        "caches": np.array(pairs, dtype=np.int64),
        "capacity": cache.keys.shape[2],
        "attend": attend_address(kind),
        "kind": kind,
    }
    if condition is not None:
        stride = condition.stride(0) * condition.element_size()
        fields |= {
            "condition": condition.data_ptr(),
            "condition_kind": KINDS[condition.dtype],
            "condition_bytes": stride if condition.shape[0] > 1 else 0,
        }
    return fields
