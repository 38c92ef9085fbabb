"""A language model's step on CPU beside its peer: `python benchmarks/lm.py CASE...` (or all).

    float32-2     one step of the 300 M class, batch 1: precision of the weights, threads
                  (also float16-2, bfloat16-2, int8-2, int4-2, and -1 for one thread)
    int4-full-2   the same with a full context of 3000 frames (also bfloat16)
    int8-batch-1  1, 2, 4 and 8 conversations at once: precision, threads (also bfloat16, int4)

The class: temporal stack of 1024 x 16, depth stack of 512 x 4 over 8 codebooks, 444 M parameters,
random weights, the same file for all. Peer: `moshi`'s `LMGen` (`make peers`), compilation off as in
the package on CPU. What a step must read (weights, embedding rows, the cached keys and values)
divided by its time is a rate; its share of the rate at which the machine reads, measured in turns
with it, is the figure that holds on other machines. Results go to docs/benchmarks/lm.json, its
plot, and docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import harness
from harness import Figures, System, Worker

FOLDER = harness.ROOT / "out" / "benchmarks" / "lm"
OURS, EAGER, PEER = "duologue", "duologue, eager", "moshi"
FLOATS = ("float32", "float16", "bfloat16")
INTEGERS = ("int8", "int4")
PRECISIONS = (*FLOATS, *INTEGERS)
CONTEXT = 3000
BATCHES = (1, 2, 4, 8)
CASES = (
    *(f"{precision}-{threads}" for precision in PRECISIONS for threads in (2, 1)),
    *(f"{precision}-full-2" for precision in ("bfloat16", "int4")),
    *(f"{precision}-batch-1" for precision in ("bfloat16", "int8", "int4")),
)
LEAST_SHARE = {("float32", 2): 0.6, ("bfloat16", 2): 0.6, ("int8", 2): 0.55, ("int4", 2): 0.45}
"""Shares of the bandwidth below which something has been broken (a shared machine is noisy)."""
DESKTOP_GB_S = 80.0
"""Read bandwidth of a desktop with two channels of fast memory, for the 7 B estimate."""


# A system's side.


def setup(options: dict[str, Any]) -> Worker:
    """Open the model as one system has it and hand over what measures its step."""
    os.environ.setdefault("NO_TORCH_COMPILE", "1")
    import torch

    torch.set_num_threads(options["threads"])
    torch.set_grad_enabled(False)
    return (_peer if options["system"] == PEER else _ours)(options)


def _ours(options: dict[str, Any]) -> Worker:
    import torch

    import duologue

    precision, batch = options["precision"], options.get("batch", 1)
    dtype = getattr(torch, precision) if precision in FLOATS else torch.bfloat16
    lm = duologue.load_lm(
        FOLDER, device="cpu", dtype=dtype, quantization=None if precision in FLOATS else precision,
        runtime="eager" if options["system"] == EAGER else "fast",
    )  # fmt: skip
    generator = lm.generator(batch, sampling=duologue.Sampling(0.0))
    temporal = generator.state.temporal
    if options.get("full"):
        temporal.offset.fill_(CONTEXT)
        for layer in temporal.layers:
            layer.cache.keys.normal_()
            layer.cache.values.normal_()
    codes = torch.randint(0, lm.config.card, (batch, generator.given_q, 1))
    cached = CONTEXT if options.get("full") else 0
    width = temporal.layers[0].cache.keys.element_size()
    read = 2 * lm.config.num_layers * lm.config.dim * width * cached * batch
    if generator.runner is not None:
        read += generator.runner.read_bytes
    return Worker(lambda n: _measure(n, lambda: generator.step(codes)), {"read_bytes": read})


def _peer(options: dict[str, Any]) -> Worker:
    import torch
    from moshi.models import LMGen, loaders

    values = json.loads((FOLDER / "config.json").read_text())
    del values["moshi_name"]
    dtype = getattr(torch, options["precision"])
    lm = loaders.get_moshi_lm(FOLDER / "model.safetensors", values, dtype=dtype)
    generator = LMGen(lm, use_sampling=False)
    generator.streaming_forever(1)
    codes = torch.randint(0, values["card"], (1, 8, 1))
    return Worker(lambda n: _measure(n, lambda: generator.step(codes)))


def _measure(count: int, step: Any) -> dict[str, list[float]]:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - begin))
    return {"step": times}


def prepare() -> None:
    """Write the random model in the published layout, in bfloat16 (runs in the peers' Python)."""
    sys.path.insert(0, str(harness.ROOT / "tests"))
    import safetensors.torch
    import torch
    from peers.peer_models import lm_values, write_lm

    values = lm_values(
        dim=1024, num_heads=16, num_layers=16, n_q=16, dep_q=8, card=2048, text_card=32_000,
        context=CONTEXT, depformer_dim=512, depformer_num_heads=8, depformer_num_layers=4,
        depformer_dim_feedforward=2112, depformer_context=8,
        delays=[0, *(0, 1, 1, 1, 1, 1, 1, 1) * 2],
    )  # fmt: skip
    path = write_lm(FOLDER, values, seed=4) / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({k: t.to(torch.bfloat16) for k, t in tensors.items()}, path)


# The harness's side.


def run_case(case: str) -> list[dict[str, Any]]:
    """Measure one case; its rows for the record."""
    precision, *kinds, number = case.split("-")
    options: dict[str, Any] = {"precision": precision, "threads": int(number)}
    asked = [harness.reader(options["threads"])]
    if "batch" in kinds:
        asked += [system for batch in BATCHES for system in systems({**options, "batch": batch})]
    elif "full" in kinds:
        options["full"] = True
        asked += systems(options)
    else:
        asked += systems(options, (OURS, EAGER) if precision in INTEGERS else (OURS, PEER))
    return [_row(case, options, harness.compare(asked, rounds=6, limit_s=25, deadline_s=50))]


def at_once(batch: int) -> str:
    """Name of ours where several conversations are compared."""
    return f"{OURS}, {batch} at once"


def systems(options: dict[str, Any], names: Sequence[str] = (OURS,)) -> list[System]:
    out = []
    for name in names:
        python = harness.PEER_PYTHON if name == PEER else harness.OUR_PYTHON
        if python.exists():
            command = [python, __file__, "--work"]
            repetitions = 12 if name == OURS else 3
            label = at_once(options["batch"]) if "batch" in options else name
            out.append(System(label, command, {**options, "system": name}, repetitions))
    return out


def _row(case: str, options: dict[str, Any], figures: dict[str, Figures]) -> dict[str, Any]:
    machine = {"read_gb_s": round(harness.read_rate(figures.pop(harness.READER)), 2)}
    row = {"case": case, **options, "machine": machine}
    row["systems"] = {name: found.summary() for name, found in figures.items()}
    for name, found in figures.items():
        first = figures.get(OURS) or figures[at_once(1)]
        read = found.facts.get("read_bytes") or first.facts["read_bytes"]
        if found.failure is None and name != EAGER:  # which reads what it has widened before
            rate = read / found.median("step") / 1e6
            row["systems"][name] |= {
                "gb_s": round(rate, 2), "share": round(rate / machine["read_gb_s"], 3),
            }  # fmt: skip
    return row


def report(record: harness.Record) -> None:
    """Table and plot from the record."""
    steps = [row for row in record.rows if row["case"].count("-") == 1]
    steps.sort(key=lambda row: (-row["threads"], PRECISIONS.index(row["precision"])))
    lines, bars = [], {}
    for row in steps:
        found = {name: f for name, f in row["systems"].items() if "step" in f}
        bars[f"{row['precision']}, {row['threads']} thr"] = {
            name: f["step"]["p50_ms"] for name, f in found.items() if name != EAGER
        }
        peer = found.get(PEER, {}).get("step", {}).get("p50_ms")
        for name, f in found.items():
            lines.append([
                row["precision"], row["threads"], name, f["step"]["p50_ms"], f["step"]["p95_ms"],
                f"{peer / f['step']['p50_ms']:.1f}" if peer else "not compared",
                f.get("gb_s", ""), row["machine"]["read_gb_s"],
                f"{f['share']:.2f}" if "share" in f else "", f["peak_mb"],
                row["date"],
            ])  # fmt: skip
    header = (
        "weights", "threads", "system", "ms a step, p50", "p95", "times moshi", "GB/s",
        "GB/s the machine reads", "share", "peak MB", "measured",
    )  # fmt: skip
    parts = [
        f"## A language model's step on CPU\n\n`{record.command}`. 444 M parameters, batch 1, "
        "short context, greedy, the same random weights for all; systems take turns in one run. "
        "The share is of the rate at which the machine reads a large block, medians of both; on a "
        "shared machine that rate comes and goes, so it is measured in turns with the steps (until "
        "2026-11-29: just before them, the best of several passes). "
        f"{harness.machine_line(record.machine)}",
        harness.table(header, lines),
    ]
    parts += [part for part in (_full_table(record), _batch_table(record)) if part]
    if line := _implied_7b(steps):
        parts.append(line)
    parts.append("![milliseconds per step](benchmarks/lm.png)")
    harness.publish("lm", "\n\n".join(parts))
    harness.plot_bars("lm", "A step of the 300 M class, batch 1", bars, line=("real time", 80.0))


def _full_table(record: harness.Record) -> str:
    lines = [
        [row["precision"], row["threads"], f["step"]["p50_ms"], f["step"]["p95_ms"], f["gb_s"],
         f"{f['share']:.2f}"]
        for row in record.rows if row.get("full") for f in [row["systems"][OURS]]
    ]  # fmt: skip
    header = ("weights, 3000 frames in context", "threads", "ms p50", "p95", "GB/s", "share")
    return harness.table(header, lines) if lines else ""


def _batch_table(record: harness.Record) -> str:
    lines = []
    for row in record.rows:
        if "-batch-" not in row["case"]:
            continue
        alone = row["systems"][at_once(1)]["step"]["p50_ms"]
        for batch in BATCHES:
            step = row["systems"][at_once(batch)]["step"]
            lines.append([
                row["precision"], row["threads"], batch, step["p50_ms"], step["p95_ms"],
                step["p50_ms"] / batch, f"{batch * alone / step['p50_ms']:.2f}",
            ])  # fmt: skip
    header = (
        "weights", "threads", "conversations at once", "ms for all p50", "p95",
        "ms for each", "times one by one",
    )  # fmt: skip
    return harness.table(header, lines) if lines else ""


def _implied_7b(steps: Sequence[dict[str, Any]]) -> str:
    """What the share measured at 4 bits means for the 7 B model on a desktop."""
    import torch

    from duologue.cli.examination import weight_bytes_per_frame
    from duologue.moshi import MOSHI_7B, MoshiLM

    shares = [r["systems"][OURS]["share"] for r in steps if r["precision"] == "int4"]
    if not shares:
        return ""
    with torch.device("meta"):
        read, _ = weight_bytes_per_frame(MoshiLM(MOSHI_7B))
    gigabytes = read * 0.5625 / 1e9
    frame = gigabytes / (DESKTOP_GB_S * max(shares)) * 1e3
    return (
        f"Moshi 7B reads {gigabytes:.2f} GB a frame in int4 (4.5 bits a weight with its scales). "
        f"At {DESKTOP_GB_S:.0f} GB/s and the share measured above ({max(shares):.2f}) that is "
        f"{frame:.0f} ms a frame, if the cores keep up as they do here; computed, not measured."
    )


def check(record: harness.Record) -> list[str]:
    """What has become slower than it must not, in shares of the machine's bandwidth."""
    found = []
    for row in record.rows:
        share = row["systems"].get(OURS, {}).get("share")
        least = LEAST_SHARE.get((row["precision"], row["threads"]))
        if row["case"].count("-") == 1 and least and share and share < least:
            found.append(f"{row['case']}: {share:.2f} of the bandwidth, at least {least} expected")
    return found


QUESTION = harness.Question(
    "lm", __doc__ or "", CASES, setup, run_case, report, prepare, FOLDER / "model.safetensors",
    check,
)  # fmt: skip

if __name__ == "__main__":
    harness.main(QUESTION, __file__)
