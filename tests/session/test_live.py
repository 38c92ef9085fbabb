"""The whole engine: real thread, real event loop, a world that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.conversations import (
    Babble,
    BabbleStream,
    Facts,
    MadeUpTime,
    Rows,
    frames_of,
    listening_model,
    model,
    recogniser,
    speech,
)
from support.stage import trace

from duologue.dialogue import (
    AudioFrame,
    ConversationReset,
    EndReason,
    Event,
    Interrupt,
    Reset,
    RetrievalFailed,
    RetrievalSucceeded,
    Role,
    SelectBackend,
    SessionEnded,
    TextToken,
    Warning,
    WarningCode,
)
from duologue.engine.api import (
    Admission,
    EngineDraining,
    EngineError,
    EngineFull,
    EngineSettings,
    SessionOptions,
    UnknownSession,
)
from duologue.session import Engine, Session, live
from duologue.session import thread as tick
from duologue.session.hearing import RemoteHearing
from duologue.session.snapshot import SessionSnapshot
from duologue.stt.ports import FRAME_RATE, Heard, Link, Notice, Word

AUDIO = frames_of(speech(80))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await test()

    before = set(threading.enumerate())
    asyncio.run(bounded())
    for thread in set(threading.enumerate()) - before:
        thread.join(1.0)
        assert not thread.is_alive(), f"{thread.name} is left behind"


@asynccontextmanager
async def engine(slots: int = 2, world: dict[str, Any] | None = None, **settings: Any) -> Any:
    """An engine whose clock stands still, so that steps take no time and nobody is late."""
    given = {"retriever": Facts(), "encoder": Rows(), "stt": Babble(), **(world or {})}
    built = Engine(model(), EngineSettings(slots=slots, **settings), clock=MadeUpTime(), **given)
    async with built as running:
        yield running


class Reader:
    """Reads a session's events as they come."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.events: list[Event] = []
        self._arrived = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.session.events():
            self.events.append(event)
            self._arrived.set()
        self._arrived.set()

    async def until(self, kind: type, count: int = 1) -> list[Any]:
        """Wait for so many events of a kind."""
        while True:
            found = [event for event in self.events if isinstance(event, kind)]
            if len(found) >= count:
                return found
            assert not self.task.done(), f"ended with {self.events[-1:]}"
            self._arrived.clear()
            async with asyncio.timeout(20):
                await self._arrived.wait()

    async def end(self) -> SessionEnded:
        await self.task
        last = self.events[-1]
        assert isinstance(last, SessionEnded)
        return last


async def talk(session: Session, reader: Reader, frames: list[np.ndarray]) -> None:
    """Say something frame by frame, each when the one before is answered."""
    made = sum(isinstance(event, AudioFrame) for event in reader.events)
    for count, frame in enumerate(frames, 1):
        assert session.push(frame) == 0
        await reader.until(AudioFrame, made + count)


def test_a_conversation_with_lookups_from_start_to_end() -> None:
    async def test() -> None:
        babble = Babble()
        async with engine(world={"stt": babble}) as running:
            session = await running.open(SessionOptions(seed=1))
            assert session.id not in session.resume_token
            reader = Reader(session)
            for chunk in np.split(np.concatenate(AUDIO[:50]), range(1000, 50 * 1920, 1000)):
                session.push(chunk)
                await asyncio.sleep(0)
                while running.stats().input_frames_waiting > 3:
                    await asyncio.sleep(0.002)
            audio = await reader.until(AudioFrame, 50)
            assert audio[0].payload.dtype == np.float32
            assert audio[0].payload.shape == (1920,)
            found = await reader.until(RetrievalSucceeded)
            assert found[0].label == "facts"
            await session.close("enough")
            assert (await reader.end()).reason is EndReason.CLIENT_CLOSED
            assert session.ended
            assert session.push(AUDIO[0]) == 1920
            await session.close()
            stats = running.stats()
            assert stats.frames == 50
            assert stats.retrieval["default"].answered >= 1
            assert stats.sessions_ended == {"client_closed": 1}
            assert stats.in_use == 0
        assert babble.streams[0].closed
        assert babble.streams[0].flushes >= 1

    run(test)


def test_a_model_hears_its_own_recogniser_where_words_come_from_a_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def said(**world: Any) -> tuple[list[Event], list[np.ndarray]]:
        settings = EngineSettings(slots=1)
        built = Engine(listening_model(), settings, clock=MadeUpTime(), **world)
        async with built as running:
            session = await running.open(SessionOptions(seed=3))
            reader = Reader(session)
            await talk(session, reader, AUDIO[:12])
            await session.close()
            await reader.end()
        return reader.events, [e.payload for e in reader.events if isinstance(e, AudioFrame)]

    async def test() -> None:
        both, spoken = await said(stt=Babble(), hearing=recogniser())
        assert "not here" not in caplog.text
        alone, _ = await said(stt=Babble())
        assert "listens to a recogniser that is not here" in caplog.text
        _, local = await said(stt=recogniser())
        assert user_words(both) == user_words(alone), "of the service"
        assert all(map(np.array_equal, spoken, local)), "what it says depends on what it hears"
        assert not all(map(np.array_equal, spoken, (await said(stt=Babble()))[1]))

    run(test)


def user_words(events: list[Event]) -> list[str]:
    return [e.text for e in events if isinstance(e, TextToken) and e.role is Role.USER]


def test_full_is_refused_and_a_slot_comes_back() -> None:
    async def test() -> None:
        async with engine(slots=1) as running:
            assert running.can_admit().ok
            session = await running.open()
            refusal = running.can_admit()
            assert not refusal.ok
            assert refusal.retry_after_s > 0
            with pytest.raises(EngineFull) as full:
                await running.open()
            assert full.value.retry_after_s == refusal.retry_after_s
            reader = Reader(session)
            await session.close()
            await reader.end()
            assert running.can_admit().ok
            await running.open()

    run(test)


def test_all_slots_are_given_to_those_who_come_at_once() -> None:
    async def test() -> None:
        async with engine(slots=3) as running:
            counts = []
            watched = running.can_admit

            def can_admit() -> Admission:
                counts.append(running.stats().in_use)
                return watched()

            running.can_admit = can_admit
            sessions = await asyncio.gather(*(running.open() for _ in range(3)))
            assert len({session.id for session in sessions}) == 3
            assert running.stats().in_use == 3
            assert counts == [0, 1, 2]
            assert not watched().ok

    run(test)


@pytest.mark.parametrize("ready", [1, 2])
def test_who_is_being_let_in_counts_once(ready: int) -> None:
    """One comes while others wait for their slots to be made ready."""

    async def test() -> None:
        async with engine(slots=3) as running:
            gate, seated = asyncio.Event(), 0
            begin = running._begin

            async def held(*arguments: Any) -> None:
                nonlocal seated
                seated += 1
                await gate.wait()
                await begin(*arguments)

            running._begin = held
            early = [asyncio.create_task(running.open()) for _ in range(ready)]
            while seated < ready:
                await asyncio.sleep(0.001)
            assert running.stats().in_use == ready
            late = [asyncio.create_task(running.open()) for _ in range(3 - ready)]
            gate.set()
            assert len({session.id for session in await asyncio.gather(*early, *late)}) == 3

    run(test)


def test_a_dropped_client_comes_back_to_the_same_conversation() -> None:
    async def test() -> None:
        async with engine() as running:
            session = await running.open(SessionOptions(seed=3))
            first = Reader(session)
            await talk(session, first, AUDIO[:3])
            session.detach()
            assert session.push(AUDIO[3]) == 1920, "nobody is there to speak"
            again = running.resume(session.resume_token)
            await first.task
            second = Reader(again)
            await talk(again, second, AUDIO[3:6])
            frames = [e.frame for e in first.events + second.events if isinstance(e, AudioFrame)]
            assert frames == list(range(6))
            with pytest.raises(UnknownSession):
                running.resume("guess")
            await again.close()
            await second.end()
            with pytest.raises(UnknownSession):
                running.resume(session.resume_token)

    run(test)


def test_restoring_a_snapshot_twice_at_once_makes_two_sessions() -> None:
    async def test() -> None:
        async with engine() as running, engine() as other:
            session = await running.open(SessionOptions(seed=3))
            reader = Reader(session)
            await talk(session, reader, AUDIO[:2])
            blob = await session.snapshot()
            twins = await asyncio.gather(other.restore(blob), other.restore(blob))
            assert len({twin.id for twin in twins}) == 2
            assert len({twin.resume_token for twin in twins}) == 2
            assert session.id in {twin.id for twin in twins}

    run(test)


def test_a_snapshot_goes_on_in_another_engine_to_the_bit() -> None:
    async def test() -> None:
        async with engine() as running, engine() as other:
            session = await running.open(SessionOptions(seed=3))
            reader = Reader(session)
            await talk(session, reader, AUDIO[:8])
            blob = await session.snapshot()
            copy = await other.restore(blob)
            assert (copy.id, copy.resume_token) == (session.id, session.resume_token)
            twin = await other.restore(blob)
            assert twin.id != copy.id
            assert twin.resume_token != copy.resume_token
            readers = [Reader(copy), Reader(twin)]
            for one, its in ((session, reader), (copy, readers[0]), (twin, readers[1])):
                await talk(one, its, AUDIO[8:12])
            audio = [
                trace([e for e in its.events if isinstance(e, AudioFrame) and e.frame >= 8])
                for its in (reader, *readers)
            ]
            assert audio[0] == audio[1] == audio[2]
            with pytest.raises(EngineError):
                await other.restore(b"nonsense")
            assert other.stats().in_use == 2

    run(test)


def test_audio_that_waited_in_a_snapshot_is_recognised() -> None:
    async def test() -> None:
        babble = Babble()
        async with engine() as running, engine(world={"stt": babble}) as other:
            session = await running.open(SessionOptions(seed=3))
            await talk(session, Reader(session), AUDIO[:4])
            saved = SessionSnapshot.from_bytes(await session.snapshot())
            saved = replace(saved, waiting=np.concatenate([*AUDIO[4:7], AUDIO[7][:100]]))
            restored = await other.restore(saved.to_bytes())
            assert babble.streams[0].frames == 3
            reader = Reader(restored)
            await reader.until(AudioFrame, 3)
            assert user_words(reader.events) == [" word0"], "of the new stream"
            core = restored._seat.core
            assert core.brain.frame == core.brain._state.listening.transcribed_frame == 6
            assert restored.push(np.concatenate([AUDIO[7][100:], AUDIO[8]])) == 0
            await reader.until(AudioFrame, 5)
            assert core.brain.frame == core.brain._state.listening.transcribed_frame == 8

    run(test)


@pytest.mark.parametrize(
    "world",
    [
        {"retriever": Facts("raise")},
        {"retriever": None},
        {"encoder": Rows("raise")},
        {"encoder": Rows("nan")},
    ],
    ids=["retriever", "no retriever", "encoder", "mad encoder"],
)
def test_a_world_that_fails_costs_answers_and_no_conversation(world: dict[str, Any]) -> None:
    async def test() -> None:
        async with engine(slots=1, world=world) as running:
            session = await running.open(SessionOptions(seed=1))
            reader = Reader(session)
            await talk(session, reader, AUDIO[:30])
            if "encoder" in world:
                warnings = await reader.until(Warning)
                assert warnings[0].code is WarningCode.ENCODING_FAILED
            else:
                await reader.until(RetrievalFailed)

    run(test)


def test_lost_recognition_is_told_and_the_conversation_goes_on() -> None:
    async def test() -> None:
        async with engine(slots=1, world={"stt": Babble(broken_at=3)}) as running:
            session = await running.open()
            reader = Reader(session)
            await talk(session, reader, AUDIO[:6])
            warnings = await reader.until(Warning)
            assert warnings[0].code is WarningCode.STT_LOST

    run(test)


class Late(Babble):
    """Says `w0`, `w1`, ... three frames after the frames they were said in."""

    def __init__(self, timed: bool) -> None:
        super().__init__()
        self.timed = timed

    async def open(self) -> BabbleStream:
        stream = await super().open()
        stream.take = lambda: self.heard(stream.frames - 4)  # type: ignore[method-assign]
        return stream

    def heard(self, frame: int) -> Heard:
        if frame < 0:
            return Heard(transcribed_frame=-1)
        word = Word(f"w{frame}", frame / FRAME_RATE)
        # A service need not know at once that a word was the last one of its frame.
        known = max(-1, frame - 1) if self.timed else frame
        return Heard((f" w{frame}",), 0.1, known, (word,) if self.timed else ())


@pytest.mark.parametrize("timed", [False, True])
def test_words_of_before_a_reset_are_not_of_the_new_conversation(timed: bool) -> None:
    async def test() -> None:
        async with engine(slots=1, world={"stt": Late(timed)}) as running:
            session = await running.open(SessionOptions(seed=13, init_speaker="user"))
            reader = Reader(session)
            await talk(session, reader, AUDIO[:8])
            session.control(Reset())
            await reader.until(ConversationReset)
            await talk(session, reader, AUDIO[8:16])
            reset = next(i for i, e in enumerate(reader.events) if isinstance(e, ConversationReset))
            assert [word.strip() for word in user_words(reader.events[:reset])][-1] == "w4"
            assert [word.strip() for word in user_words(reader.events[reset:])] == [
                "w8", "w9", "w10", "w11", "w12",
            ]  # fmt: skip

    run(test)


def test_draining_admits_nobody_and_ends_who_stays() -> None:
    async def test() -> None:
        async with engine(drain_s=0.02) as running:
            session = await running.open()
            reader = Reader(session)
            draining = asyncio.create_task(running.drain())
            await asyncio.sleep(0)
            assert not running.can_admit().ok
            with pytest.raises(EngineDraining):
                await running.open()
            await draining
            assert (await reader.end()).reason is EndReason.SERVER_STOPPING

    run(test)


def test_draining_waits_no_longer_than_for_the_last_session() -> None:
    async def test() -> None:
        async with engine(drain_s=3600) as running:
            session = await running.open()
            draining = asyncio.create_task(running.drain())
            await asyncio.sleep(0)
            await session.close()
            await draining

    run(test)


def test_stopping_ends_all_sessions() -> None:
    async def test() -> None:
        async with engine() as running:
            readers = [Reader(await running.open()) for _ in range(2)]
            await asyncio.sleep(0)
        for reader in readers:
            assert (await reader.end()).reason is EndReason.SERVER_STOPPING
        with pytest.raises(EngineError):
            await running.open()

    run(test)


class Hang:
    """What never comes back, or only when the test is over."""

    def __init__(self) -> None:
        self.begun, self.over = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> Any:
        self.begun.set()
        self.over.wait()
        raise RuntimeError("lost")


def test_a_step_that_hangs_is_seen_and_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = Hang()

    async def test() -> None:
        async with engine(drain_s=0.01) as running:
            session = await running.open()
            reader = Reader(session)
            await talk(session, reader, AUDIO[:2])
            monkeypatch.setattr(running._conductor.bank, "step", hang)
            session.push(AUDIO[2])
            await asyncio.to_thread(hang.begun.wait)
            assert running.stats().healthy, "it has just begun"
            running._clock.now += tick.STALL_S + 1
            assert not running.stats().healthy
            assert not running.can_admit().ok
            with pytest.raises(EngineFull, match="does not run"):
                await running.open()
            with pytest.raises(EngineFull, match="does not run"):
                await session.snapshot()
            monkeypatch.setattr(tick, "STALL_S", 0.01)
            monkeypatch.setattr(live, "STALL_S", 0.01)
            running._clock.now -= 100  # not known to hang: all waits have an end
            await session.close()
            await running.drain()
        assert not running._sessions
        reader.task.cancel()
        hang.over.set()

    run(test)


def test_nobody_waits_for_a_slot_that_a_hanging_model_does_not_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hang = Hang()

    async def test() -> None:
        async with engine(drain_s=0.01) as running:
            monkeypatch.setattr(live, "STALL_S", 0.05)
            monkeypatch.setattr(running._conductor.bank, "start", hang)
            opening = asyncio.ensure_future(running.open())
            await asyncio.to_thread(hang.begun.wait)
            await asyncio.sleep(0.15)
            assert not opening.done(), "its turn may take long, as long as the thread goes on"
            running._clock.now += tick.STALL_S + 1
            with pytest.raises(EngineFull, match="does not run"):
                await opening
            assert not running._sessions
            hang.over.set()

    run(test)


def test_a_model_that_comes_back_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, gate = threading.Event(), threading.Event()

    async def test() -> None:
        async with engine(slots=1) as running:
            session = await running.open()
            reader = Reader(session)
            plain = running._conductor.bank.step

            def hang(*given: Any) -> Any:
                hangs.set()
                gate.wait()
                return plain(*given)

            monkeypatch.setattr(running._conductor.bank, "step", hang)
            session.push(AUDIO[0])
            await asyncio.to_thread(hangs.wait)
            running._clock.now += tick.STALL_S + 1
            await session.close()
            assert not session.ended
            gate.set()
            assert (await reader.end()).reason is EndReason.CLIENT_CLOSED
            assert running.stats().healthy
            await running.open()

    run(test)


def test_controls_act_and_a_flood_of_them_is_bounded() -> None:
    async def test() -> None:
        async with engine(slots=1) as running:
            session = await running.open()
            reader = Reader(session)
            await talk(session, reader, AUDIO[:2])
            session.control(SelectBackend("nobody"))
            warning = (await reader.until(Warning))[0]
            assert warning.code is WarningCode.UNKNOWN_BACKEND
            session.control(Reset())
            await reader.until(ConversationReset)
            await talk(session, reader, AUDIO[2:4])
            for _ in range(5000):
                session.control(Interrupt())
            assert running.stats().controls_dropped > 0
            await talk(session, reader, AUDIO[4:5])

    run(test)


def test_options_that_cannot_be_had_are_refused_and_cost_no_slot(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(slots=1) as running:
            for wrong in (
                SessionOptions(backend="nobody"),
                SessionOptions(voice=tmp_path / "voice.wav"),
                SessionOptions(knowledge=tmp_path / "nothing.md"),
            ):
                with pytest.raises(EngineError):
                    await running.open(wrong)
            assert running.stats().in_use == 0
            await running.open()

    run(test)


def test_a_session_brings_its_own_knowledge(tmp_path: Path) -> None:
    facts = tmp_path / "facts.md"
    words = " ".join(f"word{n}" for n in range(0, 60, 5))
    facts.write_text(f"The tower of {words} is twelve meters tall.")

    async def test() -> None:
        async with engine(slots=1, world={"retriever": Facts("empty")}) as running:
            session = await running.open(SessionOptions(seed=1, knowledge=facts))
            reader = Reader(session)
            await talk(session, reader, AUDIO[:40])
            found = await reader.until(RetrievalSucceeded)
            assert "twelve" in found[0].text
            assert found[0].sources[0].title.startswith("facts.md")

    run(test)


def test_closing_while_the_slot_is_made_ready() -> None:
    async def test() -> None:
        async with engine(slots=1) as running:
            opening = asyncio.create_task(running.open())
            await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            while running.stats().in_use or running._conductor.seats:
                await asyncio.sleep(0.002)
            await running.open()

    run(test)


class Slow:
    """Does something when it is allowed to."""

    def __init__(self, does: Callable[..., Any]) -> None:
        self._does = does
        self.begun, self.gate = threading.Event(), threading.Event()

    def __call__(self, *given: Any) -> Any:
        self.begun.set()
        self.gate.wait(20)
        return self._does(*given)


def test_a_seat_that_nobody_waits_for_any_more_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with engine(slots=1) as running:
            slow = Slow(running._seating.seat)
            monkeypatch.setattr(running._seating, "seat", slow)
            opening, later = (asyncio.create_task(running.open()) for _ in range(2))
            with pytest.raises(EngineFull):
                await later
            await asyncio.to_thread(slow.begun.wait)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            slow.gate.set()
            async with asyncio.timeout(20):
                while running.stats().sessions_ended != {"client_closed": 1}:
                    await asyncio.sleep(0.002)
            await running.open()

    run(test)


def test_a_seat_that_was_not_begun_for_whoever_has_gone_is_never_made() -> None:
    async def test() -> None:
        async with engine(slots=1) as running:
            gate = threading.Event()
            running._thread.post(gate.wait, 20)
            opening = asyncio.create_task(running.open())
            async with asyncio.timeout(20):
                while not running._thread._work:
                    await asyncio.sleep(0.002)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            gate.set()
            await running.open()
            assert running.stats().sessions_started == 1

    run(test)


def test_restoring_again_what_took_too_long_loses_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with engine() as first, engine() as running:
            session = await first.open(SessionOptions(seed=3))
            await talk(session, Reader(session), AUDIO[:2])
            blob = await session.snapshot()
            slow = Slow(running._seating.seat_again)
            monkeypatch.setattr(running._seating, "seat_again", slow)
            with monkeypatch.context() as patch:
                patch.setattr(live, "STALL_S", 0.05)
                with pytest.raises(EngineFull, match="does not run"):
                    await running.restore(blob)
            assert slow.begun.is_set()
            again = asyncio.create_task(running.restore(blob))
            async with asyncio.timeout(20):
                while not running._thread._work:
                    await asyncio.sleep(0.002)
            slow.gate.set()
            restored = await again
            assert restored.resume_token == session.resume_token
            async with asyncio.timeout(20):
                while running.stats().sessions_ended != {"client_closed": 1}:
                    await asyncio.sleep(0.002)
            await running.open()
            assert not running._conductor._free

    run(test)


def test_a_session_ends_whoever_stops_waiting_for_that() -> None:
    async def test() -> None:
        async with engine(slots=1) as running:
            session = await running.open()
            reader = Reader(session)
            gate = threading.Event()
            running._thread.post(gate.wait, 20)
            closing = asyncio.create_task(session.close())
            await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            gate.set()
            async with asyncio.timeout(20):
                assert (await reader.end()).reason is EndReason.CLIENT_CLOSED

    run(test)


class Unflushable(BabbleStream):
    def flush(self) -> None:
        raise ConnectionError("gone")


class LosesFlushes(Babble):
    async def open(self) -> BabbleStream:
        self.streams.append(Unflushable(None))
        return self.streams[-1]


def test_recognition_that_fails_at_a_flush_is_told_and_harms_nobody() -> None:
    async def test() -> None:
        hearing = RemoteHearing(Unflushable(None))
        hearing.flush()
        (notice,) = hearing(AUDIO[0]).notices
        assert notice == Notice(Link.LOST, "speech recognition failed with ConnectionError")
        assert hearing(AUDIO[1]) == Heard()
        async with engine(slots=1, world={"stt": LosesFlushes()}) as running:
            failed: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, told: failed.append(told))
            session = await running.open(SessionOptions(seed=1))
            reader = Reader(session)
            await talk(session, reader, AUDIO[:40])
            warnings = await reader.until(Warning)
            assert warnings[0].code is WarningCode.STT_LOST
            assert not failed

    run(test)
