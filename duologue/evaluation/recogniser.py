"""The independent recogniser: pocketsphinx in a closed world.

It shares nothing with the models under test: Gaussian mixtures on cepstra, trained on other
people's speech. What it may hear is given as sentences, from which a trigram model is made (any
word of them may follow any other, at a price), or as a grammar (one of its paths and nothing else).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duologue.evaluation.activity import Pcm, joined, speech_runs
from duologue.evaluation.errors import EvaluationError
from duologue.evaluation.grammar import END, START, Grammar
from duologue.evaluation.language import arpa
from duologue.evaluation.lexicon import Lexicon

RATE = 16_000
_UTTERANCE_GAP_S = 0.6
"""Silence at which speech is cut into utterances."""
_GRAMMAR_GAP_S = 1.2
"""Likewise under a grammar, which is to see a lead and what follows it together."""
_MARGIN_S = 0.2
_BEAMS = {"beam": 1e-70, "pbeam": 1e-70, "wbeam": 1e-50}
"""Wider than the package's own: wren's voice was not in its training."""


def model_folder() -> Path:
    """The recogniser's acoustic model and dictionary, which come with its package."""
    return Path(str(_package().get_model_path("en-us")))


class Recogniser:
    """Reads speech; made by `of_language` or `of_grammar`."""

    def __init__(self, decoder: Any, gap_s: float) -> None:
        self._decoder, self._gap_s = decoder, gap_s

    @classmethod
    def of_language(cls, sentences: Sequence[Sequence[str]], lexicon: Lexicon) -> Recogniser:
        """For speech made of the words of some sentences, roughly in their order.

        Sentences with words that have no pronunciation are left out.
        """
        usable = [words for words in sentences if words and all(word in lexicon for word in words)]
        if not usable:
            raise EvaluationError("the recogniser needs at least one sentence to listen for")
        with tempfile.TemporaryDirectory(prefix="recogniser-") as folder:
            language, dictionary = Path(folder) / "language.arpa", Path(folder) / "words.dict"
            language.write_text(arpa(usable), encoding="utf-8")
            lexicon.write(dictionary, (word for words in usable for word in words))
            return cls(_decoder(dictionary, lm=str(language)), _UTTERANCE_GAP_S)

    @classmethod
    def of_grammar(cls, grammar: Grammar, lexicon: Lexicon) -> Recogniser:
        """For speech that a grammar allows; all of its words must have pronunciations."""
        with tempfile.TemporaryDirectory(prefix="recogniser-") as folder:
            dictionary = Path(folder) / "words.dict"
            lexicon.write(dictionary, grammar.words)
            decoder = _decoder(dictionary, lm=None)
        graph = decoder.create_fsg("grammar", START, END, list(grammar.edges))
        decoder.add_fsg("grammar", graph)
        decoder.activate_search("grammar")
        return cls(decoder, _GRAMMAR_GAP_S)

    def words(self, pcm: Pcm, sample_rate: int) -> tuple[str, ...]:
        """What is said in samples [T]; nothing in silence and in what cannot be accounted for."""
        heard: list[str] = []
        for run in joined(speech_runs(pcm, sample_rate), self._gap_s):
            start = max(0, round((run.start_s - _MARGIN_S) * sample_rate))
            end = round((run.end_s + _MARGIN_S) * sample_rate)
            heard += self._utterance(pcm[start:end], sample_rate)
        return tuple(heard)

    def _utterance(self, pcm: Pcm, sample_rate: int) -> list[str]:
        from duologue.synthesis.samples import resample

        margin = np.zeros(round(_MARGIN_S * sample_rate), np.float32)
        narrow = resample(np.concatenate([margin, pcm, margin]), sample_rate, RATE)
        data = np.rint(np.clip(narrow, -1, 1) * 32767).astype("<i2").tobytes()
        self._decoder.start_utt()
        self._decoder.process_raw(data, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return [] if found is None else str(found.hypstr).split()


def _decoder(dictionary: Path, *, lm: str | None) -> Any:
    return _package().Decoder(
        hmm=str(model_folder() / "en-us"), dict=str(dictionary), lm=lm, samprate=RATE,
        loglevel="FATAL", **_BEAMS,
    )  # fmt: skip


def _package() -> Any:
    try:
        import pocketsphinx
    except ImportError as error:
        raise EvaluationError(
            "the independent recogniser is not installed: pip install 'duologue[evaluate]'"
        ) from error
    return pocketsphinx
