"""The `evaluate` commands."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duologue.cli.options import DEFAULT_MODEL, CodecModel, Device, Json, Model
from duologue.evaluation.console import faults, finish, progress_bar

if TYPE_CHECKING:
    from duologue.evaluation.cases import Group
    from duologue.evaluation.coding import Coder
    from duologue.evaluation.reading import Reader
    from duologue.evaluation.table import Figure
    from duologue.evaluation.talker import Talker
    from duologue.synthesis.splits import Split

app = typer.Typer(
    help="Judge models: codec, speech recognition, whole conversations.", no_args_is_help=True
)


class System(StrEnum):
    """What holds the conversations."""

    SESSION = "session"
    SOCKET = "socket"
    ORACLE = "oracle"
    REFERENCES = "references"
    RECORDED = "recorded"
    SILENT = "silent"
    SHUFFLED = "shuffled"
    DEAF = "deaf"


class Part(StrEnum):
    """What is measured."""

    CONVERSATIONS = "conversations"
    RETRIEVAL = "retrieval"
    CODEC = "codec"
    READING = "reading"
    SPEED = "speed"


Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder for results; out/evaluation and the model's name if not given."
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help="Quick look: at most so many a group.")
]
Seed = Annotated[int, typer.Option(help="Another seed asks other questions in other voices.")]
SplitName = Annotated[
    str,
    typer.Option(
        "--split",
        help="Whose questions, voices and names: `test`, or `valid` for whatever is being tuned.",
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the model.")]
Check = Annotated[bool, typer.Option("--check", help="End with status 1 if a bar is missed.")]


@app.command()
def wren(
    model: Model = DEFAULT_MODEL,
    out: Out = None,
    system: Annotated[
        System,
        typer.Option(
            help="`session`: the whole pipeline. `socket`: a whole server, over a real socket, at "
            "the real pace. `oracle`: the pipeline, but its lookups find the true references. "
            "`references`: the model alone, given them. The others need no model and show what "
            "the judge gives them."
        ),
    ] = System.SESSION,
    parts: Annotated[
        list[Part] | None, typer.Option("--part", help="Measure only this; may be repeated.")
    ] = None,
    groups: Annotated[
        list[str] | None, typer.Option("--group", help="Only this group; may be repeated.")
    ] = None,
    limit: Limit = None,
    seed: Seed = 1,
    split: SplitName = "test",
    threads: Threads = 1,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="For text and audio; the model's if not given.")
    ] = None,
    floor: Annotated[
        bool | None,
        typer.Option(
            "--floor/--no-floor",
            help="Sessions: a policy decides when the model may speak. [as its folder says]",
        ),
    ] = None,
    device: Device = "auto",
    check: Check = False,
    json_output: Json = False,
) -> None:
    """Hold conversations with a model and write a report with intervals, sounds and timelines.

    Questions, voices and entities are ones that training never had. What has been measured is kept
    in the folder: the same command goes on where it was stopped, and makes the report again.

    Examples:

        duologue evaluate wren --limit 5

        duologue evaluate wren --limit 5 --split valid --no-floor

        duologue evaluate wren --model runs/wren/lm/model --out out/lm --group known --group pause

        duologue evaluate wren --system socket --part conversations --group known --limit 3

        duologue evaluate wren --system recorded --limit 3
    """
    from duologue.checkpoints.save import write_json
    from duologue.evaluation import coding, finding, reading, speed
    from duologue.evaluation.cases import ANSWERED, COUNTS
    from duologue.evaluation.conversations import Conversations
    from duologue.evaluation.report import Report
    from duologue.evaluation.systems import open_retriever
    from duologue.evaluation.table import by_detail, conversation_figures, stages

    wanted, chosen, held_out = set(parts or Part), _groups(groups), _held_out(split)
    where = out or _folder(model, system, held_out)
    with faults():
        talker, coder, reader = _system(system, model, device, threads, temperature, floor, wanted)
        figures: list[Figure] = []
        if Part.RETRIEVAL in wanted and system is System.SESSION:
            found = finding.measure(
                where / "knowledge", open_retriever, seed=seed, limit=limit, split=held_out
            )
            write_json(
                where / "retrieval.json", {"seed": seed, "split": held_out, "questions": found}
            )
            figures += finding.finding_figures(found)
        if Part.CODEC in wanted and coder is not None:
            with progress_bar("codec", quiet=json_output) as progress:
                count = min(coding.COUNT, 2 * limit) if limit else coding.COUNT
                results = coding.measure(
                    coder, where, seed=seed, count=count, split=held_out, progress=progress
                )
            figures += coding.codec_figures(results)
        if reader is not None:
            with progress_bar("reading", quiet=json_output) as progress:
                count = len(ANSWERED) * limit if limit else reading.COUNT
                read = reading.measure(
                    reader, where, seed=seed, count=count, split=held_out, progress=progress
                )
            figures += reading.reading_figures(read)
        records = []
        if Part.CONVERSATIONS in wanted:
            with progress_bar("conversations", quiet=json_output) as progress:
                held = Conversations(
                    where, talker, seed=seed, limit=limit, groups=chosen, split=held_out
                )
                records = held.hold(progress)
            figures += conversation_figures(records)
        if Part.SPEED in wanted and system in (System.SESSION, System.REFERENCES):
            with progress_bar("speed", quiet=json_output) as progress:
                figures += speed.speed_figures(
                    speed.measure(talker, where, seed=seed, split=held_out, progress=progress)
                )
        answered = [record for record in records if record.group in ANSWERED]
        complete = len(records) == sum(COUNTS.values()) and wanted == set(Part)
        report = Report(
            talker.name, seed, figures, stages(records),
            {name: by_detail(answered, name, lambda v: v.answer_spoken)
             for name in ("voice", "relation")} if answered else {},
            records, speed.machine(device), complete, held_out,
        )  # fmt: skip
    finish(report, where, as_json=json_output, check=check)


@app.command()
def codec(
    model: CodecModel = DEFAULT_MODEL,
    out: Out = None,
    count: Annotated[int, typer.Option(min=2, help="Utterances.")] = 120,
    codebooks: Annotated[
        int | None, typer.Option(min=1, help="Fewer codebooks than the codec has.")
    ] = None,
    seed: Seed = 1,
    split: SplitName = "test",
    threads: Threads = 1,
    device: Device = "auto",
    check: Check = False,
    json_output: Json = False,
) -> None:
    """Measure a codec: STOI, mel distance, and what a recogniser no longer reads.

    Example:

        duologue evaluate codec --model runs/wren/codec/codec --count 40
    """
    import torch

    import duologue
    from duologue.evaluation import coding
    from duologue.evaluation.report import Report
    from duologue.evaluation.speed import machine

    held_out = _held_out(split)
    torch.set_num_threads(threads)
    where = out or _folder(model, "codec", held_out)
    with faults(), progress_bar("codec", quiet=json_output) as progress:
        loaded = duologue.load_codec(model, device=device, num_codebooks=codebooks)
        coder = coding.MimiCoder(loaded, model)
        results = coding.measure(
            coder, where, seed=seed, count=count, split=held_out, progress=progress
        )
    figures = coding.codec_figures(results)
    report = Report(coder.name, seed, figures, machine=machine(device), split=held_out)
    finish(report, where, as_json=json_output, check=check)


@app.command()
def stt(
    model: Model = DEFAULT_MODEL,
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 1,
    split: SplitName = "test",
    threads: Threads = 1,
    device: Device = "auto",
    check: Check = False,
    json_output: Json = False,
) -> None:
    """Measure speech recognition on the users of the evaluation set, in voices never heard.

    Example:

        duologue evaluate stt --model runs/wren/stt/model --limit 10
    """
    import torch

    from duologue.evaluation import hearing
    from duologue.evaluation.report import Report
    from duologue.evaluation.speed import machine
    from duologue.evaluation.systems import folder_fingerprint
    from duologue.stt.load import load_recogniser, recogniser_folder

    held_out = _held_out(split)
    torch.set_num_threads(threads)
    where = out or _folder(model, "stt", held_out)
    with faults(), progress_bar("speech recognition", quiet=json_output) as progress:
        folder = recogniser_folder(model)
        listener = hearing.ModelListener(
            load_recogniser(model, device=device), model, folder_fingerprint(folder.path)
        )
        results = hearing.measure(
            listener, where, seed=seed, limit=limit, split=held_out, progress=progress
        )
    figures = hearing.hearing_figures(results)
    report = Report(listener.name, seed, figures, machine=machine(device), split=held_out)
    finish(report, where, as_json=json_output, check=check)


@app.command()
def retrieval(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for results; out/evaluation/retrieval if not given."
        ),
    ] = None,
    limit: Limit = None,
    seed: Seed = 1,
    split: SplitName = "test",
    json_output: Json = False,
) -> None:
    """Look up the true words of all questions: what retrieval alone finds. No model is needed.

    Writes `retrieval.json` with every question, what was found and what should have been.

    Example:

        duologue evaluate retrieval --limit 20
    """
    from duologue.checkpoints.save import write_json
    from duologue.evaluation import finding
    from duologue.evaluation.report import Report
    from duologue.evaluation.systems import open_retriever

    held_out = _held_out(split)
    where = out or _folder("retrieval", None, held_out)
    results = finding.measure(
        where / "knowledge", open_retriever, seed=seed, limit=limit, split=held_out
    )
    write_json(where / "retrieval.json", {"seed": seed, "split": held_out, "questions": results})
    figures = finding.finding_figures(results)
    report = Report("retrieval, given the true words", seed, figures, split=held_out)
    finish(report, where, as_json=json_output, check=False)


@app.command()
def questions(
    questions: Annotated[
        Path,
        typer.Argument(
            help="CSV file: columns question, and answer (words that it must contain).",
            exists=True, dir_okay=False, readable=True,
        ),
    ],
    knowledge: Annotated[
        list[Path],
        typer.Option(
            "--knowledge", "-k", help="Facts to look them up in; may be repeated.",
            exists=True, dir_okay=False, readable=True,
        ),
    ],
    model: Model = DEFAULT_MODEL,
    out: Out = None,
    seed: Seed = 1,
    split: Annotated[
        str, typer.Option("--split", help="Whose voices ask: `test`, or `valid` for tuning.")
    ] = "test",
    threads: Threads = 1,
    device: Device = "auto",
    json_output: Json = False,
) -> None:  # fmt: skip
    """Ask a model your own questions about your own facts, in voices that it never heard.

    Says how often the fact was found, written, and spoken so that a recogniser understands it; all
    that was said is in the folder, as sound and in `questions.jsonl`.

    Examples:

        duologue evaluate questions examples/questions.csv --knowledge examples/facts.md
    """
    import torch

    from duologue.evaluation import asking
    from duologue.evaluation.report import Report
    from duologue.evaluation.speed import machine
    from duologue.evaluation.systems import SessionTalker
    from duologue.session.moshi import Moshi

    held_out = _held_out(split)
    torch.set_num_threads(threads)
    where = out or _folder(model, "questions", held_out)
    with faults(), progress_bar("questions", quiet=json_output) as progress:
        wanted = asking.read_questions(questions)
        talker = SessionTalker(Moshi.from_pretrained(model, device=device))
        results = asking.measure(
            talker, wanted, knowledge, where, seed=seed, split=held_out, progress=progress
        )
    figures = asking.asking_figures(results)
    report = Report(talker.name, seed, figures, machine=machine(device), split=held_out)
    finish(report, where, as_json=json_output, check=False)


def _system(
    system: System,
    model: str,
    device: str,
    threads: int,
    temperature: float | None,
    floor: bool | None,
    wanted: set[Part],
) -> tuple[Talker, Coder | None, Reader | None]:
    """The system that talks; its codec, and its voice alone, if it has them."""
    import torch

    from duologue.evaluation import simulated
    from duologue.synthesis.speaker import Speaker

    torch.set_num_threads(threads)
    if system is System.RECORDED:
        return simulated.RecordedTalker(), None, None
    if system is System.DEAF:
        return simulated.RecordedTalker(None), None, None
    if system is System.SILENT:
        return simulated.SilentTalker(), None, None
    if system is System.SHUFFLED:
        return simulated.ShuffledTalker(Speaker()), None, None
    if system is System.SOCKET:
        from duologue.evaluation.socket_talker import SocketTalker

        return SocketTalker(model, device=device, temperature=temperature, floor=floor), None, None
    from duologue.evaluation.coding import MimiCoder
    from duologue.evaluation.reading import Reader
    from duologue.evaluation.systems import ReferenceTalker, SessionTalker
    from duologue.moshi.sampling import Sampling
    from duologue.session.moshi import Moshi

    moshi = Moshi.from_pretrained(model, device=device)
    sampling = None if temperature is None else Sampling(temperature)
    if system is System.ORACLE:
        return SessionTalker(moshi, sampling, floor, oracle=True), None, None
    coder = MimiCoder(moshi.model.codec, model) if Part.CODEC in wanted else None
    if system is System.SESSION:
        reader = Reader(moshi, sampling) if Part.READING in wanted else None
        return SessionTalker(moshi, sampling, floor), coder, reader
    return ReferenceTalker(moshi, sampling), coder, None


def _groups(names: Sequence[str] | None) -> tuple[Group, ...]:
    from duologue.evaluation.cases import Group

    known = {str(group): group for group in Group}
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    return tuple(known[name] for name in names) if names else tuple(Group)


def _held_out(name: str) -> Split:
    """The split of that name, if training leaves it alone."""
    from duologue.synthesis.splits import SPLITS

    allowed = {split: split for split in SPLITS if split != "train"}
    if name == "train":
        raise typer.BadParameter("--split train is what models learn from; take valid or test")
    if name not in allowed:
        raise typer.BadParameter(f"--split {name!r} is not one of {', '.join(allowed)}")
    return allowed[name]


def _folder(model: str, part: str | None, split: Split) -> Path:
    """One for each report: of whole conversations, of a system's, of a part alone."""
    name = Path(model).name or "model"
    if part is not None and part != System.SESSION:
        name += f"-{part}"
    if split != "test":
        name += f"-{split}"
    return Path("out/evaluation") / name
