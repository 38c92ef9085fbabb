"""Reference rows against frames, and latency simulated in model time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.dialogue import (
    Conversation,
    ConversationConfig,
    FrameInput,
    IllegalMove,
    InjectionLedger,
    InjectReference,
    LatencyMode,
    LookupAnswered,
    ModelFrame,
    Outcome,
    Output,
    ReferenceInjected,
    RetrievalFailed,
    StartLookup,
    UserFrame,
    frames_covering,
    frames_within,
)
from duologue.dialogue.model_time import MAX_HELD_REPLIES, HeldReplies


def inject(sequence: int, rows: int, append: bool = False) -> InjectReference:
    return InjectReference(sequence, 0, 0, rows, append=append)


def test_row_k_goes_into_the_kth_frame_after_arrival() -> None:
    ledger = InjectionLedger()
    assert ledger.step() is None
    ledger.install(inject(1, 3))
    rows = [ledger.step() for _ in range(4)]
    assert [row and row.row for row in rows] == [0, 1, 2, None]


def test_a_newer_reference_replaces_the_rest() -> None:
    ledger = InjectionLedger()
    ledger.install(inject(1, 5))
    ledger.step()
    ledger.install(inject(2, 2))
    rows = [ledger.step() for _ in range(3)]
    assert [row and (row.sequence, row.row) for row in rows] == [(2, 0), (2, 1), None]


def test_parts_of_one_reference_follow_each_other_even_over_a_gap() -> None:
    ledger = InjectionLedger()
    ledger.install(inject(1, 1))
    ledger.step()
    ledger.step()
    ledger.install(inject(1, 2, append=True))
    rows = [ledger.step() for _ in range(3)]
    assert [row and row.row for row in rows] == [1, 2, None]


def test_an_older_reference_is_refused() -> None:
    ledger = InjectionLedger()
    ledger.install(inject(2, 1))
    with pytest.raises(IllegalMove):
        ledger.install(inject(1, 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.tuples(st.booleans(), st.integers(1, 9))), max_size=60))
def test_ledger_agrees_with_a_plain_queue(script: list[tuple[bool, int] | None]) -> None:
    ledger = InjectionLedger()
    queue: list[tuple[int, int]] = []
    sequence, next_row = 0, 0
    for entry in script:
        if entry is None:
            expected = queue.pop(0) if queue else None
            row = ledger.step()
            assert (row and (row.sequence, row.row)) == expected
            continue
        append, rows = entry
        if not append or sequence == 0:
            sequence, next_row = sequence + 1, 0
            queue.clear()
        queue += [(sequence, next_row + k) for k in range(rows)]
        next_row += rows
        ledger.install(inject(sequence, rows, append))
        assert ledger.left == len(queue)


@pytest.mark.parametrize(
    ("seconds", "within", "covering"),
    [(0, 0, 0), (0.08, 1, 1), (0.5, 6, 7), (1.0, 12, 13), (1.5, 18, 19), (10.0, 125, 125)],
)
def test_seconds_to_frames(seconds: float, within: int, covering: int) -> None:
    assert (frames_within(seconds), frames_covering(seconds)) == (within, covering)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_durations_are_checked(seconds: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        frames_within(seconds)


class Offline:
    """The published offline run: the model's clock stands still while a lookup runs."""

    def __init__(self) -> None:
        self.conversation = Conversation(ConversationConfig.published_offline())
        self.log: list[Output] = []
        self.frame(words=(" Why?",))

    def frame(self, words: tuple[str, ...] = (), trigger: bool = False) -> list[Output]:
        given = FrameInput(self.conversation.frame + 1, UserFrame(words), ModelFrame(None, trigger))
        outputs = self.conversation.advance(given)
        self.log += outputs
        return outputs

    def ask(self) -> StartLookup:
        self.frame(trigger=True)
        while True:
            for output in self.log:
                if isinstance(output, StartLookup):
                    return output
            self.frame()


@pytest.mark.parametrize(("elapsed_s", "frames"), [(0.0, 0), (0.079, 0), (0.08, 1), (1.0, 12)])
def test_measured_latency_passes_in_model_time(elapsed_s: float, frames: int) -> None:
    run = Offline()
    asked = run.ask()
    assert asked.frame == 1 + 5, "six steps, the trigger's frame included"
    run.log += run.conversation.receive(
        LookupAnswered(asked.lookup, "Because.", rows=2, elapsed_s=elapsed_s)
    )
    for _ in range(20):
        run.frame()
    (injected,) = (output for output in run.log if isinstance(output, ReferenceInjected))
    assert injected.frame == asked.frame + frames


def test_a_lookup_too_slow_in_model_time_times_out() -> None:
    run = Offline()
    asked = run.ask()
    run.conversation.receive(LookupAnswered(asked.lookup, "Because.", elapsed_s=11.0))
    for _ in range(150):
        run.frame()
    (failed,) = (output for output in run.log if isinstance(output, RetrievalFailed))
    assert failed.outcome is Outcome.TIMED_OUT
    assert run.conversation.counters.stale_replies == 1


def test_replies_become_due_in_order_and_are_not_lost() -> None:
    held = HeldReplies()
    replies = [LookupAnswered(number, "") for number in range(4)]
    for reply, due_frame in zip(replies, (3, 2, 2, 9), strict=True):
        assert held.hold(reply, due_frame, lambda _: True)
    assert [held.take_due(frame) for frame in (1, 2, 3, 4)] == [
        [],
        [replies[1], replies[2]],
        [replies[0]],
        [],
    ]
    assert held.take_due(20) == [replies[3]]


def test_replies_held_back_are_bounded() -> None:
    run = Offline()
    asked = run.ask()
    for _ in range(MAX_HELD_REPLIES + 5):
        part = LookupAnswered(asked.lookup, "word", final=False, elapsed_s=1.0)
        run.conversation.receive(part)
    assert run.conversation.counters.held_replies_dropped == 5
    assert run.conversation.config.latency is LatencyMode.SIMULATED
