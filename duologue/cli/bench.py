"""The `bench` commands: how much of it this machine can do, in JSON and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duologue.cli.options import DEFAULT_MODEL, Device, Json, Model, Threads

if TYPE_CHECKING:
    from duologue.cli.bench_capacity import Level
    from duologue.server.assembly import Loaded

app = typer.Typer(help="Measure this machine with a model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group even with a single command."""


@app.command()
def capacity(
    model: Model = DEFAULT_MODEL,
    sessions: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Measure this number only; may be repeated. Searched if none."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Search up to so many sessions.")] = 64,
    seconds: Annotated[float, typer.Option(min=2.0, help="Each number is measured so long.")] = 10,
    wav: Annotated[
        list[Path] | None,
        typer.Option(help="Speech to send; may be repeated. Sample questions if none."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Also check the refusal and the bits.")
    ] = True,
    check_frames: Annotated[
        int, typer.Option(min=5, help="Compare so many frames of each session.")
    ] = 50,
    device: Device = "auto",
    quantization: Annotated[
        str | None, typer.Option("--quantization", "-q", help="`int8` or `int4`.")
    ] = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for JSON and plot.")] = Path(
        "out/bench"
    ),
    json_output: Json = False,
) -> None:
    """Find how many conversations at a time stay on time: all rooms, recorded speech, real pace.

    On time: no audio is lost, and 99 of 100 steps are done within 80 ms of when they were due.
    Then a whole server is filled over real sockets until one more caller is refused (503 before
    the websocket is accepted), and every session is compared, bit by bit, with itself alone. Ends
    with 1 if that check fails.

    Examples:

        duologue bench capacity

        duologue bench capacity --sessions 2 --sessions 3 --no-check --json
    """
    import asyncio
    import json
    import time

    from duologue.checkpoints.save import write_json
    from duologue.cli.bench_capacity import (
        built_in_questions,
        largest_on_time,
        measure,
        recorded_speech,
    )
    from duologue.cli.bench_checks import as_data, heard_alone, refusal
    from duologue.evaluation.speed import machine

    speech = recorded_speech(wav or built_in_questions())
    loaded = _load(model, device, quantization, threads)
    levels: dict[int, Level] = {}

    async def is_on_time(number: int) -> bool:
        if number not in levels:
            levels[number] = await measure(loaded, number, speech, seconds)
            if not json_output:
                typer.echo(_line(levels[number]))
        return levels[number].on_time

    async def search() -> int:
        if not sessions:
            return await largest_on_time(most, is_on_time)
        return max([number for number in sessions if await is_on_time(number)], default=0)

    if not json_output:
        typer.echo(_HEAD)
    found = asyncio.run(search())
    # The largest number that was tried: more may be on time, too.
    at_least = found == (max(sessions) if sessions else most)
    checks: dict[str, Any] = {}
    good = True
    if check and found:
        refused = refusal(loaded, found, speech)
        alone = asyncio.run(heard_alone(loaded, found, speech, check_frames))
        good = refused.clean and not alone.differences
        checks = as_data(refused, alone)
    report = {
        "date": time.strftime("%Y-%m-%d"), "machine": machine(), "model": model,
        "quantization": quantization, "threads": _threads(), "seconds": seconds,
        "sessions_on_time": found, "searched": not sessions, "at_least": at_least,
        "levels": [levels[number].row() for number in sorted(levels)], **checks,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "capacity.json", report)
    drawn = draw_capacity([levels[number] for number in sorted(levels)], out / "capacity.png")
    if json_output:
        typer.echo(json.dumps(report))
    else:
        _tell(found, at_least, checks)
        typer.echo(f"Written: {out / 'capacity.json'}" + (" and .png" if drawn else ""))
    if not good:
        raise typer.Exit(1)


_HEAD = "sessions  on time  step p50   p99  lateness p50   p99   max  lost  lookups   (ms)"


def _line(level: Level) -> str:
    step, late = level.step, level.lateness
    return (
        f"{level.sessions:8d}  {'yes' if level.on_time else 'no':>7}  {step['p50']:8.1f} "
        f"{step['p99']:5.1f}  {late['p50']:12.1f} {late['p99']:5.1f} {late['max']:5.1f} "
        f"{level.dropped:5d}  {level.lookups:7d}"
    )


def _tell(found: int, at_least: bool, checks: Mapping[str, Any]) -> None:
    many = f"{found} conversations" if found != 1 else "1 conversation"
    many = f"At least {many}" if at_least else many
    typer.echo(f"{many} at a time stay on time." if found else "Not even one stays on time.")
    if refused := checks.get("refusal"):
        when = f"Retry-After {refused['retry_after']}" if refused["retry_after"] else "no time"
        clean = "cleanly" if refused["clean"] else "NOT cleanly"
        typer.echo(
            f"With {refused['talking']} talking, one more is refused {clean}: "
            f"{refused['status']}, {when}."
        )
    if alone := checks.get("alone"):
        same = "the same to the bit" if not alone["differences"] else alone["differences"][0]
        typer.echo(f"{alone['sessions']} sessions, {alone['frames']} frames, each alone: {same}.")


def draw_capacity(levels: Sequence[Level], path: Path) -> bool:
    """Step time and lateness over the number of sessions; False without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        typer.secho("no plot: pip install 'duologue[plots]'", err=True)
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    at = [level.sessions for level in levels]
    for label, values in (
        ("step, median", [level.step["p50"] for level in levels]),
        ("step, 99 %", [level.step["p99"] for level in levels]),
        ("lateness, 99 %", [level.lateness["p99"] for level in levels]),
    ):
        axes.plot(at, values, "o-", label=label)
    axes.axhline(80, color="black", lw=1, ls="--")
    # A server that cannot keep up is late without end; the picture shows where that begins.
    axes.set(xlabel="sessions at a time", ylabel="ms", xticks=at, ylim=(0, 240))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    return True


def _load(model: str, device: str, quantization: str | None, threads: int | None) -> Loaded:
    from duologue.cli.options import use_threads
    from duologue.server.assembly import load
    from duologue.server.settings import ServerSettings

    settings = ServerSettings.model_validate(
        {"model": model, "device": device, "quantization": quantization}
    )
    loaded = load(settings, {})
    use_threads(threads, loaded.model.codec, loaded.model.lm)
    return loaded


def _threads() -> int:
    import torch

    return torch.get_num_threads()
