"""What wren is asked: the evaluation set as scripts, a function of seed and number alone.

All of it belongs to one split of `duologue.synthesis.splits`, to "test" if not said: phrasings,
names, entities and voices that training never had. What is tuned is tuned on "valid". Within a
group no fact is asked for twice, and the first n cases of a group are the same however many are
made.

    known      the fact book's entities and facts that training has, in phrasings it has not
    changed    the same kind of question; the user's file contradicts the fact book
    unseen     real entities that training never names
    invented   entities that exist nowhere
    personal   sentences of the user's own, on everyday things
    unknown    the lookup finds nothing, fails, or never ends
    pause      silence inside the question
    barge_in   the user talks into the answer
    chat       greetings, small talk, thanks, requests to decline: nothing to look up
    story      the user tells something at length
    silence, noise   nobody speaks
    greeting   nobody speaks, and wren is to begin
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from duologue.evaluation.words import said, spoken_words
from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import pick
from duologue.synthesis.script import Dialogue, FactId, Novelty, Outcome, Turn
from duologue.synthesis.script import Speaker as Side
from duologue.synthesis.splits import Split
from duologue.synthesis.writer import facts, scenes, talk
from duologue.synthesis.writer.questions import (
    Asked,
    as_asked,
    book_question,
    personal_question,
    question,
    reply,
    user,
)

_TAIL_S = 3.0
"""Silence after the recorded reply: a slower system still has its say."""
_BARGE_IN_TAIL_S = 5.0
_LISTENS_S = 6.0
_GREETING_S = 4.0
_STEM = 4
_TRIES = 400


class Group(StrEnum):
    """See the module."""

    KNOWN = "known"
    CHANGED = "changed"
    UNSEEN = "unseen"
    INVENTED = "invented"
    PERSONAL = "personal"
    UNKNOWN = "unknown"
    PAUSE = "pause"
    BARGE_IN = "barge_in"
    CHAT = "chat"
    STORY = "story"
    SILENCE = "silence"
    NOISE = "noise"
    GREETING = "greeting"


ANSWERED = (Group.KNOWN, Group.CHANGED, Group.UNSEEN, Group.INVENTED, Group.PERSONAL)
"""Groups whose answers are judged."""
ASKING = (*ANSWERED, Group.UNKNOWN, Group.PAUSE, Group.BARGE_IN)
"""Groups in which something is to be looked up."""
QUIET = (Group.SILENCE, Group.NOISE)

COUNTS: dict[Group, int] = {
    Group.KNOWN: 100, Group.CHANGED: 80, Group.UNSEEN: 60, Group.INVENTED: 60, Group.PERSONAL: 60,
    Group.UNKNOWN: 40, Group.PAUSE: 60, Group.BARGE_IN: 60, Group.CHAT: 60, Group.STORY: 20,
    Group.SILENCE: 20, Group.NOISE: 20, Group.GREETING: 20,
}  # fmt: skip
"""Cases of a full evaluation: about two hours of conversation."""


@dataclass(frozen=True)
class Case:
    """One conversation to be had."""

    group: Group
    number: int
    script: Dialogue
    interruption: Turn | None = None
    """Said into the answer, whenever that comes."""

    @property
    def id(self) -> str:
        return f"{self.group}-{self.number:04d}"

    @property
    def fact(self) -> FactId | None:
        """What is asked for."""
        found = [turn.lookup.fact for turn in self.script.turns if turn.lookup]
        return found[0] if found else None

    @property
    def outcome(self) -> Outcome:
        """How lookups of this conversation end."""
        found = [turn.lookup.outcome for turn in self.script.turns if turn.lookup]
        return found[0] if found else Outcome.EMPTY

    @property
    def reference(self) -> str:
        """What a perfect lookup finds."""
        found = [turn.lookup.reference for turn in self.script.turns if turn.lookup]
        return found[0] if found else ""


def write_cases(group: Group, count: int, seed: int, split: Split = "test") -> list[Case]:
    """The first cases of a group."""
    return [case for case, _ in zip(_cases(group, seed, split), range(count), strict=False)]


def split_key(split: Split) -> tuple[Split, ...]:
    """What a split adds to the keys of draws and results.

    Nothing for "test": what was drawn and measured before there was a choice stays what it is.
    """
    return () if split == "test" else (split,)


def _cases(group: Group, seed: int, split: Split) -> Iterator[Case]:
    asked: set[tuple[str, str]] = set()
    number = 0
    for attempt in range(_TRIES * (COUNTS[group] + 10)):
        draw = Draw("evaluation", seed, group, attempt, *split_key(split))
        written = _WRITERS[group](draw, split)
        key = _asked_for(written[0])
        if key is not None:
            if key in asked:
                continue
            asked.add(key)
        yield _case(group, seed, split, number, written, draw)
        number += 1


def _case(group: Group, seed: int, split: Split, number: int, written: Written, draw: Draw) -> Case:
    turns, more = written
    # Items of one seed draw their voice and room by their index, so it must differ by group.
    index = list(Group).index(group) * 100_000 + number
    tail_s = {Group.BARGE_IN: _BARGE_IN_TAIL_S, Group.GREETING: 0.0}.get(group, _TAIL_S)
    first = replace(turns[0], gap_s=draw.between(0.6, 1.4))
    script = Dialogue(
        seed, index, split, str(group), (first, *turns[1:]),
        wren_begins=group is Group.GREETING, tail_s=tail_s,
    )  # fmt: skip
    return Case(group, number, script, more)


def _asked_for(turns: list[Turn]) -> tuple[str, str] | None:
    """Within a group, two questions about one thing would need one answer."""
    for turn in turns:
        if turn.lookup:
            fact = turn.lookup.fact
            return fact.entity.lower(), fact.relation
    return None


Written = tuple[list[Turn], Turn | None]
Write = Callable[[Draw, Split], Written]


def _exchange(draw: Draw, asked: Asked, outcome: Outcome = Outcome.FOUND) -> list[Turn]:
    return [question(draw, asked), reply(draw, asked, outcome)]


def _about(novelty: Novelty) -> Write:
    def write(draw: Draw, split: Split) -> Written:
        return _exchange(draw, _book_question(draw, split, novelty)), None

    return write


def _book_question(draw: Draw, split: Split, novelty: Novelty) -> Asked:
    """A question whose reference names what it is about, as a sentence of a file should."""
    for attempt in range(_TRIES):
        own = draw.split(attempt)
        subject = facts.draw_subject(own, split, novelty)
        relation = own.choice(facts.possible_relations(subject, split, novelty))
        asked = as_asked(facts.ask(own, split, subject, relation, novelty))
        if subject.spoken.lower() in asked.reference.lower():
            return asked
    raise AssertionError("unreachable: most wordings name their subject")


def _personal(draw: Draw, split: Split) -> Written:
    for attempt in range(_TRIES):
        own = draw.split(attempt)
        asked = personal_question(own, split)
        if _is_findable(asked):
            return _exchange(own, asked), None
    raise AssertionError("unreachable: most wordings name their subject")


def _is_findable(asked: Asked) -> bool:
    """Whether a reference has the answer word for word, and a word of what is asked for.

    "It costs two euros." names nothing; "It is Emma's." does not quite say "Emma".
    """
    telling = {word[:_STEM] for word in asked.fact.entity.lower().split() if len(word) >= _STEM}
    words = spoken_words(asked.reference)
    stems = {word[:_STEM] for word in words}
    return not telling.isdisjoint(stems) and said(spoken_words(asked.fact.answer), words)


def _unknown(draw: Draw, split: Split) -> Written:
    outcome = draw.choice((Outcome.EMPTY, Outcome.EMPTY, Outcome.FAILED, Outcome.LOST))
    return _exchange(draw, book_question(draw, split), outcome), None


def _pause(draw: Draw, split: Split) -> Written:
    for attempt in range(_TRIES):
        asking, answer = scenes.pause_scene(draw.split(attempt), split)
        lookup = answer.lookup
        if not asking.pauses or lookup is None or lookup.outcome is not Outcome.FOUND:
            continue
        if lookup.fact.novelty is Novelty.KNOWN:
            return [asking, answer], None
    raise AssertionError("unreachable: a fifth of the questions with pauses are about known facts")


def _barge_in(draw: Draw, split: Split) -> Written:
    turns = _exchange(draw, _book_question(draw, split, Novelty.KNOWN))
    if draw.chance(0.4):
        return turns, user(draw, "stop", pick(talk.STOPS, draw, split).text)
    new = _book_question(draw.split("new"), split, Novelty.KNOWN)
    text = f"{draw.choice(talk.INTERRUPTIONS)} {talk.lower_first(new.text)}"
    return turns, user(draw, "question", text, new.phrasing)


def _chat(draw: Draw, split: Split) -> Written:
    writers = (
        scenes.small_talk_scene, scenes.off_topic_scene, scenes.greeting_scene, scenes.thanks_scene,
    )  # fmt: skip
    return draw.choice(writers)(draw, split), None


def _story(draw: Draw, split: Split) -> Written:
    for attempt in range(_TRIES):
        turns = scenes.backchannel_scene(draw.split(attempt), split)
        if not any(turn.lookup for turn in turns):
            return turns, None
    raise AssertionError("unreachable: two stories in five end without a question")


def _silence(draw: Draw, split: Split) -> Written:
    return [Turn(Side.NOBODY, "silence", gap_s=0.0, duration_s=_LISTENS_S)], None


def _noise(draw: Draw, split: Split) -> Written:
    return scenes.noise_scene(draw, split), None


def _greeting(draw: Draw, split: Split) -> Written:
    greets = Turn(Side.WREN, "greeting", draw.choice(talk.GREETINGS))
    return [greets, Turn(Side.NOBODY, "silence", gap_s=0.0, duration_s=_GREETING_S)], None


_WRITERS: dict[Group, Write] = {
    Group.KNOWN: _about(Novelty.KNOWN),
    Group.CHANGED: _about(Novelty.CHANGED),
    Group.UNSEEN: _about(Novelty.HELD_OUT_ENTITY),
    Group.INVENTED: _about(Novelty.INVENTED),
    Group.PERSONAL: _personal,
    Group.UNKNOWN: _unknown,
    Group.PAUSE: _pause,
    Group.BARGE_IN: _barge_in,
    Group.CHAT: _chat,
    Group.STORY: _story,
    Group.SILENCE: _silence,
    Group.NOISE: _noise,
    Group.GREETING: _greeting,
}
