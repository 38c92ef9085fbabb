"""Whole evaluations in small: resumed, reported, and run from the command line."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.conversations import Rows, model
from typer.testing import CliRunner

from duologue.audio.files import read_channels
from duologue.cli.main import app
from duologue.evaluation import coding, finding, hearing, reading, speed
from duologue.evaluation.cases import ANSWERED, Group, split_key
from duologue.evaluation.conversations import Conversations, Record
from duologue.evaluation.ears import Ears
from duologue.evaluation.errors import EvaluationError
from duologue.evaluation.knowledge import FACT_BOOK, Fault, Knowledge
from duologue.evaluation.ledger import Ledger
from duologue.evaluation.report import Report, write_report
from duologue.evaluation.scene import Scene
from duologue.evaluation.simulated import RecordedTalker
from duologue.evaluation.systems import (
    ReferenceTalker,
    SessionTalker,
    folder_fingerprint,
    open_oracle,
    open_retriever,
)
from duologue.evaluation.table import Figure, at_least, at_most, conversation_figures, stages
from duologue.evaluation.talker import Conversation, Request
from duologue.evaluation.words import spoken_words
from duologue.retrieval import Outcome, RetrievalContext, Retrieved, Retriever, attempt
from duologue.session.moshi import Moshi
from duologue.stt.recogniser import Recogniser
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.voices import WREN

from .conftest import SEED

GROUPS = (Group.KNOWN, Group.BARGE_IN, Group.SILENCE)


class CountingTalker(RecordedTalker):
    """Breaks off after some conversations."""

    def __init__(self, most: int = 99) -> None:
        super().__init__()
        self.held, self.most = 0, most

    def converse(self, request: Request) -> Conversation:
        if self.held == self.most:
            raise KeyboardInterrupt
        self.held += 1
        return super().converse(request)


@pytest.fixture(scope="module")
def options(ears: Ears) -> dict[str, Any]:
    few = dict.fromkeys(Group, 2)
    return {"seed": SEED, "limit": 1, "groups": GROUPS, "counts": few, "ears": ears}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]
) -> tuple[Path, list[Record]]:
    """An evaluation that was interrupted and gone on with: folder, records."""
    out = tmp_path_factory.mktemp("evaluation")
    with pytest.raises(KeyboardInterrupt):
        Conversations(out, CountingTalker(1), **options).hold()
    (out / "conversations.jsonl").open("a").write('{"id": "silence-0000", "key')
    talker, steps = CountingTalker(), []
    records = Conversations(out, talker, **options).hold(lambda *step: steps.append(step))
    # One conversation was there, and an interrupted one is held twice.
    assert talker.held == 3
    assert steps == [(1, 3), (2, 3), (3, 3)]
    return out, records


def test_what_was_judged_is_not_judged_again(
    finished: tuple[Path, list[Record]], options: dict[str, Any]
) -> None:
    out, records = finished
    idle = CountingTalker(0)
    assert Conversations(out, idle, **options).hold() == records
    other = CountingTalker(0)
    other.fingerprint = "another model"
    with pytest.raises(KeyboardInterrupt):
        Conversations(out, other, **options).hold()
    with pytest.raises(KeyboardInterrupt):
        Conversations(out, idle, **options, split="valid").hold()
    assert (split_key("test"), split_key("valid")) == ((), ("valid",))


def test_recordings_and_verdicts_are_kept(finished: tuple[Path, list[Record]]) -> None:
    _, records = finished
    assert [record.id for record in records] == ["known-0000", "barge_in-0000", "silence-0000"]
    known, barge_in, silence = records
    assert known.verdict.answer_spoken
    assert barge_in.verdict.stopped
    assert barge_in.details["interrupted"] > barge_in.details["question_end"]
    assert silence.verdict.kept_silent
    for record in records:
        pcm = read_channels(record.audio, 24_000)
        assert pcm.shape == (2, pytest.approx(24_000 * record.details["seconds"], abs=13))


def test_figures_are_reached_on_the_right_side_of_their_bar(
    finished: tuple[Path, list[Record]],
) -> None:
    _, records = finished
    figures = {figure.key: figure for figure in conversation_figures(records)}
    assert figures["answer_known"].estimate.value == 100
    assert figures["answer_known"].reached is True
    assert figures["answer_changed"].estimate.value is None
    assert figures["answer_changed"].reached is False
    assert figures["first_word"].estimate.n == 1
    assert figures["stops"].reached is True
    assert set(stages(records)) == {"known"}
    assert at_least(0.9).reached(0.9)
    assert not at_least(0.9).reached(0.89)
    assert at_most(5).reached(5)
    assert not at_most(5).reached(5.1)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_else(finished: tuple[Path, list[Record]], tmp_path: Path) -> None:
    _, records = finished
    nasty = Figure("x", "</script><b>", "%", conversation_figures(records)[0].estimate)
    figures = [nasty, *conversation_figures(records)]
    report = Report("a <system>", 1, figures, stages(records), {}, records, split="valid")
    written = {path.name: path for path in write_report(report, tmp_path)}
    assert set(written) == {"report.json", "report.html", "report.png"}
    assert written["report.png"].read_bytes().startswith(b"\x89PNG")
    text = written["report.html"].read_text(encoding="utf-8")
    page = _Links()
    page.feed(text)
    assert len(page.sources) == 3
    assert all(source.startswith("data:audio/ogg;base64,T2dnUw") for source in page.sources)
    assert page.tags.count("svg") == page.tags.count("figure") == page.tags.count("audio") == 3
    assert "b" not in page.tags
    assert "a &lt;system&gt;" in text
    assert "seed 1, split valid;" in text
    for mark in ('class="trigger"', 'class="lookup"', 'class="interruption"'):
        assert mark in text
    values = json.loads(written["report.json"].read_text(encoding="utf-8"))
    assert values["format"] == "duologue-evaluation-1"
    assert (values["seed"], values["split"]) == (1, "valid")
    assert {one["id"] for one in values["conversations"]} == {record.id for record in records}
    shown = json.loads(re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)[1])
    assert [one["title"] for one in shown] == [figure.title for figure in figures]


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("hello\n")
    with pytest.raises(EvaluationError, match="line 1"):
        Ledger(path, "key")


def test_a_result_that_was_cut_off_costs_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written again that is whole: the run may end at that moment."""
    path = tmp_path / "results.jsonl"
    Ledger(path, "key").add("one", {"right": True})
    whole = path.read_bytes()

    def rewritten(*_: object) -> None:
        raise AssertionError("a file of results was written anew")

    monkeypatch.setattr(Path, "write_bytes", rewritten)
    for cut in (b'{"id": "tw', b"{"):
        with path.open("ab") as file:
            file.write(cut)
        assert Ledger(path, "key")["one"] == {"right": True}
        assert path.read_bytes() == whole


@pytest.fixture(scope="module")
def moshi() -> Moshi:
    with Moshi(model(), encoder=Rows()) as found:
        yield found


@pytest.mark.parametrize("kind", [SessionTalker, ReferenceTalker])
def test_models_talk_on_the_clock_of_the_user_and_say_the_same_again(
    moshi: Moshi,
    kind: type[SessionTalker],
    scenes: dict[Group, Scene],
    request_for: Callable[[Scene], Request],
) -> None:
    talker, made = kind(moshi), request_for(scenes[Group.KNOWN])
    short = Request(made.pcm[:60_000], made.knowledge, "user", 3, made.scene)
    one, other = talker.converse(short), talker.converse(short)
    assert one.heard is None
    assert len(one.pcm) == 32 * 1920
    assert len(one.frame_seconds) == 32
    assert np.array_equal(one.pcm, other.pcm)
    assert one.text == other.text
    assert one.lookups == other.lookups
    assert one.lookups
    assert all(0 <= piece.frame < 32 for piece in one.text)
    # The beginning of a recording has the reply's beginning.
    less = Request(made.pcm[: 20 * 1920], made.knowledge, "user", 3, made.scene)
    assert np.array_equal(talker.converse(less).pcm, one.pcm[: 20 * 1920])


def test_a_model_that_asks_is_given_the_true_reference(
    moshi: Moshi, scenes: dict[Group, Scene], request_for: Callable[[Scene], Request]
) -> None:
    made = request_for(scenes[Group.KNOWN])
    short = Request(made.pcm[:100_000], made.knowledge, "user", 3, made.scene)
    found = ReferenceTalker(moshi).converse(short)
    answered = [lookup for lookup in found.lookups if lookup.outcome == "answered"]
    assert answered
    words = len(made.knowledge.reference.split())
    for lookup in answered:
        assert lookup.reference == made.knowledge.reference
        assert lookup.rows == words
        assert lookup.arrival_frame == lookup.trigger_frame + round(0.4 / 0.08) + 1


async def ask(retriever: Retriever) -> Retrieved:
    context = RetrievalContext.from_question("What is the capital of France?")
    found = await attempt(retriever, context, 0.05)
    await retriever.aclose()
    return found


@pytest.mark.parametrize("opened", [open_retriever, open_oracle])
def test_faults_of_retrieval_are_what_they_say(opened: finding.Open) -> None:
    for fault, outcome in (
        (Fault.FAILS, Outcome.FAILED), (Fault.NEVER_ANSWERS, Outcome.TIMED_OUT),
    ):  # fmt: skip
        assert asyncio.run(ask(opened(Knowledge((FACT_BOOK,), fault)))).outcome is outcome


def test_an_oracle_finds_the_true_reference_whatever_it_is_asked() -> None:
    found = asyncio.run(ask(open_oracle(Knowledge((FACT_BOOK,), reference="Tea is rare."))))
    assert (found.outcome, found.reference) == (Outcome.ANSWERED, "Tea is rare.")
    assert asyncio.run(ask(open_oracle(Knowledge((FACT_BOOK,))))).outcome is Outcome.EMPTY


def test_a_session_with_an_oracle_is_told_the_true_reference(
    moshi: Moshi, scenes: dict[Group, Scene], request_for: Callable[[Scene], Request]
) -> None:
    made = request_for(scenes[Group.KNOWN])
    short = Request(made.pcm[:60_000], made.knowledge, "user", 3, made.scene)
    plain, talker = SessionTalker(moshi), SessionTalker(moshi, oracle=True)
    assert talker.fingerprint != plain.fingerprint
    assert talker.name == f"{plain.name}, finding the true references"
    references = {one.reference for one in talker.converse(short).lookups if one.reference}
    assert references == {made.knowledge.reference}
    assert not any(one.reference for one in plain.converse(short).lookups)


def test_a_session_under_test_leans_to_the_names_of_the_files(tmp_path: Path) -> None:
    """As a session that is opened with them does; the next one leans to nothing of them."""
    facts = tmp_path / "facts.md"
    facts.write_text("- The harbour of Kasobo is run by Irene Marok.\n")
    quiet = np.zeros(24_000, np.float32)
    with Moshi.from_pretrained("wren", device="cpu") as wren:
        recogniser = wren.bank.recogniser
        assert isinstance(recogniser, Recogniser)
        SessionTalker(wren).converse(Request(quiet, Knowledge((facts,)), "user", 1))
        assert recogniser.bias is not None
        assert recogniser.bias.entries == 3
        retriever = open_retriever(Knowledge((facts,)))
        with wren.create_session(retriever=retriever, init_speaker="user"):
            assert recogniser.bias is None
        asyncio.run(retriever.aclose())


def test_speed_is_measured_where_there_are_frames(moshi: Moshi, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    found = speed.measure(ReferenceTalker(moshi), tmp_path, seed=SEED, scenes=1, threads=(1,))
    assert torch.get_num_threads() == before
    assert 0 < found[1]["p50_ms"] <= found[1]["p95_ms"]
    assert found[1]["frames"] > 50
    keys = {figure.key for figure in speed.speed_figures(found)}
    assert keys == {"p50_ms_1", "p95_ms_1", "real_time_factor_1"}
    assert speed.measure(RecordedTalker(), tmp_path, scenes=1) == {}


class Identity:
    name = fingerprint = "identity"

    def recode(self, pcm: np.ndarray) -> np.ndarray:
        return pcm.copy()


class Mute:
    name = fingerprint = "mute"

    def recode(self, pcm: np.ndarray) -> np.ndarray:
        return np.zeros_like(pcm)


def test_a_perfect_codec_changes_nothing_and_a_mute_one_everything(
    tmp_path: Path, speaker: Speaker
) -> None:
    pytest.importorskip("pocketsphinx")
    ears = Ears([spoken_words(line.text) for line in coding.lines(1, 1, speaker)])
    figures = {}
    for coder in (Identity(), Mute()):
        results = coding.measure(coder, tmp_path, count=1, ears=ears)
        found = coding.codec_figures(results)
        figures[coder.name] = {figure.key: figure.estimate.value for figure in found}
    perfect, mute = figures["identity"], figures["mute"]
    assert perfect["codec_stoi"] == pytest.approx(1.0, abs=1e-6)
    assert perfect["codec_mel"] == perfect["codec_wer_added"] == 0
    assert perfect["codec_wer_original_wren"] < 20
    assert mute["codec_stoi"] < 0.4
    assert mute["codec_mel"] > 5
    assert mute["codec_wer_added_wren"] > 50


class Recording:
    """Says each reply as it was recorded, or nothing at all."""

    def __init__(self, speaker: Speaker, says: bool) -> None:
        self.speaker, self.says, self.fingerprint = speaker, says, f"recording {says}"

    def read(self, replies: Sequence[reading.Reply], seeds: Sequence[int]) -> list[np.ndarray]:
        return [self.speaker.say(one.text, WREN).samples * np.float32(self.says) for one in replies]


def test_a_recording_reads_answers_aloud_and_silence_none(tmp_path: Path, speaker: Speaker) -> None:
    pytest.importorskip("pocketsphinx")
    replies = [reading.reply(case, speaker) for case in reading.cases(SEED, 5)]
    assert {one.case.group for one in replies} == set(ANSWERED)
    ears = Ears([spoken_words(one.text) for one in replies])
    found = {}
    for says in (True, False):
        voice = Recording(speaker, says)
        results = reading.measure(voice, tmp_path, seed=SEED, count=5, ears=ears)
        figures = reading.reading_figures(results)
        found[says] = {figure.key: figure.estimate.value for figure in figures}
    assert found[True]["reading_answers"] >= 80
    assert found[True]["reading_wer"] < 15
    assert found[False] == {"reading_answers": 0, "reading_wer": 100}


def test_a_model_reads_what_it_is_given(speaker: Speaker) -> None:
    replies = [reading.reply(case, speaker) for case in reading.cases(SEED, 5)[:2]]
    with Moshi.from_pretrained("wren") as wren:
        reader = reading.Reader(wren)
    first, again = (reader.read(replies, [3, 4]) for _ in range(2))
    alone = reader.read(replies[:1], [3])
    assert [len(pcm) for pcm in first] == [len(first[0])] * 2
    assert len(first[0]) >= (max(one.seconds for one in replies) - 0.1) * 24_000
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])
    both = min(len(first[0]), len(alone[0]))
    np.testing.assert_allclose(first[0][:both], alone[0][:both], atol=1e-3)


def test_retrieval_is_scored_by_what_it_finds(tmp_path: Path) -> None:
    class Everything:
        """Answers with the whole file."""

        name = "everything"

        def __init__(self, knowledge: Knowledge) -> None:
            self.text = knowledge.files[0].read_text(encoding="utf-8")

        async def retrieve(self, context: RetrievalContext, deadline_s: float) -> Retrieved:
            subject = context.question.rstrip("?").split()[-1].lower()
            lines = [line[2:] for line in self.text.splitlines() if subject in line.lower()]
            if not lines:
                return Retrieved(Outcome.EMPTY)
            return Retrieved(Outcome.ANSWERED, " ".join(lines)[:1000])

        async def aclose(self) -> None:
            pass

    results = finding.measure(tmp_path, Everything, limit=10)
    assert len(results) == 10 * len(ANSWERED)
    right = [one for one in results if one["right"]]
    assert 0 < len(right) < len(results)
    figures = finding.finding_figures(results)
    assert [figure.key for figure in figures] == [f"found_{group}" for group in ANSWERED]
    assert sum(figure.estimate.n for figure in figures) == len(results)


def test_listeners_are_scored_by_their_words(tmp_path: Path, speaker: Speaker) -> None:
    class Deaf:
        name = fingerprint = "deaf"

        def transcribe(self, pcm: np.ndarray) -> str:
            return "what is"

    pytest.importorskip("pocketsphinx")
    results = hearing.measure(Deaf(), tmp_path, seed=SEED, limit=1)
    assert len(results) == len(hearing.GROUPS)
    total = hearing.hearing_figures(results)[0]
    assert total.key == "stt_wer"
    assert 60 < total.estimate.value <= 100
    assert hearing.measure(Deaf(), tmp_path, seed=SEED, limit=1) == results


def test_folders_are_told_apart_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    first = folder_fingerprint(tmp_path)
    assert folder_fingerprint(tmp_path) == first
    (tmp_path / "a").write_bytes(b"two")
    assert folder_fingerprint(tmp_path) != first


def test_the_command_writes_a_report_and_can_insist_on_bars(
    tmp_path: Path, speaker: Speaker
) -> None:
    pytest.importorskip("pocketsphinx")
    arguments = [
        "evaluate", "wren", "--system", "silent", "--group", "silence", "--limit", "1",
        "--out", str(tmp_path), "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["system"] == "silence"
    assert report["complete"] is False
    assert {f["key"]: f["value"] for f in report["figures"]}["quiet"] == 100
    assert (tmp_path / "report.html").is_file()
    assert CliRunner().invoke(app, [*arguments, "--check"]).exit_code == 1
    wrong = CliRunner().invoke(app, ["evaluate", "wren", "--group", "nobody"])
    assert wrong.exit_code == 2
    assert "known, changed" in wrong.output


@pytest.mark.parametrize("command", ["wren", "codec", "stt", "retrieval"])
def test_nothing_is_judged_by_what_it_learnt_from(command: str) -> None:
    for split in ("train", "tests"):
        refused = CliRunner().invoke(app, ["evaluate", command, "--split", split])
        assert refused.exit_code == 2
        assert "--split" in refused.output
        assert "valid" in refused.output


def test_what_is_tuned_on_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out" / "evaluation"
    for split in ("valid", "test"):
        arguments = ["evaluate", "retrieval", "--split", split, "--limit", "1", "--json"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["split"] == split
    assert {path.name for path in folder.iterdir()} == {"retrieval", "retrieval-valid"}
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/retrieval.json"))]
    assert [one["split"] for one in found] == ["test", "valid"]
    questions = [{one["question"] for one in part["questions"]} for part in found]
    assert questions[0].isdisjoint(questions[1])


def test_a_part_alone_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command, short in (("codec", ("--count", "2")), ("stt", ("--limit", "1"))):
        done = CliRunner().invoke(app, ["evaluate", command, *short, "--json"])
        assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / "evaluation"
    assert {path.name for path in folder.iterdir()} == {"wren-codec", "wren-stt"}
