"""Questions of one's own: what is read from the file, what is judged, the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from duologue.audio.files import read_channels
from duologue.cli.main import app
from duologue.evaluation.asking import (
    Question,
    _sentences,
    asking_figures,
    measure,
    read_questions,
    strangers,
)
from duologue.evaluation.errors import EvaluationError
from duologue.evaluation.talker import Conversation, Lookup, Piece, Request
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import speaker_split
from duologue.synthesis.voices import WREN

pytestmark = pytest.mark.usefixtures("speaker")
pytest.importorskip("pocketsphinx")

EXAMPLES = Path(__file__).parents[2] / "examples"
FACTS = EXAMPLES / "facts.md"
KEY = Question("Where is the spare key?", "blue pot")


class Says:
    """Answers whatever it is asked with one sentence."""

    name = "says"

    def __init__(self, text: str, found: str = "", *, aloud: bool = True) -> None:
        self.fingerprint = f"{text} {found} {aloud}"
        self._text, self._found = text, found
        self._pcm = Speaker().say(text, WREN).samples if aloud else np.zeros(48_000, np.float32)
        self.asked = 0
        self.files: tuple[Path, ...] = (FACTS,)

    def converse(self, request: Request) -> Conversation:
        self.asked += 1
        assert request.knowledge.files == self.files
        lookups = (Lookup(20, reference=self._found),) if self._found else ()
        return Conversation(self._pcm, (Piece(30, self._text),), (), lookups)


def shares(talker: Says, out: Path) -> list[float | None]:
    results = measure(talker, [KEY], [FACTS], out)
    return [figure.estimate.value for figure in asking_figures(results)[:3]]


def test_what_is_found_written_and_understood_is_told_apart(tmp_path: Path) -> None:
    right = "The spare key is under the blue pot."
    assert shares(Says(f"Let me see. {right}", right), tmp_path) == [100, 100, 100]
    assert shares(Says(right, right, aloud=False), tmp_path) == [100, 100, 0]
    assert shares(Says("Sorry, I don't know that one.", right), tmp_path) == [100, 0, 0]
    assert shares(Says("The capital of France is Lyon."), tmp_path) == [0, 0, 0]


def test_each_speaker_of_the_split_asks_once_and_is_not_asked_again(tmp_path: Path) -> None:
    speakers = [voice.speaker for voice in strangers("test")]
    assert len(speakers) == len(set(speakers)) == 5
    assert all(speaker_split(one) == "test" for one in speakers)
    talker = Says("Let me see.")
    results = measure(talker, [KEY], [FACTS], tmp_path)
    assert [one["voice"] for one in results] == speakers
    assert measure(talker, [KEY], [FACTS], tmp_path) == results
    assert talker.asked == len(speakers)
    sounds = sorted((tmp_path / "questions").iterdir())
    assert len(sounds) == len(speakers)
    assert np.abs(read_channels(sounds[0])[1]).max() > 0.05, "the question is on the right"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ask,answer\nWho?,Ann\n", "columns question,answer"),
        ("question,answer\nWho?,\n", "line 2"),
        ("question,answer\n", "no question"),
        ("", "columns"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "questions.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EvaluationError, match=told):
        read_questions(path)


def test_wren_is_asked_from_the_command_line(tmp_path: Path) -> None:
    with (EXAMPLES / "questions.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(read_questions(EXAMPLES / "questions.csv"))
    one = tmp_path / "one.csv"
    one.write_text("question,answer\nWhat is the capital of France?,Lyon\n", encoding="utf-8")
    arguments = ["evaluate", "questions", str(one), "--knowledge", str(FACTS), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    figures = {one["key"]: one for one in json.loads(done.stdout)["figures"]}
    assert figures["questions_found"]["n"] == 5
    assert figures["questions_written"]["value"] > 0


def test_numbers_are_judged_as_they_are_spoken(tmp_path: Path) -> None:
    facts = tmp_path / "facts.md"
    facts.write_text("- The tower was built in 1889.\n- The bridge was built in 1932.\n")
    asked = tmp_path / "questions.csv"
    asked.write_text("question,answer\nWhen was the tower built?,in 1889\nWhich room?,12\n")
    [tower, room] = read_questions(asked)
    assert tower.answer == "in eighteen eighty nine"
    assert room.answer == "twelve"
    assert _sentences([facts]) == [
        "The tower was built in eighteen eighty nine.",
        "The bridge was built in nineteen thirty two.",
    ]
    wrong = "The bridge was built in nineteen thirty two."
    talker = Says(wrong, wrong, aloud=False)
    talker.files = (facts,)
    results = measure(talker, [tower], [facts], tmp_path / "out")
    assert not any(one["found"] or one["written"] for one in results)


def test_files_of_any_kind_are_read_or_refused_by_name(tmp_path: Path) -> None:
    page = tmp_path / "facts.html"
    page.write_text("<html><body><p>The key is under the <b>pot</b>.</p></body></html>")
    assert _sentences([page]) == ["The key is under the pot."]
    damaged = tmp_path / "facts.pdf"
    damaged.write_bytes(b"%PDF-1.4\n\xff\xfe")
    with pytest.raises(EvaluationError, match=r"facts\.pdf"):
        _sentences([damaged])
    latin = tmp_path / "questions.csv"
    latin.write_bytes("question,answer\nWo ist der Schl\u00fcssel?,Topf\n".encode("latin-1"))
    with pytest.raises(EvaluationError, match="UTF-8"):
        read_questions(latin)
