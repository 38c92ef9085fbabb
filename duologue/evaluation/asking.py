"""A user's own questions, asked of the whole pipeline in voices that it never heard.

The questions and what an answer must contain come from a CSV file, the knowledge is the user's own
files and nothing else. What is judged is whether the fact was found, whether the model wrote the
answer, and whether the independent recogniser, reading its voice, chooses it among the sentences of
the files and some of the fact book's.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duologue.audio.wav import write_wav
from duologue.evaluation import statistics
from duologue.evaluation.activity import Pcm
from duologue.evaluation.cases import split_key
from duologue.evaluation.conversations import both_sides
from duologue.evaluation.ears import Ears
from duologue.evaluation.errors import EvaluationError
from duologue.evaluation.grammar import Grammar, choices
from duologue.evaluation.knowledge import Knowledge
from duologue.evaluation.ledger import Ledger, Progress, key_of
from duologue.evaluation.table import Figure
from duologue.evaluation.talker import SAMPLE_RATE, Conversation, Request, Talker, text_of
from duologue.evaluation.words import said, spoken_words
from duologue.evaluation.world import OWN_LINES
from duologue.retrieval.knowledge.readers import UnreadableFile, read_blocks
from duologue.retrieval.speakable import speakable
from duologue.synthesis.draw import Draw
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split
from duologue.synthesis.voices import Voice, catalogue
from duologue.synthesis.world import bundled_fact_book

VERSION = 3
COLUMNS = ("question", "answer")
CANDIDATES = 32
"""Sentences among which the recogniser chooses, at least."""
_MOST_SENTENCES = 200
_LEAD_S, _TAIL_S = 0.8, 9.0
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


@dataclass(frozen=True)
class Question:
    """What is asked, and words that an answer must contain."""

    question: str
    answer: str


def read_questions(path: Path) -> list[Question]:
    """Questions of a CSV file with the columns `question` and `answer`.

    Raises:
        EvaluationError: it has other columns, an empty field, or no question.
    """
    found = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not set(COLUMNS) <= set(rows.fieldnames or ()):
                raise EvaluationError(
                    f"{path}: the first line must name the columns question,answer"
                )
            for row in rows:
                question, answer = (speakable((row[name] or "").strip()) for name in COLUMNS)
                if not spoken_words(question) or not spoken_words(answer):
                    raise EvaluationError(
                        f"{path}, line {rows.line_num}: a question or answer lacks, or has nothing "
                        "that can be said"
                    )
                found.append(Question(question, answer))
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if not found:
        raise EvaluationError(f"{path}: there is no question in it")
    return found


def strangers(split: Split) -> list[Voice]:
    """One voice of each speaker of a split."""
    by_speaker: dict[str, Voice] = {}
    for voice in catalogue(split):
        by_speaker.setdefault(voice.speaker, voice)
    return list(by_speaker.values())


def measure(
    talker: Talker,
    questions: Sequence[Question],
    files: Sequence[Path],
    out: Path,
    *,
    seed: int = 1,
    split: Split = "test",
    ears: Ears | None = None,
    progress: Progress = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Ask each question in each voice; those that have been before are not asked again.

    Conversations are in `questions/` of the folder, the model on the left.
    """
    known = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
    key = key_of(VERSION, talker.fingerprint, known, seed, *split_key(split))
    ledger = Ledger(out / "questions.jsonl", key)
    asked = [(one, voice) for one in questions for voice in strangers(split)]
    names = [f"{one.question} | {one.answer} | {voice.speaker}" for one, voice in asked]
    speaker, ears = Speaker(), ears or Ears([])
    knowledge = Knowledge(tuple(path.resolve() for path in files))
    sentences = _sentences(files)
    sounds = out / "questions"
    sounds.mkdir(parents=True, exist_ok=True)
    for number, ((one, voice), name) in enumerate(zip(asked, names, strict=True)):
        if name not in ledger:
            heard = _recording(one.question, voice, speaker)
            made = talker.converse(Request(heard, knowledge, "user", _seed(seed, name)))
            sound = sounds / f"{key_of(key, name)}-{voice.speaker}.wav"
            write_wav(sound, both_sides(made.pcm, heard), SAMPLE_RATE)
            judged = _judged(one, made, sentences, seed, ears)
            ledger.add(name, {"voice": voice.speaker, "sound": sound.name, **judged})
        progress(number + 1, len(asked))
    return [ledger[name] for name in names]


def _seed(seed: int, name: str) -> int:
    """What a conversation draws with: the same wherever its question stands in the file."""
    return Draw("questions", seed, name).seed()


def _judged(
    one: Question, made: Conversation, sentences: Sequence[str], seed: int, ears: Ears
) -> dict[str, Any]:
    references = [lookup.reference for lookup in made.lookups]
    chosen = ears.choose(made.pcm, _grammar(sentences, references, seed))
    wanted, same, written = spoken_words(one.answer), ears.lexicon.same, text_of(made.text)
    ears.learn((*wanted, *spoken_words(" ".join((written, *references)))))
    return {
        "question": one.question, "answer": one.answer, "heard": text_of(made.heard or ()),
        "references": references, "wrote": written, "understood_as": " ".join(chosen),
        "found": any(said(wanted, spoken_words(text), same) for text in references),
        "written": said(wanted, spoken_words(written), same),
        "understood": said(wanted, chosen, same),
    }  # fmt: skip


def asking_figures(results: Sequence[dict[str, Any]]) -> list[Figure]:
    """Shares of questions: found, written, understood; the last by voice, too."""
    figures = [
        Figure(f"questions_{key}", title, "%", _share(results, key))
        for key, title in (
            ("found", "finds the answer"), ("written", "writes the answer"),
            ("understood", "speaks the answer so that it is understood"),
        )
    ]  # fmt: skip
    for voice in dict.fromkeys(str(one["voice"]) for one in results):
        part = [one for one in results if one["voice"] == voice]
        figures.append(
            Figure(f"questions_{voice}", f"  asked by {voice}", "%", _share(part, "understood"))
        )
    return figures


def _share(results: Iterable[dict[str, Any]], key: str) -> statistics.Estimate:
    return statistics.share(bool(one[key]) for one in results).scaled(100)


def _recording(text: str, voice: Voice, speaker: Speaker) -> Pcm:
    """A question in a quiet room, with time for the answer."""
    spoken = speaker.say(text, voice).samples
    before, after = (np.zeros(round(s * SAMPLE_RATE), np.float32) for s in (_LEAD_S, _TAIL_S))
    return np.concatenate([before, spoken, after])


def _sentences(files: Sequence[Path]) -> list[str]:
    """What the files say, sentence by sentence as it is spoken; if they are long, evenly spread.

    Raises:
        EvaluationError: a file cannot be read.
    """
    try:
        blocks = [block.text for path in files for block in read_blocks(path)]
    except UnreadableFile as error:
        raise EvaluationError(str(error)) from error
    parts = [part for text in blocks for line in text.split("\n") for part in _parted(line)]
    found = [words for part in parts if spoken_words(words := speakable(part))]
    return found[:: -(-len(found) // _MOST_SENTENCES) or 1]


def _parted(line: str) -> list[str]:
    return _SENTENCE_END.split(line.strip(" \t#*->|"))


def _grammar(sentences: Sequence[str], references: Sequence[str], seed: int) -> Grammar:
    """What may be said in reply: wren's own lines, then a sentence that was found or another."""
    found = [part for one in references for part in _SENTENCE_END.split(one)]
    texts = dict.fromkeys([*references, *found, *sentences])
    book = [fact.sentence for fact in bundled_fact_book().facts()]
    texts |= dict.fromkeys(
        Draw("candidates", "questions", seed).sample(book, max(0, CANDIDATES - len(texts)))
    )
    statements = [words for text in texts if (words := spoken_words(text))]
    return choices(statements, map(spoken_words, OWN_LINES))
