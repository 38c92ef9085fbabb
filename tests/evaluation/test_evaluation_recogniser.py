"""The independent recogniser: what it is told to listen for, and what it hears."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from duologue.evaluation.ears import Ears
from duologue.evaluation.errors import EvaluationError
from duologue.evaluation.grammar import END, START, choices
from duologue.evaluation.language import arpa
from duologue.evaluation.lexicon import Lexicon
from duologue.evaluation.recogniser import Recogniser
from duologue.evaluation.words import spoken_words
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.voices import WREN

SENTENCES = [text.split() for text in ("a b c", "a b d", "b a")]


def test_chances_of_each_history_add_up_to_one() -> None:
    grams: dict[tuple[str, ...], tuple[float, float]] = {}
    for line in arpa(SENTENCES).splitlines():
        chance, tab, rest = line.partition("\t")
        if tab:
            words, _, back_off = rest.partition("\t")
            grams[tuple(words.split())] = 10 ** float(chance), 10 ** float(back_off or 0)

    def chance(gram: tuple[str, ...]) -> float:
        if gram in grams:
            return grams[gram][0]
        return grams.get(gram[:-1], (0, 1.0))[1] * chance(gram[1:])

    vocabulary = ["a", "b", "c", "d", "</s>"]
    for history in [(), ("a",), ("a", "b"), ("<s>", "b"), ("d",), ("<s>",)]:
        total = sum(chance((*history, word)) for word in vocabulary)
        assert total == pytest.approx(1.0, abs=1e-3), history
    assert chance(("a", "b", "c")) > chance(("a", "b", "a")) > 0


def test_a_grammar_has_its_sentences_and_no_others() -> None:
    grammar = choices([("x", "y"), ("x", "z", "z")], asides=[("m",), ("m", "n")])
    leaving = defaultdict(list)
    for source, target, chance, word in grammar.edges:
        leaving[source].append((target, word, chance))

    def sentences(node: int, said: tuple[str, ...]) -> set[tuple[str, ...]]:
        found = {said} if node == END else set()
        if len(said) < 3:
            for target, word, _ in leaving[node]:
                found |= sentences(target, (*said, word))
        return found

    assert sentences(START, ()) == {
        ("x", "y"), ("x", "z", "z"), ("m",), ("m", "n"), ("m", "x", "y"), ("m", "m"),
        ("m", "m", "m"), ("m", "m", "n"), ("m", "n", "m"),
    }  # fmt: skip
    for edges in filter(None, leaving.values()):
        assert sum(chance for _, _, chance in edges) == pytest.approx(1.0)


def test_words_that_sound_alike_are_the_same(ears: Ears) -> None:
    ears.learn(["two", "to", "ten", "khilling", "quartzoon"])
    assert ears.lexicon.same("two", "to")
    assert ears.lexicon.same("unknownword", "unknownword")
    assert not ears.lexicon.same("two", "ten")
    assert "quartzoon" in ears.lexicon
    assert "quartzoon" in ears.lexicon.unlisted
    assert "two" not in ears.lexicon.unlisted


def test_wrens_voice_is_read_without_error(ears: Ears, speaker: Speaker) -> None:
    text = "Let me see. Sorry, I don't know that one."
    spoken = speaker.say(text, WREN).samples
    assert ears.read(spoken) == spoken_words(text)
    assert ears.read(np.zeros(24_000, np.float32)) == ()


def test_a_choice_is_made_by_the_sound(ears: Ears, speaker: Speaker) -> None:
    capitals = ("lyon", "monrovia", "brasklar", "helsinki", "vienna", "riga", "quito")
    grammar = choices(
        (f"the capital of france is {name}".split() for name in capitals),
        [spoken_words("Let me see.")],
    )
    for name in ("Monrovia", "Brasklar", "Lyon"):
        spoken = speaker.say(f"Let me see. The capital of France is {name}.", WREN).samples
        assert ears.choose(spoken, grammar)[-1] == name.lower()


def test_nothing_to_listen_for_is_an_error(speaker: Speaker) -> None:
    pytest.importorskip("pocketsphinx")
    with pytest.raises(EvaluationError, match="at least one sentence"):
        Recogniser.of_language([], Lexicon())
