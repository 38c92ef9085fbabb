"""What is heard over all connections: clock, repetitions and bounds, without sockets."""

from __future__ import annotations

import numpy as np
import pytest

from duologue.stt.ports import Heard
from duologue.stt.remote.hearing import MAX_PENDING, Hearing
from duologue.stt.remote.link import Lost
from duologue.stt.remote.wire import Ended, Flushed, Progress, Refused, Text, TextEnd

FRAME = np.zeros(1920, dtype=np.float32)


def sending(frames: int) -> Hearing:
    """A hearing that has sent so many frames on its first connection."""
    hearing = Hearing()
    hearing.begin()
    send(hearing, frames)
    return hearing


def send(hearing: Hearing, frames: int) -> None:
    for _ in range(frames):
        hearing.backlog.push(FRAME)
    while hearing.next_frame() is not None:
        pass


def starts(heard: Heard) -> list[tuple[str, float]]:
    return [(word.text, round(word.start_s, 2)) for word in heard.completed]


def test_groups_of_words_and_their_ends() -> None:
    hearing = sending(20)
    for event in (Text("good  day", 0.4), TextEnd(0.9), Text("you", 1.2)):
        hearing.understand(event)
    heard = hearing.take()
    assert heard.words == (" good", " day", " you")
    assert [(w.start_s, w.end_s) for w in heard.completed] == [(0.4, None), (0.4, 0.9), (1.2, None)]
    hearing.understand(TextEnd(1.5))
    assert hearing.take() == Heard((), None, -1, ())


def test_pending_words_are_bounded() -> None:
    hearing = sending(1)
    for number in range(MAX_PENDING + 7):
        hearing.understand(Text(f"w{number}", 0.0))
    heard = hearing.take()
    assert len(heard.words) == len(heard.completed) == MAX_PENDING
    assert heard.words[-1] == f" w{MAX_PENDING + 6}"
    assert hearing.words_dropped == 7


def test_words_that_came_before_are_known_again() -> None:
    hearing = sending(30)
    for text, start_s in (("to", 0.4), ("be", 0.8), ("or", 1.2)):
        hearing.understand(Text(text, start_s))
    hearing.understand(Progress(transcribed=11))
    hearing.take()
    hearing.begin()
    send(hearing, 10)
    # The new connection begins at frame 11, and hears things a little differently.
    shift = 11 * 0.08
    for text, start_s in (("Be", 0.8), ("or", 1.28), ("or", 1.76), ("not", 2.0)):
        hearing.understand(Text(text, max(0.0, start_s - shift)))
    assert starts(hearing.take()) == [("or", 1.76), ("not", 2.0)]


@pytest.mark.parametrize("counted", [True, False])
def test_a_flush_keeps_the_clock_whether_or_not_its_silence_is_counted(counted: bool) -> None:
    hearing = sending(25)
    hearing.ask()
    assert hearing.next_flush() == 1
    hearing.flush_sent(0)
    assert hearing.next_flush() is None
    send(hearing, 2)
    # Sixteen frames of silence flush the service's model.
    hearing.understand(Progress(processed=25 + 16 * counted))
    hearing.understand(Flushed(1))
    assert hearing.flushed
    assert hearing.take().transcribed_frame == 24
    send(hearing, 30)
    hearing.understand(Text("next", (40 + 16 * counted) * 0.08))
    hearing.understand(Progress(transcribed=45 + 16 * counted))
    heard = hearing.take()
    assert starts(heard) == [("next", 3.2)]
    assert heard.transcribed_frame == 44


def test_a_flush_waits_for_its_frames_and_is_asked_again_after_a_loss() -> None:
    hearing = Hearing()
    hearing.begin()
    for _ in range(3):
        hearing.backlog.push(FRAME)
    hearing.ask()
    hearing.backlog.push(FRAME)
    for _ in range(3):
        assert hearing.next_frame() is not None
    assert hearing.next_frame() is None, "the fourth frame comes after the flush"
    assert hearing.next_flush() == 1
    assert hearing.next_frame() is not None
    hearing.understand(Flushed(9))
    assert not hearing.flushed, "an answer to nothing that was asked"
    hearing.begin()
    for _ in range(3):
        assert hearing.next_frame() is not None
    assert hearing.next_frame() is None
    assert hearing.next_flush() == 1
    hearing.understand(Flushed(1))
    assert hearing.flushed


def test_a_service_that_gives_up() -> None:
    for event in (Refused("session too long"), Ended()):
        with pytest.raises(Lost, match="session"):
            sending(1).understand(event)


def test_a_service_that_claims_too_much() -> None:
    hearing = sending(5)
    hearing.understand(Progress(transcribed=10**9, inactivity=0.5))
    heard = hearing.take()
    assert (heard.transcribed_frame, heard.inactivity) == (4, 0.5)
    hearing.understand(Progress(transcribed=-(10**9), inactivity=0.5))
    hearing.end()
    assert hearing.take() == Heard((), None, 4, ())
