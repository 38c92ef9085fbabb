"""Transcript: the published context text and the bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.dialogue import ConfigError, ContextRules, IllegalMove, Role, Transcript

SPEAKER = {"user": Role.USER, "moshi": Role.MODEL}


def transcript(*turns: tuple[str, str], rules: ContextRules | None = None) -> Transcript:
    result = Transcript(rules or ContextRules.published())
    for frame, (name, text) in enumerate(turns):
        result.open_turn(SPEAKER[name], frame)
        result.append(SPEAKER[name], text)
    return result


def test_context_string_has_one_prefixed_line_per_turn() -> None:
    said = transcript(("moshi", " Hi there."), ("user", " Who are you?"))
    assert said.context_string() == "moshi:  Hi there.\nuser:  Who are you?"


def test_prompt_drops_greeting_and_lead_and_ends_with_the_cue() -> None:
    said = transcript(
        ("moshi", " Hi."),
        ("user", " Who was Ada?"),
        ("moshi", " Let"),
        ("user", ""),
        ("moshi", " W"),
    )
    context = said.context()
    assert context.prompt == "Human: Who was Ada?\nmoshi: Let\nHuman:\nReference:"
    assert context.last_turn == 3
    assert context.question == ""
    assert said.turns[1].text == " Who was Ada?", "the transcript itself is not changed"


def test_only_a_greeting_is_no_context() -> None:
    context = transcript(("moshi", " Hi.")).context()
    assert (context.turns, context.last_turn, context.prompt) == ((), -1, "Reference:")


def test_control_characters_and_stray_marks_do_not_reach_the_prompt() -> None:
    said = transcript(("user", " a\nuser: b\x00\t[RAG]c "))
    assert said.context().prompt == "Human: auser: bc\nReference:"


def test_references_follow_their_turn() -> None:
    said = transcript(("user", " One?"))
    said.note_reference(said.context().last_turn, "first")
    for name, text in (("moshi", " Um."), ("user", " Two?"), ("moshi", " Er.")):
        said.open_turn(SPEAKER[name], 0)
        said.append(SPEAKER[name], text)
    said.note_reference(said.context().last_turn, "second")
    assert said.context().prompt == (
        "Human: One?\nReference: first\nmoshi: Um.\nHuman: Two?\nReference: second\nReference:"
    )
    references = said.context().references
    assert [(found.after, found.text) for found in references] == [(1, "first"), (3, "second")]


def test_two_references_for_one_turn_published_and_improved() -> None:
    def prompt(rules: ContextRules) -> str:
        said = transcript(("user", " One?"), rules=rules)
        said.note_reference(0, "first")
        said.note_reference(0, "second")
        said.open_turn(Role.MODEL, 0)
        said.open_turn(Role.USER, 0)
        said.note_reference(2, "third")
        return said.context().prompt

    assert prompt(ContextRules.published()) == (
        "Human: One?\nReference: first\nmoshi:\nHuman:\nReference:"
    )
    assert prompt(ContextRules(latest_reference_wins=True)) == (
        "Human: One?\nReference: second\nmoshi:\nHuman:\nReference: third\nReference:"
    )
    assert prompt(ContextRules(replay_references=False)) == (
        "Human: One?\nmoshi:\nHuman:\nReference:"
    )


def test_late_words_complete_the_question_when_asked_for() -> None:
    turns = (("user", " How high is"), ("moshi", " Well"))
    assert transcript(*turns).context(" it").question == "How high is"
    improved = ContextRules.improved()
    context = transcript(*turns, rules=improved).context(" it")
    assert (context.question, context.last_turn) == ("How high is it", 0)
    context = transcript(("moshi", " Hi."), rules=improved).context(" What?")
    assert (context.question, context.last_turn) == ("What?", 1)


def test_white_space_does_not_make_another_question() -> None:
    one = transcript(("user", " a  b")).context()
    two = transcript(("user", " a b ")).context()
    assert one.key == two.key
    assert one.key != transcript(("user", " a c")).context().key


def test_oldest_turns_go_first_with_their_references() -> None:
    said = transcript(("user", "a"), rules=ContextRules(max_turns=3))
    said.note_reference(0, "about a")
    for index in range(1, 5):
        role = Role.MODEL if index % 2 else Role.USER
        said.open_turn(role, index)
        said.append(role, "abcde"[index])
    assert [turn.text for turn in said.turns] == ["c", "d", "e"]
    assert said.trimmed == 2
    assert said.context().prompt == "Human: c\nmoshi: d\nHuman: e\nReference:"


def test_a_single_long_turn_keeps_its_end() -> None:
    said = transcript(("user", "x" * 100 + "end"), rules=ContextRules(max_characters=64))
    assert len(said.turns[0].text) == 64
    assert said.turns[0].text.endswith("end")
    said.note_reference(0, "y" * 30)
    assert said.state.references == [], "a reference goes before the words of the last turn"


def test_illegal_moves_are_refused() -> None:
    said = transcript(("user", "a"))
    with pytest.raises(IllegalMove):
        said.open_turn(Role.USER, 1)
    with pytest.raises(IllegalMove):
        said.append(Role.MODEL, "b")


def test_errors_name_the_field() -> None:
    with pytest.raises(ConfigError, match=r"ContextRules\.max_turns "):
        ContextRules(max_turns=1)
    with pytest.raises(ConfigError, match=r"ContextRules\.late_words "):
        ContextRules(late_words=1)  # type: ignore[arg-type]


def literal_prompt(context: str, history: list[tuple[int, str]]) -> str:
    """Assemble the prompt from the context string, as the published steps read."""
    turns: list[tuple[str, str]] = []
    for line in context.split("\n"):
        for prefix, label in (("user:", "Human"), ("moshi:", "moshi")):
            if line.startswith(prefix):
                text = "".join(c for c in line[len(prefix) :] if c.isprintable())
                turns.append((label, text.strip()))
    if turns and turns[-1][0] == "moshi":
        turns.pop()
    if turns and turns[0][0] == "moshi":
        turns.pop(0)
    prompt, used = "", 0
    for number, (label, text) in enumerate(turns, 1):
        prompt += f"{label}: {text}\n" if text else f"{label}:\n"
        if used < len(history) and history[used][0] == number:
            prompt += f"Reference: {history[used][1]}\n"
            used += 1
    return prompt + "Reference:"


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text("ab \t", max_size=6), max_size=8),
    first=st.sampled_from(["user", "moshi"]),
    noted=st.lists(st.booleans(), min_size=8, max_size=8),
    doubled=st.booleans(),
)
def test_prompt_agrees_with_its_literal_form(
    texts: list[str], first: str, noted: list[bool], doubled: bool
) -> None:
    said = Transcript(ContextRules.published())
    history: list[tuple[int, str]] = []
    role = SPEAKER[first]
    for number, text in enumerate(texts):
        said.open_turn(role, number)
        said.append(role, text)
        context = said.context()
        if noted[number] and context.turns:
            for copy in range(2 if doubled else 1):
                said.note_reference(context.last_turn, f"r{number}{copy}")
                history.append((len(context.turns), f"r{number}{copy}"))
        assert said.context().prompt == literal_prompt(said.context_string(), history)
        role = role.other


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.booleans(), st.integers(0, 90)), max_size=60),
    max_turns=st.integers(2, 6),
)
def test_memory_is_bounded(pieces: list[tuple[bool, int]], max_turns: int) -> None:
    rules = ContextRules(max_turns=max_turns, max_characters=100, max_references=2)
    said = Transcript(rules)
    role = Role.USER
    said.open_turn(role, 0)
    for change, size in pieces:
        if change:
            role = role.other
            said.open_turn(role, 0)
        said.append(role, "x" * size)
        said.note_reference(said.context().last_turn, "r" * (size // 2))
        texts = [turn.text for turn in said.turns] + [note.text for note in said.state.references]
        assert sum(map(len, texts)) == said.state.characters <= 100
        assert 1 <= len(said.turns) <= max_turns
        assert len(said.state.references) <= 2
