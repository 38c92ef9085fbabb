"""Retrieval policy, seen through a conversation: published timing, better options, all outcomes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar, cast

import pytest

from duologue.dialogue import (
    CancelLookup,
    CancelReason,
    ConfigError,
    Conversation,
    ConversationConfig,
    EncodeReference,
    EncodingFailed,
    End,
    EndReason,
    FrameInput,
    HedgeMode,
    HedgeRules,
    InjectionKind,
    InjectReference,
    Interrupt,
    LatencyHistogram,
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
    Reset,
    RetrievalCancelled,
    RetrievalFailed,
    RetrievalRules,
    RetrievalStarted,
    RetrievalSucceeded,
    Role,
    SelectBackend,
    SessionEnded,
    Source,
    SpeculationEnded,
    SpeculationOutcome,
    SpeculationRules,
    SpeculationStarted,
    StartLookup,
    TriggerSource,
    UserFrame,
    WaitRule,
    WaitRules,
    Warning,
    WarningCode,
)
from duologue.errors import DuologueError

Kind = TypeVar("Kind")
NO_WAIT = WaitRules(steps=0)
FEW = ("a", "b", "c")


def only(kind: type[Kind], outputs: list[Output]) -> Kind:
    (found,) = of(kind, outputs)
    return found


def of(kind: type[Kind], outputs: list[Output]) -> list[Kind]:
    return [output for output in outputs if isinstance(output, kind)]


class Talk:
    """A conversation in which the user has the floor, driven frame by frame."""

    def __init__(self, config: ConversationConfig | None = None, question: str = " Why?") -> None:
        config = config or ConversationConfig.published()
        self.conversation = Conversation(replace(config, initial_speaker=Role.USER))
        self.log: list[Output] = []
        if question:
            self.frame(words=(question,))

    @classmethod
    def under(cls, question: str = " Why?", **rules: Any) -> Talk:
        rules.setdefault("wait", NO_WAIT)
        return cls(ConversationConfig(retrieval=RetrievalRules(**rules)), question)

    def frame(
        self,
        *,
        words: tuple[str, ...] = (),
        vad: float | None = None,
        text: str | None = None,
        trigger: bool = False,
        sampled: bool = False,
        heard_to: int | None = None,
        **more: Any,
    ) -> list[Output]:
        given = FrameInput(
            frame=self.conversation.frame + 1,
            user=UserFrame(words, vad, heard_to),
            model=ModelFrame(text, trigger),
            sampled_trigger=sampled,
            **more,
        )
        outputs = self.conversation.advance(given)
        self.log += outputs
        return outputs

    def frames(self, count: int) -> list[Output]:
        return [output for _ in range(count) for output in self.frame()]

    def receive(self, given: Any) -> list[Output]:
        outputs = self.conversation.receive(given)
        self.log += outputs
        return outputs

    def phase(self) -> Phase:
        return self.conversation.phase

    def speaker(self) -> Role:
        return self.conversation.active_speaker

    def trigger(self) -> StartLookup:
        """Trigger without a wait and return the first question asked."""
        return of(StartLookup, self.frame(trigger=True))[0]


def test_published_timeline_of_a_retrieval() -> None:
    talk = Talk()
    outputs = talk.frame(trigger=True)
    assert only(RetrievalStarted, outputs) == RetrievalStarted(sequence=1, frame=1)
    assert talk.phase() is Phase.WAITING
    assert not of(StartLookup, talk.frames(10))
    asked = only(StartLookup, talk.frame())
    assert asked.frame == 1 + 11, "the trigger's own frame is the first of 12 steps"
    assert (asked.backend, asked.sequence, asked.deadline_frame) == ("default", 1, 12 + 19)
    assert asked.context.prompt == "Human: Why?\nReference:"
    assert talk.phase() is Phase.RETRIEVING
    talk.frames(5)
    source = Source("notes", "notes.md#3")
    answer = LookupAnswered(asked.lookup, "Because.", (source,), 0.8, "Ada 2")
    succeeded, encode = talk.frame(replies=(answer,))
    assert isinstance(succeeded, RetrievalSucceeded)
    assert (succeeded.latency, succeeded.lookup_latency) == (17, 6)
    assert (succeeded.text, succeeded.label, succeeded.sources) == ("Because.", "Ada 2", (source,))
    assert succeeded.outcome is Outcome.ANSWERED
    assert isinstance(encode, EncodeReference)
    assert talk.phase() is Phase.ENCODING
    outputs = talk.receive(ReferenceEncoded(1, encode.part, rows=3))
    assert only(InjectReference, outputs).append is False
    assert only(ReferenceInjected, outputs) == ReferenceInjected(1, 18, 3)
    assert talk.phase() is Phase.IDLE
    rows = []
    for _ in range(4):
        talk.frame()
        rows.append(talk.conversation.row_added and talk.conversation.row_added.row)
    assert rows == [0, 1, 2, None]


@pytest.mark.parametrize(("steps", "waited"), [(0, 0), (1, 0), (2, 1), (6, 5), (12, 11)])
def test_fixed_wait_counts_the_trigger_frame(steps: int, waited: int) -> None:
    talk = Talk.under(wait=WaitRules(steps=steps))
    talk.frame(trigger=True)
    talk.frames(20)
    assert only(StartLookup, talk.log).frame == 1 + waited


def test_trigger_frame_gives_no_text() -> None:
    talk = Talk.under()
    talk.frame(text="<ret>", trigger=True)
    assert talk.conversation.transcript.context_string() == "user:  Why?"


def test_references_are_replayed_in_the_next_prompt() -> None:
    talk = Talk.under()
    talk.receive(LookupAnswered(talk.trigger().lookup, "Because."))
    talk.frame(words=(" Really?",))
    assert talk.trigger().context.prompt == "Human: Why? Really?\nReference: Because.\nReference:"


def test_zero_latency_back_end_reaches_the_very_next_frame() -> None:
    talk = Talk.under()
    asked = talk.trigger()
    outputs = talk.receive(LookupAnswered(asked.lookup, "Now.", rows=2))
    assert [type(output) for output in outputs] == [
        RetrievalSucceeded,
        InjectReference,
        ReferenceInjected,
    ]
    assert only(RetrievalSucceeded, outputs).latency == 0
    talk.frame()
    assert talk.conversation.row_added is not None


def test_nothing_said_yet_is_empty_and_asks_nobody() -> None:
    talk = Talk.under(question="")
    failed = only(RetrievalFailed, talk.frame(trigger=True))
    assert (failed.outcome, failed.backend, failed.lookup_latency) == (Outcome.EMPTY, "", None)
    assert not of(StartLookup, talk.log)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (LookupAnswered(1, " \n "), Outcome.EMPTY),
        (LookupFailed(1, "boom"), Outcome.FAILED),
        (LookupFailed(1, "slow", timed_out=True), Outcome.TIMED_OUT),
    ],
)
def test_failures_are_outcomes(reply: LookupAnswered | LookupFailed, outcome: Outcome) -> None:
    talk = Talk.under()
    assert talk.trigger().lookup == 1
    outputs = talk.receive(reply)
    assert only(RetrievalFailed, outputs).outcome is outcome
    assert only(InjectReference, outputs).kind is InjectionKind.ZERO
    assert not of(CancelLookup, talk.log)
    assert talk.phase() is Phase.IDLE


def test_never_answering_back_end_times_out() -> None:
    talk = Talk.under(deadline_frames=5)
    asked = talk.trigger()
    assert asked.deadline_frame == asked.frame + 5
    talk.frames(4)
    outputs = talk.frame()
    assert only(CancelLookup, outputs).lookup == asked.lookup
    failed = only(RetrievalFailed, outputs)
    assert (failed.outcome, failed.latency, failed.backend) == (Outcome.TIMED_OUT, 5, "default")
    assert talk.receive(LookupAnswered(asked.lookup, "Late.")) == []
    assert talk.conversation.counters.stale_replies == 1


def test_an_answer_in_the_deadline_frame_counts() -> None:
    talk = Talk.under(deadline_frames=5)
    asked = talk.trigger()
    talk.frames(4)
    outputs = talk.frame(replies=(LookupAnswered(asked.lookup, "Just."),))
    assert only(RetrievalSucceeded, outputs).latency == 5


@pytest.mark.parametrize(
    ("on_failure", "kinds"),
    [
        (OnFailure.NOTHING, []),
        (OnFailure.ZERO, [InjectionKind.ZERO]),
        (OnFailure.LEARNT_PADDING, [InjectionKind.LEARNT_PADDING]),
    ],
)
def test_what_the_model_gets_for_a_failure(
    on_failure: OnFailure, kinds: list[InjectionKind]
) -> None:
    talk = Talk.under(reference=ReferenceRules(on_failure=on_failure))
    outputs = talk.receive(LookupFailed(talk.trigger().lookup, "boom"))
    assert [command.kind for command in of(InjectReference, outputs)] == kinds
    assert not of(ReferenceInjected, outputs)


def test_a_newer_trigger_wins_in_every_phase() -> None:
    talk = Talk.under(wait=WaitRules(steps=3))
    talk.frame(trigger=True)
    waiting = only(RetrievalCancelled, talk.frame(trigger=True))
    assert (waiting.sequence, waiting.reason) == (1, CancelReason.SUPERSEDED)
    assert waiting.lookup_latency is None
    talk.frames(2)
    second = only(StartLookup, talk.log)
    outputs = talk.frame(trigger=True)
    assert only(CancelLookup, outputs).lookup == second.lookup
    assert only(RetrievalCancelled, outputs).sequence == 2
    assert talk.receive(LookupAnswered(second.lookup, "Old.")) == []
    talk.frames(2)
    third = of(StartLookup, talk.log)[-1]
    talk.receive(LookupAnswered(third.lookup, "Third."))
    dropped = only(Warning, talk.frame(trigger=True))
    assert (dropped.code, dropped.sequence) == (WarningCode.REFERENCE_DROPPED, 3)
    assert talk.receive(ReferenceEncoded(3, 0, rows=4)) == []
    assert not of(InjectReference, talk.log)


def test_rows_of_an_older_reference_are_not_taken_for_the_newer_one() -> None:
    talk = Talk.under()
    talk.receive(LookupAnswered(talk.trigger().lookup, "One."))
    talk.receive(LookupAnswered(talk.trigger().lookup, "Two."))
    assert talk.receive(ReferenceEncoded(1, 0, rows=7)) == []
    assert only(InjectReference, talk.receive(ReferenceEncoded(2, 0, rows=2))).rows == 2


def test_rows_already_installed_run_on_until_the_newer_reference_comes() -> None:
    talk = Talk.under()
    talk.receive(LookupAnswered(talk.trigger().lookup, "One.", rows=10))
    asked = talk.trigger()
    assert talk.conversation.rows_left == 9
    talk.receive(LookupAnswered(asked.lookup, "Two.", rows=2))
    assert talk.conversation.rows_left == 2
    talk.frame()
    assert talk.conversation.row_added is not None
    assert talk.conversation.row_added.sequence == 2


def test_repeated_triggers_may_be_taken_for_one() -> None:
    talk = Talk.under(refractory_frames=3)
    for _ in range(3):
        talk.frame(trigger=True)
    assert len(of(RetrievalStarted, talk.log)) == 1
    talk.frame(trigger=True)
    assert len(of(RetrievalStarted, talk.log)) == 2


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        (Interrupt(), CancelReason.BARGE_IN),
        (Reset(), CancelReason.RESET),
        (End(EndReason.CLIENT_CLOSED), CancelReason.SESSION_ENDED),
    ],
)
def test_controls_cancel_the_open_retrieval(control: Any, reason: CancelReason) -> None:
    talk = Talk.under()
    asked = talk.trigger()
    outputs = talk.receive(control)
    assert only(CancelLookup, outputs).lookup == asked.lookup
    cancelled = only(RetrievalCancelled, outputs)
    assert (cancelled.reason, cancelled.outcome) == (reason, Outcome.CANCELLED)
    assert not of(InjectReference, outputs)
    assert talk.receive(LookupAnswered(asked.lookup, "Late.")) == []
    assert talk.conversation.ended is (reason is CancelReason.SESSION_ENDED)


def test_controls_drop_what_is_being_encoded() -> None:
    talk = Talk.under()
    talk.receive(LookupAnswered(talk.trigger().lookup, "Yes."))
    assert only(Warning, talk.receive(Interrupt())).code is WarningCode.REFERENCE_DROPPED
    assert talk.receive(ReferenceEncoded(1, 0, rows=1)) == []


@pytest.mark.parametrize("cancels", [False, True])
def test_the_user_taking_the_floor_may_cancel(cancels: bool) -> None:
    talk = Talk.under(cancel_on_user_turn=cancels)
    talk.frame(text=" Well")
    for _ in range(30):
        talk.frame(vad=0.9)
    assert talk.speaker() is Role.MODEL
    talk.trigger()
    for _ in range(4):
        talk.frame(vad=0.1)
    assert talk.speaker() is Role.USER
    assert [event.reason for event in of(RetrievalCancelled, talk.log)] == (
        [CancelReason.BARGE_IN] if cancels else []
    )


def test_sampled_trigger_is_one_frame_earlier() -> None:
    talk = Talk.under(trigger=TriggerSource.SAMPLED)
    assert only(RetrievalStarted, talk.frame(sampled=True)).frame == 1
    assert not of(RetrievalStarted, talk.frame(trigger=True))
    released = Talk.under()
    assert not of(RetrievalStarted, released.frame(sampled=True))
    assert only(RetrievalStarted, released.frame(trigger=True)).frame == 2


# Waiting for speech recognition.


def caught_up(steps: int = 12) -> WaitRules:
    return WaitRules(rule=WaitRule.CAUGHT_UP, steps=steps, stt_delay_frames=6)


@pytest.mark.parametrize(
    ("rule", "delay", "steps"),
    [
        (WaitRule.CAUGHT_UP, 6, 12),
        (WaitRule.CAUGHT_UP, 12, 13),
        (WaitRule.CAUGHT_UP, 16, 17),
        (WaitRule.CAUGHT_UP, 19, 20),
        (WaitRule.CAUGHT_UP, 31, 12),
        (WaitRule.FIXED, 16, 12),
    ],
)
def test_a_wait_is_long_enough_for_the_last_word(rule: WaitRule, delay: int, steps: int) -> None:
    """Unless that comes so late that nobody would wait for it, or the wait is the published one."""
    wait = WaitRules(rule=rule, steps=12).behind(delay)
    assert (wait.rule, wait.steps, wait.stt_delay_frames) == (rule, steps, delay)


@pytest.mark.parametrize(("silent", "waited"), [(0, 5), (2, 3), (5, 0), (30, 0)])
def test_lookup_starts_when_the_stt_has_caught_up(silent: int, waited: int) -> None:
    talk = Talk.under(wait=caught_up())
    for _ in range(20):
        talk.frame(vad=0.1)
    for _ in range(silent):
        talk.frame(vad=0.9)
    triggered = only(RetrievalStarted, talk.frame(vad=0.9, trigger=True)).frame
    for _ in range(12):
        talk.frame(vad=0.9)
    assert only(StartLookup, talk.log).frame == triggered + waited


def test_a_recogniser_that_knows_how_far_it_is_shortens_the_wait() -> None:
    talk = Talk.under(wait=caught_up())
    talk.frame(vad=0.1, heard_to=0)
    talk.frame(vad=0.9, heard_to=0, trigger=True)
    assert not of(StartLookup, talk.log)
    talk.frame(vad=0.9, heard_to=2)
    assert only(StartLookup, talk.log).frame == 3


def test_the_wait_is_capped_while_the_user_talks_on() -> None:
    talk = Talk.under(wait=caught_up(steps=4))
    talk.frame(vad=0.1)
    talk.frame(vad=0.1, trigger=True)
    for _ in range(6):
        talk.frame(vad=0.1)
    assert only(StartLookup, talk.log).frame == 2 + 3


def test_without_pause_estimates_the_question_ends_at_the_trigger() -> None:
    talk = Talk.under(wait=caught_up())
    talk.frame(trigger=True)
    talk.frames(20)
    assert only(StartLookup, talk.log).frame == 1 + 6


# Several back ends.


def test_published_default_is_asked_alone_and_another_choice_with_it() -> None:
    talk = Talk.under(hedge=HedgeRules(HedgeMode.PARALLEL, FEW))
    assert talk.trigger().backend == "a"
    assert len(of(StartLookup, talk.log)) == 1
    talk.receive(SelectBackend("b"))
    talk.frame(trigger=True)
    assert [asked.backend for asked in of(StartLookup, talk.log)] == ["a", "b", "a"]


def parallel_pair() -> tuple[Talk, int, int]:
    talk = Talk.under(hedge=HedgeRules(HedgeMode.PARALLEL, FEW), deadline_frames=6)
    talk.receive(SelectBackend("b"))
    chosen, default = of(StartLookup, talk.frame(trigger=True))
    return talk, chosen.lookup, default.lookup


def test_parallel_prefers_the_chosen_back_end_and_does_not_wait_for_the_other() -> None:
    talk, chosen, default = parallel_pair()
    outputs = talk.receive(LookupAnswered(chosen, "Mine."))
    assert only(RetrievalSucceeded, outputs).backend == "b"
    assert only(CancelLookup, outputs).lookup == default
    talk, chosen, default = parallel_pair()
    assert talk.receive(LookupAnswered(default, "Theirs.")) == []
    outputs = talk.receive(LookupAnswered(chosen, "Mine."))
    assert only(RetrievalSucceeded, outputs).text == "Mine."


@pytest.mark.parametrize("silent", [True, False])
def test_parallel_falls_back_to_the_default(silent: bool) -> None:
    talk, chosen, default = parallel_pair()
    talk.receive(LookupAnswered(default, "Theirs."))
    outputs = talk.frames(6) if silent else talk.receive(LookupFailed(chosen, "boom"))
    succeeded = only(RetrievalSucceeded, outputs)
    assert (succeeded.backend, succeeded.complete) == ("a", True)


def test_unknown_back_end_is_refused() -> None:
    talk = Talk.under()
    assert only(Warning, talk.receive(SelectBackend("x"))).code is WarningCode.UNKNOWN_BACKEND
    assert talk.trigger().backend == "default"


def delayed(**rules: Any) -> Talk:
    return Talk.under(hedge=HedgeRules(HedgeMode.DELAYED, FEW, **rules), deadline_frames=19)


def test_the_second_is_asked_after_the_delay_and_the_first_answer_wins() -> None:
    talk = delayed(first_delay_frames=4)
    first = talk.trigger()
    talk.frames(3)
    assert len(of(StartLookup, talk.log)) == 1
    second = only(StartLookup, talk.frame())
    assert (second.backend, second.frame, second.deadline_frame) == ("b", 5, first.deadline_frame)
    outputs = talk.receive(LookupAnswered(second.lookup, "Quick."))
    assert only(CancelLookup, outputs).lookup == first.lookup
    succeeded = only(RetrievalSucceeded, outputs)
    assert (succeeded.backend, succeeded.lookup_latency) == ("b", 4)


def test_the_second_is_asked_at_once_when_the_first_fails() -> None:
    talk = delayed()
    outputs = talk.receive(LookupFailed(talk.trigger().lookup, "boom"))
    second = only(StartLookup, outputs)
    third = only(StartLookup, talk.receive(LookupAnswered(second.lookup, "")))
    failed = only(RetrievalFailed, talk.receive(LookupFailed(third.lookup, "bang")))
    assert (failed.outcome, failed.backend) == (Outcome.EMPTY, "b")


def test_an_unsure_answer_counts_as_empty() -> None:
    talk = delayed(min_confidence=0.5)
    outputs = talk.receive(LookupAnswered(talk.trigger().lookup, "Maybe.", confidence=0.4))
    outputs = talk.receive(
        LookupAnswered(only(StartLookup, outputs).lookup, "Surely.", confidence=0.5)
    )
    assert only(RetrievalSucceeded, outputs).text == "Surely."


def test_the_delay_is_learnt() -> None:
    talk = delayed(first_delay_frames=9, min_samples=3, quantile=0.9)
    for _ in range(4):
        asked = talk.trigger()
        talk.frames(2)
        talk.receive(LookupAnswered(asked.lookup, "Yes."))
    asked = talk.trigger()
    talk.frames(2)
    assert len(of(StartLookup, talk.log)) == 5
    assert only(StartLookup, talk.frame()).frame == asked.frame + 3
    learnt = talk.conversation.latencies
    assert learnt["a"].quantile(0.9) == 2
    config = talk.conversation.config
    assert Conversation(config, latencies=learnt).latencies == learnt


def test_latency_quantiles_follow_the_back_end() -> None:
    seen = LatencyHistogram()
    assert seen.quantile(0.9) == 0
    for frames in (1, 1, 1, 1, 1, 1, 1, 1, 1, 50):
        seen.observe(frames)
    assert (seen.quantile(0.5), seen.quantile(1.0)) == (1, 50)
    for _ in range(200):
        seen.observe(1_000_000)
    assert seen.quantile(0.5) == 63
    assert len(seen.weights) == 64


# Answers in parts.


def test_parts_are_injected_in_order_one_behind_the_other() -> None:
    talk = Talk.under()
    asked = talk.trigger()
    outputs = talk.receive(LookupAnswered(asked.lookup, "One.", final=False))
    assert [type(output) for output in outputs] == [EncodeReference]
    talk.receive(LookupAnswered(asked.lookup, "Two.", final=False))
    outputs = talk.receive(LookupAnswered(asked.lookup, ""))
    assert only(RetrievalSucceeded, outputs).text == "One. Two."
    assert talk.receive(ReferenceEncoded(1, 1, rows=5)) == [], "part 0 comes first"
    commands = of(InjectReference, talk.receive(ReferenceEncoded(1, 0, rows=3)))
    assert [(c.part, c.rows, c.append) for c in commands] == [(0, 3, False), (1, 5, True)]
    assert talk.conversation.rows_left == 8


def test_an_answer_cut_off_by_its_deadline_is_incomplete() -> None:
    talk = Talk.under(deadline_frames=3)
    asked = talk.trigger()
    talk.receive(LookupAnswered(asked.lookup, "One.", final=False))
    outputs = talk.frames(3)
    assert only(CancelLookup, outputs).lookup == asked.lookup
    succeeded = only(RetrievalSucceeded, outputs)
    assert (succeeded.text, succeeded.complete) == ("One.", False)


def test_a_part_that_can_not_be_encoded_is_left_out() -> None:
    talk = Talk.under()
    asked = talk.trigger()
    talk.receive(LookupAnswered(asked.lookup, "One.", final=False))
    talk.receive(LookupAnswered(asked.lookup, "Two."))
    assert talk.receive(ReferenceEncoded(1, 1, rows=5)) == []
    outputs = talk.receive(EncodingFailed(1, 0, "no GPU"))
    assert only(Warning, outputs).code is WarningCode.ENCODING_FAILED
    assert only(InjectReference, outputs).append is False


def test_an_encoder_that_never_answers_is_given_up() -> None:
    talk = Talk.under(reference=ReferenceRules(encode_deadline_frames=4))
    talk.receive(LookupAnswered(talk.trigger().lookup, "One."))
    outputs = talk.frames(4)
    assert only(Warning, outputs).code is WarningCode.ENCODING_TIMED_OUT
    assert talk.phase() is Phase.IDLE
    assert talk.receive(ReferenceEncoded(1, 0, rows=5)) == []


def test_references_are_bounded() -> None:
    rules = ReferenceRules(max_characters=20, max_parts=2, max_rows=6)
    talk = Talk.under(reference=rules)
    asked = talk.trigger()
    talk.receive(LookupAnswered(asked.lookup, "one two", final=False, rows=4))
    talk.receive(LookupAnswered(asked.lookup, "three four five six", final=False, rows=4))
    outputs = talk.receive(LookupAnswered(asked.lookup, "seven", rows=4))
    assert only(RetrievalSucceeded, outputs).text == "one two three four"
    assert only(RetrievalSucceeded, outputs).complete is False
    assert only(Warning, outputs).code is WarningCode.REFERENCE_TRUNCATED
    encode = of(EncodeReference, talk.log)[-1]
    assert encode.text == "three four", "rows of a text that was cut do not count"
    outputs = talk.receive(ReferenceEncoded(1, encode.part, rows=4))
    assert only(InjectReference, outputs).rows == 2


def test_nothing_said_is_asked_only_of_those_who_need_no_words() -> None:
    silent = Talk.under(question="")
    failed = only(RetrievalFailed, silent.frame(trigger=True))
    assert (failed.outcome, failed.reason) == (Outcome.EMPTY, "nothing has been said yet")
    knowing = Talk.under(question="", needs_words=False)
    asked = knowing.trigger()
    assert asked.context.turns == ()
    assert of(RetrievalSucceeded, knowing.receive(LookupAnswered(asked.lookup, "Known.")))


# Speculation.


def guessing(**rules: Any) -> Talk:
    speculation = SpeculationRules(enabled=True, stable_frames=3, **rules)
    hedge = HedgeRules(HedgeMode.DELAYED, ("a", "b"), first_delay_frames=4)
    return Talk.under(speculation=speculation, hedge=hedge, deadline_frames=10)


def test_a_settled_question_is_looked_up_before_the_trigger_and_adopted() -> None:
    talk = guessing()
    talk.frames(3)
    started, asked = only(SpeculationStarted, talk.log), only(StartLookup, talk.log)
    assert (started.frame, started.lookup, asked.sequence) == (3, asked.lookup, None)
    assert talk.receive(LookupAnswered(asked.lookup, "Known.")) == []
    outputs = talk.frame(trigger=True)
    kinds = [type(output) for output in outputs]
    assert kinds == [RetrievalStarted, SpeculationEnded, RetrievalSucceeded, EncodeReference]
    ended = only(SpeculationEnded, outputs)
    assert (ended.outcome, ended.sequence) == (SpeculationOutcome.ADOPTED, 1)
    succeeded = only(RetrievalSucceeded, outputs)
    assert (succeeded.latency, succeeded.lookup_latency, succeeded.speculative) == (0, 1, True)


def test_gaps_between_words_are_no_occasion_to_guess_while_the_user_is_heard() -> None:
    talk = guessing()
    for word in (" is", " it", " so", " far", " from", " here"):
        talk.frame(words=(word,), vad=0.1)
        for _ in range(3):
            talk.frame(vad=0.1)
    assert not of(SpeculationStarted, talk.log)
    for _ in range(3):
        talk.frame(vad=0.9)
    (asked,) = of(StartLookup, talk.log)
    assert asked.context.question == "Why? is it so far from here"


def test_a_running_speculation_is_adopted_with_its_hedge() -> None:
    talk = guessing()
    talk.frames(3)
    asked = only(StartLookup, talk.log)
    talk.frames(2)
    assert not of(StartLookup, talk.frame(trigger=True))
    assert only(StartLookup, talk.frame()).backend == "b", "four frames after the first question"
    outputs = talk.receive(LookupAnswered(asked.lookup, "Known."))
    assert only(RetrievalSucceeded, outputs).backend == "a"


def test_a_changed_text_throws_the_speculation_away() -> None:
    talk = guessing()
    talk.frames(3)
    asked = only(StartLookup, talk.log)
    assert not of(SpeculationEnded, talk.frame(words=("  ",)))
    outputs = talk.frame(words=(" not",))
    assert only(CancelLookup, outputs).lookup == asked.lookup
    assert only(SpeculationEnded, outputs).outcome is SpeculationOutcome.TEXT_CHANGED
    again = only(StartLookup, talk.frames(3))
    assert again.context.question == "Why?   not"
    assert talk.receive(LookupAnswered(asked.lookup, "Stale.")) == []


def test_words_during_the_wait_throw_a_ready_answer_away() -> None:
    speculation = SpeculationRules(enabled=True)
    talk = Talk.under(speculation=speculation, wait=WaitRules(steps=4))
    talk.frames(3)
    talk.receive(LookupAnswered(only(StartLookup, talk.log).lookup, "Stale."))
    talk.frame(trigger=True)
    talk.frame(words=(" not",))
    talk.frames(2)
    assert only(SpeculationEnded, talk.log).outcome is SpeculationOutcome.TEXT_CHANGED
    asked = of(StartLookup, talk.log)[-1]
    assert (asked.sequence, asked.context.question) == (1, "Why? not")
    assert not of(RetrievalSucceeded, talk.log)


def test_an_answer_to_an_earlier_turn_is_not_adopted() -> None:
    talk = guessing(lifetime_frames=500)
    talk.frame(text=" Well")
    for vad in [0.9] * 30 + [0.1] * 4:
        talk.frame(vad=vad)
    assert [turn.role for turn in talk.conversation.transcript.turns] == [
        Role.USER,
        Role.MODEL,
        Role.USER,
    ]
    outputs = talk.frame(trigger=True)
    assert only(SpeculationEnded, outputs).outcome is SpeculationOutcome.TEXT_CHANGED
    assert only(StartLookup, outputs).sequence == 1


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (LookupAnswered(1, ""), SpeculationOutcome.EMPTY),
        (LookupFailed(1, "boom"), SpeculationOutcome.FAILED),
    ],
)
def test_a_failed_speculation_is_forgotten(reply: Any, outcome: SpeculationOutcome) -> None:
    talk = guessing()
    talk.frames(3)
    assert only(SpeculationEnded, talk.receive(reply)).outcome is outcome
    assert not of(StartLookup, talk.frames(10)), "the same words are not guessed twice"
    assert talk.trigger().sequence == 1


def test_speculation_expires_and_is_limited() -> None:
    talk = guessing(lifetime_frames=5, limit=2)
    for word in (" a", " b", " c"):
        talk.frame(words=(word,))
        talk.frames(10)
    outcomes = [ended.outcome for ended in of(SpeculationEnded, talk.log)]
    assert outcomes == [SpeculationOutcome.EXPIRED] * 2
    assert len(of(CancelLookup, talk.log)) == 2
    talk.receive(Reset())
    talk.frame(words=(" d",))
    assert of(SpeculationStarted, talk.frames(3))


# The session.


def test_session_ends_at_its_last_frame() -> None:
    talk = Talk(ConversationConfig(max_frames=3, retrieval=RetrievalRules(wait=NO_WAIT)))
    talk.trigger()
    outputs = talk.frame()
    assert only(RetrievalCancelled, outputs).reason is CancelReason.SESSION_ENDED
    assert outputs[-1] == SessionEnded(2, EndReason.FRAME_LIMIT, "3 frames")


def test_presets() -> None:
    assert ConversationConfig() == ConversationConfig.published()
    live = ConversationConfig.published().retrieval
    assert (live.wait.steps, live.deadline_frames) == (12, 19)
    offline = ConversationConfig.published_offline()
    assert (offline.turns.stt_wait_steps, offline.retrieval.deadline_frames) == (6, 125)
    assert offline.initial_speaker is Role.USER
    unlimited = ConversationConfig.published(rag_timeout_s=0)
    assert unlimited.retrieval.deadline_frames == 4500
    improved = ConversationConfig.improved(backends=("kb", "llm"))
    assert improved.retrieval.hedge.backends == ("kb", "llm")
    assert improved.turns.cancel_on_reversal


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ConversationConfig(max_frames=0), "ConversationConfig.max_frames"),
        (lambda: RetrievalRules(deadline_frames=0), "RetrievalRules.deadline_frames"),
        (lambda: RetrievalRules(hedge=cast(Any, 3)), "RetrievalRules.hedge"),
        (lambda: WaitRules(steps=True), "WaitRules.steps"),
        (lambda: HedgeRules(backends=()), "HedgeRules.backends"),
        (lambda: HedgeRules(backends=("a", "a")), "HedgeRules.backends"),
        (lambda: HedgeRules(backends=("",)), "HedgeRules.backends"),
        (lambda: HedgeRules(quantile=float("nan")), "HedgeRules.quantile"),
        (lambda: SpeculationRules(limit=0), "SpeculationRules.limit"),
        (lambda: ReferenceRules(max_rows=0), "ReferenceRules.max_rows"),
    ],
)
def test_settings_errors_name_the_field(make: Any, field: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(field)
    assert isinstance(error.value, DuologueError), "it can be told"
    assert isinstance(error.value, ValueError)
