"""How fast a system makes its frames, on one and on two threads.

The frames are those of real conversations, speech recognition and codec included; lookups run
beside the frames in a live session and are left out. Load of the machine is noted, because it
counts.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duologue.evaluation.cases import Group, split_key, write_cases
from duologue.evaluation.knowledge import FACT_BOOK, Knowledge
from duologue.evaluation.ledger import Ledger, Progress, key_of
from duologue.evaluation.scene import render
from duologue.evaluation.statistics import Estimate
from duologue.evaluation.table import Figure, at_most
from duologue.evaluation.talker import FRAME_S, FRAME_SIZE, Request, Talker
from duologue.synthesis.speaker import Speaker
from duologue.synthesis.splits import Split

VERSION = 1
THREADS = (1, 2)
_SCENES = 3
_DELAY_S = 0.5
_WARM_UP = 10 * FRAME_SIZE
_BAR_MS, _BAR_FACTOR = 50.0, 0.5


def measure(
    talker: Talker,
    out: Path,
    *,
    seed: int = 1,
    scenes: int = _SCENES,
    threads: Sequence[int] = THREADS,
    split: Split = "test",
    progress: Progress = lambda done, total: None,
) -> dict[int, dict[str, float]]:
    """Frame times by number of threads; empty for systems that do not work frame by frame."""
    import numpy as np
    import torch

    key = key_of(VERSION, talker.fingerprint, seed, scenes, _cpu(), *split_key(split))
    ledger = Ledger(out / "speed.jsonl", key)
    before = torch.get_num_threads()
    found: dict[int, dict[str, float]] = {}
    try:
        for place, count in enumerate(threads):
            name = f"threads-{count}"
            if name not in ledger:
                torch.set_num_threads(count)
                times = _times(talker, seed, scenes, split)
                if not times:
                    return {}
                ms = np.array(times) * 1000
                ledger.add(name, {
                    "p50_ms": float(np.quantile(ms, 0.5)), "p95_ms": float(np.quantile(ms, 0.95)),
                    "real_time_factor": float(ms.mean() / 1000 / FRAME_S), "frames": len(ms),
                    "load": os.getloadavg()[0],
                })  # fmt: skip
            found[count] = ledger[name]
            progress(place + 1, len(threads))
    finally:
        torch.set_num_threads(before)
    return found


def _times(talker: Talker, seed: int, scenes: int, split: Split) -> list[float]:
    speaker = Speaker()
    cases = write_cases(Group.KNOWN, scenes, seed, split)
    times: list[float] = []
    for place, case in enumerate(cases):
        scene = render(case, speaker)
        knowledge = Knowledge((FACT_BOOK,), reference=case.reference, delay_s=_DELAY_S)
        if not place:
            talker.converse(Request(scene.heard[:_WARM_UP], knowledge, "user", seed, scene))
        heard = talker.converse(Request(scene.heard, knowledge, "user", seed, scene))
        times += heard.frame_seconds
    return times


def speed_figures(found: dict[int, dict[str, float]]) -> list[Figure]:
    """Frame times and real-time factor; the bars are for two threads."""
    figures = []
    for threads, values in sorted(found.items()):
        barred = threads == max(THREADS)
        where = f"{threads} thread{'s' if threads > 1 else ''}"
        for key, title, unit, bar in (
            ("p50_ms", "frame time, median", "ms", None),
            ("p95_ms", "frame time, 95 %", "ms", at_most(_BAR_MS)),
            ("real_time_factor", "real-time factor", "", at_most(_BAR_FACTOR)),
        ):
            estimate = Estimate(values[key], None, None, int(values["frames"]))
            figures.append(
                Figure(f"{key}_{threads}", f"{title}, {where}", unit, estimate,
                       bar if barred else None)
            )  # fmt: skip
    return figures


def machine(device: str = "auto") -> dict[str, Any]:
    """What a report says about where it was made, on a device that was asked for; no names."""
    import torch

    from duologue.checkpoints.load import pick_device

    return {
        "cpu": _cpu(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(), "torch": torch.__version__,
        "device": str(pick_device(device)),
    }  # fmt: skip


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
