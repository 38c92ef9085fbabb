"""The whole loop of a conversation on CPU: `python benchmarks/loop.py CASE...` (or all).

    4-1           conversations at once, threads (1, 2, 4 and 8 with 1 and 2)

wren as `serve` runs it: encode the user's frame, recognise, language model with all eight
codebooks, decode, for 1, 2, 4 and 8 conversations at once; compiled code beside the eager modules.
The real-time factor is the share of the 80 ms that a frame of all conversations takes. Results go
to docs/benchmarks/loop.json, its plot, and docs/benchmarks.md.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import harness
from harness import System, Worker

OURS, WHOLE, EAGER = "duologue", "duologue, weights made whole", "duologue, eager"
CASES = tuple(f"{batch}-{threads}" for threads in (1, 2) for batch in (1, 2, 4, 8))
PARTS = ("encode", "recognise", "answer", "decode")
FRAME_MS = 80.0
FILL_FRAMES = 100
"""Heard before anything is measured, so that attention has something to look at."""


def setup(options: dict[str, Any]) -> Worker:
    """A system's side: everything loaded, some seconds of conversation behind it."""
    import torch

    import duologue
    from duologue.stt.load import load_recogniser

    torch.set_num_threads(options["threads"])
    torch.set_grad_enabled(False)
    batch, eager = options["batch"], options["system"] == EAGER
    runtime = "eager" if eager else "fast"
    quantization = "stored" if options["system"] == OURS else None
    codec = duologue.load_codec("wren", device="cpu", runtime=runtime)
    lm = duologue.load_lm("wren", device="cpu", quantization=quantization, runtime=runtime)
    recogniser = load_recogniser(
        "wren", device="cpu", quantization=quantization, runtime=runtime, codec=codec
    )
    generator = lm.generator(batch)
    heard = recogniser.init_state(batch, encodes=False)
    state = codec.init_state(batch)
    sys.path.insert(0, str(harness.ROOT / "tests"))
    from peers.peer_models import speech_like

    frames = speech_like(50 * codec.frame_size, seed=3, batch=batch).split(codec.frame_size, -1)
    count = 0

    def frame() -> list[float]:
        nonlocal count
        pcm, marks = frames[count % len(frames)], [time.perf_counter()]
        count += 1
        codes = codec.encode_step(pcm, state)
        marks.append(time.perf_counter())
        recogniser.step(codes, heard)
        marks.append(time.perf_counter())
        out = generator.step(codes)
        marks.append(time.perf_counter())
        codec.decode_step(out.audio.clamp(min=0)[..., None], state)
        marks.append(time.perf_counter())
        return marks

    def burst(repetitions: int) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in (*PARTS, "frame")}
        for _ in range(repetitions):
            marks = frame()
            for name, begin, end in zip(PARTS, marks, marks[1:], strict=False):
                times[name].append(1e3 * (end - begin))
            times["frame"].append(1e3 * (marks[-1] - marks[0]))
        return times

    for _ in range(FILL_FRAMES if not eager else FILL_FRAMES // 4):
        frame()
    return Worker(burst)


def run_case(case: str) -> list[dict[str, Any]]:
    batch, threads = (int(number) for number in case.split("-"))
    options = {"threads": threads, "batch": batch}
    systems = [
        System(
            name, [harness.OUR_PYTHON, __file__, "--work"], {**options, "system": name},
            15 if name == EAGER else 40,
        )
        for name in (OURS, WHOLE, EAGER)
    ]  # fmt: skip
    figures = harness.compare(systems, rounds=4, limit_s=15)
    row = {"case": case, **options}
    row["systems"] = {name: found.summary() for name, found in figures.items()}
    return [row]


def report(record: harness.Record) -> None:
    """Table and plot from the record."""
    lines, bars = [], {}
    for row in sorted(record.rows, key=lambda row: (row["threads"], row["batch"])):
        found = {name: f for name, f in row["systems"].items() if "frame" in f}
        eager = found[EAGER]["frame"]["p50_ms"]
        bars[f"{row['batch']} at once, {row['threads']} thr"] = {
            name: f["frame"]["p50_ms"] for name, f in found.items()
        }
        for name, f in found.items():
            p50 = f["frame"]["p50_ms"]
            parts = [f[part]["p50_ms"] for part in PARTS]
            lines.append([
                row["batch"], row["threads"], name, *parts, p50, f["frame"]["p95_ms"],
                f"{p50 / FRAME_MS:.3f}", f"{eager / p50:.1f}",
            ])  # fmt: skip
    header = (
        "conversations", "threads", "system", *PARTS, "whole frame, ms p50", "p95",
        "real-time factor", "times eager",
    )  # fmt: skip
    intro = (
        f"## wren's whole loop on CPU\n\n`{record.command}`. Medians in milliseconds for one 80 ms "
        "frame of all conversations together. By default wren's matrices stay in memory as the "
        "bytes that its file holds; made whole, the same values take four times the memory. "
        f"{harness.machine_line(record.machine)}"
    )
    plot = "![milliseconds per frame](benchmarks/loop.png)"
    harness.publish("loop", "\n\n".join([intro, harness.table(header, lines), plot]))
    title = "wren: encode, recognise, answer, decode"
    harness.plot_bars("loop", title, bars, line=("real time", FRAME_MS))


QUESTION = harness.Question("loop", __doc__ or "", CASES, setup, run_case, report)

if __name__ == "__main__":
    harness.main(QUESTION, __file__)
