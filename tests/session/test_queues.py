"""The two queues between event loop and tick thread, at their bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.dialogue import AudioFrame, EndReason, Role, SessionEnded, TextToken
from duologue.session.inputs import InputQueue, merge_heard, playable
from duologue.session.outputs import OutputQueue
from duologue.stt.ports import Heard, Link, Notice, Word

SIZE = 4


def ramp(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.float32) / 10_000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 11), max_size=12))
def test_any_chunks_become_the_same_frames(lengths: list[int]) -> None:
    queue = InputQueue(SIZE, 100)
    whole = ramp(sum(lengths))
    done = 0
    for length in lengths:
        assert queue.push(whole[done : done + length], now_s=done) == 0
        done += length
    frames = [queue.take().pcm for _ in range(len(queue))]
    assert len(frames) == len(whole) // SIZE
    joined = np.concatenate([*frames, queue.save()])
    assert np.array_equal(joined, whole)


def test_the_oldest_frames_make_room_and_are_counted() -> None:
    queue = InputQueue(SIZE, 3)
    assert queue.push(ramp(3 * SIZE + 2), 0.0) == 0
    assert queue.push(ramp(SIZE, start=14), 1.0) == SIZE
    assert queue.dropped_frames == 1
    assert queue.take().pcm[0] == pytest.approx(0.0004)


def test_a_flood_costs_no_more_than_the_queue_holds() -> None:
    queue = InputQueue(SIZE, 3)
    flood = ramp(1000 * SIZE)
    dropped = queue.push(flood, 0.0)
    kept = queue.save()
    assert dropped + len(kept) == len(flood)
    assert np.array_equal(kept, flood[-len(kept) :])
    assert len(queue) == 3


def test_what_a_dropped_frame_was_recognised_as_is_not_lost() -> None:
    queue = InputQueue(SIZE, 2)
    said = iter(["one", "two", "three"])
    queue.listener = lambda frame: Heard((next(said),), 0.5, 7)
    queue.push(ramp(3 * SIZE), 0.0)
    assert queue.take().heard == Heard(("one", "two"), 0.5, 6)
    assert queue.take().heard == Heard(("three",), 0.5, 6)


def test_recognition_is_numbered_by_the_frames_that_are_taken() -> None:
    """It counts those that are dropped, whenever that is; the conversation does not."""
    queue, counted = InputQueue(SIZE, 3), iter(range(100))
    queue.listener = lambda frame: Heard(transcribed_frame=next(counted))
    taken: list[int | None] = []
    for frames, leaves in ((2, 2), (5, 2), (3, 3), (50, 3), (1, 0)):
        queue.push(ramp(frames * SIZE + 1), 0.0)
        queue.drop_to(leaves)
        while len(queue):
            heard = queue.take().heard
            taken.append(heard and heard.transcribed_frame)
    assert queue.dropped_frames > 50
    assert taken == list(range(10))


def test_who_begins_to_listen_hears_first_what_waits() -> None:
    queue, heard = InputQueue(SIZE, 3), []

    def listen(frame: np.ndarray) -> Heard:
        heard.append(frame)
        return Heard(transcribed_frame=len(heard) - 1)

    queue.load(ramp(2 * SIZE + 1), 0.0)
    queue.listen(listen)
    queue.push(ramp(2 * SIZE, start=2 * SIZE + 1), 0.0)
    assert np.array_equal(np.concatenate(heard), ramp(4 * SIZE))
    taken = [queue.take() for _ in range(3)]
    assert [one.heard and one.heard.transcribed_frame for one in taken] == [0, 1, 2]


def test_a_new_conversation_has_no_words_of_waiting_frames() -> None:
    queue = InputQueue(SIZE, 2)
    queue.listener = lambda frame: Heard((" old",), 0.5, 7, (Word("old", 0.0),))
    queue.push(ramp(3 * SIZE), 0.0)
    queue.forget_words()
    first, second = queue.take(), queue.take()
    assert first.heard == Heard(inactivity=0.5, transcribed_frame=6)
    assert second.heard == Heard(inactivity=0.5, transcribed_frame=6)


def test_merging_keeps_the_newer_estimate_and_everything_said() -> None:
    lost = Notice(Link.LOST, "gone")
    merged = merge_heard(Heard(("a",), 0.2, 3, notices=(lost,)), Heard(("b",), None, None))
    assert merged == Heard(("a", "b"), 0.2, 3, notices=(lost,))


def test_samples_that_are_no_sound_become_silence() -> None:
    given = np.array([np.nan, np.inf, -np.inf, 3.0, -3.0, 0.25], np.float32)
    assert playable(given).tolist() == [0.0, 0.0, 0.0, 1.0, -1.0, 0.25]
    with pytest.raises(ValueError, match=r"\[n\]"):
        InputQueue(SIZE, 2).push(np.zeros((2, 2), np.float32), 0.0)
    with pytest.raises(ValueError, match=r"\[n\], not \[1, 6\]"):
        playable(given[None])


def test_a_closed_queue_takes_nothing() -> None:
    queue = InputQueue(SIZE, 2)
    queue.push(ramp(SIZE), 0.0)
    queue.close()
    assert queue.push(ramp(5), 0.0) == 5
    assert not len(queue)


def word(frame: int) -> TextToken:
    return TextToken(frame, Role.MODEL, f" w{frame}", frame)


def test_a_slow_reader_loses_the_oldest_audio_alone() -> None:
    queue = OutputQueue(4)
    for frame in range(4):
        assert queue.put([AudioFrame(frame, b""), word(frame)])
    left = [queue.take() for _ in range(len(queue))]
    assert left == [word(0), word(1), word(2), word(3)]
    assert queue.dropped_frames == 4
    assert queue.take() is None


def test_a_reader_that_lets_everything_lie_is_given_up_but_hears_of_it() -> None:
    queue = OutputQueue(2)
    assert queue.put([word(0), word(1)])
    assert not queue.put([word(2)])
    queue.put([SessionEnded(2, EndReason.FAILED)])
    assert not queue.finished
    events = [queue.take() for _ in range(4)]
    assert isinstance(events[-1], SessionEnded)
    assert queue.finished
