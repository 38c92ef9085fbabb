"""A run from beginning to end: what is left to do, talk, write, report.

Results are written as conversations end, each whole or not at all, so a run that is interrupted
has lost nothing but the conversations it was in, and goes on when it is started again.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from duologue.engine.model import LoadedModel, load_model
from duologue.offline.equipment import Equipment, Sources, open_equipment
from duologue.offline.files import Outputs, Recording, check_writable, is_done
from duologue.offline.published import ModelFiles
from duologue.offline.results import complete_results, summarise, write_results
from duologue.offline.run import Failed, Talked, Talks
from duologue.offline.settings import Drawing, TalkError, TalkSettings
from duologue.offline.trace import make_trace
from duologue.retrieval.profiles import profiles_from_environment
from duologue.stt.opening import Ears, open_ears

BUNDLED = "wren"
"""The model that is meant when none is named."""
Tune = Callable[[LoadedModel], None]


@dataclass(frozen=True)
class Plan:
    """What is wanted of a run."""

    recordings: Sequence[Recording]
    output_dir: Path
    settings: TalkSettings
    drawing: Drawing = field(default_factory=Drawing)
    sources: Sources = field(default_factory=Sources)
    model: str = BUNDLED
    files: ModelFiles = field(default_factory=ModelFiles)
    device: str = "auto"
    quantization: str | None = None
    half: bool = False
    stt: str = "auto"
    slots: int = 1
    stereo: bool = False
    picture: bool = False
    force: bool = False

    def outputs(self, recording: Recording) -> Outputs:
        return Outputs.of(recording, self.output_dir, stereo=self.stereo, picture=self.picture)


class Listener(Protocol):
    """Who is told how a run is going."""

    def begins(self, recordings: int, done: int) -> None:
        """So many recordings, of which so many are done already."""

    def notes(self, notes: Sequence[str]) -> None:
        """What this model cannot do."""

    def frames(self, count: int) -> None:
        """So many frames were made."""

    def result(self, summary: dict[str, Any]) -> None:
        """A recording is done, or was found done."""

    def failure(self, recording: Recording, error: Exception) -> None:
        """A recording could not be talked to."""


def carry_out(
    plan: Plan, environment: Mapping[str, str], listener: Listener, tune: Tune = lambda _: None
) -> int:
    """Do what the plan says; returns how many recordings failed.

    Args:
        tune: called with the loaded model before it runs.

    Raises:
        DuologueError: nothing was done, or nothing more can be.
    """
    try:
        plan.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TalkError(f"{plan.output_dir}: cannot be made a folder: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="duologue-talk-") as folder:
        model = _load(plan, Path(folder))
        ears = open_ears(plan.stt, model, environment)
        tune(model)
        text, audio = plan.drawing.samplings(model.lm.defaults)
        settings = replace(plan.settings, text=text, audio=audio)
        run = _Run(plan, settings, model, ears, environment, listener)
        return asyncio.run(run.carry_out())


def _load(plan: Plan, empty: Path) -> LoadedModel:
    """The model; a folder made from single files is made in `empty`."""
    model: str | Path = plan.model
    if plan.files.given:
        # A whole model gets nothing from the one that nobody asked for.
        base = None if plan.files.is_whole and model == BUNDLED else plan.model
        model = plan.files.assemble(base, empty)
    dtype = torch.float16 if plan.half else None
    device = None if plan.device == "auto" else plan.device
    loaded = load_model(model, device=device, dtype=dtype, quantization=plan.quantization)
    return replace(loaded, name=plan.model)


class _Run:
    """One run with its models loaded."""

    def __init__(
        self,
        plan: Plan,
        settings: TalkSettings,
        model: LoadedModel,
        ears: Ears,
        environment: Mapping[str, str],
        listener: Listener,
    ) -> None:
        self.plan, self.settings, self.model, self.ears = plan, settings, model, ears
        self.environment, self.listener = environment, listener
        self.sample_rate = model.codec.sample_rate
        llm = profiles_from_environment(environment)
        self.common = {
            "model": model.name,
            "weights": model.fingerprint(),
            "settings": settings.to_data(),
            "stt": plan.stt if plan.stt not in ("auto", "none") else ears.described,
            "knowledge": list(plan.sources.knowledge),
            "tools": plan.sources.tools,
            "grounded_only": plan.sources.grounded_only,
            "llms": [profile.model for profile in llm.profiles] if llm else [],
        }
        self.runs: dict[str, dict[str, Any]] = {}
        """What each result depends on, by the recording's name."""

    async def carry_out(self) -> int:
        todo, failed = self._left_to_do()
        if not todo:
            return failed
        plan = self.plan
        # As many slots as were asked for, however few recordings are left: the number of slots is
        # the shape of the computation, and with it the last bits of what is said.
        async with open_equipment(
            self.model, self.ears, plan.slots, self.settings, plan.sources, self.environment
        ) as equipment:
            self.listener.notes(equipment.notes)
            talks = Talks(equipment, self.settings, self.listener.frames)
            async with aclosing(talks.run(todo)) as results:
                async for result in results:
                    if isinstance(result, Failed):
                        failed += 1
                        self.listener.failure(result.recording, result.error)
                    else:
                        await self._write(result, equipment)
        return failed

    def _left_to_do(self) -> tuple[list[Recording], int]:
        """Recordings without a result, and how many cannot be read; files in the way are errors."""
        todo: list[Recording] = []
        done: list[Recording] = []
        failed: list[tuple[Recording, OSError]] = []
        for recording in self.plan.recordings:
            outputs = self.plan.outputs(recording)
            check_writable(outputs, recording)
            try:
                fingerprint = recording.fingerprint()
            except OSError as unreadable:
                failed.append((recording, unreadable))
                continue
            run = {"input": recording.path.name, "recording": fingerprint, **self.common}
            self.runs[recording.name] = run
            finished = not self.plan.force and is_done(outputs, run, recording)
            (done if finished else todo).append(recording)
        self.listener.begins(len(self.plan.recordings), len(done))
        for recording, error in failed:
            self.listener.failure(recording, error)
        for recording in done:
            outputs = self.plan.outputs(recording)
            trace = complete_results(outputs, recording, self.sample_rate)
            self.listener.result(summarise(outputs, recording, trace, skipped=True))
        return todo, len(failed)

    async def _write(self, talked: Talked, equipment: Equipment) -> None:
        """Beside the event loop: other conversations' lookups are timed on it."""
        recording = talked.recording
        outputs = self.plan.outputs(recording)
        trace = make_trace(
            talked, self.model, self.settings, self.runs[recording.name], equipment.notes
        )
        await asyncio.to_thread(write_results, outputs, talked, trace, self.sample_rate)
        self.listener.result(summarise(outputs, recording, trace, skipped=False))
