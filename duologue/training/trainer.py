"""The loop: take batches, let the task learn, report, save, stop cleanly, go on exactly.

A run lives in one folder: `checkpoints/`, `metrics.jsonl`, `samples/` and the exported model. To
go on after any stop, start it again with the same folder. What a checkpoint holds - weights,
optimisers, averages, codebook statistics, the position in the data and all random states - is
everything that the next step depends on, so on one machine a resumed run gives the same bits as one
that was never stopped.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from duologue.training.checkpoint import (
    Checkpoint,
    TrainingStateError,
    below,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    under,
)
from duologue.training.reports import Reporter

logger = logging.getLogger(__name__)

B = TypeVar("B")

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class RunConfig:
    """Length and rhythm of a run."""

    steps: int = 100_000
    batch: int = 12
    accumulate: int = 1
    """Micro-batches of size `batch` per step."""
    precision: str = "bf16"
    seed: int = 0
    log_every: int = 20
    evaluate_every: int = 1000
    save_minutes: float = 5.0
    keep: int = 2
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: {self.precision!r} is none of {', '.join(PRECISIONS)}")
        if min(self.steps, self.batch, self.accumulate, self.log_every, self.keep) < 1:
            raise ValueError("steps, batch, accumulate, log_every and keep must be at least 1")

    @property
    def dtype(self) -> torch.dtype | None:
        """What forward passes are cast to; None for float32."""
        return PRECISIONS[self.precision]

    def autocast(self, device: torch.device) -> Any:
        """Context in which forward passes run."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self.dtype)


class Task(Protocol[B]):
    """Something that can be trained."""

    device: torch.device

    def batches(self, position: int) -> Iterator[B]:
        """Micro-batches from a position in the data on; each is `batch` positions long."""

    def learn(
        self, micro_batches: Sequence[B], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One optimiser step; returns scalars to report, left on the device."""

    def evaluate(self, step: int, samples: Path) -> dict[str, float]:
        """Judge what has been learnt on held-out data; must not change any state."""

    def export(self, folder: Path) -> None:
        """Write the model as it would be shipped now."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that learning changes, but for the optimisers."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave."""

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By name."""

    def values(self) -> dict[str, Any]:
        """Facts for the checkpoint that are no tensors (JSON)."""

    def check_values(self, saved: Mapping[str, Any]) -> None:
        """Refuse or note differences between the saved facts and the present ones."""


class Outcome(enum.Enum):
    """Why a run ended."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    OUT_OF_TIME = "out of time"


class Trainer(Generic[B]):
    """Trains one task in one folder."""

    def __init__(self, task: Task[B], config: RunConfig, folder: Path) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.step = 0
        self.position = 0
        """Segments of data used."""
        self.elapsed_s = 0.0
        self.generator = torch.Generator().manual_seed(config.seed)
        self._stop = False

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def resume(self) -> bool:
        """Go back to the newest checkpoint of the folder, if there is one."""
        saved = load_newest(self.checkpoints)
        if saved is None:
            return False
        self.task.check_values(saved.values.get("task", {}))
        self.task.load(below("task", saved.tensors))
        for name, optimizer in self.task.optimizers().items():
            restore_optimizer(optimizer, below(f"optimizer.{name}", saved.tensors))
        self._restore_random(saved.tensors)
        self.step = saved.step
        self.position = saved.values["position"]
        self.elapsed_s = saved.values["elapsed_s"]
        return True

    def run(self, *, stop_after_s: float | None = None) -> Outcome:
        """Train until the last step, a signal (Ctrl-C, SIGTERM), or `stop_after_s` seconds."""
        config = self.config
        reporter = Reporter(self.folder, steps=config.steps, tensorboard=config.tensorboard)
        reporter.forget_after(self.step)
        started = last_save = time.monotonic()
        already = self.elapsed_s
        window = _Window()
        outcome = Outcome.FINISHED
        batches = self.task.batches(self.position)
        with _signals(self._request_stop), contextlib.closing(batches):  # type: ignore[type-var]
            while self.step < config.steps:
                micro = [next(batches) for _ in range(config.accumulate)]
                window.add(self.task.learn(micro, self.step, self.generator))
                self.step += 1
                self.position += config.batch * config.accumulate
                now = time.monotonic()
                self.elapsed_s = already + now - started
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    reporter.write(self.step, window.take(self.step))
                if self._stop:
                    outcome = Outcome.INTERRUPTED
                    break
                if stop_after_s is not None and now - started >= stop_after_s:
                    outcome = Outcome.OUT_OF_TIME
                    break
                if self.step % config.evaluate_every == 0 or last:
                    with window.paused():
                        self._evaluate(reporter)
                if now - last_save >= 60 * config.save_minutes:
                    with window.paused():
                        window.check(self.step)
                        self.save()
                    last_save = time.monotonic()
            window.check(self.step)
            self.save()
        reporter.close()
        return outcome

    def save(self) -> Path:
        """Write a checkpoint and the model as it is now."""
        tensors = under("task", self.task.tensors())
        for name, optimizer in self.task.optimizers().items():
            tensors |= under(f"optimizer.{name}", optimizer_tensors(optimizer))
        tensors |= self._random()
        values = {
            "position": self.position,
            "elapsed_s": round(self.elapsed_s, 1),
            "task": self.task.values(),
        }
        saved = save_checkpoint(
            self.checkpoints, Checkpoint(self.step, tensors, values), self.config.keep
        )
        self.task.export(self.folder)
        return saved

    def _evaluate(self, reporter: Reporter) -> None:
        samples = self.folder / "samples" / f"step_{self.step:08d}"
        reporter.write(self.step, self.task.evaluate(self.step, samples), kind="evaluation")

    def _random(self) -> dict[str, Tensor]:
        states = {
            "random.generator": self.generator.get_state(),
            "random.torch": torch.get_rng_state(),
        }
        if self.task.device.type == "cuda":
            states["random.cuda"] = torch.cuda.get_rng_state(self.task.device)
        return states

    def _restore_random(self, tensors: Mapping[str, Tensor]) -> None:
        try:
            self.generator.set_state(tensors["random.generator"])
            torch.set_rng_state(tensors["random.torch"])
        except KeyError as error:
            raise TrainingStateError(f"the checkpoint has no {error}") from error
        if self.task.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.task.device)

    def _request_stop(self, number: int, _: FrameType | None) -> None:
        if self._stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        logger.info("stopping after this step (%s)", signal.Signals(number).name)
        self._stop = True


class _Window:
    """Means of what was reported since the last row."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0
        self._since = time.monotonic()
        self._seconds = 0.0

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._steps += 1

    def take(self, step: int) -> dict[str, float]:
        """Means, and what is derived from the time; starts a new window."""
        self.check(step)
        means = self._means()
        seconds = self._seconds + time.monotonic() - self._since
        if "audio_s" in means:
            means["speed"] = means.pop("audio_s") * self._steps / max(seconds, 1e-9)
        means["step_s"] = seconds / max(1, self._steps)
        self._clear()
        return means

    def check(self, step: int) -> None:
        """Stop a run that has diverged before it overwrites a good checkpoint.

        Raises:
            FloatingPointError: names what is not a number.
        """
        for name, value in self._means().items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} near step {step}; the last checkpoint is from before that. "
                    "Lower the learning rate and start again to go on from there"
                )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that saving or judging takes."""
        self._seconds += time.monotonic() - self._since
        yield
        self._since = time.monotonic()

    def _means(self) -> dict[str, float]:
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}


@contextlib.contextmanager
def _signals(handler: Any) -> Iterator[None]:
    """Handle SIGINT and SIGTERM; only the main thread may."""
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handler)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
