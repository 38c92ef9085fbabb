"""One frame of every active slot in one compiled call: tokens in, tokens out.

Embedding, temporal stack, text, all depth steps with their draws, and the book-keeping of
`duologue.moshi.generator.Generator.step`, on the same state. Nothing is allocated and the
interpreter is not asked. The rules (what is fed when, what is drawn how) are those of the
generator, which stays the reference; read it first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from duologue.runtime.compile import lean, lean_entry
from duologue.runtime.linear import project, share
from duologue.runtime.lm_arithmetic import add_stored, copy, normalize, soften
from duologue.runtime.lm_layers import Cache, Room, Stack, run_layers, set_rotation
from duologue.runtime.lm_sampling import draw, pool
from duologue.runtime.threads import meet

UNGENERATED = -2
NORM_NONE = -1


class Model(NamedTuple):
    """A language model as compiled code sees it. Tables hold addresses; `Held` keeps them alive."""

    matrices: np.ndarray
    temporal: Stack
    depth: Stack
    delays: np.ndarray
    initial: np.ndarray
    """int64 [1 + n_q]: tokens before a stream has content."""
    max_delay: int
    generated: int
    padding: int
    """Text token of silence."""
    asks: int
    """Text token of retrieval, -1 for none."""
    embeddings: np.ndarray
    """int64 [1 + n_q, 2]: address of a table, bytes of a row."""
    depth_embeddings: np.ndarray
    """int64 [generated, 2]"""
    kind: int
    """Of the embedding tables."""
    out_gain: np.ndarray
    out_bias: np.ndarray
    text_head: int
    text_classes: int
    extra_heads: np.ndarray
    extra_dim: int
    depth_inputs: np.ndarray
    """int64 [generated]: map from the temporal to the depth stack."""
    depth_sets: np.ndarray
    """int64 [generated]: weight set of each depth step."""
    heads: np.ndarray
    """int64 [generated]: audio heads."""
    card: int
    head_norm: int
    head_eps: np.float32
    head_gains: np.ndarray
    """float32 [generated, depth dim]"""
    head_biases: np.ndarray


class Streams(NamedTuple):
    """The tensors of a `GeneratorState`, seen from compiled code."""

    offset: np.ndarray
    tokens: np.ndarray
    forced: np.ndarray
    seed: np.ndarray
    text_temperature: np.ndarray
    text_top_k: np.ndarray
    text_pooled_from: np.ndarray
    audio_temperature: np.ndarray
    audio_top_k: np.ndarray
    positions: np.ndarray
    """int64 [B]: the temporal stack's."""
    caches: np.ndarray
    """int64 [layers, 2]: addresses of keys and values."""
    capacity: int
    attend: int
    """Address of the code for the caches' kind."""
    kind: int
    """Of the caches."""
    condition: int
    """Address of what is added to each input, 0 for none."""
    condition_kind: int
    condition_bytes: int
    reference: int
    """Address of the pending reference rows, 0 for none."""
    reference_kind: int
    reference_bytes: int
    """Of one row."""
    reference_rows: int
    reference_length: np.ndarray
    reference_position: np.ndarray


class Given(NamedTuple):
    """What one step is given."""

    slots: np.ndarray
    """int64 [active]: the slots to advance."""
    codes: np.ndarray
    """int64 [B, given]"""
    text: np.ndarray
    """int64 [B]; `UNGENERATED` is drawn."""
    audio: np.ndarray
    """int64 [B, generated]"""
    urge: np.ndarray
    """float32 [B]: taken off the logit of text padding."""
    barred: np.ndarray
    """bool [B]: nothing is asked for."""
    favoured: np.ndarray
    """int64 [B]: text pieces that are favoured."""
    favour: np.ndarray
    """float32 [B]: by how much."""


class Result(NamedTuple):
    """What one step gives; only the rows of active slots are written."""

    drawn: np.ndarray
    """int64 [B, 1 + generated]"""
    frame: np.ndarray
    ready: np.ndarray
    text_logits: np.ndarray
    """float32 [B, text classes]"""
    z: np.ndarray
    """float32 [B, dim], or of no size."""
    audio_logits: np.ndarray
    """float32 [B, generated, card], or of no size."""
    extra: np.ndarray
    """float32 [extra heads, B, extra_dim]"""


class Workspace(NamedTuple):
    """Memory for a batch."""

    temporal: Room
    depth: Room
    depth_cache: np.ndarray
    """float32 [layers, 2, B, heads, steps, head_dim]"""
    depth_addresses: np.ndarray
    """int64 [layers, 2]"""
    depth_attend: int
    depth_kind: int
    z: np.ndarray
    """float32 [threads, B, dim]"""
    depth_x: np.ndarray
    """float32 [generated, B, depth dim]"""
    logits: np.ndarray
    """float32 [B, widest head]"""
    room: np.ndarray
    """float32 [threads, widest head]"""
    column: np.ndarray
    """int64 [threads, 1 + n_q]"""
    write: np.ndarray
    """int64 [threads, B]"""
    filled: np.ndarray
    rows: np.ndarray
    """int64 [B]: 0, 1, 2, ..."""
    point: np.ndarray
    """Where the threads meet."""


@lean_entry
def step(model, streams, given, result, work, rank, size):  # type: ignore[no-untyped-def]
    """Advance the given slots by one frame; each thread of the team calls it."""
    batch, point, column = given.slots.shape[0], work.point, work.column[rank]
    if rank == 0:
        _write_given(model, streams, given)
    meet(point, size)
    begin, end = share(model.temporal.dim, rank, size)
    for n in range(batch):
        _input_column(model, streams, given.slots[n], column)
        _embed(model, streams, given.slots[n], column, work.temporal.x[n], begin, end)
    meet(point, size)
    _temporal(model, streams, given.slots, work, rank, size)
    _heads(model, given.slots, result, work, rank, size)
    _text(model, streams, given, result, work, rank, size)
    for k in range(model.generated):
        _codebook(model, streams, given, result, work, k, rank, size)
    if rank == 0:
        for slot in given.slots:
            _commit(model, streams, result, slot)
    meet(point, size)


@lean_entry
def read(model, streams, slots, columns, result, work, rank, size):  # type: ignore[no-untyped-def]
    """Have the given slots read a token column each, [B, 1 + n_q]; gives logits, draws nothing."""
    begin, end = share(model.temporal.dim, rank, size)
    for n in range(slots.shape[0]):
        _embed(model, streams, slots[n], columns[slots[n]], work.temporal.x[n], begin, end)
    meet(work.point, size)
    _temporal(model, streams, slots, work, rank, size)
    _heads(model, slots, result, work, rank, size)
    if rank == 0:
        for n in range(slots.shape[0]):
            streams.positions[slots[n]] += 1
            copy(work.z[0, n, : model.temporal.dim], result.z[slots[n]])
    meet(work.point, size)


@lean
def _write_given(model, streams, given):  # type: ignore[no-untyped-def]
    """As `Generator._write_given`."""
    ring = streams.tokens.shape[2]
    for slot in given.slots:
        for row in range(1 + model.generated, model.delays.shape[0]):
            column = (streams.offset[slot] + model.delays[row]) % ring
            streams.tokens[slot, row, column] = given.codes[slot, row - 1 - model.generated]


@lean
def _input_column(model, streams, slot, column):  # type: ignore[no-untyped-def]
    """As `Generator._input_column`."""
    offset = streams.offset[slot]
    for row in range(column.shape[0]):
        fresh = offset <= model.delays[row]
        token = streams.tokens[slot, row, offset % streams.tokens.shape[2]]
        column[row] = model.initial[row] if fresh else token


@lean
def _embed(model, streams, slot, column, x, begin, end):  # type: ignore[no-untyped-def]
    """Columns [begin, end) of a slot's next input: token embeddings, condition, reference."""
    for i in range(begin, end):
        x[i] = np.float32(0.0)
    for row in range(column.shape[0]):
        if column[row] >= 0:
            at = model.embeddings[row, 0] + column[row] * model.embeddings[row, 1]
            add_stored(x, begin, end, at, model.kind)
    if streams.condition:
        at = streams.condition + slot * streams.condition_bytes
        add_stored(x, begin, end, at, streams.condition_kind)
    if streams.reference:
        position = streams.reference_position[slot]
        if position < streams.reference_length[slot]:
            position += slot * streams.reference_rows
            at = streams.reference + position * streams.reference_bytes
            add_stored(x, begin, end, at, streams.reference_kind)


@lean
def _temporal(model, streams, slots, work, rank, size):  # type: ignore[no-untyped-def]
    """From `x` to the normalised vectors `z`, of which each thread makes its own copy."""
    stack, room, batch = model.temporal, work.temporal, slots.shape[0]
    write, filled, capacity = work.write[rank], work.filled[rank], streams.capacity
    for n in range(batch):
        position = streams.positions[slots[n]]
        write[n] = position % capacity
        filled[n] = min(position + 1, capacity)
    set_rotation(stack, streams.positions, slots, room, rank)
    cache = Cache(streams.caches, streams.attend, streams.kind, capacity, slots, write, filled)
    run_layers(stack, 0, model.matrices, room, cache, batch, work.point, rank, size)
    for n in range(batch):
        out = work.z[rank, n, : stack.dim]
        x = room.x[n, : stack.dim]
        normalize(x, model.out_gain, model.out_bias, stack.norm, stack.eps, out)


@lean
def _heads(model, slots, result, work, rank, size):  # type: ignore[no-untyped-def]
    """What is made of `z`: text logits, extra heads, and the inputs of all depth steps."""
    z, room, batch = work.z[rank], work.temporal, slots.shape[0]
    arranged = room.arranged[rank]
    begin, end = share(model.text_classes, rank, size)
    project(model.matrices[model.text_head], z, batch, work.logits, begin, end, arranged)
    begin, end = share(model.depth.dim, rank, size)
    for k in range(model.generated):
        matrix = model.matrices[model.depth_inputs[k]]
        project(matrix, z, batch, work.depth_x[k], begin, end, arranged)
    if rank == 0:
        for head in range(model.extra_heads.shape[0]):
            matrix, out = model.matrices[model.extra_heads[head]], room.projected
            project(matrix, z, batch, out, 0, model.extra_dim, arranged)
            for n in range(batch):
                soften(out[n], model.extra_dim, np.float32(1.0))
                copy(out[n], result.extra[head, slots[n]])
    meet(work.point, size)
    for n in range(rank, batch, size):
        copy(work.logits[n], result.text_logits[slots[n]])


@lean
def _text(model, streams, given, result, work, rank, size):  # type: ignore[no-untyped-def]
    """The draw of the text token."""
    for n in range(rank, given.slots.shape[0], size):
        slot = given.slots[n]
        logits, own = work.logits[n, : model.text_classes], result.text_logits[slot]
        # Bent for the draw alone: the result keeps what the model has made.
        asks, barred = model.asks, model.asks >= 0 and given.barred[slot]
        padding, asking = own[model.padding], own[asks]
        own[model.padding] = padding - given.urge[slot]
        if barred:
            own[asks] = np.float32(-np.inf)
        first = streams.text_pooled_from[slot]
        pool(own, first, given.favoured[slot], given.favour[slot], logits)
        own[model.padding] = padding
        if barred:
            own[asks] = asking
        token = draw(
            logits, streams.text_temperature[slot], streams.text_top_k[slot],
            streams.seed[slot], streams.offset[slot], np.int64(0), work.room[rank],
        )  # fmt: skip
        result.drawn[slot, 0] = _used(given.text[slot], streams.forced[slot, 0, 0], token)
    meet(work.point, size)


@lean
def _codebook(model, streams, given, result, work, k, rank, size):  # type: ignore[no-untyped-def]
    """Depth step `k`: logits of one codebook, and its draw."""
    stack, room, slots = model.depth, work.depth, given.slots
    batch, dim = slots.shape[0], stack.dim
    begin, end = share(dim, rank, size)
    for n in range(batch):
        x = room.x[n]
        copy(work.depth_x[k, n, begin:end], x[begin:end])
        previous = result.drawn[slots[n], k]
        if previous >= 0:
            at = model.depth_embeddings[k, 0] + previous * model.depth_embeddings[k, 1]
            add_stored(x, begin, end, at, model.kind)
    meet(work.point, size)
    write, filled = work.write[rank], work.filled[rank]
    for n in range(batch):
        write[n], filled[n] = k, k + 1
    cache = Cache(
        work.depth_addresses,
        work.depth_attend,
        work.depth_kind,
        work.depth_cache.shape[4],
        work.rows,
        write,
        filled,
    )
    run_layers(
        stack, model.depth_sets[k], model.matrices, room, cache, batch, work.point, rank, size
    )
    normed = room.normed[rank]
    for n in range(batch):
        if model.head_norm == NORM_NONE:
            copy(room.x[n], normed[n, :dim])
        else:
            gain, bias = model.head_gains[k], model.head_biases[k]
            x, out = room.x[n, :dim], normed[n, :dim]
            normalize(x, gain, bias, model.head_norm, model.head_eps, out)
    begin, end = share(model.card, rank, size)
    matrix, arranged = model.matrices[model.heads[k]], room.arranged[rank]
    project(matrix, normed, batch, work.logits, begin, end, arranged)
    meet(work.point, size)
    for n in range(rank, batch, size):
        slot, logits = slots[n], work.logits[n, : model.card]
        if result.audio_logits.size:
            copy(logits, result.audio_logits[slot, k])
        token = draw(
            logits, streams.audio_temperature[slot], streams.audio_top_k[slot],
            streams.seed[slot], streams.offset[slot], 1 + k, work.room[rank],
        )  # fmt: skip
        used = _used(given.audio[slot, k], streams.forced[slot, 1 + k, 0], token)
        result.drawn[slot, 1 + k] = used
    meet(work.point, size)


@lean
def _used(given, forced, drawn):  # type: ignore[no-untyped-def]
    if given != UNGENERATED:
        return given
    return forced if forced != UNGENERATED else drawn


@lean
def _commit(model, streams, result, slot):  # type: ignore[no-untyped-def]
    """As `Generator._commit` and `Generator._ready_frame`."""
    ring, rows = streams.tokens.shape[2], 1 + model.generated
    if streams.reference and streams.reference_position[slot] < streams.reference_length[slot]:
        streams.reference_position[slot] += 1
    streams.positions[slot] += 1
    streams.offset[slot] += 1
    offset, last = streams.offset[slot], model.max_delay
    ready = offset > last
    result.ready[slot] = ready
    for row in range(rows):
        streams.tokens[slot, row, offset % ring] = result.drawn[slot, row]
        for ahead in range(last):
            streams.forced[slot, row, ahead] = streams.forced[slot, row, ahead + 1]
        streams.forced[slot, row, last] = UNGENERATED
    for row in range(rows):
        column = (offset - last + model.delays[row]) % ring
        token = streams.tokens[slot, row, column]
        result.frame[slot, row] = token if ready else UNGENERATED
