"""`duologue talk`: conversations over recordings instead of a microphone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duologue.cli.options import DEFAULT_MODEL, Device, Force, Json, Threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duologue.offline.files import Recording
    from duologue.offline.program import Plan

_MODEL, _DRAW, _TIME = "The model", "How it draws", "How long"
MAX_RAG_TIMEOUT_S = 60.0
"""`MAX_DEADLINE_S` of `retrieval.protocol`, which is not loaded for help."""
_LOOK, _TURNS, _OUT = "Looking things up", "Turns", "What is written"


def _flag(panel: str, text: str, *names: str, **rest: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **rest)


def talk(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Recordings of the user (any format and rate), or folders of them."),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Folder for the results.")
    ] = None,
    input_dir: Annotated[
        Path | None, typer.Option("--input-dir", help="One more folder of recordings.")
    ] = None,
    model: Annotated[
        str, _flag(_MODEL, "Bundled name, folder or hub id.", "--model", "-m", "--hf-repo")
    ] = DEFAULT_MODEL,
    device: Device = "auto",
    quantization: Annotated[
        str | None, _flag(_MODEL, "`int8` or `int4`; the file's own precision if not given.")
    ] = None,
    half: Annotated[bool, _flag(_MODEL, "float16 in place of bfloat16.", "--half")] = False,
    config: Annotated[str | None, _flag(_MODEL, "Configuration in place of the folder's.")] = None,
    moshi_weight: Annotated[str | None, _flag(_MODEL, "Weights likewise.")] = None,
    mimi_weight: Annotated[str | None, _flag(_MODEL, "Codec likewise.")] = None,
    tokenizer: Annotated[str | None, _flag(_MODEL, "Text tokenizer likewise.")] = None,
    stt: Annotated[
        str,
        _flag(_MODEL, "Recogniser: `auto` (a service, or the model's own), `none`, or a model."),
    ] = "auto",
    voice: Annotated[
        Path | None, _flag(_MODEL, "Voice to take on: a recording, or a saved voice.")
    ] = None,
    role: Annotated[str, _flag(_MODEL, "Role text that the conversation starts with.")] = "",
    seed: Annotated[int, _flag(_DRAW, "Seed of everything that is drawn.")] = 0,
    temperature: Annotated[
        float | None, _flag(_DRAW, "For text and audio; the model's if not given.", min=0.0)
    ] = None,
    text_temperature: Annotated[float | None, _flag(_DRAW, "For text.", min=0.0)] = None,
    text_topk: Annotated[int | None, _flag(_DRAW, "For text; 0 for all.", min=0)] = None,
    audio_temperature: Annotated[float | None, _flag(_DRAW, "For audio.", min=0.0)] = None,
    audio_topk: Annotated[int | None, _flag(_DRAW, "For audio; 0 for all.", min=0)] = None,
    cfg_coef: Annotated[float, _flag(_DRAW, "1.0; others do not go with references.")] = 1.0,
    knowledge: Annotated[
        list[str] | None,
        _flag(_LOOK, "Document, folder, index or `factbook` to answer from. May be repeated."),
    ] = None,
    tools: Annotated[
        bool, _flag(_LOOK, "Calculator, clock and units.", "--tools/--no-tools")
    ] = True,
    grounded_only: Annotated[
        bool, _flag(_LOOK, "Only answers with a source.", "--grounded-only")
    ] = False,
    use_gt_reference: Annotated[
        bool,
        _flag(_LOOK, "Answer from `gt_reference_text` of NAME.json.", "--use-gt-reference"),
    ] = False,
    rag_timeout: Annotated[
        float | None,
        _flag(
            _LOOK,
            "Seconds for a lookup; 0 for six minutes, each attempt 60 s at most. "
            "[1.5; published: 10]",
            min=0.0,
            max=MAX_RAG_TIMEOUT_S,
        ),
    ] = None,
    retrieval_delay: Annotated[
        float | None,
        _flag(_LOOK, "Seconds that each lookup counts as. [as long as it took]", min=0.0),
    ] = None,
    max_reference_tokens: Annotated[
        int | None, _flag(_LOOK, "Of a language model. [256; published: 64]", min=1)
    ] = None,
    rules: Annotated[
        str, _flag(_TURNS, "`improved`, or `published` as in MoshiRAG's offline inference.")
    ] = "improved",
    floor: Annotated[
        bool | None,
        _flag(
            _TURNS,
            "Whether a policy decides when the model may speak. [as the model's folder says]",
            "--floor/--no-floor",
        ),
    ] = None,
    init_active_speaker: Annotated[
        str, _flag(_TURNS, "Who has the floor at first: `user` or `model`.")
    ] = "user",
    stt_wait_time: Annotated[
        float | None,
        _flag(_TURNS, "Longest wait for words after a trigger. [0.96; published: 0.5]", min=0.0),
    ] = None,
    vad_window_size: Annotated[int, _flag(_TURNS, "Frames that decide.", min=1, max=256)] = 4,
    vad_threshold: Annotated[
        float, _flag(_TURNS, "Probability of a pause.", min=0.0, max=1.0)
    ] = 0.5,
    power_threshold: Annotated[
        float, _flag(_TURNS, "Quieter frames (dB) are heard as silence.")
    ] = -65.0,
    stop_on_end_of_input: Annotated[
        bool, _flag(_TIME, "Stop where the recording stops.", "--stop-on-end-of-input")
    ] = False,
    max_consecutive_silence_frames: Annotated[
        int | None,
        _flag(_TIME, "Stop when the model has nothing to say for so long. [40]", min=0),
    ] = None,
    tail: Annotated[
        float | None, _flag(_TIME, "Stop so many seconds after the recording.", min=0.0)
    ] = None,
    max_tail: Annotated[float, _flag(_TIME, "Never go on for longer than that.", min=0.0)] = 30.0,
    batch_size: Annotated[int, _flag(_TIME, "Conversations at a time.", min=1, max=1024)] = 1,
    stereo: Annotated[
        bool, _flag(_OUT, "Also both voices, the model's on the left.", "--stereo")
    ] = False,
    picture: Annotated[
        bool | None,
        _flag(_OUT, "Draw the timeline. [if matplotlib is there]", "--picture/--no-picture"),
    ] = None,
    threads: Threads = None,
    log_level: Annotated[str, _flag(_OUT, "debug, info, warning, error, critical.")] = "warning",
    force: Force = False,
    json_output: Json = False,
) -> None:
    """Play recordings to the model and write down what it says meanwhile.

    Each recording NAME gives OUT/NAME.wav (the model's voice, 24 kHz, frame k said while frame k
    was heard), OUT/NAME.json (MoshiRAG's schema with more keys) and OUT/NAME.png (a timeline). A
    NAME.json beside the recording may hold `topic`, `gt_reference_text` and `answer`. What is there
    already is left out, so an interrupted run goes on where it was.

    Examples:

        duologue talk question.wav --knowledge facts.md --output-dir out

        duologue talk questions/ -o out --rules published --use-gt-reference --batch-size 4

        duologue talk *.wav -o out --model path/to/moshiko --temperature 0.7 --seed 3 --stereo
    """
    from duologue.errors import DuologueError

    if output_dir is None:
        raise DuologueError("where to? name a folder for the results: --output-dir OUT")
    if cfg_coef != 1.0:
        raise DuologueError("--cfg-coef: guidance does not go with references; leave it at 1.0")
    silence = max_consecutive_silence_frames
    if sum([stop_on_end_of_input, tail is not None, silence is not None]) > 1:
        raise DuologueError(
            "--stop-on-end-of-input, --tail and --max-consecutive-silence-frames are three ways to "
            "say when to stop; give one"
        )
    _check_choice("--rules", rules, "improved", "published")
    _check_choice("--init-active-speaker", init_active_speaker, "user", "model")
    _set_log_level(log_level)

    from duologue.offline.equipment import Sources
    from duologue.offline.files import find_recordings
    from duologue.offline.program import Plan
    from duologue.offline.published import ModelFiles
    from duologue.offline.settings import SILENCE_FRAMES, Drawing, Rules, TalkSettings
    from duologue.offline.timeline import can_draw, check_can_draw

    if picture:
        check_can_draw()
    places = [*(sources or []), *([input_dir] if input_dir else [])]
    plan = Plan(
        find_recordings(places, needs_reference=use_gt_reference),
        output_dir,
        TalkSettings(
            seed=seed,
            init_speaker=init_active_speaker,
            rules=Rules(rules),
            stt_wait_s=stt_wait_time,
            rag_timeout_s=rag_timeout,
            max_reference_tokens=max_reference_tokens,
            vad_window=vad_window_size,
            vad_threshold=vad_threshold,
            power_threshold_db=power_threshold,
            retrieval_delay_s=retrieval_delay,
            use_gt_reference=use_gt_reference,
            stop_at_end=stop_on_end_of_input,
            silence_frames=SILENCE_FRAMES if silence is None else silence,
            tail_s=tail,
            max_tail_s=max_tail,
            floor=floor,
            voice=voice,
            role=role,
        ),
        Drawing(temperature, text_temperature, text_topk, audio_temperature, audio_topk),
        Sources(tuple(knowledge or ()), tools, grounded_only),
        model,
        ModelFiles(config, moshi_weight, mimi_weight, tokenizer),
        device,
        quantization,
        half,
        stt,
        batch_size,
        stereo,
        can_draw() if picture is None else picture,
        force,
    )
    _run(plan, threads, quiet=json_output)


def _run(plan: Plan, threads: int | None, *, quiet: bool) -> None:
    """Talk under a progress bar; ends with 2 when a recording failed."""
    import os

    from duologue.cli.options import use_threads
    from duologue.offline.program import carry_out

    report = _Report(quiet)
    try:
        with report.bar:
            failed = carry_out(
                plan,
                os.environ,
                report,
                lambda model: use_threads(threads, model.codec, model.lm),
            )
    except KeyboardInterrupt:
        if report.done < report.total:
            typer.echo(
                f"{report.done} of {report.total} recordings are done; the same command goes on "
                "with the others",
                err=True,
            )
        raise
    report.end()
    if failed:
        raise typer.Exit(2)


class _Report:
    """Tells how a run is going: a bar and lines for people, or JSON lines for programs."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.quiet, self.total, self.done = quiet, 0, 0
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("talking"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}, {task.fields[seconds]:.0f} s of talk"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: Any = None
        self._frames = 0
        self._notes: Sequence[str] = ()

    def begins(self, recordings: int, done: int) -> None:
        self.total = recordings
        self._task = self.bar.add_task("talking", total=recordings, seconds=0.0)

    def notes(self, notes: Sequence[str]) -> None:
        self._notes = notes

    def frames(self, count: int) -> None:
        self._frames += count
        self.bar.update(self._task, seconds=self._frames * 0.08)

    def result(self, summary: dict[str, Any]) -> None:
        self._count()
        typer.echo(json.dumps(summary) if self.quiet else _sentence(summary))

    def failure(self, recording: Recording, error: Exception) -> None:
        self._count()
        reason = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.filename}: {error.strerror}"
        if recording.path.name not in reason:
            reason = f"{recording.path}: {reason}"
        typer.secho(f"error: {reason}", err=True, fg="red")

    def end(self) -> None:
        """Programs find the notes in every result."""
        for note in self._notes if self.done and not self.quiet else ():
            typer.echo(f"note: {note}", err=True)

    def _count(self) -> None:
        self.done += 1
        self.bar.update(self._task, completed=self.done)


def _sentence(summary: dict[str, Any]) -> str:
    said = f': "{summary["text"]}"' if summary["text"] else ""
    if summary["skipped"]:
        return f"{summary['output']}: there already{said}"
    found = [lookup for lookup in summary["lookups"] if lookup["outcome"] == "answered"]
    asked = f", {len(found)} of {len(summary['lookups'])} lookups" if summary["lookups"] else ""
    cited = sorted({source for lookup in found for source in lookup["sources"]})
    told = f" [{'; '.join(cited[:3])}]" if cited else ""
    return (
        f"{summary['output']}: {summary['seconds']:.2f} s, frame {summary['frame_ms_p50']:.1f} ms "
        f"(p95 {summary['frame_ms_p95']:.1f}), {summary['real_time_factor']:.2f} of real time"
        f"{asked}{said}{told}"
    )


def _check_choice(flag: str, value: str, *choices: str) -> None:
    from duologue.errors import DuologueError

    if value not in choices:
        raise DuologueError(f"{flag}: {value!r} is none of {', '.join(choices)}")


def _set_log_level(level: str) -> None:
    import logging

    _check_choice("--log-level", level.lower(), "debug", "info", "warning", "error", "critical")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("duologue").setLevel(level.upper())
