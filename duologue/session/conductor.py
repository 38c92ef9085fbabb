"""The tick thread's business: who is stepped when, and what happens between steps.

`Conductor.turn()` does the next thing that is due and says how long there is nothing to do. It has
no thread and no sleep, and its clock is given, so tests drive it with a time they make up.

Who harms whom: what goes wrong with one session ends that session, and its slot is made fresh. A
step that fails as a whole ends the sessions that were in it; nobody is admitted until a trial step
succeeds again.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor

from duologue.dialogue import Command, Control, End, EndReason, LatencyHistogram, Reply
from duologue.engine.api import FRAME_S, EngineError, EngineFull, EngineSettings
from duologue.engine.slots import SlotBank
from duologue.engine.timing import RETRY_AFTER_S, Capacity, is_quick
from duologue.faults import fault
from duologue.session.core import FrameGiven, advance
from duologue.session.figures import Figures
from duologue.session.schedule import Schedule
from duologue.session.seat import Seat

logger = logging.getLogger(__name__)

MAX_PASSED_OVER = 5
"""A start goes before a due step after so many steps that left it no time between them."""
RETRY_STEP_S = 1.0
"""How often a model that failed is tried again."""


class Conductor:
    """See the module. All methods are the tick thread's; `collect` and figures are anybody's."""

    def __init__(
        self, bank: SlotBank, settings: EngineSettings, clock: Callable[[], float]
    ) -> None:
        self.bank, self.settings, self._clock = bank, settings, clock
        share = settings.budget_share
        budget_s = float("inf") if share is None else FRAME_S * share
        self.capacity = Capacity(settings.slots, budget_s)
        self.schedule = Schedule(self.capacity.expected_s, settings.late, settings.late_frames)
        self.figures = Figures()
        self.seats: dict[str, Seat] = {}
        self.latencies: dict[str, LatencyHistogram] = {}
        """What ended conversations learnt about the back ends."""
        self.flushes = False
        """Whether local recognition catches up at once when a model asks for knowledge."""
        self.healthy = True
        self.ended_by: Counter[str] = Counter()
        self._tried_s = float("-inf")
        self._passed_over = 0
        self._free = deque(range(settings.slots))
        self._lock = threading.Lock()
        self._changed: set[Seat] = set()
        self._commands: list[tuple[Seat, Command]] = []

    # What is asked of it between steps.

    def warm_up(self) -> None:
        """Run the model before anybody waits for it, and learn how long a step takes."""
        one_s, all_s = self.bank.measure(clock=self._clock)
        self.capacity.calibrate(one_s, all_s)
        logger.info(
            "a step takes %.1f ms with one conversation, %.1f ms with %d",
            one_s * 1000, all_s * 1000, self.settings.slots,
        )  # fmt: skip
        flush_s = self.bank.measure_flush(clock=self._clock)
        self.flushes = is_quick(flush_s)
        if flush_s is not None:
            how = "catches up at triggers" if self.flushes else "is waited for"
            logger.info("recognition %s: catching up takes %.1f ms", how, flush_s * 1000)

    def take_slot(self) -> int:
        """A free slot, for a seat that has been admitted.

        Raises:
            EngineFull: the slots are still those of sessions that nobody counts any more.
        """
        if not self._free:
            raise EngineFull("there is no free slot", RETRY_AFTER_S)
        return self._free.popleft()

    def give_slot(self, slot: int) -> None:
        """Take a slot back and make it fresh."""
        try:
            self.bank.reset(slot)
        except Exception as error:
            logger.error("slot %d cannot be reset: %s", slot, type(error).__name__)
            self.healthy = False
        self._free.append(slot)

    def open(self, seat: Seat) -> None:
        """Let a session in; its slot is made ready between steps, unless it brings a state.

        Raises:
            EngineError: its id is another session's; that one's slot would be lost.
        """
        if seat.id in self.seats:
            raise EngineError(f"there is a session {seat.id} already")
        self.seats[seat.id] = seat
        self.figures.sessions_started += 1
        if seat.core.needs_start:
            seat.starting = seat.core.prepare()
        else:
            seat.ready.set_result(None)

    def receive(self, seat: Seat, given: Reply | Control, rows: Tensor | None = None) -> None:
        """Hand a reply or control to a conversation now."""
        self._guarded(seat, partial(seat.receive, given, rows))

    def control(self, seat: Seat, control: Control) -> None:
        """As `receive`, for controls that `Seat.controls` has counted."""
        seat.controls.release()
        self.receive(seat, control)

    def end(self, seat: Seat, reason: EndReason, detail: str = "") -> None:
        """End a session, in whatever state it is."""
        self.receive(seat, End(reason, detail))

    def detach(self, seat: Seat) -> None:
        """Let a session stand still until its client comes back."""
        seat.attached, seat.changed_s = False, self._clock()

    def attach(self, seat: Seat) -> None:
        """Let it go on."""
        seat.attached, seat.changed_s = True, self._clock()

    def collect(self) -> tuple[set[Seat], list[tuple[Seat, Command]]]:
        """Seats with news, and commands to carry out, since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
            commands, self._commands = self._commands, []
        return changed, commands

    @property
    def has_news(self) -> bool:
        """Whether `collect` would give anything."""
        return bool(self._changed or self._commands)

    # The next thing that is due.

    def turn(self) -> float | None:
        """Do it. Returns the seconds until something else will be due, `None` for never."""
        now = self._clock()
        self._expire(now)
        if not self.healthy and now - self._tried_s >= RETRY_STEP_S:
            self._try_model(now)
        listening = [seat for seat in self.seats.values() if seat.listens]
        choice = self.schedule.choose(listening, now)
        starting = next((s for s in self.seats.values() if s.starting is not None), None)
        overdue = starting is not None and self._passed_over >= MAX_PASSED_OVER
        if choice.seats and not overdue:
            self._passed_over += starting is not None
            self._step(choice.seats, now if choice.due_s is None else choice.due_s)
            return 0.0
        if starting and (overdue or self.schedule.has_time_for_start(listening, now)):
            self._passed_over = 0
            self.schedule.last_start_s = now
            self._start(starting)
            return 0.0
        return self._idle_s(now, choice.due_s)

    def _step(self, seats: Iterable[Seat], due_s: float) -> None:
        begin = self._clock()
        given: dict[Seat, FrameGiven] = {}
        arrived: dict[Seat, float] = {}
        for seat in seats:
            self._guarded(seat, seat.tell_drops)
            if not seat.listens:
                continue
            queued = seat.input.take()
            given[seat] = FrameGiven(queued.pcm, queued.heard)
            arrived[seat] = queued.arrived_s
        if not given:
            return
        try:
            results = advance(self.bank, {seat.core: frame for seat, frame in given.items()})
        except Exception as error:
            self._lose(given, error)
            return
        for seat, frame in given.items():
            result = results[seat.core]
            if isinstance(result, Exception):
                self._fail(seat, result)
            else:
                self._guarded(seat, partial(seat.take, result, frame))
        end = self._clock()
        self.capacity.observe(len(given), end - begin)
        self.schedule.last_step_s = begin
        behind = [seat for seat, at in arrived.items() if at <= (seat.last_step_s or at - 1)]
        # A step of nothing but backlog is due whenever there is time for it.
        due_s = begin if len(behind) == len(given) else due_s
        self.figures.step(begin, end, due_s, list(arrived.values()), len(behind))
        for seat in given:
            seat.last_step_s = begin

    def _start(self, seat: Seat) -> None:
        """Make one step of a session's start."""
        self.seats[seat.id] = self.seats.pop(seat.id)  # the others' turn is next
        assert seat.starting is not None
        try:
            next(seat.starting)
        except StopIteration:
            seat.starting, seat.changed_s = None, self._clock()
            if not seat.ready.done():
                seat.ready.set_result(None)
        except Exception as error:
            if not seat.ready.done():
                seat.ready.set_exception(error)
            self._fail(seat, error)

    def _expire(self, now: float) -> None:
        """End what has waited too long."""
        for seat in list(self.seats.values()):
            if now < self._expires_s(seat):
                continue
            settings = self.settings
            detail = (
                f"no audio for {settings.idle_s:.0f} s"
                if seat.attached
                else f"the client did not come back within {settings.resume_s:.0f} s"
            )
            self.end(seat, EndReason.CLIENT_CLOSED, detail)

    def _expires_s(self, seat: Seat) -> float:
        if not seat.attached:
            return seat.changed_s + self.settings.resume_s
        if seat.starting is not None:
            return float("inf")
        heard_s = seat.input.last_push_s
        return max(seat.changed_s, seat.changed_s if heard_s is None else heard_s) + (
            self.settings.idle_s
        )

    def _idle_s(self, now: float, due_s: float | None) -> float | None:
        times = [self._expires_s(seat) for seat in self.seats.values()]
        if due_s is not None:
            times.append(due_s)
        if any(seat.starting is not None for seat in self.seats.values()):
            times.append(self.schedule.last_step_s + FRAME_S)
            times.append(self.schedule.last_start_s + FRAME_S)
        if not self.healthy:
            times.append(self._tried_s + RETRY_STEP_S)
        soonest = min((time for time in times if time > now), default=float("inf"))
        return None if soonest == float("inf") else soonest - now

    # Putting out, and what goes wrong.

    def _guarded(self, seat: Seat, work: Callable[[], list[Command]]) -> None:
        """Let a seat do something; what it raises ends that session alone."""
        if seat.ended:
            return
        try:
            commands = work()
        except Exception as error:
            self._fail(seat, error)
            return
        self._put(seat, commands)

    def _put(self, seat: Seat, commands: list[Command]) -> None:
        """Note what there is to be taken outside, and what became of the seat."""
        with self._lock:
            self._changed.add(seat)
            self._commands += [(seat, command) for command in commands]
        if seat.ended:
            self._release(seat)
        elif seat.core.needs_start and seat.starting is None:
            seat.starting = seat.core.prepare()

    def _fail(self, seat: Seat, error: Exception) -> None:
        """End a session for a fault of its own; what it said stays out of the log."""
        logger.error("session %s failed with %s", seat.id, fault(error))
        self._put(seat, seat.fail(f"internal error ({type(error).__name__})"))

    def _lose(self, seats: Iterable[Seat], error: Exception) -> None:
        """A step failed as a whole, so nobody knows how far its slots have come."""
        self.healthy, self._tried_s = False, self._clock()
        for seat in list(seats):
            self._fail(seat, error)

    def _try_model(self, now: float) -> None:
        """See whether the model runs again: a step in which no slot takes part."""
        self._tried_s = now
        try:
            self.bank.step({})
            self.healthy = True
        except Exception as error:
            logger.error("the model still fails with %s", type(error).__name__)

    def _release(self, seat: Seat) -> None:
        """Give an ended session's slot back, fresh."""
        if self.seats.get(seat.id) is not seat:
            return
        del self.seats[seat.id]
        assert seat.end_reason is not None
        self.ended_by[seat.end_reason.value] += 1
        self.figures.input_frames_dropped += seat.input.dropped_frames
        self.figures.output_frames_dropped += seat.output.dropped_frames
        self.latencies |= seat.core.brain.latencies
        seat.input.close()
        seat.starting = None
        if not seat.ready.done():
            seat.ready.set_exception(EngineError("the session ended before it began"))
        if seat.log is not None:
            seat.log.end(seat.end_reason.value)
        self.give_slot(seat.core.slot)
