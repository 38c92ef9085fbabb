"""The encoder in this process: the same rows however they are asked for, within bounds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

import duologue
from duologue.checkpoints import CheckpointError
from duologue.checkpoints.untrained import create_untrained
from duologue.encoder import (
    MAX_TEXT_CHARS,
    EncoderBusy,
    EncoderError,
    EncoderTimeout,
    EncoderUnavailable,
    TextRefused,
)
from duologue.encoder import model as model_module
from duologue.encoder.cache import CachedEncoder
from duologue.encoder.client import RemoteEncoder
from duologue.encoder.local import LocalEncoder
from duologue.encoder.metrics import EncoderMetrics
from duologue.encoder.model import RowModel
from duologue.encoder.opening import load_row_model, open_encoder

from .conftest import DIM, NAME, TEXTS, run


def plain(rows: RowModel, text: str) -> Tensor:
    """The rows of a text, straight from the modules."""
    tokens = rows.tokenizer.encode(text)
    return rows.conditioner(rows.encoder([tokens])[0])


class Slow(RowModel):
    """A model that waits in its thread until it is let go."""

    def __init__(self, rows: RowModel) -> None:
        super().__init__(rows.tokenizer, rows.encoder, rows.conditioner)
        self.go = threading.Event()
        self.started = threading.Event()
        self.batches: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> list[Tensor | EncoderError]:
        self.batches.append(list(texts))
        self.started.set()
        assert self.go.wait(10)
        return super().encode(texts)


async def started(slow: Slow) -> None:
    await asyncio.to_thread(slow.started.wait, 10)


# -- the model


def test_batching_equals_one_by_one(rows: RowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for budget in (model_module.MAX_BATCH_TOKENS, 40, 1):
        monkeypatch.setattr(model_module, "MAX_BATCH_TOKENS", budget)
        for text, result in zip(TEXTS, rows.encode(TEXTS), strict=True):
            assert isinstance(result, Tensor)
            assert result.dtype == torch.float32
            assert len(result) == -(-len(rows.tokenizer.encode(text)) // 4)
            torch.testing.assert_close(result, plain(rows, text), atol=1e-5, rtol=1e-4)


def test_the_budget_of_a_batch_counts_padding() -> None:
    lengths = {0: 100, 1: 2, 2: 2000, 3: 3, 4: 2100}
    batches = model_module._batches(lengths)
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3, 4]
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) * longest <= model_module.MAX_BATCH_TOKENS
    assert batches == [[1, 3, 0], [2], [4]]


def test_no_text_is_one_row_of_zeros(rows: RowModel) -> None:
    empty, blank, other = rows.encode(["", "  ", TEXTS[0]])
    assert torch.equal(empty, torch.zeros(1, DIM))  # type: ignore[arg-type]
    assert torch.equal(blank, torch.zeros(1, DIM))  # type: ignore[arg-type]
    assert isinstance(other, Tensor)


def test_a_text_of_too_many_tokens_fails_alone(rows: RowModel) -> None:
    long, good = rows.encode(["x y " * 600, "tea"])
    assert isinstance(long, TextRefused)
    assert isinstance(good, Tensor)


def test_a_failing_text_fails_alone(rows: RowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the device runs out of memory, or one text's values overflow."""
    forward = RowModel._forward
    poison = rows.tokenizer.encode(TEXTS[2])

    def failing(self: RowModel, batch: list[list[int]]) -> list[Tensor]:
        if poison in batch:
            raise RuntimeError("out of memory while encoding: the museum ...")
        return forward(self, batch)

    monkeypatch.setattr(RowModel, "_forward", failing)
    results = rows.encode(TEXTS)
    assert [isinstance(result, Tensor) for result in results] == [True, True, False, True]
    assert str(results[2]) == "the encoder failed with RuntimeError"
    monkeypatch.setattr(RowModel, "_forward", forward)
    monkeypatch.setattr(
        type(rows.conditioner), "forward", lambda self, x: torch.full((len(x), DIM), torch.nan)
    )
    assert isinstance(rows.encode(["tea"])[0], EncoderError)


def test_files_give_the_same_rows_in_every_format(
    model_folder: Path, rows: RowModel, tmp_path: Path
) -> None:
    from duologue.checkpoints.convert import convert

    convert(model_folder, tmp_path / "kyutai", to="kyutai")
    files = model_folder / "reference"
    again = load_row_model(
        tmp_path / "kyutai",
        name=NAME,
        weights=files / "model.safetensors",
        tokenizer=files / "tokenizer.model",
        device="cpu",
    )
    assert torch.equal(again.encode(TEXTS)[0], rows.encode(TEXTS)[0])  # type: ignore[arg-type]


def test_the_loaded_language_model_shares_its_conditioner(
    model_folder: Path, rows: RowModel
) -> None:
    lm = duologue.load_lm(model_folder, device="cpu")
    own = load_row_model(model_folder, conditioner=lm.condition_provider.reference, device="cpu")
    assert own.conditioner is lm.condition_provider.reference
    assert torch.equal(own.encode(TEXTS)[0], rows.encode(TEXTS)[0])  # type: ignore[arg-type]
    generator = lm.generator(1)
    generator.set_reference(0, own.encode(TEXTS)[0])  # type: ignore[arg-type]


def test_what_is_missing_is_said(model_folder: Path, tmp_path: Path) -> None:
    create_untrained(tmp_path / "none", "tiny")
    with pytest.raises(CheckpointError, match="takes no references"):
        open_encoder(tmp_path / "none", device="cpu")
    with pytest.raises(CheckpointError, match="'first_speaker' is no reference"):
        load_row_model(model_folder, name="first_speaker", device="cpu")
    with pytest.raises(CheckpointError, match="no such file"):
        load_row_model(model_folder, weights=tmp_path / "gone", device="cpu")


# -- in a thread, with a queue


def test_concurrent_texts_become_batches(rows: RowModel) -> None:
    slow = Slow(rows)
    metrics = EncoderMetrics(CollectorRegistry())

    async def ask() -> list[Tensor]:
        encoder = LocalEncoder(slow, max_batch=3, metrics=metrics)
        first = asyncio.create_task(encoder.encode("first", 10))
        await started(slow)
        others = [asyncio.create_task(encoder.encode(text, 10)) for text in TEXTS]
        await asyncio.sleep(0)
        slow.go.set()
        found = await asyncio.gather(first, *others)
        await encoder.aclose()
        return found[1:]

    found = run(ask())
    assert slow.batches == [["first"], TEXTS[:3], TEXTS[3:]]
    for text, result in zip(TEXTS, found, strict=True):
        torch.testing.assert_close(result, plain(rows, text), atol=1e-5, rtol=1e-4)
    assert metrics.registry.get_sample_value("encoder_batch_texts_sum") == 5
    assert metrics.registry.get_sample_value("encoder_waiting_texts") == 0


def test_the_event_loop_goes_on_meanwhile(rows: RowModel) -> None:
    """The model is held until the loop lets it go: were it on the loop, that would never come."""
    slow = Slow(rows)

    async def ask() -> None:
        encoder = LocalEncoder(slow)
        task = asyncio.create_task(encoder.encode("tea", 10))
        await started(slow)
        assert not task.done()
        slow.go.set()
        assert len(await task)
        await encoder.aclose()

    run(ask())


def test_a_full_queue_refuses_and_recovers(rows: RowModel) -> None:
    slow = Slow(rows)

    async def ask() -> None:
        encoder = LocalEncoder(slow, max_waiting=2)
        tasks = [asyncio.create_task(encoder.encode("one", 10))]
        await started(slow)
        tasks += [asyncio.create_task(encoder.encode(text, 10)) for text in ("two", "three")]
        await asyncio.sleep(0)
        with pytest.raises(EncoderBusy):
            await encoder.encode("four", 10)
        tasks[1].cancel()
        await asyncio.wait(tasks[1:2])
        tasks.append(asyncio.create_task(encoder.encode("five", 10)))
        slow.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [False, True, False, False]
        await encoder.aclose()

    run(ask())
    assert slow.batches == [["one"], ["three", "five"]]


def test_the_deadline_holds_and_withdraws_the_text(rows: RowModel) -> None:
    slow = Slow(rows)

    async def ask() -> None:
        encoder = LocalEncoder(slow)
        blocking = asyncio.create_task(encoder.encode("one", 10))
        await started(slow)
        for deadline_s in (0.02, 0.0, -1.0):
            with pytest.raises(EncoderTimeout):
                await encoder.encode("late", deadline_s)
        slow.go.set()
        await blocking
        assert len(await encoder.encode("tea", 10))
        await encoder.aclose()

    run(ask())
    assert slow.batches == [["one"], ["tea"]]


def test_closing_fails_what_waits(rows: RowModel) -> None:
    slow = Slow(rows)

    async def ask() -> None:
        encoder = LocalEncoder(slow)
        tasks = [asyncio.create_task(encoder.encode("one", 10))]
        await started(slow)
        tasks.append(asyncio.create_task(encoder.encode("two", 10)))
        await asyncio.sleep(0)
        await encoder.aclose()
        slow.go.set()
        for task in tasks:
            with pytest.raises(EncoderUnavailable):
                await task
        with pytest.raises(EncoderUnavailable):
            await encoder.encode("three", 10)

    run(ask())


def test_long_texts_are_refused_before_they_wait(rows: RowModel) -> None:
    slow = Slow(rows)

    async def ask() -> None:
        encoder = LocalEncoder(slow)
        with pytest.raises(TextRefused, match=str(MAX_TEXT_CHARS)):
            await encoder.encode("x" * (MAX_TEXT_CHARS + 1), 1)
        await encoder.aclose()

    run(ask())
    assert not slow.batches


def test_one_encoder_serves_one_event_loop_after_another(rows: RowModel) -> None:
    encoder = LocalEncoder(rows)
    first, second = run(encoder.encode("tea", 5)), run(encoder.encode("tea", 5))
    assert torch.equal(first, second)
    run(encoder.aclose())


# -- the cache


def counting(rows: RowModel) -> tuple[LocalEncoder, list[str]]:
    asked: list[str] = []

    class Counting(RowModel):
        def encode(self, texts: Sequence[str]) -> list[Any]:
            asked.extend(texts)
            return super().encode(texts)

    return LocalEncoder(Counting(rows.tokenizer, rows.encoder, rows.conditioner)), asked


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [({"max_entries": 2}, 2), ({"max_bytes": 4 * DIM * 2}, 2), ({"max_bytes": 0}, 0)],
)
def test_the_cache_keeps_the_latest_within_bounds(
    rows: RowModel, bounds: dict[str, int], kept: int
) -> None:
    """Each of these texts is one row."""
    inner, asked = counting(rows)
    cached = CachedEncoder(inner, **bounds)

    async def ask() -> None:
        for text in ("a", "b", "a", "c", "a"):
            found = await cached.encode(text, 5)
            torch.testing.assert_close(found, plain(rows, text), atol=1e-5, rtol=1e-4)
            assert len(cached) <= kept
            assert cached.bytes <= bounds.get("max_bytes", 10**9)
        await cached.aclose()

    run(ask())
    if kept == 2:
        assert asked == ["a", "b", "c"]
    if not kept:
        assert len(asked) == 5


def test_failures_are_not_kept(rows: RowModel) -> None:
    slow = Slow(rows)
    cached = CachedEncoder(LocalEncoder(slow))

    async def ask() -> None:
        with pytest.raises(EncoderTimeout):
            await cached.encode("tea", 0.02)
        slow.go.set()
        assert len(await cached.encode("tea", 5))
        assert len(cached) == 1
        await cached.aclose()
        assert len(cached) == cached.bytes == 0

    run(ask())


# -- which one


@pytest.mark.parametrize(
    ("environment", "kind"),
    [({}, LocalEncoder), ({"REFERENCE_ENCODER_URL": "http://127.0.0.1:1/"}, RemoteEncoder)],
)
def test_the_environment_selects(
    model_folder: Path, environment: dict[str, str], kind: Callable[..., Any]
) -> None:
    encoder = open_encoder(model_folder, device="cpu", environment=environment)
    assert isinstance(encoder, CachedEncoder)
    assert isinstance(encoder._inner, kind)  # type: ignore[arg-type]
    assert encoder.dim == DIM
    run(encoder.aclose())


def test_a_url_that_is_none_is_said(model_folder: Path) -> None:
    for url in ("encoder:8001", "http://user:secret@host", "ftp://host"):
        with pytest.raises(EncoderUnavailable, match="base URL"):
            open_encoder(model_folder, environment={"REFERENCE_ENCODER_URL": url})
