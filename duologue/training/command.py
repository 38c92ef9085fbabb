"""`duologue train ...`: start a run, or go on with it; and what a run needs beforehand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from duologue.training.trainer import RunConfig, Task

logger = logging.getLogger(__name__)

app = typer.Typer(name="train", no_args_is_help=True)

ConfigOption = Annotated[
    list[Path],
    typer.Option(
        "--config",
        exists=True,
        dir_okay=False,
        help="Recipe in TOML; given more than once, later files override earlier ones.",
    ),
]
ManifestOption = Annotated[
    list[Path],
    typer.Option(
        "--data",
        exists=True,
        help="Manifest (JSON Lines) or a folder of them; may be given more than once.",
    ),
]
EncodedOption = Annotated[
    list[Path],
    typer.Option(
        "--data",
        exists=True,
        file_okay=False,
        help="Folder that `train encode` wrote; may be given more than once.",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        help="Folder of the run: checkpoints, metrics.jsonl, samples and the exported model. "
        "If it holds a checkpoint, the run goes on from there.",
    ),
]
SpokenOption = Annotated[
    list[Path],
    typer.Option(
        "--data",
        exists=True,
        help="Manifest, or folder of them or of codes; may be given more than once.",
    ),
]
CodecOption = Annotated[str, typer.Option("--codec", help="Codec: a folder, file or model name.")]
TokenizerOption = Annotated[
    Path, typer.Option(exists=True, dir_okay=False, help="Text tokenizer (`train tokenizer`).")
]
StartOption = Annotated[
    Path | None,
    typer.Option(
        "--start",
        exists=True,
        file_okay=False,
        help="Model folder of the same shape to begin with, e.g. another run's OUT/model.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe entry, e.g. --set run.batch=64 (repeatable)."),
]
ScaleOption = Annotated[
    float,
    typer.Option(min=1e-6, help="Times all lengths in steps of the recipe: 0.1 is a first look."),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; all cores if not given.")
]
MinutesOption = Annotated[
    float | None,
    typer.Option("--stop-after-minutes", min=0, help="Save and stop after this time."),
]
RestartOption = Annotated[
    bool, typer.Option("--restart", help="Begin anew, deleting the folder's checkpoints.")
]


@app.callback()
def train() -> None:
    """Train a model of your own. A run that was stopped goes on where it was, by itself."""


@app.command()
def codec(
    config: ConfigOption,
    data: ManifestOption,
    out: OutOption,
    start: Annotated[
        str | None,
        typer.Option("--start", help="Codec to begin with: a folder, file or model name."),
    ] = None,
    device: DeviceOption = "auto",
    override: SetOption = None,
    scale: ScaleOption = 1.0,
    threads: ThreadsOption = None,
    stop_after_minutes: MinutesOption = None,
    restart: RestartOption = False,
) -> None:
    """Train a Mimi codec on mono speech.

    Ctrl-C (or SIGTERM) saves and stops; the same command goes on. The codec as it stands is in
    OUT/codec after each save, ready for `duologue codec` or `load_codec`.
    """
    _prepare(threads)
    from duologue.checkpoints.load import load_codec, pick_device
    from duologue.training.codec import CodecTask, CodecTrainingConfig
    from duologue.training.config import parse, read_toml, shortened
    from duologue.training.data import read_manifest

    recipe = shortened(parse(CodecTrainingConfig, read_toml(config, override or ())), scale)
    recordings = [recording for path in data for recording in read_manifest(path)]
    hours = sum(recording.duration_s for recording in recordings) / 3600
    logger.info("%d recordings, %.2f h", len(recordings), hours)
    device_used = pick_device(device)
    begun = None if start is None else load_codec(start, device=device_used)
    task = CodecTask(recipe, recordings, device_used, begun)
    _run(task, recipe.run, out, stop_after_minutes, restart)


@app.command()
def lm(
    config: ConfigOption,
    data: EncodedOption,
    out: OutOption,
    codec: CodecOption,
    tokenizer: TokenizerOption,
    reference_tokenizer: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Of references; the text one if not given."),
    ] = None,
    start: StartOption = None,
    device: DeviceOption = "auto",
    override: SetOption = None,
    scale: ScaleOption = 1.0,
    threads: ThreadsOption = None,
    stop_after_minutes: MinutesOption = None,
    restart: RestartOption = False,
) -> None:
    """Train a duplex language model and its reference encoder on encoded dialogues.

    OUT/model holds the whole model folder after each save: language model, codec, tokenizers and
    reference encoder.
    """
    _prepare(threads)
    from duologue.checkpoints.load import load_codec, pick_device
    from duologue.training.config import parse, read_toml, shortened
    from duologue.training.duplex import DuplexTask, DuplexTrainingConfig, load_duplex
    from duologue.training.language import Corpus

    recipe = shortened(parse(DuplexTrainingConfig, read_toml(config, override or ())), scale)
    device_used = pick_device(device)
    loaded = load_codec(codec, device=device_used)
    task = DuplexTask(
        recipe,
        Corpus.of(data, loaded),
        loaded,
        tokenizer,
        reference_tokenizer or tokenizer,
        device_used,
        None if start is None else load_duplex(start),
    )
    _run(task, recipe.run, out, stop_after_minutes, restart)


@app.command()
def stt(
    config: ConfigOption,
    data: SpokenOption,
    out: OutOption,
    tokenizer: TokenizerOption,
    codec: Annotated[
        str | None, typer.Option(help="Whose codes it hears, if it has no front end of its own.")
    ] = None,
    start: StartOption = None,
    device: DeviceOption = "auto",
    override: SetOption = None,
    scale: ScaleOption = 1.0,
    threads: ThreadsOption = None,
    stop_after_minutes: MinutesOption = None,
    restart: RestartOption = False,
) -> None:
    """Train a streaming transcription model on dialogues or mono speech.

    With `[front_end]` in the recipe it hears recordings (--data names manifests or folders of
    them), otherwise codes (--data names what `train encode` made, --codec the codec).
    """
    _prepare(threads)
    import torch

    from duologue.checkpoints.load import load_codec, pick_device
    from duologue.stt.load import load_recogniser
    from duologue.training.config import parse, read_toml, shortened
    from duologue.training.stt import STTTask, STTTrainingConfig

    recipe = shortened(parse(STTTrainingConfig, read_toml(config, override or ())), scale)
    device_used = pick_device(device)
    loaded = None if codec is None else load_codec(codec, device=device_used)
    begun = None
    if start is not None:
        begun = load_recogniser(start, device="cpu", dtype=torch.float32, runtime="eager")
    task = STTTask(recipe, data, loaded, tokenizer, device_used, begun)
    _run(task, recipe.run, out, stop_after_minutes, restart)


@app.command()
def encode(
    data: Annotated[Path, typer.Option(exists=True, help="Manifest or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the codes; a started one is gone on with.")],
    codec: CodecOption,
    codebooks: Annotated[
        int | None, typer.Option(min=1, help="Codebooks of each side; all if not given.")
    ] = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="CPU processes; all cores if not given.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Put a corpus through the codec once; language models are trained on the result."""
    _prepare(threads)
    import os

    from rich.progress import Progress

    from duologue.checkpoints.load import load_codec, pick_device
    from duologue.training.encoded import encode_corpus, encode_in_processes

    where = pick_device(device)
    count = workers or os.cpu_count() or 1
    with Progress() as progress:
        bar = progress.add_task("encoding", total=None)

        def show(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        if where.type == "cpu" and count > 1:
            encode_in_processes(data, codec, out, count, show, codebooks=codebooks)
        else:
            loaded = load_codec(codec, device=where, num_codebooks=codebooks)
            encode_corpus(data, loaded, out, progress=show)


@app.command()
def hear(
    codes: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What was encoded.")],
    data: Annotated[Path, typer.Option(exists=True, help="What it was encoded from.")],
    recogniser: Annotated[str, typer.Option(help="RUN/model of `train stt`, or a model's name.")],
    device: DeviceOption = "auto",
    renew: Annotated[
        bool, typer.Option("--renew", help="Forget what another recogniser has heard.")
    ] = False,
    threads: ThreadsOption = None,
) -> None:
    """Let a recogniser hear an encoded corpus, for language models with `heard_dim`.

    What it makes of the user in each frame is kept beside the codes.
    """
    _prepare(threads)
    from rich.progress import Progress

    from duologue.stt.load import load_recogniser
    from duologue.training.heard import hear_corpus

    loaded = load_recogniser(recogniser, device=None if device == "auto" else device)
    with Progress() as progress:
        bar = progress.add_task("listening", total=None)
        hear_corpus(
            data, codes, loaded,
            lambda done, total: progress.update(bar, completed=done, total=total), renew=renew,
        )  # fmt: skip


@app.command()
def tokenizer(
    out: Annotated[Path, typer.Option(help="The sentencepiece model to write.")],
    pieces: Annotated[int, typer.Option(min=300, help="Size; small ones split names finely.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", exists=True, help="Manifest or a folder of them (repeatable): its texts."
        ),
    ] = None,
    scripts: Annotated[
        int, typer.Option(min=0, help="Texts of so many dialogues written for it.")
    ] = 0,
) -> None:
    """Make a text tokenizer from what is said and looked up in corpora or in written dialogues."""
    _prepare(None)
    from itertools import chain

    from duologue.training.scripts import script_texts
    from duologue.training.tokenizer import train_tokenizer

    if not data and not scripts:
        raise typer.BadParameter("give --data, --scripts, or both")
    count = train_tokenizer(chain(_texts(data or []), script_texts(scripts)), out, pieces)
    typer.echo(f"{out}: {count} pieces")


@app.command()
def translate(
    model: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Model of another codec's codes.")
    ],
    codec: CodecOption,
    data: ManifestOption,
    out: Annotated[Path, typer.Option(help="Folder to write, for `train lm --start`.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="Of the data that both hear.")] = 45,
) -> None:
    """Give a language model's tables the codes of another codec, to train on from there.

    Example:

        duologue train translate wren-9 --codec runs/codec/codec --data data/own --out runs/start
    """
    _prepare(None)
    from duologue.training.translation import translate_folder

    used_s = translate_folder(model, codec, data, out, 60 * minutes)
    typer.echo(f"{out}: by {used_s / 60:.1f} minutes of speech")


@app.command()
def average(
    models: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            file_okay=False,
            help="RUN/model of `train lm` or `train stt`, two or more.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write, for `train bundle`.")],
) -> None:
    """Make one model of several that began with the same weights: their mean.

    Language models with their reference encoders, or recognisers.

    Example:

        duologue train average runs/lm-1/model runs/lm-2/model --out runs/mean
    """
    from duologue.training.averaging import average_folders

    count = average_folders(models, out)
    typer.echo(f"{out}: the mean of {len(models)} models, {count} tensors")


@app.command()
def bundle(
    lm: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="RUN/model of `train lm`.")
    ],
    stt: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="RUN/model of `train stt`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; what is there is replaced.")],
    codec: Annotated[
        str | None,
        typer.Option(help="Codec to ship instead of the language model's, if its codes are equal."),
    ] = None,
    any_recogniser: Annotated[
        bool,
        typer.Option(help="Also a recogniser that the language model has not learnt to hear by."),
    ] = False,
) -> None:
    """Put a trained model together: one small folder that every command takes as --model."""
    from duologue.training.bundle import bundle_model

    size = bundle_model(lm, stt, out, codec, any_recogniser=any_recogniser)
    typer.echo(f"{out}: {size / 2**20:.1f} MiB")


@app.command()
def curves(
    run: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a run.")],
) -> None:
    """Draw a run's metrics into RUN/curves.png (needs matplotlib)."""
    from duologue.training.reports import draw_curves

    typer.echo(draw_curves(run))


def _texts(manifests: list[Path]) -> Iterator[str]:
    """What is said and what is looked up in some corpora."""
    from duologue.training.data import read_rows

    for manifest in manifests:
        for _, row in read_rows(manifest):
            if row.get("split", "train") != "train":
                continue
            by_speaker: dict[str, list[str]] = {}
            for word, _, speaker in row.get("alignments", ()):
                by_speaker.setdefault(speaker, []).append(word)
            yield from (" ".join(words) for words in by_speaker.values())
            yield from (lookup["reference_text"] for lookup in row.get("retrieval") or ())


def _prepare(threads: int | None) -> None:
    """Logging and threads."""
    import torch

    from duologue.allocator import keep_freed_memory

    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if threads is not None:
        torch.set_num_threads(threads)


def _run(
    task: Task[Any], config: RunConfig, out: Path, minutes: float | None, restart: bool
) -> None:
    """Resume if there is something to resume, train, and say how it ended."""
    import shutil

    import torch

    from duologue.training.trainer import Outcome, Trainer

    # Not where corpora are encoded and heard: their codes are to be those of a conversation.
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    if restart and (out / "checkpoints").exists():
        shutil.rmtree(out / "checkpoints")
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(task, config, out)
    how = "going on" if trainer.resume() else "starting"
    logger.info("%s at step %d of %d on %s", how, trainer.step, config.steps, task.device)
    outcome = trainer.run(stop_after_s=None if minutes is None else 60 * minutes)
    logger.info("%s at step %d", outcome.value, trainer.step)
    if outcome is Outcome.INTERRUPTED:
        raise typer.Exit(130)


if __name__ == "__main__":
    app()
