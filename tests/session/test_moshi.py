"""The library: recordings in model time, and live streams without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.conversations import Facts, Rows, frames_of, model, speech
from support.stage import trace

import duologue
from duologue.checkpoints.untrained import create_untrained
from duologue.dialogue import (
    AudioFrame,
    EndReason,
    Event,
    Interrupt,
    LookupFailed,
    Report,
    RetrievalStarted,
    RetrievalSucceeded,
    SessionEnded,
    StartLookup,
    WarningCode,
)
from duologue.engine import SlotBank
from duologue.engine.api import EngineError, EngineFull, SessionOptions
from duologue.session import stream as stream_module
from duologue.session.core import ConversationCore, FrameGiven, advance
from duologue.session.lookups import Backends
from duologue.session.model_time import LoopThread, ModelTime
from duologue.session.moshi import Moshi, MoshiSession
from duologue.session.options import conversation, slot_setup
from duologue.stt.ports import Heard

SEED = 13
"""A conversation in which knowledge is asked for early on."""


@pytest.fixture
def moshi() -> Iterator[Moshi]:
    with Moshi(model(), 2, encoder=Rows()) as opened:
        yield opened


def test_a_recording_is_answered_frame_by_frame(moshi: Moshi) -> None:
    pcm = speech(10)[:-700]
    with moshi.create_session(seed=SEED) as session:
        reply = session.process(pcm)
        assert reply.pcm.shape == (10 * 1920,)
        audio = [event for event in reply.events if isinstance(event, AudioFrame)]
        assert np.array_equal(np.concatenate([event.payload for event in audio]), reply.pcm)
        assert reply.text
        assert reply.transcript[0].text.split()[0] == reply.text.split()[0]
    again = moshi.create_session(seed=SEED).process(pcm)
    assert trace(list(again.events)) == trace(list(reply.events))


def test_a_conversation_goes_on_over_calls(moshi: Moshi) -> None:
    pcm = speech(8)
    whole = moshi.create_session(seed=SEED).process(pcm)
    parts = moshi.create_session(seed=SEED)
    said = [parts.process(part).pcm for part in (pcm[: 3 * 1920], pcm[3 * 1920 :])]
    assert np.array_equal(np.concatenate(said), whole.pcm)
    assert parts.transcript == whole.transcript


def test_audio_of_another_shape_is_refused(moshi: Moshi) -> None:
    pcm = speech(1)[None]

    async def stream(session: MoshiSession) -> None:
        async with session.stream() as live:
            await live.send(pcm)

    with moshi.create_session() as session:
        with pytest.raises(ValueError, match=r"not \[1, 1920\]"):
            session.process(pcm)
        with pytest.raises(ValueError, match=r"not \[1, 1920\]"):
            asyncio.run(stream(session))
        assert session.core.brain.frame == -1


def test_a_recording_that_is_interrupted_is_played_no_further(
    moshi: Moshi, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, played, noticed = moshi.create_session(), threading.Event(), threading.Event()
    submit = moshi.thread.submit

    def interrupted() -> None:
        played.wait(20)
        raise KeyboardInterrupt

    def submitted(*given: Any) -> Any:
        playing = submit(*given)
        monkeypatch.setattr(playing, "result", interrupted)
        return playing

    def held(*given: Any) -> Any:
        made = advance(*given)
        played.set()
        noticed.wait(20)
        return made

    with monkeypatch.context() as patch:
        patch.setattr("duologue.session.moshi.advance", held)
        patch.setattr(moshi.thread, "submit", submitted)
        with pytest.raises(KeyboardInterrupt):
            session.process(speech(50))
        noticed.set()
        submit(lambda: None).result()
    assert session.core.brain.frame == 0
    session.process(speech(1))
    assert session.core.brain.frame == 1


def test_sessions_are_counted_and_come_back(moshi: Moshi) -> None:
    first = moshi.create_session()
    moshi.create_session()
    with pytest.raises(EngineFull):
        moshi.create_session()
    first.close()
    first.close()
    with pytest.raises(EngineError, match="closed"):
        first.process(speech(1))
    moshi.create_session()


def test_a_stream_of_a_closed_session_does_not_touch_its_slot(moshi: Moshi) -> None:
    """Another session has it by now, and goes on as if there had never been a stream."""
    pcm = speech(6)
    whole = moshi.create_session(seed=SEED).process(pcm)

    async def stream() -> NDArray[np.float32]:
        old = moshi.create_session(seed=3)
        async with old.stream() as live:
            await live.send(pcm[:1920])
            old.close()
            with moshi.create_session(seed=SEED) as new:
                assert new.core.slot == old.core.slot
                said = [await asyncio.to_thread(new.process, pcm[: 3 * 1920])]
                with pytest.raises(EngineError, match="closed; create another"):
                    await live.send(pcm[:1920])
                with pytest.raises(EngineError, match="closed; create another"):
                    await live.control(Interrupt())
                live._receive(LookupFailed(1, "too late"))
                said.append(await asyncio.to_thread(new.process, pcm[3 * 1920 :]))
        return np.concatenate([reply.pcm for reply in said])

    assert np.array_equal(asyncio.run(stream()), whole.pcm)


def test_a_late_model_leaves_silence_at_the_beginning() -> None:
    with Moshi(model(max_delay=2), encoder=Rows()) as moshi:
        reply = moshi.create_session().process(speech(4))
    assert reply.pcm.shape == (4 * 1920,)
    assert not reply.pcm[:1920].any()
    assert reply.pcm[1920:].any()


def played(elapsed_s: float) -> list[Event]:
    """A conversation in model time whose lookups take so long."""
    bank = SlotBank(model(), 1)
    options = SessionOptions(seed=SEED)
    brain = conversation(options, ("default",), simulated=True, stt_delay_frames=0)
    core = ConversationCore(bank, 0, brain, slot_setup(bank.model, options))
    list(core.prepare())
    loop = LoopThread()
    world = ModelTime(
        loop,
        Backends.of(Facts(), ("default",)),
        Rows(),
        elapsed=lambda command, _: elapsed_s if isinstance(command, StartLookup) else 0.0,
    )
    events: list[Event] = []
    for frame, pcm in enumerate(frames_of(speech(20))):
        heard = Heard((" word",) if frame < 3 else (), 0.9, frame)
        made = advance(bank, {core: FrameGiven(pcm, heard)})[core]
        assert not isinstance(made, Exception)
        events += world.settle(core, made.outputs)
    loop.close()
    return events


def test_lookups_take_their_time_in_frames_whatever_they_really_take() -> None:
    def answered(events: list[Event]) -> RetrievalSucceeded:
        return next(e for e in events if isinstance(e, RetrievalSucceeded))

    quick, slow = answered(played(0.0)), answered(played(0.5))
    assert slow.lookup_latency == quick.lookup_latency + 6
    assert answered(played(0.5)) == slow


def test_a_stream_says_what_a_recording_says(moshi: Moshi) -> None:
    pcm = speech(8)
    expected = moshi.create_session(seed=3).process(pcm)

    async def stream() -> list[Event]:
        session = moshi.create_session(seed=3)
        async with session.stream() as live:
            for chunk in np.split(pcm, [100, 5000, 7000]):
                await live.send(chunk)
            await live.finish()
            return [event async for event in live]

    audio = [e.payload for e in asyncio.run(stream()) if isinstance(e, AudioFrame)]
    assert np.array_equal(np.concatenate(audio), expected.pcm)


@pytest.mark.parametrize(("flush_s", "quick"), [(0.01, True), (0.2, False), (None, False)])
def test_a_stream_catches_up_where_that_is_quick(
    moshi: Moshi, monkeypatch: pytest.MonkeyPatch, flush_s: float | None, quick: bool
) -> None:
    measured = []

    def measure() -> float | None:
        measured.append(threading.current_thread().name)
        return flush_s

    monkeypatch.setattr(moshi, "_catches_up", None)
    monkeypatch.setattr(moshi.bank, "measure_flush", measure)

    async def streamed() -> bool:
        with moshi.create_session() as session:
            for _ in range(2):
                async with session.stream():
                    pass
            return session.core.flushes

    assert asyncio.run(streamed()) is quick
    assert len(measured) == 1
    assert measured[0].startswith("duologue-model")


def test_a_stream_looks_things_up_while_it_goes_on(moshi: Moshi) -> None:
    async def stream() -> list[Event]:
        facts = Facts()
        session = moshi.create_session(seed=SEED, retriever=facts)
        session.core._recognised = lambda made: Heard((" word",), 0.9)  # type: ignore
        events = []
        async with session.stream() as live:
            await live.control(Interrupt())
            await live.control(Report(WarningCode.OTHER, "a note"))

            async def read() -> None:
                async for event in live:
                    events.append(event)
                    if isinstance(event, RetrievalSucceeded):
                        break

            reading = asyncio.create_task(read())
            for frame in frames_of(speech(40)):
                await live.send(frame)
                if reading.done():
                    break
            async with asyncio.timeout(20):
                await reading
        return events

    events = asyncio.run(stream())
    assert any(isinstance(event, RetrievalStarted) for event in events)
    found = events[-1]
    assert isinstance(found, RetrievalSucceeded)
    assert found.text.startswith("the answer is number")


def test_a_stream_that_nobody_reads_is_given_up(
    moshi: Moshi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MAX_EVENTS", 4)

    async def stream() -> list[Event]:
        async with moshi.create_session(seed=SEED).stream() as live:
            with pytest.raises(EngineError, match="has ended"):
                await live.send(speech(60))
            return [event async for event in live]

    events = asyncio.run(stream())
    assert len(events) < 20
    assert isinstance(events[-1], SessionEnded)
    assert events[-1].reason is EndReason.FAILED
    assert "unread" in events[-1].detail


def test_a_reply_that_fails_is_logged_without_what_was_said(
    moshi: Moshi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "my own words"

    def fail(*_: Any) -> None:
        raise RuntimeError(secret)

    async def stream() -> None:
        session = moshi.create_session()
        async with session.stream() as live:
            monkeypatch.setattr(session.core, "receive", fail)
            live._post(live._receive, LookupFailed(1, "too late"))
            await live._on_thread(lambda: None)

    asyncio.run(stream())
    assert "failed with RuntimeError" in caplog.text
    assert secret not in caplog.text


def test_an_untrained_folder_talks(tmp_path: Path) -> None:
    create_untrained(tmp_path / "model", "tiny", seed=3)
    with duologue.Moshi.from_pretrained(tmp_path / "model", device="cpu") as opened:
        session = opened.create_session(seed=1)
        reply = session.process(speech(2))
        assert float(reply.pcm.std()) > 0
        session.close()
        with pytest.raises(EngineError, match="own voice"):
            opened.create_session(voice="somebody.wav")
