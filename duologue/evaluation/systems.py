"""Systems under test that run our models.

`SessionTalker` is the whole pipeline as sessions run it: codec, speech recognition, language model,
dialogue brain, knowledge base, reference encoder. `ReferenceTalker` is the same model with nothing
around it: when it asks, it is given the true reference, after the time that the recording took. The
difference between the two is what recognition and retrieval cost. A `SessionTalker` with an oracle
stands between them: the whole pipeline, but its lookups find the true reference, whatever was
heard.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duologue.dialogue import (
    Command,
    Event,
    ReferenceInjected,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
)
from duologue.evaluation.activity import Pcm
from duologue.evaluation.errors import EvaluationError
from duologue.evaluation.knowledge import Fault, Knowledge
from duologue.evaluation.talker import (
    FRAME_S,
    FRAME_SIZE,
    Conversation,
    Lookup,
    Piece,
    Request,
)
from duologue.retrieval.protocol import (
    BackendUnavailable,
    Outcome,
    RetrievalContext,
    Retrieved,
    Retriever,
)

if TYPE_CHECKING:
    from torch import Tensor

    from duologue.moshi.sampling import Sampling
    from duologue.retrieval import KnowledgeBase
    from duologue.session.moshi import Moshi

_QUICK_S, _QUICK_COUNTS_S = 0.5, FRAME_S
"""Lookups that take less count as one frame, so that results do not depend on the machine."""
_SAMPLE_BYTES = 2**16


class SessionTalker:
    """A model with its own ears, looking things up in a request's files."""

    def __init__(
        self,
        moshi: Moshi,
        sampling: Sampling | None = None,
        floor: bool | None = None,
        *,
        oracle: bool = False,
    ) -> None:
        """`floor` is that of `SessionOptions`; an `oracle` finds the true references."""
        self._moshi, self._sampling, self._floor = moshi, sampling, floor
        self._open = open_oracle if oracle else open_retriever
        ears = "with speech recognition" if moshi.bank.recogniser else "without speech recognition"
        finds = ", finding the true references" if oracle else ""
        self.name = f"{moshi.model.name}, {ears}{finds}"
        kind = "oracle" if oracle else "session"
        device = moshi.model.device.type
        self.fingerprint = f"{kind} {model_fingerprint(moshi)} {sampling} floor {floor} {device}"

    def converse(self, request: Request) -> Conversation:
        from duologue.session.core import FrameGiven, advance
        from duologue.session.model_time import ModelTime
        from duologue.session.text import TextReader
        from duologue.session.vocabulary import tell_names

        moshi, sampling = self._moshi, self._sampling
        retriever = self._open(request.knowledge)
        try:
            session = moshi.create_session(
                retriever=retriever, init_speaker=request.init_speaker, seed=request.seed,
                text=sampling, audio=sampling, floor=self._floor,
            )  # fmt: skip
            with session:
                # A session opened with these files as its knowledge would lean to their names.
                if moshi.bank.recogniser is not None:
                    tell_names(_base_of(request.knowledge), moshi.bank.recogniser)
                core, log = session.core, Notes()
                core.flushes = True  # as in `MoshiSession.process`
                reader = TextReader(moshi.model)
                world = ModelTime(
                    moshi.loop,
                    session.backends,
                    moshi.encoder(),
                    elapsed=_model_time,
                    rehearing=moshi.rehearing,
                )
                for _ in core.prepare():
                    pass
                for frame in _frames(request.pcm):
                    begin = time.perf_counter()
                    done = advance(moshi.bank, {core: FrameGiven(frame)})[core]
                    log.frame_seconds.append(time.perf_counter() - begin)
                    if isinstance(done, Exception):
                        raise done
                    log.speech(done.made.pcm, reader.push(done.made.text))
                    log.hear(done.heard.words)
                    log.events(world.settle(core, done.outputs))
                return log.conversation(hears=moshi.bank.recogniser is not None)
        finally:
            moshi.loop.run(retriever.aclose())


class ReferenceTalker:
    """A model that is given the true reference when it asks; it hears nothing in words."""

    def __init__(self, moshi: Moshi, sampling: Sampling | None = None) -> None:
        self._moshi, self._sampling = moshi, sampling
        self.name = f"{moshi.model.name}, given the true references"
        self.fingerprint = f"references {model_fingerprint(moshi)} {sampling}"

    def converse(self, request: Request) -> Conversation:
        from duologue.engine.slots import SlotSetup
        from duologue.session.text import TextReader

        moshi, knowledge = self._moshi, request.knowledge
        bank, slot, sampling = moshi.bank, 0, self._sampling
        setup = SlotSetup(request.seed, sampling, sampling, request.init_speaker)
        for _ in bank.start(slot, setup):
            pass
        reader, log = TextReader(moshi.model), Notes()
        rows = self._rows(knowledge)
        delay = None if knowledge.delay_s is None else max(1, round(knowledge.delay_s / FRAME_S))
        arrives = -1
        for number, frame in enumerate(_frames(request.pcm)):
            begin = time.perf_counter()
            made = bank.step({slot: frame})[slot]
            log.frame_seconds.append(time.perf_counter() - begin)
            log.speech(made.pcm, reader.push(made.text))
            if reader.is_trigger(made.sampled_text):
                log.lookups[number] = Lookup(number)
                arrives = number + delay if delay is not None else -1
            if number == arrives and rows is not None:
                bank.set_reference(slot, rows)
                asked = max(log.lookups)
                outcome = "answered" if knowledge.reference else "empty"
                log.lookups[asked] = Lookup(
                    asked, number + 1, len(rows), outcome, knowledge.reference
                )
        bank.reset(slot)
        return log.conversation(hears=False)

    def _rows(self, knowledge: Knowledge) -> Tensor | None:
        if not knowledge.reference:
            return self._moshi.bank.absent_reference
        encoder = self._moshi.encoder()
        if encoder is None:
            raise EvaluationError("this model takes no references: it cannot answer from a file")
        return self._moshi.loop.run(encoder.encode(knowledge.reference, 60.0))


class Notes:
    """What is noted of a conversation, frame by frame."""

    def __init__(self) -> None:
        self.frame_seconds: list[float] = []
        self.lookups: dict[int, Lookup] = {}
        """By sequence number, or by frame."""
        self._pcm: list[Pcm] = []
        self._text: list[Piece] = []
        self._heard: list[Piece] = []

    def speech(self, pcm: Pcm | None, text: str | None) -> None:
        """The model's own frame; nothing while its delays fill."""
        frame = len(self._pcm)
        self._pcm.append(np.zeros(FRAME_SIZE, np.float32) if pcm is None else pcm)
        if text:
            self.written(frame, text)

    def written(self, frame: int, text: str) -> None:
        """The model's own text."""
        self._text.append(Piece(frame, text))

    def hear(self, words: Iterable[str], frame: int | None = None) -> None:
        """What was understood, while the last frame was made if none is named."""
        at = len(self._pcm) - 1 if frame is None else frame
        self._heard += (Piece(at, word) for word in words)

    def events(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case RetrievalStarted():
                    self.lookups[event.sequence] = Lookup(event.frame)
                case RetrievalSucceeded():
                    self._change(event.sequence, outcome="answered", reference=event.text)
                case RetrievalFailed() | RetrievalCancelled():
                    self._change(event.sequence, outcome=event.outcome.value)
                case ReferenceInjected():
                    self._inject(event)

    def conversation(self, *, hears: bool) -> Conversation:
        return Conversation(
            np.concatenate(self._pcm) if self._pcm else np.zeros(0, np.float32),
            tuple(self._text),
            tuple(self._heard) if hears else None,
            tuple(self.lookups.values()),
            tuple(self.frame_seconds),
        )

    def _inject(self, event: ReferenceInjected) -> None:
        known = self.lookups.get(event.sequence)
        if known is not None:
            first = known.arrival_frame if known.arrival_frame is not None else event.frame + 1
            self._change(event.sequence, arrival_frame=first, rows=known.rows + event.rows)

    def _change(self, sequence: int, **changes: Any) -> None:
        if sequence in self.lookups:
            self.lookups[sequence] = replace(self.lookups[sequence], **changes)


class _Broken:
    """A back end that fails, or never answers."""

    name = "broken"

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        if self._fault is Fault.FAILS:
            raise BackendUnavailable("out of order")
        await asyncio.sleep(deadline_s + 60.0)
        raise AssertionError("unreachable: the deadline is held by the caller")

    async def aclose(self) -> None:
        return None


class _Oracle:
    """A back end that finds what a perfect lookup finds, whatever it is asked."""

    name = "oracle"

    def __init__(self, reference: str) -> None:
        self._reference = reference

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        if not self._reference:
            return Retrieved(Outcome.EMPTY)
        return Retrieved(Outcome.ANSWERED, self._reference, confidence=1.0)

    async def aclose(self) -> None:
        return None


def open_oracle(knowledge: Knowledge) -> Retriever:
    """One that gives the true reference, and breaks where lookups are to fail."""
    if knowledge.fault is not Fault.NONE:
        return _Broken(knowledge.fault)
    return _Oracle(knowledge.reference)


def open_retriever(knowledge: Knowledge) -> Retriever:
    """The retriever that a user's session with these files would have."""
    if knowledge.fault is not Fault.NONE:
        return _Broken(knowledge.fault)
    from duologue.retrieval.settings import RetrievalSettings, build_retriever

    base = _base_of(knowledge)
    return build_retriever(RetrievalSettings(knowledge=knowledge.files), base=base)


def _base_of(knowledge: Knowledge) -> KnowledgeBase:
    written = tuple(path.stat().st_mtime_ns for path in knowledge.files)
    return _knowledge_base(knowledge.files, written)


@lru_cache(maxsize=8)
def _knowledge_base(files: tuple[Path, ...], written: tuple[int, ...]) -> KnowledgeBase:
    """Indexed once for all conversations with these files, as they were `written`."""
    from duologue.retrieval.settings import open_knowledge

    return open_knowledge(files)


def model_fingerprint(moshi: Moshi) -> str:
    """Names a model with all of its parts, by its files where it has some."""
    folder = moshi.model.folder
    if folder is None:
        return moshi.model.fingerprint()
    return folder_fingerprint(folder.path)


def folder_fingerprint(folder: Path) -> str:
    """Names the content of a model's folder; of large files, size and ends are looked at."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder)} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLE_BYTES))
                file.seek(max(0, size - _SAMPLE_BYTES))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _model_time(command: Command, measured_s: float) -> float:
    return _QUICK_COUNTS_S if measured_s < _QUICK_S else measured_s


def _frames(pcm: Pcm) -> Iterator[Pcm]:
    padded = np.pad(pcm, (0, -len(pcm) % FRAME_SIZE)).astype(np.float32)
    yield from np.clip(padded, -1.0, 1.0).reshape(-1, FRAME_SIZE)
