"""Random schedules: late, early, failing, silent and overlapping lookups, barge-ins, resets.

`Runtime` plays everything around a conversation: back ends and an encoder whose behaviour is drawn
in advance. `Auditor` reads the outputs and checks what must hold for every schedule: each thing
that starts ends exactly once and in time, and nothing stale is injected.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from duologue.dialogue import (
    CancelLookup,
    ContextRules,
    Control,
    Conversation,
    ConversationConfig,
    ConversationReset,
    Countdown,
    EncodeReference,
    EncodingFailed,
    End,
    EndReason,
    FrameInput,
    HedgeMode,
    HedgeRules,
    InjectionKind,
    InjectReference,
    Input,
    Interrupt,
    LatencyMode,
    LookupAnswered,
    LookupFailed,
    ModelFrame,
    OnFailure,
    Outcome,
    Output,
    Phase,
    ReferenceEncoded,
    ReferenceInjected,
    ReferenceRules,
    Reply,
    Reset,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalRules,
    RetrievalStarted,
    RetrievalSucceeded,
    Role,
    SelectBackend,
    SessionEnded,
    SpeculationEnded,
    SpeculationOutcome,
    SpeculationRules,
    SpeculationStarted,
    StartLookup,
    TriggerSource,
    TurnRules,
    UserFrame,
    WaitRule,
    WaitRules,
    input_from_dict,
    output_from_dict,
    replay,
)

BACKENDS = ("a", "b", "c")
SETTLE_FRAMES = 80
"""More than the longest wait, deadline, speculation and encoding of the settings drawn here."""


# Settings, frames and back ends that are drawn.


@dataclass(frozen=True)
class Plan:
    """How one back end or the encoder behaves for one call."""

    kind: str
    delay: int
    rows: int = 3
    encoded: bool = False


@dataclass(frozen=True)
class Moment:
    """One frame of a schedule."""

    words: tuple[str, ...] = ()
    vad: float | None = None
    text: str | None = None
    trigger: bool = False
    control: Control | None = None
    junk: int | None = None


@st.composite
def configs(draw: st.DrawFn) -> ConversationConfig:
    retrieval = RetrievalRules(
        trigger=draw(st.sampled_from(list(TriggerSource))),
        refractory_frames=draw(st.sampled_from([0, 0, 3])),
        cancel_on_user_turn=draw(st.booleans()),
        deadline_frames=draw(st.integers(1, 12)),
        wait=WaitRules(
            rule=draw(st.sampled_from(list(WaitRule))),
            steps=draw(st.integers(0, 8)),
            stt_delay_frames=draw(st.integers(0, 6)),
        ),
        hedge=HedgeRules(
            mode=draw(st.sampled_from(list(HedgeMode))),
            backends=BACKENDS[: draw(st.integers(1, 3))],
            min_samples=draw(st.integers(1, 3)),
            first_delay_frames=draw(st.integers(1, 6)),
            min_confidence=draw(st.sampled_from([0.0, 0.5])),
        ),
        speculation=SpeculationRules(
            enabled=draw(st.booleans()),
            stable_frames=draw(st.integers(0, 3)),
            lifetime_frames=draw(st.integers(1, 20)),
            limit=draw(st.integers(1, 3)),
        ),
        reference=ReferenceRules(
            on_failure=draw(st.sampled_from(list(OnFailure))),
            encode_deadline_frames=draw(st.integers(1, 12)),
            max_characters=draw(st.sampled_from([8, 60])),
            max_parts=draw(st.integers(1, 3)),
            max_rows=draw(st.integers(1, 8)),
        ),
    )
    return ConversationConfig(
        initial_speaker=draw(st.sampled_from(list(Role))),
        latency=draw(st.sampled_from(list(LatencyMode))),
        turns=TurnRules(
            warmup_updates=draw(st.sampled_from([0, 4, 20])),
            stt_wait_steps=draw(st.integers(0, 4)),
            cancel_on_reversal=draw(st.booleans()),
            speaking_share=draw(st.sampled_from([0.5, 1.0])),
            countdown=draw(st.sampled_from(list(Countdown))),
            max_held_pieces=draw(st.integers(1, 5)),
        ),
        context=ContextRules(
            max_turns=draw(st.integers(2, 4)),
            max_characters=draw(st.sampled_from([64, 500])),
            max_references=draw(st.integers(0, 2)),
            latest_reference_wins=draw(st.booleans()),
            late_words=draw(st.booleans()),
        ),
        retrieval=retrieval,
    )


plans = st.builds(
    Plan,
    kind=st.sampled_from(
        ["answer", "answer", "answer", "parts", "stall", "empty", "unsure", "fail", "late", "never"]
    ),
    delay=st.sampled_from([0, 0, 1, 2, 5, 9, 30]),
    rows=st.integers(0, 6),
    encoded=st.booleans(),
)
controls = st.sampled_from(
    [Interrupt(), Reset(), SelectBackend("a"), SelectBackend("b"), SelectBackend("nobody")]
)


def rarely(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.none(), st.none(), st.none(), st.none(), strategy)


moments = st.builds(
    Moment,
    words=st.sampled_from([(), (), (), (" what",), (" is", " it"), (" ",)]),
    vad=st.sampled_from([None, 0.1, 0.1, 0.9, 0.9, 0.9]),
    text=st.sampled_from([None, None, " well", " so"]),
    trigger=st.sampled_from([False, False, False, False, False, True]),
    control=rarely(rarely(controls)),
    junk=rarely(st.integers(0, 40)),
)


@st.composite
def questions(draw: st.DrawFn) -> list[Moment]:
    """A question, a pause and a trigger; then time for an answer, or not."""
    asked = [Moment(words=(word,), vad=0.1) for word in draw(st.sampled_from([" ab", " c", ""]))]
    pause = [Moment(vad=0.9)] * draw(st.integers(0, 10))
    reply = [Moment(vad=0.9, text=" so")] * draw(st.sampled_from([0, 0, 4, 16]))
    return [*asked, *pause, Moment(vad=0.9, trigger=True), *reply]


segments = st.one_of(questions(), st.lists(moments, min_size=1, max_size=8))
schedules = st.lists(segments, min_size=1, max_size=6).map(lambda parts: list(chain(*parts)))


# What runs around a conversation, and what must always hold.


@dataclass
class Auditor:
    """Reads all outputs in order and fails at the first that should not be."""

    config: ConversationConfig
    retrievals: dict[int, int] = field(default_factory=dict)
    speculations: set[int] = field(default_factory=set)
    lookups: dict[int, StartLookup] = field(default_factory=dict)
    final: set[int] = field(default_factory=set)
    encoding: set[tuple[int, int]] = field(default_factory=set)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    started: int = 0
    asked: int = 0
    last_frame: int = -1
    ended: bool = False

    def read(self, outputs: Iterable[Output], frame: int) -> None:
        for output in outputs:
            assert not self.ended, "nothing comes after the end"
            assert output.frame == frame, "every output is of the current frame"
            assert frame >= self.last_frame
            self.last_frame = frame
            self._read(output, frame)

    @property
    def running(self) -> set[int]:
        """Lookups that have neither a final answer nor been cancelled."""
        return set(self.lookups) - self.final

    def _read(self, output: Output, frame: int) -> None:
        match output:
            case RetrievalStarted(sequence):
                assert not self.retrievals, "the older retrieval is closed before"
                self.started += 1
                assert sequence == self.started, "sequence numbers count triggers"
                self.retrievals[sequence] = frame
            case RetrievalSucceeded() | RetrievalFailed() | RetrievalCancelled():
                opened = self.retrievals.pop(output.sequence)
                self.outcomes[output.sequence] = output.outcome
                assert output.latency == frame - opened
                rules = self.config.retrieval
                assert output.latency <= max(0, rules.wait.steps - 1) + rules.deadline_frames
            case SpeculationStarted(lookup):
                assert not self.speculations
                self.speculations.add(lookup)
            case SpeculationEnded(lookup, _, outcome, sequence):
                self.speculations.remove(lookup)
                assert (outcome is SpeculationOutcome.ADOPTED) == (sequence in self.retrievals)
            case StartLookup(lookup, sequence):
                self.asked += 1
                assert lookup == self.asked
                assert output.context.turns, "nobody is asked about nothing"
                assert output.deadline_frame > frame
                assert sequence is None or sequence in self.retrievals
                assert (sequence is None) == (lookup in self.speculations)
                self.lookups[lookup] = output
            case CancelLookup(lookup):
                del self.lookups[lookup]
                simulated = self.config.latency is LatencyMode.SIMULATED
                assert simulated or lookup not in self.final, "it has answered already"
            case EncodeReference(sequence, part):
                assert sequence == self.started, "only the newest reference is encoded"
                self.encoding.add((sequence, part))
            case InjectReference(sequence, part, kind=kind, rows=rows):
                assert sequence == self.started, "only the newest reference is injected"
                assert (sequence, part) not in self.encoding, "its own rows are ready"
                assert self.outcomes.get(sequence) is not Outcome.CANCELLED
                failed = self.outcomes.get(sequence) not in (None, Outcome.ANSWERED)
                assert failed == (kind is not InjectionKind.REFERENCE)
                assert 1 <= rows <= max(1, self.config.retrieval.reference.max_rows)
            case ReferenceInjected(sequence):
                assert sequence == self.started
            case ConversationReset():
                assert not self.retrievals
                assert not self.speculations
                assert not self.running
            case SessionEnded():
                self.ended = True

    def check_closed(self) -> None:
        assert not self.retrievals, "each retrieval has its outcome"
        assert not self.speculations, "each speculation has its end"
        assert not self.running, "each lookup was answered or cancelled"
        assert set(self.outcomes) == set(range(1, self.started + 1))


class Runtime:
    """Carries out commands by plan and logs every input and output."""

    def __init__(
        self, conversation: Conversation, lookups: list[Plan], encodings: list[Plan]
    ) -> None:
        self.conversation = conversation
        self.lookups, self.encodings = lookups, encodings
        self.calls = {"lookup": 0, "encoding": 0}
        self.due: list[tuple[int, Reply]] = []
        self.inputs: list[Input] = []
        self.outputs: list[Output] = []
        self.auditor = Auditor(conversation.config)
        self.simulated = conversation.config.latency is LatencyMode.SIMULATED

    def play(self, moment: Moment) -> None:
        """Run one frame, with the replies that fall due in it."""
        frame = self.conversation.frame + 1
        replies = [reply for due, reply in self.due if due <= frame]
        self.due = [(due, reply) for due, reply in self.due if due > frame]
        if moment.junk is not None:
            replies.append(LookupAnswered(moment.junk + 1000, "junk"))
            replies.append(ReferenceEncoded(moment.junk, 99, rows=1))
        sampled = self.conversation.config.retrieval.trigger is TriggerSource.SAMPLED
        given = FrameInput(
            frame,
            UserFrame(moment.words, moment.vad),
            ModelFrame(moment.text, triggered=moment.trigger and not sampled),
            sampled_trigger=moment.trigger and sampled,
            controls=() if moment.control is None else (moment.control,),
            replies=tuple(replies),
        )
        self._hand_in(given)

    def receive(self, given: Reply | Control) -> None:
        self._hand_in(given)

    def settle(self) -> None:
        """Let the frames run on until everything must have ended."""
        for _ in range(SETTLE_FRAMES):
            if self.conversation.ended:
                return
            self.play(Moment(vad=0.9))

    def _hand_in(self, given: Input) -> None:
        self.inputs.append(given)
        replies: tuple[Reply | Control, ...]
        if isinstance(given, FrameInput):
            outputs, replies = self.conversation.advance(given), given.replies
        else:
            outputs, replies = self.conversation.receive(given), (given,)
        for reply in replies:
            if isinstance(reply, ReferenceEncoded):
                self.auditor.encoding.discard((reply.sequence, reply.part))
        self.auditor.read(outputs, self.conversation.frame)
        for reply in replies:
            if isinstance(reply, LookupFailed) or (
                isinstance(reply, LookupAnswered) and reply.final
            ):
                self.auditor.final.add(reply.lookup)
        self.outputs += outputs
        for output in outputs:
            for reply in self._carry_out(output):
                self._hand_in(reply)

    def _carry_out(self, output: Output) -> list[Reply]:
        """Return what is answered at once; the rest falls due later."""
        match output:
            case StartLookup():
                return self._schedule(self._answers(output))
            case EncodeReference(sequence, part):
                plan = self._next("encoding", self.encodings)
                elapsed_s = plan.delay * 0.08 if self.simulated else None
                delay = 0 if self.simulated else plan.delay
                if plan.kind == "never":
                    return []
                if plan.kind == "fail":
                    return self._schedule(
                        [(delay, EncodingFailed(sequence, part, "no", elapsed_s))]
                    )
                ready = ReferenceEncoded(sequence, part, plan.rows, elapsed_s)
                return self._schedule([(delay, ready), (delay, ready)])
            case _:
                return []

    def _answers(self, asked: StartLookup) -> list[tuple[int, Reply]]:
        plan = self._next("lookup", self.lookups)
        elapsed_s = plan.delay * 0.08 if self.simulated else None
        rows = plan.rows if plan.encoded else None
        delay = 0 if self.simulated else plan.delay
        whole = LookupAnswered(asked.lookup, "it is so", rows=rows, elapsed_s=elapsed_s)
        part = replace(whole, text="first of all", final=False)
        replies: list[Reply]
        match plan.kind:
            case "answer":
                replies = [whole, whole]
            case "parts":
                replies = [part, part, whole]
            case "stall":
                replies = [part]
            case "empty":
                replies = [replace(whole, text="")]
            case "unsure":
                replies = [replace(whole, confidence=0.2)]
            case "fail":
                replies = [LookupFailed(asked.lookup, "boom", elapsed_s=elapsed_s)]
            case "late":
                replies = [LookupFailed(asked.lookup, "slow", timed_out=True, elapsed_s=elapsed_s)]
            case _:
                replies = []
        return [(delay + number, reply) for number, reply in enumerate(replies)]

    def _schedule(self, answers: list[tuple[int, Reply]]) -> list[Reply]:
        frame = self.conversation.frame
        self.due += [(frame + delay, reply) for delay, reply in answers if delay > 0]
        return [reply for delay, reply in answers if delay == 0]

    def _next(self, name: str, planned: list[Plan]) -> Plan:
        number = self.calls[name]
        self.calls[name] += 1
        return planned[number % len(planned)]


def size_of(value: Any) -> int:
    return len(json.dumps(value))


some_plans = st.lists(plans, min_size=1, max_size=6)
quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(configs(), schedules, some_plans, some_plans)
def test_everything_that_starts_ends_once_and_in_time(
    config: ConversationConfig, schedule: list[Moment], lookups: list[Plan], encodings: list[Plan]
) -> None:
    runtime = Runtime(Conversation(config), lookups, encodings)
    for moment in schedule:
        runtime.play(moment)
    runtime.settle()
    assert runtime.conversation.phase is Phase.IDLE
    assert not runtime.auditor.retrievals
    assert not runtime.auditor.speculations
    runtime.receive(End(EndReason.CLIENT_CLOSED))
    runtime.auditor.check_closed()
    assert runtime.conversation.ended


@quick
@given(configs(), schedules, some_plans, some_plans, st.integers(0, 49))
def test_a_session_may_end_at_any_frame(
    config: ConversationConfig,
    schedule: list[Moment],
    lookups: list[Plan],
    encodings: list[Plan],
    last: int,
) -> None:
    runtime = Runtime(Conversation(config), lookups, encodings)
    for number, moment in enumerate(schedule):
        if number == min(last, len(schedule) - 1):
            moment = replace(moment, control=End(EndReason.FAILED, "power cut"))
        runtime.play(moment)
        if runtime.conversation.ended:
            break
    runtime.auditor.check_closed()
    ends = [output for output in runtime.outputs if isinstance(output, SessionEnded)]
    assert len(ends) == 1
    assert runtime.outputs[-1] is ends[0]


@quick
@given(configs(), schedules, some_plans, some_plans, st.integers(0, 200))
def test_replay_and_snapshots_continue_identically(
    config: ConversationConfig,
    schedule: list[Moment],
    lookups: list[Plan],
    encodings: list[Plan],
    cut: int,
) -> None:
    runtime = Runtime(Conversation(config), lookups, encodings)
    for moment in schedule:
        runtime.play(moment)
    final = runtime.conversation.snapshot()

    inputs = [input_from_dict(json.loads(json.dumps(entry.to_dict()))) for entry in runtime.inputs]
    again = Conversation(config)
    assert replay(again, inputs) == runtime.outputs
    assert again.snapshot() == final

    cut = cut % (len(inputs) + 1)
    first = Conversation(config)
    outputs = replay(first, inputs[:cut])
    second = Conversation.restore(json.loads(json.dumps(first.snapshot())))
    assert second.row_added == first.row_added
    outputs += replay(second, inputs[cut:])
    assert outputs == runtime.outputs
    assert second.snapshot() == final
    logged = [json.loads(json.dumps(output.to_dict())) for output in outputs]
    assert [output_from_dict(entry) for entry in logged] == outputs


def shifted(outputs: list[Output], frames: int, sequences: int, lookups: int) -> list[Output]:
    """Return outputs as if counting had begun earlier."""
    shifts = {
        "frame": frames,
        "said_frame": frames,
        "deadline_frame": frames,
        "sequence": sequences,
        "lookup": lookups,
    }
    result: list[Output] = []
    for output in outputs:
        changes = {
            name: getattr(output, name) - shift
            for name, shift in shifts.items()
            if getattr(output, name, None) is not None
        }
        result.append(replace(output, **changes))
    return result


@quick
@given(configs(), schedules, schedules, some_plans, some_plans, st.booleans())
def test_a_reset_conversation_is_like_a_new_one(
    config: ConversationConfig,
    before: list[Moment],
    after: list[Moment],
    lookups: list[Plan],
    encodings: list[Plan],
    moves: bool,
) -> None:
    """What a reset keeps (numbers, learnt delays, the choice of back end) is left out."""
    hedge = replace(config.retrieval.hedge, min_samples=10_000)
    config = replace(config, retrieval=replace(config.retrieval, hedge=hedge))
    before, after = (
        [replace(moment, control=None) for moment in schedule] for schedule in (before, after)
    )
    used = Runtime(Conversation(config), lookups, encodings)
    for moment in before:
        used.play(moment)
    used.receive(Reset())
    used.due.clear()
    used.outputs.clear()
    calls = dict(used.calls)
    if moves:
        data = json.loads(json.dumps(used.conversation.snapshot()))
        used.conversation = Conversation.restore(data)
    numbers = (len(before), used.auditor.started, used.auditor.asked)
    fresh = Runtime(Conversation(config), lookups, encodings)
    fresh.calls = calls
    for moment in after:
        used.play(moment)
        fresh.play(moment)
    assert shifted(used.outputs, *numbers) == fresh.outputs


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(configs(), schedules, some_plans, some_plans)
def test_memory_does_not_grow(
    config: ConversationConfig, schedule: list[Moment], lookups: list[Plan], encodings: list[Plan]
) -> None:
    runtime = Runtime(Conversation(replace(config, max_frames=10_000)), lookups, encodings)
    sizes = []
    for _ in range(6):
        for moment in schedule * (1 + 120 // len(schedule)):
            runtime.play(moment)
        sizes.append(size_of(runtime.conversation.snapshot()))
    assert max(sizes) < 40_000
    assert sizes[-1] <= max(sizes[:3]) + 6_000, sizes


@pytest.mark.parametrize("kind", ["answer", "empty", "fail", "late", "never", "stall"])
@pytest.mark.parametrize("preset", ["published", "published_offline", "improved"])
def test_zero_latency_failing_and_silent_back_ends_under_every_preset(
    kind: str, preset: str
) -> None:
    config: ConversationConfig = getattr(ConversationConfig, preset)(backends=("a", "b"))
    runtime = Runtime(Conversation(config), [Plan(kind, 0)], [Plan("answer", 0)])
    for _ in range(3):
        for _ in range(24):
            runtime.play(Moment(words=(" why",), vad=0.1))
        for _ in range(8):
            runtime.play(Moment(vad=0.9))
        runtime.play(Moment(vad=0.9, trigger=True))
        for _ in range(160):
            runtime.play(Moment(vad=0.9, text=" so"))
    outcomes = list(runtime.auditor.outcomes.values())
    expected = {
        "answer": Outcome.ANSWERED,
        "stall": Outcome.ANSWERED,
        "empty": Outcome.EMPTY,
        "fail": Outcome.FAILED,
        "late": Outcome.TIMED_OUT,
        "never": Outcome.TIMED_OUT,
    }
    assert outcomes == [expected[kind]] * 3
    runtime.receive(End(EndReason.CLIENT_CLOSED))
    runtime.auditor.check_closed()


class ConversationMachine(RuleBasedStateMachine):
    """Free play: any reply to any lookup at any time, also between frames and more than once."""

    @initialize(config=configs())
    def start(self, config: ConversationConfig) -> None:
        self.runtime = Runtime(Conversation(config), [Plan("never", 0)], [Plan("never", 0)])
        self.encodings: list[EncodeReference] = []

    def asked(self, back: int) -> int:
        """Return the number of a recent lookup, answered or not, or one that never was."""
        number = self.runtime.auditor.asked - back
        return number if number > 0 else 9_999

    @precondition(lambda self: not self.runtime.conversation.ended)
    @rule(moment=moments, times=st.integers(1, 4))
    def frames(self, moment: Moment, times: int) -> None:
        for _ in range(times):
            self.runtime.play(moment)

    @rule(back=st.integers(0, 3), text=st.sampled_from(["", "so it is"]), final=st.booleans())
    def answer(self, back: int, text: str, final: bool) -> None:
        self.runtime.receive(LookupAnswered(self.asked(back), text, final=final))

    @rule(back=st.integers(0, 3), timed_out=st.booleans())
    def fail(self, back: int, timed_out: bool) -> None:
        self.runtime.receive(LookupFailed(self.asked(back), "boom", timed_out))

    @rule(back=st.integers(0, 3), rows=st.integers(0, 5), works=st.booleans())
    def encode(self, back: int, rows: int, works: bool) -> None:
        wanted = [out for out in self.runtime.outputs if isinstance(out, EncodeReference)]
        if wanted:
            asked = wanted[max(0, len(wanted) - 1 - back)]
            reply: Reply = ReferenceEncoded(asked.sequence, asked.part, rows)
            if not works:
                reply = EncodingFailed(asked.sequence, asked.part, "no GPU")
            self.runtime.receive(reply)

    @rule(control=controls)
    def control(self, control: Control) -> None:
        self.runtime.receive(control)

    @rule()
    def move_house(self) -> None:
        data = json.loads(json.dumps(self.runtime.conversation.snapshot()))
        self.runtime.conversation = Conversation.restore(data)
        assert self.runtime.conversation.snapshot() == data

    @precondition(lambda self: not self.runtime.conversation.ended)
    @rule()
    def wait(self) -> None:
        self.runtime.settle()
        assert self.runtime.conversation.phase is Phase.IDLE
        assert not self.runtime.auditor.retrievals
        assert not self.runtime.auditor.speculations
        assert self.runtime.conversation.rows_left == 0

    @invariant()
    def is_small(self) -> None:
        if hasattr(self, "runtime"):
            assert len(self.runtime.auditor.running) <= len(BACKENDS) + 1

    def teardown(self) -> None:
        if hasattr(self, "runtime"):
            self.runtime.receive(End(EndReason.CLIENT_CLOSED))
            self.runtime.auditor.check_closed()


TestConversationMachine = ConversationMachine.TestCase
TestConversationMachine.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
