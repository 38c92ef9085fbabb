"""The retrieval policy: from the model's trigger to a reference, or to a stated failure.

A trigger opens a retrieval, which waits for speech recognition, asks back ends, and ends in
exactly one outcome. Rules that always hold:

- Sequence numbers only grow. A newer trigger ends the open retrieval as superseded and drops what
  an older one has not injected yet; nothing older is injected after it.
- Every wait has a deadline in frames, so no back end can keep a retrieval open.
- A failed lookup is an outcome and never an error of the session.
- Replies nobody waits for (late, double, unknown) change nothing.

At most one retrieval and one speculative lookup exist at a time, each with at most as many
lookups as there are back ends. This module decides; sending is done by whoever carries out the
commands it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from duologue.dialogue.checks import IllegalMove, check_int, check_type
from duologue.dialogue.clock import MAX_FRAMES
from duologue.dialogue.events import (
    CancelReason,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
    Role,
    Source,
    SpeculationEnded,
    SpeculationOutcome,
    SpeculationStarted,
    Warning,
    WarningCode,
)
from duologue.dialogue.hedging import (
    AnswerPart,
    Attempt,
    AttemptStatus,
    HedgeMode,
    HedgeRules,
    Race,
)
from duologue.dialogue.injection import Delivery, OnFailure, ReferenceRules
from duologue.dialogue.latency import LatencyHistogram
from duologue.dialogue.ports import (
    CancelLookup,
    EncodingFailed,
    LookupAnswered,
    LookupContext,
    LookupFailed,
    Output,
    ReferenceEncoded,
    Reply,
    StartLookup,
)
from duologue.dialogue.speculation import Speculation, SpeculationRules
from duologue.dialogue.transcript import Transcript, spoken_line
from duologue.dialogue.turns import TurnManager
from duologue.dialogue.waiting import Listening, WaitRule, WaitRules

MAX_SOURCES = 8
MAX_SOURCE_CHARACTERS = 500
MAX_REASON_CHARACTERS = 200
"""Longer lists and texts that back ends report are cut."""


class TriggerSource(Enum):
    """Where the trigger is read.

    `RELEASED`: from the token as the generator gives it out (published). `SAMPLED`: from the
    freshly sampled token, one frame earlier.
    """

    RELEASED = "released"
    SAMPLED = "sampled"


@dataclass(frozen=True)
class RetrievalRules:
    """How retrievals are run.

    A retrieval that has no answer `deadline_frames` after its first question has timed out.
    Triggers within `refractory_frames` of the last one are taken for repetitions and ignored.
    `cancel_on_user_turn` gives the open retrieval up when the user takes the floor; off, because
    a murmur of assent would then cost the answer. `needs_words` ends a retrieval as empty when
    nothing has been said yet; off for back ends that answer without a question.
    """

    trigger: TriggerSource = TriggerSource.RELEASED
    refractory_frames: int = 0
    cancel_on_user_turn: bool = False
    needs_words: bool = True
    deadline_frames: int = 19
    wait: WaitRules = field(default_factory=WaitRules)
    hedge: HedgeRules = field(default_factory=HedgeRules)
    speculation: SpeculationRules = field(default_factory=SpeculationRules)
    reference: ReferenceRules = field(default_factory=ReferenceRules)

    def __post_init__(self) -> None:
        check_type(self, "trigger", TriggerSource)
        check_int(self, "refractory_frames", 0, 1_000)
        check_type(self, "cancel_on_user_turn", bool)
        check_type(self, "needs_words", bool)
        check_int(self, "deadline_frames", 1, MAX_FRAMES)
        check_type(self, "wait", WaitRules)
        check_type(self, "hedge", HedgeRules)
        check_type(self, "speculation", SpeculationRules)
        check_type(self, "reference", ReferenceRules)

    @classmethod
    def published(
        cls,
        *,
        wait_steps: int = 12,
        deadline_frames: int = 19,
        backends: tuple[str, ...] = ("default",),
    ) -> RetrievalRules:
        """Fixed wait, 1.5 s for the back end, the default asked along with another choice."""
        return cls(
            deadline_frames=deadline_frames,
            wait=WaitRules(steps=wait_steps),
            hedge=HedgeRules(mode=HedgeMode.PARALLEL, backends=backends),
        )

    @classmethod
    def improved(cls, backends: tuple[str, ...] = ("default",)) -> RetrievalRules:
        """Ask as early as the question is known, hedge, speculate, tell when nothing was found."""
        return cls(
            trigger=TriggerSource.SAMPLED,
            refractory_frames=6,
            deadline_frames=19,
            wait=WaitRules(rule=WaitRule.CAUGHT_UP, steps=12),
            hedge=HedgeRules(mode=HedgeMode.DELAYED, backends=backends),
            speculation=SpeculationRules(enabled=True),
            reference=ReferenceRules(
                on_failure=OnFailure.LEARNT_PADDING, encode_deadline_frames=19
            ),
        )


class Phase(Enum):
    """What the policy is busy with; the published states."""

    IDLE = "idle"
    WAITING = "waiting"
    RETRIEVING = "retrieving"
    ENCODING = "encoding"


@dataclass
class Retrieval:
    """The open retrieval; it has a race and a context once it is past waiting."""

    sequence: int
    trigger_frame: int
    phase: Phase = Phase.WAITING
    context: LookupContext | None = None
    race: Race | None = None
    speculative: bool = False

    def start(self, context: LookupContext, race: Race) -> None:
        """Go from waiting to retrieving."""
        if self.phase is not Phase.WAITING:
            raise IllegalMove(f"retrieval {self.sequence} is already {self.phase.value}")
        self.phase, self.context, self.race = Phase.RETRIEVING, context, race


@dataclass
class RetrievalState:
    """All that the policy remembers."""

    selected: str
    next_sequence: int = 1
    next_lookup: int = 1
    current: Retrieval | None = None
    speculation: Speculation | None = None
    last_trigger_frame: int | None = None
    suppressed_triggers: int = 0
    speculations_made: int = 0
    used_revision: int = 0
    latencies: dict[str, LatencyHistogram] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """What the policy may look at when it decides."""

    frame: int
    transcript: Transcript
    turns: TurnManager
    listening: Listening

    def context(self) -> LookupContext:
        """Return the conversation as a back end would get it now."""
        return self.transcript.context(self.turns.late_words)


class RetrievalPolicy:
    """Drives retrievals; every method returns the events and commands it caused, in order."""

    def __init__(
        self, rules: RetrievalRules, delivery: Delivery, state: RetrievalState | None = None
    ) -> None:
        self.rules = rules
        self.delivery = delivery
        self.state = state or RetrievalState(selected=rules.hedge.backends[0])

    @property
    def phase(self) -> Phase:
        """The published state: idle, waiting, retrieving or encoding."""
        if self.state.current is not None:
            return self.state.current.phase
        return Phase.ENCODING if self.delivery.is_encoding else Phase.IDLE

    def asked_frame(self, reply: Reply) -> int | None:
        """Return when what a reply answers was asked, None if nobody waits for that reply."""
        if isinstance(reply, (LookupAnswered, LookupFailed)):
            attempt = self._live_attempt(reply.lookup)
            return None if attempt is None else attempt.started_frame
        return self.delivery.requested_frame(reply.sequence, reply.part)

    def trigger(self, scene: Scene) -> list[Output]:
        """Open a retrieval; it wins over any older one."""
        state = self.state
        last = state.last_trigger_frame
        if last is not None and scene.frame - last < self.rules.refractory_frames:
            state.suppressed_triggers += 1
            return []
        out: list[Output] = []
        self._cancel_current(CancelReason.SUPERSEDED, scene.frame, out)
        sequence = state.next_sequence
        state.next_sequence += 1
        state.last_trigger_frame = scene.frame
        state.speculations_made = 0
        out += self.delivery.begin(sequence, scene.frame)
        state.current = Retrieval(sequence, scene.frame)
        out.append(RetrievalStarted(sequence, scene.frame))
        return out

    def reply(self, reply: Reply, scene: Scene) -> list[Output] | None:
        """Take what a back end or the encoder answered; None if nobody waits for it."""
        if isinstance(reply, ReferenceEncoded):
            return self.delivery.encoded(reply, scene.frame)
        if isinstance(reply, EncodingFailed):
            return self.delivery.encoding_failed(reply, scene.frame)
        attempt = self._live_attempt(reply.lookup)
        if attempt is None:
            return None
        out: list[Output] = []
        if isinstance(reply, LookupAnswered):
            self._take_answer(attempt, reply, scene.frame, out)
        else:
            status = AttemptStatus.TIMED_OUT if reply.timed_out else AttemptStatus.FAILED
            attempt.finish(status, reply.reason[:MAX_REASON_CHARACTERS])
        speculation = self.state.speculation
        if speculation is not None and speculation.attempt is attempt:
            self._judge_speculation(speculation, scene.frame, out)
        else:
            self._settle(scene, out)
        return out

    def tick(self, scene: Scene) -> list[Output]:
        """End a frame: waits, deadlines, hedges and speculation."""
        out: list[Output] = []
        current, frame = self.state.current, scene.frame
        self._check_speculation(scene, out)
        if current is not None and current.race is not None:
            if frame >= current.race.deadline_frame:
                self._time_out(current.race, frame, out)
            self._settle(scene, out)
        elif current is not None:
            wait = self.rules.wait
            if wait.is_over(current.trigger_frame, frame, scene.listening):
                self._ask(current, scene, out)
        self._speculate(scene, out)
        out += self.delivery.tick(frame)
        return out

    def cancel(self, reason: CancelReason, frame: int) -> list[Output]:
        """Give up the open retrieval, the speculation, and whatever is not yet injected."""
        out: list[Output] = []
        self._cancel_current(reason, frame, out)
        self._end_speculation(SpeculationOutcome.CANCELLED, frame, out)
        out += self.delivery.abandon(frame, f"cancelled: {reason.value}")
        return out

    def reset(self, frame: int) -> list[Output]:
        """Start anew; numbers, learnt latencies and the client's choice stay."""
        out = self.cancel(CancelReason.RESET, frame)
        self.delivery.clear()
        state = self.state
        state.last_trigger_frame = None
        state.speculations_made = 0
        state.used_revision = 0
        return out

    def select(self, backend: str, frame: int) -> list[Output]:
        """Make a back end the first to be asked; an unknown one is refused with a warning."""
        if backend not in self.rules.hedge.backends:
            detail = f"no back end is called {backend[:100]!r}"
            return [Warning(frame, WarningCode.UNKNOWN_BACKEND, detail)]
        out: list[Output] = []
        if backend != self.state.selected:
            self.state.selected = backend
            self._end_speculation(SpeculationOutcome.CANCELLED, frame, out)
        return out

    # The open retrieval.

    def _ask(self, current: Retrieval, scene: Scene, out: list[Output]) -> None:
        """Start the lookup of a retrieval that has waited long enough."""
        frame, context = scene.frame, scene.context()
        may_ask = bool(context.turns) or not self.rules.needs_words
        waiting = self.rules.hedge.order(self.state.selected) if may_ask else []
        race = Race(frame, frame + self.rules.deadline_frames, waiting)
        current.start(context, race)
        self.state.used_revision = scene.listening.revision
        speculation = self.state.speculation
        if speculation is not None and speculation.context.key == context.key:
            attempt = speculation.attempt
            race.attempts.append(attempt)
            race.waiting.remove(attempt.backend)
            race.next_hedge_frame = attempt.started_frame + self._hedge_delay(attempt.backend)
            current.speculative = True
            self.state.speculation = None
            adopted = SpeculationOutcome.ADOPTED
            out.append(SpeculationEnded(attempt.lookup, frame, adopted, current.sequence))
        else:
            self._end_speculation(SpeculationOutcome.TEXT_CHANGED, frame, out)
        self._settle(scene, out)

    def _settle(self, scene: Scene, out: list[Output]) -> None:
        """Carry the race as far as it goes: choose, pass on, ask the next, or give up."""
        current, hedge, frame = self.state.current, self.rules.hedge, scene.frame
        if current is None or current.race is None or current.context is None:
            raise IllegalMove("no lookup is under way")
        race = current.race
        while race.winner is None:
            chosen = hedge.choose(race)
            if chosen is not None:
                race.winner = chosen.lookup
                self._stop_losers(race, chosen, frame, out)
            elif hedge.asks_next(race, frame):
                attempt = Attempt(self._new_lookup(), race.waiting.pop(0), frame)
                race.attempts.append(attempt)
                race.next_hedge_frame = frame + self._hedge_delay(attempt.backend)
                out.append(
                    StartLookup(
                        attempt.lookup,
                        current.sequence,
                        frame,
                        attempt.backend,
                        current.context,
                        race.deadline_frame,
                    )
                )
            elif race.running:
                return
            else:
                self._fail(current, race, frame, out)
                return
        winner = race.attempt(race.winner)
        if winner is None:
            raise IllegalMove(f"lookup {race.winner} is not part of this retrieval")
        parts = winner.parts[race.delivered :]
        race.delivered = len(winner.parts)
        if not winner.running:
            self._succeed(current, race, winner, scene, out)
        for part in parts:
            out += self.delivery.add(part, frame)

    def _succeed(
        self, current: Retrieval, race: Race, winner: Attempt, scene: Scene, out: list[Output]
    ) -> None:
        text = " ".join(part.text for part in winner.parts)
        out.append(
            RetrievalSucceeded(
                sequence=current.sequence,
                frame=scene.frame,
                latency=scene.frame - current.trigger_frame,
                lookup_latency=scene.frame - race.attempts[0].started_frame,
                backend=winner.backend,
                label=winner.label or winner.backend,
                text=text,
                sources=winner.sources,
                confidence=winner.confidence,
                complete=winner.status is AttemptStatus.ANSWERED and not winner.cut,
                speculative=current.speculative,
            )
        )
        if winner.cut:
            detail = "the answer was longer than a reference may be"
            code = WarningCode.REFERENCE_TRUNCATED
            out.append(Warning(scene.frame, code, detail, current.sequence))
        if current.context is not None:
            scene.transcript.note_reference(current.context.last_turn, text)
        self.state.current = None

    def _fail(self, current: Retrieval, race: Race, frame: int, out: list[Output]) -> None:
        outcome, attempt = race.failure()
        out.append(
            RetrievalFailed(
                sequence=current.sequence,
                frame=frame,
                latency=frame - current.trigger_frame,
                lookup_latency=frame - race.attempts[0].started_frame if race.attempts else None,
                backend=attempt.backend if attempt else "",
                outcome=outcome,
                reason=attempt.reason if attempt else "nothing has been said yet",
            )
        )
        self.state.current = None
        out += self.delivery.no_reference(frame)

    def _cancel_current(self, reason: CancelReason, frame: int, out: list[Output]) -> None:
        current = self.state.current
        if current is None:
            return
        attempts = current.race.attempts if current.race else []
        for attempt in attempts:
            if attempt.running:
                attempt.finish(AttemptStatus.CANCELLED)
                out.append(CancelLookup(attempt.lookup, frame))
        out.append(
            RetrievalCancelled(
                sequence=current.sequence,
                frame=frame,
                latency=frame - current.trigger_frame,
                lookup_latency=frame - attempts[0].started_frame if attempts else None,
                backend=attempts[0].backend if attempts else "",
                reason=reason,
            )
        )
        self.state.current = None

    def _time_out(self, race: Race, frame: int, out: list[Output]) -> None:
        race.waiting.clear()
        for attempt in race.running:
            if not attempt.parts:
                self._learn(attempt, frame)
            attempt.finish(AttemptStatus.TIMED_OUT, "no answer before the deadline")
            out.append(CancelLookup(attempt.lookup, frame))

    def _stop_losers(self, race: Race, winner: Attempt, frame: int, out: list[Output]) -> None:
        race.waiting.clear()
        for attempt in race.running:
            if attempt is not winner:
                if not attempt.parts:
                    self._learn(attempt, frame)
                attempt.finish(AttemptStatus.CANCELLED)
                out.append(CancelLookup(attempt.lookup, frame))

    def _take_answer(
        self, attempt: Attempt, reply: LookupAnswered, frame: int, out: list[Output]
    ) -> None:
        """Add what a reply brings to its attempt, within the bounds of a reference."""
        text = spoken_line(reply.text)
        confidence = reply.confidence
        if not attempt.parts:
            if text or reply.final:
                self._learn(attempt, frame)
            if text and confidence is not None and confidence < self.rules.hedge.min_confidence:
                attempt.finish(AttemptStatus.EMPTY, f"confidence {confidence:.2f} is too low")
                if not reply.final:
                    out.append(CancelLookup(attempt.lookup, frame))
                return
        if text:
            self._add_part(attempt, text, reply.rows)
        room = MAX_SOURCES - len(attempt.sources)
        attempt.sources += tuple(_bounded(source) for source in reply.sources[:room])
        attempt.confidence = attempt.confidence if confidence is None else confidence
        attempt.label = reply.label[:MAX_REASON_CHARACTERS] or attempt.label
        if reply.final and attempt.parts:
            attempt.finish(AttemptStatus.ANSWERED)
        elif reply.final:
            attempt.finish(AttemptStatus.EMPTY, "nothing was found")

    def _add_part(self, attempt: Attempt, text: str, rows: int | None) -> None:
        rules = self.rules.reference
        room = rules.max_characters - sum(len(part.text) for part in attempt.parts)
        if attempt.cut or len(attempt.parts) >= rules.max_parts or room <= 0:
            attempt.cut = True
            return
        if len(text) > room:
            attempt.cut = True
            text, rows = text[:room].rsplit(" ", 1)[0].strip(), None
        if text:
            attempt.parts.append(AnswerPart(text, rows))

    # Speculation.

    def _speculate(self, scene: Scene, out: list[Output]) -> None:
        state, rules, frame = self.state, self.rules.speculation, scene.frame
        if state.current is not None or state.speculation is not None:
            return
        listening = scene.listening
        if not rules.may_begin(state.speculations_made, state.used_revision, listening, frame):
            return
        state.used_revision = listening.revision
        context = scene.context()
        if not context.turns or context.turns[-1].role is not Role.USER:
            return
        attempt = Attempt(self._new_lookup(), state.selected, frame)
        state.speculations_made += 1
        state.speculation = Speculation(attempt, context, listening.revision)
        deadline_frame = frame + rules.lifetime_frames + self.rules.deadline_frames
        out.append(SpeculationStarted(attempt.lookup, frame, attempt.backend))
        out.append(
            StartLookup(attempt.lookup, None, frame, attempt.backend, context, deadline_frame)
        )

    def _check_speculation(self, scene: Scene, out: list[Output]) -> None:
        """Throw the speculation away if the text has changed or its time is over."""
        speculation = self.state.speculation
        if speculation is None:
            return
        if speculation.revision != scene.listening.revision:
            speculation.revision = scene.listening.revision
            if speculation.context.key != scene.context().key:
                self._end_speculation(SpeculationOutcome.TEXT_CHANGED, scene.frame, out)
                return
        age = scene.frame - speculation.attempt.started_frame
        if age >= self.rules.speculation.lifetime_frames:
            self._end_speculation(SpeculationOutcome.EXPIRED, scene.frame, out)

    def _judge_speculation(self, speculation: Speculation, frame: int, out: list[Output]) -> None:
        """End a speculation that has come to nothing; an answer is kept for the trigger."""
        status = speculation.attempt.status
        if status is AttemptStatus.EMPTY:
            self._end_speculation(SpeculationOutcome.EMPTY, frame, out)
        elif status in (AttemptStatus.FAILED, AttemptStatus.TIMED_OUT):
            self._end_speculation(SpeculationOutcome.FAILED, frame, out)

    def _end_speculation(self, outcome: SpeculationOutcome, frame: int, out: list[Output]) -> None:
        speculation, self.state.speculation = self.state.speculation, None
        if speculation is None:
            return
        if speculation.attempt.running:
            speculation.attempt.finish(AttemptStatus.CANCELLED)
            out.append(CancelLookup(speculation.attempt.lookup, frame))
        out.append(SpeculationEnded(speculation.attempt.lookup, frame, outcome))

    # Bookkeeping.

    def _live_attempt(self, lookup: int) -> Attempt | None:
        speculation, current = self.state.speculation, self.state.current
        attempt = None
        if speculation is not None and speculation.attempt.lookup == lookup:
            attempt = speculation.attempt
        elif current is not None and current.race is not None:
            attempt = current.race.attempt(lookup)
        return attempt if attempt is not None and attempt.running else None

    def _new_lookup(self) -> int:
        lookup = self.state.next_lookup
        self.state.next_lookup += 1
        return lookup

    def _hedge_delay(self, backend: str) -> int:
        return self.rules.hedge.delay(self.state.latencies.get(backend))

    def _learn(self, attempt: Attempt, frame: int) -> None:
        latencies = self.state.latencies
        if attempt.backend not in latencies:
            latencies[attempt.backend] = LatencyHistogram()
        latencies[attempt.backend].observe(frame - attempt.started_frame)


def _bounded(source: Source) -> Source:
    return Source(source.title[:MAX_SOURCE_CHARACTERS], source.location[:MAX_SOURCE_CHARACTERS])
