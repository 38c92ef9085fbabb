"""The live engine: holds many conversations of one model on one device.

The model and all conversations live on one thread (`thread`, `conductor`); this side opens and
closes them, carries out what they ask of the outside world, and hands their events on. Nothing here
touches a tensor, and nothing waits for the model, or not for longer than `thread.STALL_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from duologue.dialogue import (
    Command,
    EndReason,
    Interrupt,
    Report,
    Reset,
    SelectBackend,
    WarningCode,
)
from duologue.engine.api import (
    Admission,
    EngineDraining,
    EngineError,
    EngineFull,
    EngineSettings,
    EngineStats,
    SessionOptions,
    UnknownSession,
)
from duologue.engine.slots import SlotBank, SlotSetup
from duologue.engine.timing import RETRY_AFTER_S
from duologue.errors import DuologueError
from duologue.retrieval.knowledge import KnowledgeRetriever
from duologue.session.conductor import Conductor
from duologue.session.eventlog import LogWriter
from duologue.session.hearing import RemoteHearing
from duologue.session.knowledge import KnowledgeShelf, first
from duologue.session.lookups import Backends, LookupCounters
from duologue.session.options import conversation, floor_rules, slot_setup
from duologue.session.questions import Rehearing
from duologue.session.runtime import CommandRunner
from duologue.session.seat import Seat
from duologue.session.seating import Seating
from duologue.session.session import Session
from duologue.session.snapshot import SessionSnapshot
from duologue.session.thread import STALL_S, TickThread
from duologue.stt.second_hearing import SecondHearing

if TYPE_CHECKING:
    from duologue.encoder.ports import RowEncoder
    from duologue.engine.model import LoadedModel
    from duologue.retrieval.protocol import Retriever
    from duologue.stt.ports import LocalRecogniser, RemoteRecogniser

logger = logging.getLogger(__name__)

T = TypeVar("T")
STOPPING = "the engine is stopping"
NO_MODEL = "the model does not run"
NO_ROLE = "the role has no effect: neither this model nor a retrieval back end takes one"


@dataclass
class _Outside:
    """What a session has on the event loop."""

    session: Session
    runner: CommandRunner
    hearing: RemoteHearing | None
    knowledge: KnowledgeRetriever | None

    async def aclose(self) -> None:
        """Stop all of it, whatever part of it fails."""
        parts = [self.runner, self.hearing, self.knowledge]
        closing = [part.aclose() for part in parts if part is not None]
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, Exception):
                logger.warning("a session's end: %s", type(result).__name__)


class Engine:
    """All conversations of one model on one device; `async with` starts and stops its thread."""

    def __init__(
        self,
        model: LoadedModel,
        settings: EngineSettings | None = None,
        *,
        retriever: Retriever | Mapping[str, Retriever] | None = None,
        encoder: RowEncoder | None = None,
        stt: LocalRecogniser[Any] | RemoteRecogniser | None = None,
        hearing: LocalRecogniser[Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            model: from `duologue.engine.load_model(name, device=..., quantization=...)`.
            retriever: one for all back ends of the settings, or one for each by name (the first is
                the default). Without one, lookups fail. The caller closes it.
            encoder: reference encoder, closed by the caller; when `None`, the model folder's own is
                opened if there is a retriever to need it.
            stt: speech recognition, local or remote, closed by the caller.
            hearing: what the model itself listens to (`heard_dim`), if words come from a service.
        """
        self.model, self.settings = model, settings or EngineSettings()
        self._backends = Backends.of(retriever, self.settings.backends)
        self._encoder = encoder
        self._logs: LogWriter | None = None
        self._local_stt, self._remote_stt = _by_kind(stt)
        self._hearing = self._local_stt or hearing
        self._rehearing = Rehearing(SecondHearing.of(self._local_stt))
        self._clock = clock
        self._sessions: dict[str, _Outside] = {}
        self._by_token: dict[str, Session] = {}
        self._reserved = 0
        self._restoring: set[str] = set()
        self._draining = False
        self._counters: defaultdict[str, LookupCounters] = defaultdict(LookupCounters)
        self._shelf = KnowledgeShelf()
        self._told = threading.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start.

        Raises:
            CheckpointError: there is a retriever, and the model's folder has no encoder for what it
                finds.
        """
        self._loop = asyncio.get_running_loop()
        settings = self.settings
        async with contextlib.AsyncExitStack() as stack:
            if self._encoder is None and (encoder := await self._own_encoder()) is not None:
                self._encoder = encoder
                stack.push_async_callback(encoder.aclose)
            stack.callback(self._rehearing.close)
            if settings.log_dir is not None:
                self._logs = LogWriter(settings.log_dir)
                self._logs.start()
                stack.push_async_callback(asyncio.to_thread, self._logs.close)
            bank = await asyncio.to_thread(
                SlotBank,
                self.model,
                settings.slots,
                gate_db=settings.gate_db,
                recogniser=self._hearing,
            )
            if self.model.lm.config.heard_dim and not bank.frame.tells_model:
                logger.warning("the model listens to a recogniser that is not here: it hears less")
            self._conductor = Conductor(bank, settings, self._clock)
            self._thread = TickThread(self._conductor, self._on_news, self._clock)
            wake = self._thread.wake
            self._seating = Seating(
                self._conductor, settings, self._clock, wake, self._logs,
                keeps_frames=self._rehearing.keeps(bank.frame_size),
            )  # fmt: skip
            self._thread.start()
            stack.push_async_callback(asyncio.to_thread, self._thread.stop)
            # Compiling may take minutes, and nobody is there yet.
            await asyncio.wrap_future(self._thread.submit(self._conductor.warm_up))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End what still runs, and the thread."""
        async with self._stack:
            self._draining = True
            await self._end_all()
            for id in list(self._sessions):  # left, where the thread hangs
                self._forget(id)
            await asyncio.gather(*self._closing)

    @property
    def backends(self) -> tuple[str, ...]:
        """Names that `SelectBackend` and `SessionOptions.backend` may have, the default first."""
        return self._backends.names

    # Who may come in.

    def can_admit(self) -> Admission:
        """Whether `open` would succeed now; cheap, any thread."""
        if self._draining:
            return Admission(False, RETRY_AFTER_S, STOPPING)
        if not self._healthy:
            return Admission(False, RETRY_AFTER_S, NO_MODEL)
        return self._conductor.capacity.admit(len(self._sessions) + self._reserved)

    async def open(self, options: SessionOptions | None = None) -> Session:
        """Start a conversation; returns when its slot is ready for the first frame.

        Raises:
            EngineFull: with `retry_after_s`. EngineDraining: no new sessions any more.
            EngineError: the options ask for something that is not there.
        """
        options = options or SessionOptions()
        if options.backend is not None and options.backend not in self.backends:
            raise EngineError(f"no back end is called {options.backend[:100]!r}")
        with self._reservation():
            setup, knowledge = await self._read_files(options)
            stt, settings = self._local_stt, self.settings
            brain = conversation(
                options,
                self.backends,
                floor=floor_rules(
                    self.model, settings.floor if options.floor is None else options.floor
                ),
                stt_delay_frames=stt.delay_frames if stt is not None else None,
                max_session_s=settings.max_session_s,
                latencies=self._conductor.latencies,
            )
            id = secrets.token_hex(8)
            seat = await self._seat(self._seating.seat, id, options, brain, setup)
            outside = self._let_in(seat, secrets.token_urlsafe(24), knowledge)
        await self._begin(outside, seat)
        if options.system_prompt and not self._takes_role:
            report = Report(WarningCode.OTHER, NO_ROLE)
            self._thread.post(self._conductor.receive, seat, report)
        return outside.session

    async def restore(self, snapshot: bytes) -> Session:
        """Continue a snapshot in a free slot, under its id and token if they are not in use.

        Raises:
            SnapshotError: not a snapshot of this model. EngineFull: as `open`.
        """
        with self._reservation():
            saved = await asyncio.to_thread(SessionSnapshot.from_bytes, snapshot)
            setup, knowledge = await self._read_files(replace(saved.options, seed=saved.seed))
            with self._name_for(saved) as (id, token):
                seat = await self._seat(self._seating.seat_again, id, saved, setup)
                outside = self._let_in(seat, token, knowledge)
        await self._begin(outside, seat, seat.core.brain.frame + 1)
        for command in saved.commands:
            outside.runner.carry_out(_with_time_left(command, saved))
        outside.session.come_back()
        return outside.session

    def resume(self, token: str) -> Session:
        """Come back to a session; a reader it still has is taken over.

        Raises:
            UnknownSession: wrong token, or ended meanwhile.
        """
        session = self._by_token.get(token)
        if session is None or session.ended:
            raise UnknownSession("there is no such session any more; start a new one")
        session.come_back()
        return session

    async def drain(self) -> None:
        """Admit nobody any more, wait for sessions to end, end the rest after `drain_s`."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_s):
                await self._until_empty()
        await self._end_all()

    @property
    def _healthy(self) -> bool:
        """Whether the model runs: its last step did not fail, and none hangs."""
        return self._conductor.healthy and not self._thread.stalled

    @property
    def _takes_role(self) -> bool:
        known = self._backends.routes and self.settings.retrieval_takes_role
        return self.model.takes_prompts or bool(known)

    # What sessions ask for.

    def control(self, seat: Seat, control: Interrupt | Reset | SelectBackend) -> None:
        """See `Session.control`."""
        if seat.controls.acquire(blocking=False):
            outside = self._sessions.get(seat.id)
            if isinstance(control, Reset) and outside is not None and outside.hearing is not None:
                outside.hearing.reset()
                seat.input.forget_words()
            self._thread.post(self._conductor.control, seat, control)
        else:
            self._conductor.figures.controls_dropped += 1

    def attach(self, seat: Seat, attached: bool) -> None:
        """See `Session.detach` and `resume`."""
        act = self._conductor.attach if attached else self._conductor.detach
        self._thread.post(act, seat)

    async def close(self, seat: Seat, detail: str) -> None:
        """See `Session.close`."""
        if seat.ended:
            return
        # Posted, so that it ends whoever stops waiting, and when a thread that hangs comes back.
        self._thread.post(self._conductor.end, seat, EndReason.CLIENT_CLOSED, detail)
        with contextlib.suppress(EngineFull):
            await self._on_thread(lambda: None)

    async def snapshot(self, seat: Seat, resume_token: str) -> bytes:
        """See `Session.snapshot`."""
        taken = await self._on_thread(self._seating.snapshot, seat, resume_token)
        return await asyncio.to_thread(taken.to_bytes)

    def stats(self) -> EngineStats:
        """The engine in figures; cheap, any thread."""
        conductor, figures = self._conductor, self._conductor.figures
        seats = list(conductor.seats.values())
        return EngineStats(
            slots=self.settings.slots,
            in_use=len(self._sessions) + self._reserved,
            detached=sum(not seat.attached for seat in seats),
            preparing=sum(seat.starting is not None for seat in seats),
            healthy=self._healthy,
            draining=self._draining,
            frame_times=figures.frame_times.report(),
            lateness=figures.lateness.report(),
            latency=figures.latency.report(),
            steps=figures.steps,
            frames=figures.frames,
            overruns=figures.overruns,
            caught_up=figures.caught_up,
            input_frames_waiting=sum(len(seat.input) for seat in seats),
            output_events_waiting=sum(len(seat.output) for seat in seats),
            input_frames_dropped=figures.input_frames_dropped
            + sum(seat.input.dropped_frames for seat in seats),
            output_frames_dropped=figures.output_frames_dropped
            + sum(seat.output.dropped_frames for seat in seats),
            controls_dropped=figures.controls_dropped,
            sessions_started=figures.sessions_started,
            sessions_ended=dict(conductor.ended_by),
            retrieval={name: seen.report() for name, seen in list(self._counters.items())},
            logs_truncated=self._logs.truncated if self._logs is not None else 0,
        )

    # Letting in.

    async def _own_encoder(self) -> RowEncoder | None:
        """The encoder of the model's folder, where it could be of use."""
        from duologue.encoder.opening import open_encoder

        model = self.model
        if not model.takes_references or model.folder is None:
            return None
        try:
            return await asyncio.to_thread(
                open_encoder,
                model.folder,
                conditioner=model.lm.condition_provider.reference,
                device=model.device,
            )
        except DuologueError:
            if self._backends.routes:
                raise
            logger.warning("no reference encoder was found; what is looked up cannot be used")
            return None

    @contextlib.contextmanager
    def _reservation(self) -> Iterator[None]:
        """Count somebody in from the decision on, until they count as a session or have failed."""
        if self._draining:
            raise EngineDraining(STOPPING, RETRY_AFTER_S)
        admission = self.can_admit()
        if not admission.ok:
            raise EngineFull(admission.reason, admission.retry_after_s)
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1
            self._gone.set()

    @contextlib.contextmanager
    def _name_for(self, saved: SessionSnapshot) -> Iterator[tuple[str, str]]:
        """Id and token of a restored session: its own, or new ones where it is already here."""
        here = self._restoring | self._sessions.keys()
        if saved.id in here or saved.resume_token in self._by_token:
            yield secrets.token_hex(8), secrets.token_urlsafe(24)
            return
        self._restoring.add(saved.id)
        try:
            yield saved.id, saved.resume_token
        finally:
            self._restoring.discard(saved.id)

    async def _read_files(
        self, options: SessionOptions
    ) -> tuple[SlotSetup, KnowledgeRetriever | None]:
        """Voice, role and knowledge, read off the event loop."""
        try:
            setup = await asyncio.to_thread(slot_setup, self.model, options, self.settings.seed)
            knowledge = None
            if options.knowledge is not None:
                knowledge = await asyncio.to_thread(self._shelf.retriever, options.knowledge)
        except EngineError:
            raise
        except (DuologueError, OSError, ValueError) as error:
            raise EngineError(str(error)) from error
        return setup, knowledge

    def _let_in(self, seat: Seat, token: str, knowledge: KnowledgeRetriever | None) -> _Outside:
        """Give a seat its outside; from now on it counts as a session."""
        options = seat.options
        backends = self._backends
        if knowledge is not None:
            own = knowledge
            backends = backends.behind(lambda other: first(own, other))
        runner = CommandRunner(
            backends,
            self._encoder,
            self.model.lm.config.dim,
            lambda reply, rows: self._thread.post(self._conductor.receive, seat, reply, rows),
            system_prompt=None if self.model.takes_prompts else options.system_prompt,
            counters=self._counters,
            hear_again=partial(self._rehearing.of, seat.core.questions),
        )
        session = Session(self, seat, token, self._clock)
        outside = _Outside(session, runner, None, knowledge)
        self._sessions[seat.id], self._by_token[token] = outside, session
        return outside

    async def _begin(self, outside: _Outside, seat: Seat, first_frame: int = 0) -> None:
        """Wait until a seat's slot and its hearing are ready."""
        try:
            if self._remote_stt is not None:
                outside.hearing = RemoteHearing(await self._remote_stt.open(), first_frame)
                seat.input.listen(outside.hearing)
            await self._until_ready(seat)
            if seat.ended:
                raise EngineError("the session ended before it began")
        except BaseException as error:
            self._thread.post(self._conductor.end, seat, EndReason.CLIENT_CLOSED, "not let in")
            self._forget(seat.id)
            if isinstance(error, DuologueError) and not isinstance(error, EngineError):
                raise EngineError(str(error)) from error
            raise
        for command in seat.early:
            outside.runner.carry_out(command)
        seat.early.clear()

    async def _until_ready(self, seat: Seat) -> None:
        """Wait for a slot, however many want one before, as long as the thread goes on.

        Raises:
            EngineFull: the thread hangs.
        """
        ready = asyncio.wrap_future(seat.ready)
        try:
            while not ready.done():
                await asyncio.wait((ready,), timeout=STALL_S)
                if not ready.done() and self._thread.stalled:
                    raise EngineFull(NO_MODEL, RETRY_AFTER_S)
            ready.result()
        finally:
            ready.cancel()  # whoever gives up is not told later how it ended

    async def _on_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run something on the thread and have its result.

        Raises:
            EngineFull: the thread hangs; what it has not begun by then is not done any more.
        """
        return await self._result(self._submit(function, *arguments))

    async def _seat(self, make: Callable[..., Seat], *arguments: Any) -> Seat:
        """As `_on_thread`, for seats: one that is made when nobody waits any more is ended."""
        making = self._submit(make, *arguments)
        try:
            return await self._result(making)
        except BaseException:
            making.cancel()  # what has not begun never does
            making.add_done_callback(self._end_unclaimed)
            raise

    def _end_unclaimed(self, made: Future[Seat]) -> None:
        if not made.cancelled() and made.exception() is None:
            end = self._conductor.end, made.result(), EndReason.CLIENT_CLOSED, "not let in"
            self._thread.post(*end)

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._thread.stalled:
            raise EngineFull(NO_MODEL, RETRY_AFTER_S)
        return self._thread.submit(function, *arguments)

    async def _result(self, future: Future[T]) -> T:
        try:
            async with asyncio.timeout(STALL_S):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise EngineFull(NO_MODEL, RETRY_AFTER_S) from None

    # What comes from the thread.

    def _on_news(self) -> None:
        """Called from the thread: have the loop look, once however often this is called."""
        if not self._told.is_set():
            self._told.set()
            # A loop that is closed has nobody left to tell.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._told.clear()
        changed, commands = self._conductor.collect()
        for seat, command in commands:
            if outside := self._sessions.get(seat.id):
                outside.runner.carry_out(command)
            else:
                seat.early.append(command)
        for seat in changed:
            outside = self._sessions.get(seat.id)
            if outside is None:
                continue
            outside.session.wake()
            if seat.wants_words and outside.hearing is not None:
                outside.hearing.flush()
            seat.wants_words = False
            if seat.ended:
                self._forget(seat.id)

    def _forget(self, id: str) -> None:
        outside = self._sessions.pop(id, None)
        if outside is None:
            return
        self._by_token.pop(outside.session.resume_token, None)
        task = self._loop.create_task(outside.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._gone.set()

    async def _until_empty(self) -> None:
        while self._sessions or self._reserved:
            self._gone.clear()
            await self._gone.wait()

    async def _end_all(self) -> None:
        def end_all() -> None:
            for seat in list(self._conductor.seats.values()):
                self._conductor.end(seat, EndReason.SERVER_STOPPING)

        with contextlib.suppress(EngineFull, TimeoutError):
            async with asyncio.timeout(STALL_S):
                await self._on_thread(end_all)
                while self._sessions:
                    self._gone.clear()
                    await self._gone.wait()


def _by_kind(
    stt: LocalRecogniser[Any] | RemoteRecogniser | None,
) -> tuple[LocalRecogniser[Any] | None, RemoteRecogniser | None]:
    """Recognition as the local kind or as the remote kind."""
    if stt is None or hasattr(stt, "init_state"):
        return cast("LocalRecogniser[Any] | None", stt), None
    return None, stt


def _with_time_left(command: Command, saved: SessionSnapshot) -> Command:
    """A command to begin again, at the frame that the conversation had come to."""
    frame = saved.core["brain"]["state"]["frame"]
    if not hasattr(command, "deadline_frame"):
        return command
    return replace(command, frame=min(frame, command.deadline_frame))
