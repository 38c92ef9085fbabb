"""What a run tells while it works: JSON Lines always, TensorBoard on request, samples, progress."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duologue.audio.wav import write_wav

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
CURVES = (
    "loss", "mel", "stft", "waveform", "adversarial", "feature", "adversary", "commitment",
    "semantic", "phone_accuracy", "stoi", "stoi_unquantized", "mel_distance_db", "si_sdr_db",
    "perplexity_first", "perplexity_rest", "text", "piece_accuracy", "grounded_accuracy",
    "script_grounded_accuracy", "audio", "first_codebook", "dictated_first", "spoken_phones",
    "pause_accuracy", "phones", "speed",
)  # fmt: skip
"""Metrics that `draw_curves` shows where a run has them."""
_KINDS = {"train": "training", "evaluation": "held out"}
_STYLES: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 1, "color": "C0"},
    "evaluation": {"linewidth": 1, "color": "C1", "marker": "o", "markersize": 3},
}


class Reporter:
    """Writes one run's metrics and shows how far it is."""

    def __init__(self, folder: Path, *, steps: int, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.steps = folder, steps
        self._path = folder / METRICS_FILE
        self._board = _open_board(folder) if tensorboard else None
        self._progress = _Progress(steps) if sys.stderr.isatty() else None

    def forget_after(self, step: int) -> None:
        """Drop rows that a resumed run is going to write again."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Any], *, kind: str = "train") -> None:
        """Add one row of metrics."""
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
        row = {"step": step, "kind": kind, "time": round(time.time(), 1), **rounded}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._progress is None or kind != "train":
            shown = {k: v for k, v in rounded.items() if isinstance(v, (int, float))}
            text = " ".join(f"{name} {value:.4g}" for name, value in shown.items())
            logger.info("%s %d/%d %s", kind, step, self.steps, text)
        if self._progress is not None:
            self._progress.show(step, rounded)

    def close(self) -> None:
        """End the progress display and flush."""
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()


class _Progress:
    """A bar on the terminal."""

    def __init__(self, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.completed}/{task.total}"), BarColumn(), TimeRemainingColumn(),
            TextColumn("{task.description}"), console=Console(stderr=True),
        )  # fmt: skip
        self._task = self._bar.add_task("", total=steps)
        self._bar.start()

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        text = " ".join(
            f"{name} {values[name]:.3g}" for name in ("loss", "mel", "speed") if name in values
        )
        self._bar.update(self._task, completed=step, description=text)

    def stop(self) -> None:
        self._bar.stop()


def save_comparison(
    folder: Path, name: str, original: NDArray[np.float32], decoded: NDArray[np.float32], rate: int
) -> None:
    """Write both signals as WAV, and their spectrograms as PNG where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_wav(folder / f"{name}_original.wav", original, rate)
    write_wav(folder / f"{name}_decoded.wav", decoded, rate)
    try:
        canvas, figure_class = _drawing()
    except ImportError:
        return
    figure = figure_class(figsize=(10, 6), layout="constrained")
    canvas(figure)
    for axis, (title, signal) in zip(
        figure.subplots(2, 1, sharex=True),
        (("original", original), ("decoded", decoded)),
        strict=True,
    ):
        axis.specgram(signal + 1e-6, NFFT=512, Fs=rate, noverlap=384, vmin=-140, vmax=-30)
        axis.set_ylabel(f"{title}, Hz")
    figure.savefig(folder / f"{name}.png", dpi=70)


def draw_curves(folder: Path, names: Sequence[str] = CURVES) -> Path:
    """Draw a run's metrics into `curves.png`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    canvas, figure_class = _drawing()
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    present = [name for name in names if any(name in row for row in rows)]
    figure = figure_class(figsize=(12, 3 * -(-len(present) // 3)), layout="constrained")
    canvas(figure)
    for index, name in enumerate(present, 1):
        axis = figure.add_subplot(-(-len(present) // 3), 3, index)
        for kind, style in _STYLES.items():
            points = [(r["step"], r[name]) for r in rows if name in r and r["kind"] == kind]
            if points:
                axis.plot(*zip(*points, strict=True), label=_KINDS[kind], **style)
        axis.set_title(name.replace("_", " "))
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    figure.savefig(folder / "curves.png", dpi=80)
    return folder / "curves.png"


def _drawing() -> tuple[Any, Any]:
    """matplotlib's canvas and figure, without its global state."""
    try:
        canvas = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
        return canvas, importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise ImportError("matplotlib is not installed: pip install matplotlib") from error


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard is not installed: pip install tensorboard") from error
    return SummaryWriter(str(folder / "tensorboard"))


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return sys.maxsize
