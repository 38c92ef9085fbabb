"""The judge, judged by systems whose score is known: replies as recorded, none, wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from duologue.evaluation.cases import Group
from duologue.evaluation.ears import Ears
from duologue.evaluation.judge import Verdict, interruption_time, judge
from duologue.evaluation.scene import Scene
from duologue.evaluation.simulated import RecordedTalker, ShuffledTalker, SilentTalker
from duologue.evaluation.talker import FRAME_S, Conversation, Lookup, Piece, Request
from duologue.synthesis.speaker import Speaker

MakeRequest = Callable[[Scene], Request]


@pytest.fixture(scope="module")
def recorded(
    scenes: dict[Group, Scene], ears: Ears, request_for: MakeRequest
) -> dict[Group, Verdict]:
    """Verdicts on the recordings themselves, before any interruption."""
    talker = RecordedTalker()
    return {
        group: judge(scene, talker.converse(request_for(scene)), ears)
        for group, scene in scenes.items()
    }


def test_recorded_replies_pass(recorded: dict[Group, Verdict]) -> None:
    for group in (Group.KNOWN, Group.INVENTED, Group.PERSONAL, Group.PAUSE):
        verdict = recorded[group]
        assert verdict.triggered
        assert verdict.reference_right
        assert verdict.answer_spoken, (group, verdict.chosen)
        assert verdict.answer_written
        assert verdict.led_in
        assert 0.1 < verdict.reply_s < 0.5
        assert verdict.early_triggers == 0
    assert recorded[Group.PAUSE].floor_taken is False
    assert recorded[Group.UNKNOWN].admitted
    assert recorded[Group.UNKNOWN].made_up is False
    assert recorded[Group.GREETING].greeted
    for group in (Group.SILENCE, Group.NOISE):
        assert recorded[group].kept_silent
    for group in (Group.CHAT, Group.STORY, Group.SILENCE, Group.NOISE, Group.GREETING):
        assert recorded[group].false_triggers == 0
        assert recorded[group].turns >= 1
    assert recorded[Group.STORY].floor_taken is False


def test_recorded_voices_are_read_and_heard_nearly_without_error(
    recorded: dict[Group, Verdict],
) -> None:
    wrong = sum(verdict.voice_errors or 0 for verdict in recorded.values())
    words = sum(verdict.voice_words for verdict in recorded.values())
    assert wrong / words < 0.1
    assert all(not verdict.heard_errors for verdict in recorded.values())


def test_silence_passes_nothing_but_quiet(
    scenes: dict[Group, Scene], ears: Ears, request_for: MakeRequest
) -> None:
    talker = SilentTalker()
    for group, scene in scenes.items():
        conversation = talker.converse(request_for(scene))
        verdict = judge(scene, conversation, ears)
        for name in ("triggered", "answer_spoken", "answer_written", "admitted", "greeted"):
            assert not getattr(verdict, name), (group, name)
        assert verdict.reply_s is None
        assert verdict.kept_silent in (None, True)
        if group is Group.BARGE_IN:
            assert interruption_time(conversation, scene, 0.5) is None
        if verdict.heard_words:
            assert verdict.heard_errors == verdict.heard_words


def test_other_answers_are_wrong(
    scenes: dict[Group, Scene], ears: Ears, request_for: MakeRequest, speaker: Speaker
) -> None:
    scene = scenes[Group.KNOWN]
    verdict = judge(scene, ShuffledTalker(speaker).converse(request_for(scene)), ears)
    assert verdict.spoken
    assert not verdict.answer_spoken, verdict.chosen
    assert not verdict.answer_read
    assert not verdict.answer_written


@pytest.mark.parametrize(("reaction_s", "stops"), [(0.3, True), (0.7, False), (None, False)])
def test_only_falling_silent_in_time_is_stopping(
    scenes: dict[Group, Scene],
    ears: Ears,
    request_for: MakeRequest,
    reaction_s: float | None,
    stops: bool,
) -> None:
    scene = scenes[Group.BARGE_IN]
    talker = RecordedTalker(reaction_s)
    at_s = interruption_time(talker.converse(request_for(scene)), scene, 0.5)
    assert at_s is not None
    interrupted = scene.interrupt(at_s)
    verdict = judge(interrupted, talker.converse(request_for(interrupted)), ears)
    assert verdict.stopped is stops
    if reaction_s is not None:
        assert verdict.stop_s == pytest.approx(reaction_s, abs=0.1)


def test_speaking_again_while_the_user_talks_is_not_stopping(
    scenes: dict[Group, Scene], ears: Ears, request_for: MakeRequest
) -> None:
    scene = scenes[Group.BARGE_IN]
    talker = RecordedTalker(0.2)
    conversation = talker.converse(request_for(scene))
    at_s = interruption_time(conversation, scene, 0.0)
    interrupted = scene.interrupt(at_s)
    stopped = talker.converse(request_for(interrupted))
    again = stopped.pcm.copy()
    start = round((at_s + 0.6) * 24_000)
    again[start : start + 7200] = scene.recorded[scene.recorded.nonzero()[0][0] :][:7200]
    assert judge(interrupted, stopped, ears).stopped
    assert not judge(interrupted, replace(stopped, pcm=again), ears).stopped


def test_talking_into_a_pause_takes_the_floor(
    scenes: dict[Group, Scene], ears: Ears, request_for: MakeRequest
) -> None:
    scene = scenes[Group.PAUSE]
    pause = scene.pauses[0]
    reply = RecordedTalker().converse(request_for(scene))
    start = round((pause.start_s + 0.2) * 24_000)
    for seconds, taken, signs in ((1.2, True, 0), (0.3, False, 1)):
        pcm = np.zeros_like(reply.pcm)
        pcm[start : start + round(seconds * 24_000) : 2] = 0.1
        verdict = judge(scene, replace(reply, pcm=pcm, lookups=()), ears)
        assert verdict.floor_taken is taken
        assert verdict.backchannels == signs
    early = Lookup(int((pause.start_s + 0.3) / FRAME_S))
    verdict = judge(scene, replace(reply, lookups=(early,)), ears)
    assert verdict.floor_taken
    assert verdict.early_triggers == 1
    assert not verdict.triggered


def test_triggers_are_counted_by_turn(
    scenes: dict[Group, Scene], ears: Ears, request_for: MakeRequest
) -> None:
    scene = scenes[Group.CHAT]
    silent = SilentTalker().converse(request_for(scene))
    last = int(scene.user_turns[-1].end_s / FRAME_S) + 3
    twice = replace(silent, lookups=(Lookup(last), Lookup(last + 5)))
    verdict = judge(scene, twice, ears)
    assert verdict.false_triggers == 1
    assert verdict.turns == len(scene.user_turns)


def test_a_made_up_answer_is_noticed(
    scenes: dict[Group, Scene], ears: Ears, request_for: MakeRequest
) -> None:
    scene = scenes[Group.UNKNOWN]
    end = int(scene.question_end_s / FRAME_S)
    answer = scene.case.fact.answer
    silent = SilentTalker().converse(request_for(scene))
    talks = Conversation(silent.pcm, (Piece(end + 4, f" It is the {answer}."),))
    verdict = judge(scene, talks, ears)
    assert verdict.made_up
    assert not verdict.admitted


def test_verdicts_survive_storage(recorded: dict[Group, Verdict]) -> None:
    for verdict in recorded.values():
        assert Verdict.from_dict(verdict.as_dict()) == verdict
