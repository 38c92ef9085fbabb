"""The independent recogniser as a judge uses it: one ear for the whole world, one for a choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from duologue.evaluation.activity import Pcm, speech_runs
from duologue.evaluation.grammar import Grammar
from duologue.evaluation.lexicon import Lexicon
from duologue.evaluation.recogniser import Recogniser
from duologue.evaluation.talker import SAMPLE_RATE

_LONGEST_WORD = 30
"""Letters; a longer "word" is a broken text stream, and equal to itself only."""


class Ears:
    """Reads a system's voice without knowing its text. Nothing is built before it is needed."""

    def __init__(self, sentences: Sequence[Sequence[str]]) -> None:
        """`sentences` are all that may be said; see `world.world_sentences`."""
        self._sentences = sentences
        self.lexicon = Lexicon()

    def learn(self, words: Iterable[str]) -> None:
        """Make words comparable by their sound."""
        self.lexicon.learn(word for word in words if len(word) <= _LONGEST_WORD)

    def read(self, pcm: Pcm) -> tuple[str, ...]:
        """The words of samples [T]."""
        if not speech_runs(pcm, SAMPLE_RATE):
            return ()
        return self._world.words(pcm, SAMPLE_RATE)

    def choose(self, pcm: Pcm, grammar: Grammar) -> tuple[str, ...]:
        """The path of a grammar that samples [T] come closest to; nothing if none fits."""
        if not speech_runs(pcm, SAMPLE_RATE):
            return ()
        self.lexicon.learn(grammar.words)
        return Recogniser.of_grammar(grammar, self.lexicon).words(pcm, SAMPLE_RATE)

    @cached_property
    def _world(self) -> Recogniser:
        self.lexicon.learn(word for words in self._sentences for word in words)
        return Recogniser.of_language(self._sentences, self.lexicon)
