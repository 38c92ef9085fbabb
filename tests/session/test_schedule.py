"""When steps are made: pure arithmetic on made-up sessions."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from duologue.engine.api import FRAME_S, LatePolicy
from duologue.session.schedule import Schedule


@dataclass
class Waiting:
    arrivals: list[float] = field(default_factory=list)

    @property
    def first_arrived_s(self) -> float:
        return self.arrivals[0]

    def __len__(self) -> int:
        return len(self.arrivals)

    def drop_to(self, count: int) -> int:
        dropped = max(0, len(self.arrivals) - count)
        del self.arrivals[:dropped]
        return dropped


@dataclass
class Talker:
    input: Waiting
    last_step_s: float | None = None


def talker(*arrivals: float, last: float | None = 0.0) -> Talker:
    return Talker(Waiting(list(arrivals)), last)


def schedule(step_s: float = 0.05, **options: object) -> Schedule:
    return Schedule(lambda busy: step_s, last_step_s=0.0, **options)  # type: ignore[arg-type]


def test_a_lone_session_is_served_when_its_frame_comes() -> None:
    one = talker(0.03)
    choice = schedule().choose([one], 0.03)
    assert list(choice.seats) == [one]
    assert choice.due_s == 0.03


def test_nobody_waits_for_who_does_not_talk() -> None:
    silent, new, gone = talker(last=None), talker(last=None), talker(last=-1.0)
    one = talker(0.03)
    assert list(schedule().choose([silent, one, new, gone], 0.03).seats) == [one]


def test_talking_sessions_are_gathered_into_one_step() -> None:
    one, other = talker(0.01), talker()
    rules = schedule()
    waiting = rules.choose([one, other], 0.02)
    assert not waiting.seats
    assert waiting.due_s == pytest.approx(FRAME_S)
    other.input.arrivals.append(0.04)
    both = rules.choose([one, other], 0.04)
    assert list(both.seats) == [one, other]
    assert both.due_s == 0.04


def test_a_late_session_holds_nobody_up_for_more_than_a_frame() -> None:
    one, late = talker(0.01), talker()
    assert list(schedule().choose([one, late], FRAME_S).seats) == [one]


def test_gathering_is_left_out_when_steps_are_cheap() -> None:
    one, other = talker(0.01), talker()
    assert list(schedule(step_s=0.019).choose([one, other], 0.02).seats) == [one]
    assert not schedule(step_s=0.021).choose([one, other], 0.02).seats


def test_a_backlog_is_caught_up_while_there_is_time() -> None:
    behind, other = talker(0.0, 0.01, 0.02), talker()
    rules = schedule(step_s=0.03)
    assert list(rules.choose([behind, other], 0.03).seats) == [behind]
    assert not rules.choose([behind, other], 0.06).seats
    strict = schedule(step_s=0.03, late=LatePolicy.DROP, late_frames=2)
    assert not strict.choose([behind, other], 0.03).seats
    assert behind.input.arrivals == [0.01, 0.02]


def test_starts_are_made_between_steps_and_never_starve() -> None:
    rules = schedule(step_s=0.05)
    talking = [talker(last=0.0)]
    assert rules.has_time_for_start(talking, 0.02)
    rules.last_start_s = 0.02
    assert not rules.has_time_for_start(talking, 0.06)
    assert rules.has_time_for_start(talking, 0.02 + FRAME_S)
    assert rules.has_time_for_start([talker(last=None)], 0.06)
