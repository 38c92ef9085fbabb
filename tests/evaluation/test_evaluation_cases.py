"""The evaluation set: held out, without repetition, the same for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from duologue.evaluation.cases import ANSWERED, ASKING, COUNTS, Case, Group, write_cases
from duologue.evaluation.knowledge import FACT_BOOK, Fault, Library
from duologue.evaluation.scene import Scene
from duologue.evaluation.words import said, spoken_words
from duologue.evaluation.world import (
    admits,
    answer_key,
    answer_of,
    greets,
    leads_in,
    world_sentences,
)
from duologue.synthesis.mixer import cast_user
from duologue.synthesis.script import Novelty, Outcome
from duologue.synthesis.splits import (
    HELD_OUT_ENTITIES,
    HELD_OUT_PHRASINGS,
    HELD_OUT_VOICES,
    Split,
    fact_split,
    name_split,
)

BOOK_GROUPS = (Group.KNOWN, Group.CHANGED, Group.UNSEEN, Group.INVENTED)
FIRST = {
    Group.KNOWN: (
        "test-1-0000000", "espeak-ng:en-us+m7:r0.92p1.09t1.00",
        "Which letters stand for rutherfordium in a formula?",
        "The symbol of rutherfordium is R F.",
    ),
    Group.INVENTED: (
        "test-1-0300000", "espeak-ng:en-gb-scotland+f4:r1.08p0.93t0.93",
        "Since which year has sleemex been known to science?",
        "The discovery of sleemex was in ten thirty four.",
    ),
    Group.PAUSE: (
        "test-1-0600000", "festival:ked_diphone:r0.90p0.99t1.02",
        "Could I pour zinc into a glass, or is er, it solid, or a gas?",
        "At room temperature zinc is a solid.",
    ),
    Group.CHAT: (
        "test-1-0800000", "festival:ked_diphone:r1.00p0.88t1.05",
        "What are you good at?", "Ask me about countries, elements, or your own notes.",
    ),
}  # fmt: skip
"""First cases of seed 1, written down before there was a choice of splits: script, voice, texts."""


@pytest.fixture(scope="module")
def everything() -> dict[Group, list[Case]]:
    return {group: write_cases(group, COUNTS[group], 1) for group in Group}


@pytest.fixture(scope="module")
def valid() -> dict[Group, list[Case]]:
    """What is tuned on."""
    return {group: write_cases(group, COUNTS[group], 1, "valid") for group in Group}


def test_groups_are_as_large_as_announced(
    everything: dict[Group, list[Case]], valid: dict[Group, list[Case]]
) -> None:
    for found in (everything, valid):
        assert {group: len(cases) for group, cases in found.items()} == COUNTS


@pytest.mark.parametrize("group", FIRST)
def test_what_is_asked_in_tests_stays_the_same(
    everything: dict[Group, list[Case]], group: Group
) -> None:
    script = everything[group][0].script
    first, second = script.turns[:2]
    assert (script.id, cast_user(script).id, first.text, second.text) == FIRST[group]


def test_splits_share_no_question(
    everything: dict[Group, list[Case]], valid: dict[Group, list[Case]]
) -> None:
    for group in ASKING:
        asked = [
            {case.script.turns[0].text for case in found[group]} for found in (everything, valid)
        ]
        assert asked[0].isdisjoint(asked[1])
    for group in (Group.CHAT, Group.STORY):
        pairs = zip(everything[group], valid[group], strict=True)
        assert all(one.script.turns != other.script.turns for one, other in pairs)
    assert write_cases(Group.PAUSE, 3, 1, "valid") == valid[Group.PAUSE][:3]
    assert world_sentences((), 20, "valid") != world_sentences((), 20)


def test_few_cases_are_the_first_of_many(everything: dict[Group, list[Case]]) -> None:
    for group, cases in everything.items():
        assert write_cases(group, 3, 1) == cases[:3]
    assert write_cases(Group.KNOWN, 3, 2) != everything[Group.KNOWN][:3]


@pytest.mark.parametrize("split", ["test", "valid"])
def test_phrasings_and_voices_are_held_out(
    everything: dict[Group, list[Case]], valid: dict[Group, list[Case]], split: Split
) -> None:
    found = everything if split == "test" else valid
    for group in BOOK_GROUPS:
        for case in found[group]:
            assert case.script.turns[0].phrasing in HELD_OUT_PHRASINGS[split]
    for cases in found.values():
        assert {cast_user(case.script).speaker for case in cases} <= set(HELD_OUT_VOICES[split])


@pytest.mark.parametrize("split", ["test", "valid"])
def test_entities_are_what_their_group_says(
    everything: dict[Group, list[Case]], valid: dict[Group, list[Case]], split: Split
) -> None:
    def facts(group: Group) -> list:
        return [case.fact for case in (everything if split == "test" else valid)[group]]

    for fact in facts(Group.KNOWN):
        assert fact.novelty is Novelty.KNOWN
        assert fact_split(fact.entity, fact.relation) == "train"
    assert {fact.novelty for fact in facts(Group.CHANGED)} == {Novelty.CHANGED}
    assert {fact.entity for fact in facts(Group.UNSEEN)} <= set(HELD_OUT_ENTITIES[split])
    assert {name_split(fact.entity) for fact in facts(Group.INVENTED)} == {split}


def test_no_fact_is_asked_for_twice_and_every_answer_is_in_its_reference(
    everything: dict[Group, list[Case]],
) -> None:
    for group in ASKING:
        asked = [(case.fact.entity.lower(), case.fact.relation) for case in everything[group]]
        assert len(set(asked)) == len(asked)
        for case in everything[group]:
            if case.outcome is Outcome.FOUND:
                assert said(answer_of(case.fact), spoken_words(case.reference)), case.reference


def test_keys_offer_the_answer_among_others(
    everything: dict[Group, list[Case]], valid: dict[Group, list[Case]]
) -> None:
    for group in ANSWERED:
        for case in (*everything[group][::20], *valid[group][::40]):
            key = answer_key(case)
            assert key.answer not in key.rivals
            assert set(key.answer) <= key.grammar.words
            assert len(key.rivals) >= (2 if case.fact.relation == "state" else 4), case.fact
            assert all(set(rival) <= key.grammar.words for rival in key.rivals)


def test_the_library_holds_what_is_asked(
    everything: dict[Group, list[Case]], tmp_path: Path
) -> None:
    cases = [case for found in everything.values() for case in found]
    library = Library(tmp_path, cases)
    book = FACT_BOOK.read_text(encoding="utf-8")
    for group in (Group.CHANGED, Group.INVENTED, Group.PERSONAL):
        for case in everything[group]:
            (file,) = library.for_case(case, None).files
            text = file.read_text(encoding="utf-8")
            assert f"- {case.reference}\n" in text
            assert case.reference not in book
    (changed,) = library.for_case(everything[Group.CHANGED][0], None).files
    assert len(changed.read_text(encoding="utf-8").splitlines()) == len(book.splitlines())
    assert {library.for_case(case, None).files for case in everything[Group.KNOWN]} == {
        (FACT_BOOK,)
    }
    for case in everything[Group.UNKNOWN]:
        knowledge = library.for_case(case, None)
        assert not knowledge.reference
        assert knowledge.fault is {
            Outcome.EMPTY: Fault.NONE, Outcome.FAILED: Fault.FAILS,
            Outcome.LOST: Fault.NEVER_ANSWERS,
        }[case.outcome]  # fmt: skip


def test_what_is_said_around_answers_is_recognised() -> None:
    def same(one: str, other: str) -> bool:
        return one == other

    assert admits(spoken_words("Sorry, I don't know that one."), same)
    assert admits(spoken_words("Sorry, I could not find that."), same)
    assert not admits(spoken_words("The capital of France is Lyon."), same)
    assert leads_in(spoken_words("Okay, let me see. It is Lyon."), same)
    assert not leads_in(spoken_words("It is Lyon."), same)
    assert greets(spoken_words("Hi, I am wren. What can I do for you?"))
    assert not greets(spoken_words("The capital of France is Lyon."))


def test_scenes_leave_room_for_a_reply(scenes: dict[Group, Scene]) -> None:
    for group, scene in scenes.items():
        assert len(scene.heard) == len(scene.recorded)
        if scene.question_end_s is not None and group is not Group.CHAT:
            assert scene.seconds - scene.question_end_s > 3.0
        assert (scene.interruption is not None) == (group is Group.BARGE_IN)
        assert bool(scene.pauses) == (group in (Group.PAUSE, Group.STORY))


def test_an_interruption_is_heard_where_it_is_put(scenes: dict[Group, Scene]) -> None:
    scene = scenes[Group.BARGE_IN]
    after = scene.interrupt(5.0)
    change = abs(after.heard - scene.heard)
    first, last = change.nonzero()[0][[0, -1]] / 24_000
    assert 5.0 <= first < 5.2
    assert last == pytest.approx(5.0 + len(scene.interruption) / 24_000, abs=0.2)
    added = [word for word in after.user_words if word.start_s >= 5.0]
    assert [word.text for word in added] == [word.text for word in scene.interruption_words]
