"""Retriever, encoder and recognition die and return while another session goes on untouched.

Untouched means: its log replays, alone, to the same bits, and it never hears of the fault.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.conversations import Babble, BabbleStream, Facts, Rows, frames_of, model, speech
from torch import Tensor

from duologue.dialogue import (
    AudioFrame,
    EndReason,
    ReferenceInjected,
    RetrievalFailed,
    RetrievalSucceeded,
    Role,
    TextToken,
    Warning,
    WarningCode,
)
from duologue.engine.api import SessionOptions
from duologue.session.replay import replay
from duologue.stt.ports import Heard, Link, Notice

from .test_live import Reader, engine, run, talk

AUDIO = frames_of(speech(80))
FEW, MANY = 10, 400
"""Frames between looks at what has happened, and frames by which it must have."""
FAULTY = "faulty"


class DyingFacts(Facts):
    """Knows the session that has the fault by its role, and answers it in words of its own."""

    async def retrieve(self, context: Any, deadline_s: float) -> Any:
        if context.system_prompt != FAULTY:
            return await Facts().retrieve(context, deadline_s)
        return replace(await super().retrieve(context, deadline_s), reference=f"a {FAULTY} answer")


class DyingRows(Rows):
    """Fails for those words alone."""

    async def encode(self, text: str, deadline_s: float) -> Tensor:
        return await (super() if FAULTY in text else Rows()).encode(text, deadline_s)


class Dropping(Babble):
    """The first stream loses its service for a while and tells so, as remote streams do."""

    async def open(self) -> BabbleStream:
        stream = await super().open()
        if len(self.streams) == 1:
            stream.take = lambda: self._take(stream)  # type: ignore[method-assign]
        return stream

    def _take(self, stream: BabbleStream) -> Heard:
        heard = BabbleStream.take(stream)
        match stream.frames - 1:
            case 4:
                return Heard(notices=(Notice(Link.LOST, "closed by the service"),))
            case frame if 4 < frame < 12:
                return Heard()
            case 12:
                return replace(heard, notices=(Notice(Link.RESTORED, "back"),))
        return heard


async def until(kind: type, session: Any, reader: Reader, more_than: int = 0) -> list[Any]:
    """Talk until there were more events of a kind than so many; returns all of them."""
    for _ in range(MANY // FEW):
        found = [event for event in reader.events if isinstance(event, kind)]
        if len(found) > more_than:
            return found
        await talk(session, reader, AUDIO[:FEW])
    raise AssertionError(f"no {kind.__name__} in {MANY} frames")


async def beside(tmp_path: Path, world: dict[str, Any], fault: Any) -> None:
    """Let a session have a fault while another talks; then look at the other."""
    async with engine(slots=2, world=world, log_dir=tmp_path) as running:
        faulty = await running.open(SessionOptions(seed=1, system_prompt=FAULTY))
        bystander = await running.open(SessionOptions(seed=2))
        readers = Reader(faulty), Reader(bystander)
        ends = asyncio.Event()

        async def go_on() -> None:
            frames = 0
            while not ends.is_set():
                await talk(bystander, readers[1], [AUDIO[frames % len(AUDIO)]])
                frames += 1

        going_on = asyncio.create_task(go_on())
        await fault(faulty, readers[0])
        await talk(faulty, readers[0], AUDIO[:3])
        ends.set()
        await going_on
        await bystander.close()
        end = await readers[1].end()
        assert end.reason is EndReason.CLIENT_CLOSED
        assert not [event for event in readers[1].events if isinstance(event, Warning)]
        made = sum(isinstance(event, AudioFrame) for event in readers[1].events)
        assert not faulty.ended
        name = bystander.id
    report = replay(tmp_path / f"{name}.jsonl", model())
    assert (report.difference, report.frames, report.complete) == ("", made, True)


def test_a_retriever_dies_and_returns(tmp_path: Path) -> None:
    facts = DyingFacts("raise")

    async def fault(session: Any, reader: Reader) -> None:
        await until(RetrievalFailed, session, reader)
        assert not [event for event in reader.events if isinstance(event, RetrievalSucceeded)]
        facts.behaviour = "answer"
        found = await until(RetrievalSucceeded, session, reader)
        assert FAULTY in found[0].text

    run(lambda: beside(tmp_path, {"retriever": facts}, fault))


def test_an_encoder_dies_and_returns(tmp_path: Path) -> None:
    rows = DyingRows("raise")

    async def fault(session: Any, reader: Reader) -> None:
        warnings = await until(Warning, session, reader)
        assert warnings[0].code is WarningCode.ENCODING_FAILED
        rows.behaviour = "encode"
        before = [event for event in reader.events if isinstance(event, ReferenceInjected)]
        await until(ReferenceInjected, session, reader, len(before))

    run(lambda: beside(tmp_path, {"retriever": DyingFacts(), "encoder": rows}, fault))


def test_recognition_is_lost_and_comes_back(tmp_path: Path) -> None:
    async def fault(session: Any, reader: Reader) -> None:
        warnings = await until(Warning, session, reader, 1)
        assert [w.code for w in warnings[:2]] == [WarningCode.STT_LOST, WarningCode.STT_RESTORED]
        for _ in range(MANY // FEW):
            tokens = [event for event in reader.events if isinstance(event, TextToken)]
            said = [event for event in tokens if event.role is Role.USER]
            if any(event.said_frame >= warnings[1].frame for event in said):
                return
            await talk(session, reader, AUDIO[:FEW])
        raise AssertionError("no words after its return")

    run(lambda: beside(tmp_path, {"stt": Dropping()}, fault))
