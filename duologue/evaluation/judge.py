"""One conversation to one verdict: what was asked for, found, said, heard; who spoke when.

A verdict is plain numbers and truth values (None: the question does not arise), so that it can be
stored, counted by class, and shown beside the sound it was given for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from duologue.evaluation.activity import Pcm, Span, first_after, sounding_at, speech_runs
from duologue.evaluation.cases import ANSWERED, ASKING, QUIET, Group
from duologue.evaluation.ears import Ears
from duologue.evaluation.scene import Scene
from duologue.evaluation.talker import FRAME_S, SAMPLE_RATE, Conversation, text_of
from duologue.evaluation.words import Same, errors, said, spoken_words
from duologue.evaluation.world import AnswerKey, admits, answer_key, greets, leads_in

STOP_S = 0.5
"""A system that is interrupted is to be silent by then."""
_EARLIEST_REPLY_S = 0.2
"""A reply may begin so long before the user's last word has quite died away."""
_GREETING_BY_S = 2.0
_BACKCHANNEL_S = 0.6
"""Shorter speech in a pause is a sign of attention, not a turn."""
_ONSET_S = 0.1
"""Speech that has gone on for less when a pause begins was begun in it."""


@dataclass(frozen=True)
class Verdict:
    """What is judged of a conversation. Words and answers are those of the system's own voice."""

    triggered: bool | None = None
    """The retrieval token came after the question."""
    early_triggers: int | None = None
    """Retrieval tokens before the end of the question."""
    false_triggers: int | None = None
    """Turns with a retrieval token, of conversations in which nothing is to be looked up."""
    turns: int = 0
    """Of those conversations: the user's turns, or one where nobody speaks."""
    reference_right: bool | None = None
    """What was found holds the answer."""
    answer_spoken: bool | None = None
    """Read from the voice, among candidate answers."""
    answer_read: bool | None = None
    """Read from the voice by the recogniser of the whole world."""
    answer_written: bool | None = None
    """In the text stream."""
    led_in: bool | None = None
    admitted: bool | None = None
    """Says that it does not know, in the voice."""
    admitted_written: bool | None = None
    made_up: bool | None = None
    """Says a candidate answer though nothing was found."""
    reply_s: float | None = None
    """From the end of the question to the first audible speech."""
    floor_taken: bool | None = None
    """Speaks for long, or looks something up, in a pause of the user's."""
    backchannels: int | None = None
    stopped: bool | None = None
    stop_s: float | None = None
    """From the beginning of an interruption to the end of speech."""
    kept_silent: bool | None = None
    greeted: bool | None = None
    voice_errors: int | None = None
    """Of the voice against the text stream, by the recogniser of the whole world."""
    voice_words: int = 0
    heard_errors: int | None = None
    """Of the system's recognition of the user."""
    heard_words: int = 0
    spoken: str = ""
    """What the independent recogniser read from the voice."""
    chosen: str = ""
    """The same among candidate answers."""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Verdict:
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


def judge(scene: Scene, conversation: Conversation, ears: Ears) -> Verdict:
    """The verdict on one conversation."""
    runs = speech_runs(conversation.pcm, SAMPLE_RATE)
    group = scene.case.group
    found: dict[str, Any] = _triggers(scene, conversation) | _heard(scene, conversation, ears)
    if group is not Group.BARGE_IN:
        found |= _voice(conversation, ears)
    if scene.case.fact is not None and scene.interrupted_s is None:
        found |= _answer(scene, conversation, ears, runs, found)
    if group in (Group.PAUSE, Group.STORY):
        found |= _pauses(scene, conversation, runs)
    if scene.interrupted_s is not None:
        found |= _stop(scene, runs)
    if group in QUIET:
        found["kept_silent"] = not runs
    if group is Group.GREETING:
        early = bool(runs) and runs[0].start_s <= _GREETING_BY_S
        found["greeted"] = early and greets(found["spoken"].split())
    return Verdict(**found)


def interruption_time(conversation: Conversation, scene: Scene, share: float) -> float | None:
    """Where to talk into a reply: inside its last long run, so that much would still follow.

    None if nothing long enough is said after the question.
    """
    end_s = scene.question_end_s or 0.0
    begun_s, left_s = 0.3, STOP_S + 0.4
    for run in reversed(speech_runs(conversation.pcm, SAMPLE_RATE)):
        if run.start_s < end_s - _EARLIEST_REPLY_S:
            break
        room_s = run.seconds - begun_s - left_s
        if room_s > 0:
            return run.start_s + begun_s + share * room_s
    return None


def _triggers(scene: Scene, conversation: Conversation) -> dict[str, Any]:
    end_s = scene.question_end_s
    times = [lookup.trigger_frame * FRAME_S for lookup in conversation.lookups]
    if scene.case.group in ASKING:
        assert end_s is not None
        asked = [time for time in times if time >= end_s - _EARLIEST_REPLY_S]
        return {"triggered": bool(asked), "early_triggers": len(times) - len(asked)}
    starts = [0.0, *(turn.start_s for turn in scene.user_turns[1:]), float("inf")]
    false = [any(start_s <= time < end_s for time in times) for start_s, end_s in pairwise(starts)]
    return {"false_triggers": sum(false), "turns": len(false)}


def _heard(scene: Scene, conversation: Conversation, ears: Ears) -> dict[str, Any]:
    if conversation.heard is None:
        return {}
    right = [part for word in scene.user_words for part in spoken_words(word.text)]
    heard = spoken_words("".join(piece.text for piece in conversation.heard))
    ears.learn((*right, *heard))
    found = errors(right, heard, ears.lexicon.same)
    return {"heard_errors": found.count, "heard_words": found.words}


def _voice(conversation: Conversation, ears: Ears) -> dict[str, Any]:
    read = ears.read(conversation.pcm)
    written = spoken_words(text_of(conversation.text))
    ears.learn(written)
    found = errors(written, read, ears.lexicon.same)
    return {
        "voice_errors": found.count, "voice_words": found.words, "spoken": " ".join(read),
    }  # fmt: skip


def _answer(
    scene: Scene,
    conversation: Conversation,
    ears: Ears,
    runs: tuple[Span, ...],
    known: dict[str, Any],
) -> dict[str, Any]:
    """The reply to a question: when it comes, what it says."""
    end_s = scene.question_end_s
    assert end_s is not None
    # Who has talked since long before the question's end talks over it, and does not reply.
    first = first_after(runs, end_s - _EARLIEST_REPLY_S)
    found: dict[str, Any] = {"reply_s": None if first is None else first.start_s - end_s}
    if scene.case.group is Group.BARGE_IN:
        return found
    key, same = answer_key(scene.case), ears.lexicon.same
    reply = _from(conversation.pcm, end_s - _EARLIEST_REPLY_S)
    chosen = ears.choose(reply, key.grammar)
    written = spoken_words(text_of(conversation.text, end_s - _EARLIEST_REPLY_S))
    ears.learn(written)
    read = tuple(str(known.get("spoken", "")).split())
    found |= {"chosen": " ".join(chosen), "led_in": leads_in(chosen, same) or leads_in(read, same)}
    if scene.case.group is Group.UNKNOWN:
        return found | {
            "admitted": admits(read, same) or admits(chosen, same),
            "admitted_written": admits(written, same),
            "made_up": _states_a_value(key, written, same),
        }
    if scene.case.group in ANSWERED or scene.case.group is Group.PAUSE:
        references = [lookup.reference for lookup in conversation.lookups if lookup.reference]
        found["reference_right"] = any(
            key.heard_in(spoken_words(reference), same) for reference in references
        )
        found |= {
            "answer_spoken": key.heard_in(chosen, same),
            "answer_read": key.heard_in(read, same),
            "answer_written": key.heard_in(written, same),
        }
    return found


def _states_a_value(key: AnswerKey, words: tuple[str, ...], same: Same) -> bool:
    """Whether some answer is given; single letters are too easily part of other words."""
    values = (value for value in (key.answer, *key.rivals) if len("".join(value)) > 1)
    return any(said(value, words, same) for value in values)


def _pauses(scene: Scene, conversation: Conversation, runs: tuple[Span, ...]) -> dict[str, Any]:
    """What happens while the user has not finished."""
    taken, signs = False, 0
    for pause in scene.pauses:
        triggered = any(
            pause.start_s <= lookup.trigger_frame * FRAME_S < pause.end_s
            for lookup in conversation.lookups
        )
        begun = [run for run in runs if pause.start_s - _ONSET_S <= run.start_s < pause.end_s]
        long = [run for run in begun if run.seconds > _BACKCHANNEL_S]
        taken = taken or triggered or bool(long)
        signs += len(begun) - len(long)
    return {"floor_taken": taken if scene.pauses else None, "backchannels": signs}


def _stop(scene: Scene, runs: tuple[Span, ...]) -> dict[str, Any]:
    """Silent soon after the user talks into the reply, and for as long as the user talks."""
    at_s = scene.interrupted_s
    assert at_s is not None
    running = sounding_at(runs, at_s)
    if running is None:
        return {}
    by_s = at_s + STOP_S
    talking = Span(by_s, max(by_s, at_s + scene.interruption_words[-1].end_s))
    goes_on = any(run.overlap_s(talking) > 0 for run in runs)
    return {
        "stop_s": running.end_s - at_s,
        "stopped": running.end_s <= by_s and not goes_on,
    }  # fmt: skip


def _from(pcm: Pcm, start_s: float) -> Pcm:
    return pcm[max(0, round(start_s * SAMPLE_RATE)) :]
