"""The sound of questions, kept for a lookup, and heard again where nothing was found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duologue.audio import read_audio
from duologue.retrieval import Outcome, RetrievalContext, Retrieved
from duologue.retrieval.protocol import HearAgain, HeardAgain, Likelihood
from duologue.session.moshi import Moshi, MoshiSession
from duologue.session.questions import LEAD_FRAMES, MAX_QUESTIONS, Questions, Rehearing
from duologue.stt.load import load_recogniser
from duologue.stt.offline import transcribe
from duologue.stt.second_hearing import MAX_GUESSES, MAX_S, SPEEDS, UNLIKELY, SecondHearing

QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"


def frame(number: int) -> np.ndarray:
    return np.full(4, number, np.float32)


def told(questions: Questions, lookup: int) -> list[int] | None:
    kept = questions.of_lookup(lookup)
    return None if kept is None else [int(sample) for sample in kept[::4]]


def test_a_lookup_has_what_was_said_since_the_turn_began() -> None:
    questions = Questions(20)
    for number in range(15):
        questions.hear(frame(number))
    questions.begin_turn(frames_ago=2)
    questions.begin_lookup(1)
    assert told(questions, 1) == list(range(15 - 2 - LEAD_FRAMES, 15))
    questions.hear(frame(15))
    assert told(questions, 1) == list(range(5, 15)), "what comes later is not of it"
    questions.begin_lookup(2)
    assert told(questions, 2) == list(range(5, 16))
    questions.forget()
    assert told(questions, 1) is None
    questions.begin_lookup(3)
    assert told(questions, 3) is None


@given(
    st.integers(0, 6),
    st.lists(
        st.one_of(st.just("hear"), st.just("look"), st.integers(0, 40)), min_size=1, max_size=60
    ),
)
def test_what_is_kept_is_bounded(keeps: int, course: list[str | int]) -> None:
    questions = Questions(keeps)
    heard = lookups = 0
    for happening in course:
        if happening == "hear":
            questions.hear(frame(heard))
            heard += 1
        elif happening == "look":
            questions.begin_lookup(lookups)
            lookups += 1
        else:
            questions.begin_turn(int(happening))
    known = [n for n in range(lookups) if told(questions, n) is not None]
    assert len(known) <= MAX_QUESTIONS
    for number in known:
        kept = told(questions, number)
        assert kept is not None
        assert 1 <= len(kept) <= keeps
        assert kept == list(range(kept[0], kept[0] + len(kept))), "a run of frames, in order"


def test_a_frame_is_copied() -> None:
    questions, given_frame = Questions(3), frame(1)
    questions.hear(given_frame)
    given_frame[:] = 9
    questions.begin_lookup(0)
    assert told(questions, 0) == [1]


def test_who_cannot_hear_again_keeps_nothing() -> None:
    rehearing = Rehearing(SecondHearing.of(None))
    assert rehearing.keeps(1920) == 0
    questions = Questions(0)
    questions.hear(frame(1))
    questions.begin_lookup(0)
    assert rehearing.of(questions, 0) is None
    rehearing.close()


@pytest.fixture(scope="module")
def wren() -> SecondHearing:
    hearing = SecondHearing.of(load_recogniser("wren", device="cpu"))
    assert hearing is not None
    return hearing


def test_a_question_is_heard_again_at_each_speed(wren: SecondHearing) -> None:
    texts = wren.hear(read_audio(QUESTION)).texts
    assert len(texts) == len(SPEEDS)
    assert all("capital" in text for text in texts)
    assert wren.hear(read_audio(QUESTION)).texts == texts, "and leaves nothing behind"
    assert wren.hear(np.zeros(0, np.float32)).texts == ("",) * len(SPEEDS)
    assert wren.hear(np.zeros(5000, np.float32)).texts == ("",) * len(SPEEDS)


def test_at_its_own_speed_it_is_heard_as_before(wren: SecondHearing) -> None:
    recogniser = load_recogniser("wren", device="cpu")
    [before] = transcribe(recogniser, [torch.from_numpy(read_audio(QUESTION))])
    assert SPEEDS[0] == 1.0
    assert wren.hear(read_audio(QUESTION)).texts[0] == before.text


def test_only_the_end_of_a_long_recording_is_heard(wren: SecondHearing) -> None:
    question = read_audio(QUESTION)
    long = np.concatenate([question, np.zeros(int(MAX_S * 24_000), np.float32)])
    assert wren.hear(long).texts == ("",) * len(SPEEDS)


@dataclass(frozen=True)
class Guessed:
    name: str
    first: int
    last: int


def test_what_was_said_is_likelier_than_what_was_not(wren: SecondHearing) -> None:
    hearing = wren.hear(read_audio(QUESTION))
    words = hearing.texts[0].split()
    place = words.index("capital")
    names = ["capital", "CAPITAL", "capita", "continent", "zinc"]
    guesses = [Guessed(name, place, place) for name in names]
    likely, *others = wren.likelihoods(hearing, [guesses, *([] for _ in SPEEDS[1:])])
    assert others == [[] for _ in SPEEDS[1:]]
    said, capitals, *unsaid = (one.guessed for one in likely)
    assert -1.0 < said <= 0.0
    assert said == capitals, "however it is spelt"
    assert all(UNLIKELY <= one < said - 3.0 for one in unsaid)
    assert len({one.written for one in likely}) == 1
    assert -1.0 < likely[0].written <= 0.0, "it is a clear recording"
    assert all(one.pieces >= 1 for one in likely)


def test_what_was_written_adds_up(wren: SecondHearing) -> None:
    hearing = wren.hear(read_audio(QUESTION))
    count = len(hearing.texts[0].split())
    spans = [(0, count - 1), *((place, place) for place in range(count))]
    guesses = [Guessed("it", first, last) for first, last in spans]
    [whole, *parts] = wren.likelihoods(hearing, [guesses, *([] for _ in SPEEDS[1:])])[0]
    assert whole.written == pytest.approx(sum(part.written for part in parts), abs=1e-4)
    assert whole.written < 0.0


def test_what_was_written_is_as_likely_forced_as_drawn(wren: SecondHearing) -> None:
    """Forcing the pieces that were drawn anyway weighs them as they were weighed when drawn."""
    hearing = wren.hear(read_audio(QUESTION))
    for way, text in enumerate(hearing.texts):
        words = text.split()
        begins = hearing.begins[way]
        tokens = hearing.tokens[way].tolist()
        wanted = []
        for place, word in enumerate(words):
            spelt = wren._recogniser.tokenizer.encode(word)
            if tokens[begins[place] : begins[place] + len(spelt)] == spelt:
                wanted.append(Guessed(word, place, place))
        assert len(wanted) >= len(words) // 2
        guesses: list[list[Guessed]] = [[] for _ in hearing.texts]
        guesses[way] = wanted
        for one in wren.likelihoods(hearing, guesses)[way]:
            assert one.guessed >= one.written - 1e-3


def test_weighing_is_bounded(wren: SecondHearing) -> None:
    hearing = wren.hear(read_audio(QUESTION))
    many = [Guessed("capital", 0, 0)] * (MAX_GUESSES + 3)
    guesses = [many, *([] for _ in SPEEDS[1:])]
    likely = wren.likelihoods(hearing, guesses)[0]
    assert len(likely) == len(many)
    assert {one.guessed for one in likely[MAX_GUESSES:]} == {UNLIKELY}
    endless = Guessed("capital " * 200, 0, 0)
    last = len(hearing.texts[0].split()) - 1
    [[far, late], *_] = wren.likelihoods(
        hearing, [[endless, Guessed("a longer name than there is sound", last, last)], [], [], []]
    )
    assert far.guessed == UNLIKELY
    assert UNLIKELY <= late.guessed < -3.0


class Curious:
    """A retriever that asks what else was said, and tells nothing."""

    name = "curious"

    def __init__(self) -> None:
        self.heard: list[Sequence[str]] = []
        self.likely: list[Sequence[Sequence[Likelihood]]] = []

    async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
        if context.hear_again is not None:
            heard = await context.hear_again()
            self.heard.append(heard.texts)
            guesses = [[Guessed("capital", 0, 0)] if text else [] for text in heard.texts]
            self.likely.append(await heard.likelihoods(guesses))
        return Retrieved(Outcome.EMPTY, backend=self.name)

    async def aclose(self) -> None:
        return None


@pytest.mark.parametrize("live", [False, True])
def test_a_lookup_may_ask_what_else_was_said(live: bool) -> None:
    """wren itself, asked with a recorded voice: the question alone is heard again."""
    pcm = np.pad(read_audio(QUESTION), (24_000, 48_000))
    curious = Curious()

    async def talk(session: MoshiSession) -> None:
        async with session.stream() as stream:
            await stream.send(pcm[:-48_000])
            # A lookup's deadline is in frames: they have to take their time.
            for frame in pcm[-48_000:].reshape(-1, 1920):
                await stream.send(frame)
                await asyncio.sleep(0.0 if curious.heard else 0.12)
            await stream.finish()

    with (
        Moshi.from_pretrained("wren", device="cpu") as moshi,
        moshi.create_session(retriever=curious, init_speaker="user", seed=2) as session,
    ):
        if live:
            asyncio.run(talk(session))
        else:
            session.process(pcm)
    assert len(curious.heard[0]) == len(SPEEDS)
    assert all("capital" in text for text in curious.heard[0])
    if not live:  # a slow machine's deadline may have passed
        assert [len(some) for some in curious.likely[0]] == [1] * len(SPEEDS)


def test_what_waits_is_given_up_when_it_closes(wren: SecondHearing) -> None:
    rehearing = Rehearing(wren)
    questions = Questions(rehearing.keeps(1920))
    for part in read_audio(QUESTION)[: 1920 * 20].reshape(-1, 1920):
        questions.hear(part)
    questions.begin_lookup(7)
    again = rehearing.of(questions, 7)
    assert again is not None
    assert len(asyncio.run(as_coroutine(again)).texts) == len(SPEEDS)
    rehearing.close()
    with pytest.raises(RuntimeError):
        asyncio.run(as_coroutine(again))


async def as_coroutine(again: HearAgain) -> HeardAgain:
    return await again()
