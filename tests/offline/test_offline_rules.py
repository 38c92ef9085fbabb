"""The parts of offline conversations that are rules: when to stop, what counts, who is heard."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from support.conversations import DIM, Facts, Rows, speech

from duologue.dialogue import (
    EncodeReference,
    LookupAnswered,
    LookupContext,
    OnFailure,
    ReferenceEncoded,
    StartLookup,
    TriggerSource,
    WaitRule,
)
from duologue.moshi.sampling import GenerationDefaults, Sampling
from duologue.offline.activity import Run, barge_ins, speech_runs
from duologue.offline.ahead import heard_ahead
from duologue.offline.equipment import Sources, retrieval_settings
from duologue.offline.outside import ModelClock, Outside
from duologue.offline.settings import Drawing, Rules, TalkError, TalkSettings, conversation_config
from duologue.offline.stopping import Stopping
from duologue.session.lookups import Backends
from duologue.stt.ports import Word

NOWHERE = LookupContext((), (), "Reference:", -1)


def stops_after(settings: TalkSettings, silent: str, busy: str = "") -> int:
    """Frames until the end, of a recording of four; `.` is silence, `b` is a lookup."""
    stopping = Stopping(4, settings)
    for frame in range(10_000):
        stopping.step(
            is_silent=frame >= len(silent) or silent[frame] == ".",
            is_busy=busy[frame : frame + 1] == "b",
        )
        if stopping.over:
            return frame + 1
    raise AssertionError("it never stops")


def test_conversations_stop_as_published_or_a_little_wiser() -> None:
    quiet = TalkSettings(silence_frames=3)
    assert stops_after(TalkSettings(stop_at_end=True), "") == 4
    assert stops_after(TalkSettings(tail_s=0.4), "") == 9
    assert stops_after(TalkSettings(tail_s=0.0), "") == 4
    # Silence counts from the end of the recording on, and starts anew with every word.
    assert stops_after(quiet, "....") == 8
    assert stops_after(quiet, "......x.") == 11
    assert stops_after(TalkSettings(max_tail_s=0.8), "x" * 100) == 14
    published = TalkSettings(silence_frames=3, rules=Rules.PUBLISHED)
    assert stops_after(quiet, "", "....bbbbbbbbbb") == 15
    assert stops_after(published, "", "....bbbbbbbbbb") == 8


def lookup(frame: int) -> StartLookup:
    return StartLookup(1, 1, frame, "default", NOWHERE, frame + 100)


def encoding(frame: int) -> EncodeReference:
    return EncodeReference(1, 0, frame, "tea", frame + 100)


@pytest.mark.parametrize(
    ("lookup_s", "encoding_s", "frames"),
    [(0.0, 0.0, 0), (0.079, 0.0, 0), (0.08, 0.0, 1), (0.07, 0.02, 1), (0.1, 0.1, 2), (0.5, 0.03, 6),
     (0.64, 0.079, 8), (0.64, 0.08, 9)],
)  # fmt: skip
def test_lookup_and_encoding_are_rounded_down_together(
    lookup_s: float, encoding_s: float, frames: int
) -> None:
    from duologue.dialogue import frames_within

    clock = ModelClock()
    answered = clock.count(lookup(10), LookupAnswered(1, "tea", elapsed_s=lookup_s))
    assert answered.elapsed_s == lookup_s
    there = 10 + frames_within(lookup_s)
    encoded = clock.count(encoding(there), ReferenceEncoded(1, 0, 3, elapsed_s=encoding_s))
    assert there + frames_within(encoded.elapsed_s or 0.0) == 10 + frames


def test_a_given_delay_counts_once() -> None:
    clock = ModelClock(1.5)
    assert clock.count(lookup(0), LookupAnswered(1, "tea", elapsed_s=9.0)).elapsed_s == 1.5
    assert clock.count(encoding(18), ReferenceEncoded(1, 0, 3, elapsed_s=9.0)).elapsed_s == 0.0


def test_requests_are_carried_out_at_the_same_time_and_answered_in_order() -> None:
    async def ask() -> list[float]:
        outside = Outside(Backends.of(Facts(delay_s=0.04), ("default",)), Rows(), DIM)
        begin = asyncio.get_running_loop().time()
        answers = await outside.carry_out([lookup(0), encoding(0), lookup(0)])
        took = asyncio.get_running_loop().time() - begin
        assert [answer.request for answer in answers] == [lookup(0), encoding(0), lookup(0)]
        (reply, rows) = answers[1].replies[0]
        assert isinstance(reply, ReferenceEncoded)
        assert isinstance(rows, torch.Tensor)
        assert rows.shape == (1, DIM)
        slow = [answers[0].measured_s, answers[2].measured_s]
        assert took < sum(slow)
        return slow

    assert min(asyncio.run(ask())) >= 0.039


def test_rules_are_the_published_ones_or_those_of_live_sessions() -> None:
    published = conversation_config(TalkSettings(rules=Rules.PUBLISHED), ("default",))
    retrieval = published.retrieval
    assert (retrieval.wait.rule, retrieval.wait.steps) == (WaitRule.FIXED, 6)
    assert (retrieval.trigger, retrieval.deadline_frames) == (TriggerSource.RELEASED, 125)
    assert not retrieval.speculation.enabled
    assert published.turns.stt_wait_steps == 6
    ours = TalkSettings(stt_wait_s=0.4, rag_timeout_s=0.0, vad_window=5, vad_threshold=0.3)
    improved = conversation_config(ours, ("a", "b"), stt_delay_frames=2)
    retrieval = improved.retrieval
    assert retrieval.wait.rule is WaitRule.CAUGHT_UP
    assert (retrieval.wait.steps, retrieval.wait.stt_delay_frames) == (5, 2)
    assert retrieval.deadline_frames == 4500
    assert retrieval.speculation.enabled
    assert retrieval.hedge.backends == ("a", "b")
    assert retrieval.reference.on_failure is OnFailure.LEARNT_PADDING
    assert (improved.turns.vad_window, improved.turns.vad_threshold) == (5, 0.3)
    # Six minutes are no limit to a recording.
    assert published.max_frames > 45_000


def test_wishes_about_drawing_leave_the_rest_to_the_model() -> None:
    defaults = GenerationDefaults()
    assert Drawing().samplings(defaults) == (defaults.text, defaults.audio)
    text, audio = Drawing(temperature=0.3, text_topk=5, audio_temperature=0.0).samplings(defaults)
    assert text == Sampling(0.3, 5)
    assert audio == Sampling(0.0, defaults.audio.top_k)


def test_who_may_be_asked_comes_from_flags_and_environment() -> None:
    environment = {"LLM_BASE_URL": "http://127.0.0.1:1/v1", "LLM_MODEL_NAME": "m"}
    wanted = retrieval_settings(TalkSettings(rules=Rules.PUBLISHED), Sources(), environment)
    assert wanted.llm is not None
    assert wanted.llm_options.max_tokens == 64
    ours = retrieval_settings(TalkSettings(), Sources(("factbook",), tools=False), environment)
    assert ours.llm_options.max_tokens == 256
    assert not ours.tools
    with pytest.raises(TalkError, match="no such document"):
        retrieval_settings(TalkSettings(), Sources(("nothing.md",)), {})


def test_words_of_a_service_are_heard_as_late_as_those_of_a_model() -> None:
    words = [Word("what", 0.8, 1.0), Word("time", 1.2, 1.5), Word("now", 3.2, 3.3)]
    heard = heard_ahead(words, 60)
    said = {frame: one.words for frame, one in enumerate(heard) if one.words}
    assert said == {16: (" what",), 21: (" time",), 46: (" now",)}
    assert heard[16].completed == (words[0],)
    speaking = [frame for frame, one in enumerate(heard) if (one.inactivity or 0) < 0.5]
    assert speaking == [*range(10, 19), 40, 41]
    assert [one.transcribed_frame for one in heard[:8]] == [-1] * 6 + [0, 1]


def test_words_at_the_end_of_a_recording_are_heard_after_it() -> None:
    words = [Word("of", 0.6, 0.7), Word("France", 1.5, 1.9), Word("late", 2.2, 2.3)]
    heard = heard_ahead(words, 24)
    said = {frame: one.words for frame, one in enumerate(heard) if one.words}
    assert said == {13: (" of",), 24: (" France",), 29: (" late",)}
    assert len(heard) == 30
    assert all((one.inactivity or 0) > 0.5 for one in heard[24:])


def test_runs_of_speech_and_barge_ins() -> None:
    pcm = speech(40) * np.repeat(
        [*([0] * 3), *([1] * 5), *([0] * 3), *([1] * 6), *([0] * 9), 1, *([0] * 13)], 1920
    ).astype(np.float32)
    # Short gaps are closed, clicks left out.
    assert speech_runs(pcm) == [Run(3, 17)]
    model = [Run(2, 10), Run(20, 30)]
    found = barge_ins([Run(0, 1), Run(4, 6), Run(8, 15), Run(25, 40)], model, 30)
    assert [(one.frame, one.stopped, one.overlap_frames) for one in found] == [
        (8, 10, 2), (25, None, 5),
    ]  # fmt: skip
