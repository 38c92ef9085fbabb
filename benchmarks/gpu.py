"""A frame of all conversations on a GPU: `python benchmarks/gpu.py CASE...` (or all).

    moshi-7b-1    a model, conversations at once (1, 8, 32 and 64; also wren-1 and so on)
    capacity      most conversations of the 7 B shape with a p99 below 80 ms

What is timed is a whole step of a `SlotBank`: samples to the device, encode, (recognise,) temporal
stack, all depth steps with sampling, decode, samples back; called (eager) beside the captured
graph. All attention windows are full. The 7 B shape has random weights in bfloat16 and the
published codec, without a recogniser, as the published server runs it; wren is whole. Beside the
times stand the bytes that a frame must read (weights and caches), the bandwidth of a plain copy
measured in the same run, their quotient (the floor), our ratio to it, and what the profiler counts
in one frame.

    --minutes N   no case begins later (8)
    --frames N    timed frames a case (200; a fifth of them eager)
    --device cpu --tiny --out FOLDER   the same with models of no size: shows that it runs
    --report FILE                      take over a gpu.json that was made elsewhere with --out

Results go to docs/benchmarks/gpu.json, its plot, and docs/benchmarks.md, or all into FOLDER.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness

if TYPE_CHECKING:
    import torch

    from duologue.engine import LoadedModel, SlotBank

LARGE, SMALL = "moshi-7b", "wren"
CASES = (
    *(f"{LARGE}-{batch}" for batch in (1, 64, 8, 32)),
    "capacity",
    *(f"{SMALL}-{batch}" for batch in (1, 8, 32, 64)),
)  # fmt: skip
FRAME_MS = 80.0
MAX_TRIES = 6
"""Numbers of conversations that `capacity` tries."""
WARM_FRAMES = 3


class Bench:
    """One device, the model that was opened last, and what the device can do."""

    def __init__(self, device: str, frames: int, tiny: bool) -> None:
        import torch

        torch.set_grad_enabled(False)
        self.device, self.frames, self.tiny = torch.device(device), frames, tiny
        self.runtimes = ("eager", "graph") if self.device.type == "cuda" else ("eager",)
        self.machine = measure_device(self.device, 8 if tiny else 2048, 64 if tiny else 8192)
        self._open: tuple[str, LoadedModel, Any] | None = None

    def bank(self, name: str, slots: int) -> SlotBank:
        """Fresh slots of a model, with full attention windows."""
        from duologue.engine import SlotBank

        if self._open is None or self._open[0] != name:
            self._open = None
            self._open = (name, *_open(name, self.device, self.tiny))
        _, model, recogniser = self._open
        bank = SlotBank(model, slots, recogniser=recogniser)
        fill(bank)
        return bank

    def row(self, name: str, slots: int, runtimes: Sequence[str]) -> dict[str, Any]:
        """Measure one number of conversations."""
        import torch

        row: dict[str, Any] = {
            "case": f"{name}-{slots}", "model": name, "conversations": slots,
            "machine": self.machine, "systems": {},
        }  # fmt: skip
        try:
            bank = self.bank(name, slots)
            row |= needs(bank)
            row["floor_ms"] = row["read_gb"] / self.machine["copy_gb_s"] * 1e3
            for runtime in runtimes:
                bank.set_runtime(runtime)
                row["systems"][runtime] = self._measure(bank, runtime, row["floor_ms"])
        except torch.OutOfMemoryError:
            row["failure"] = "out of memory"
        bank = None  # before the next one is made
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return row

    def _measure(self, bank: SlotBank, runtime: str, floor_ms: float) -> dict[str, Any]:
        import numpy as np

        from duologue.engine.timing import quantile

        source = np.random.default_rng(0)
        pcm = source.uniform(-0.3, 0.3, (8, bank.frame_size)).astype(np.float32)
        steps = 0

        def step() -> None:
            nonlocal steps
            bank.step(dict.fromkeys(range(bank.slots), pcm[steps % len(pcm)]))
            steps += 1

        begin = time.perf_counter()
        for _ in range(WARM_FRAMES):
            step()
        warm_s = time.perf_counter() - begin
        times = []
        for _ in range(self.frames if runtime == "graph" else max(2, self.frames // 5)):
            begin = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - begin))
        found = {f"p{q}_ms": round(quantile(times, q / 100), 3) for q in (50, 95, 99)}
        found |= {"frames": len(times), "warm_s": round(warm_s, 2)}
        found["times_floor"] = round(found["p50_ms"] / floor_ms, 2)
        if failure := getattr(bank.frames, "failure", None):
            found["failure"] = f"no graph: {failure}"
        if self.device.type == "cuda":
            import torch

            found["device_gb"] = round(torch.cuda.memory_allocated() / 1e9, 1)
            found |= count_kernels(step)
        return found


def _open(name: str, device: torch.device, tiny: bool) -> tuple[LoadedModel, Any]:
    """A model and its recogniser, if it has one."""
    if name == SMALL and not tiny:
        from duologue.engine import load_model
        from duologue.stt.load import load_recogniser

        model = load_model(SMALL, device=device)
        return model, load_recogniser(SMALL, device=device, codec=model.codec)
    import torch

    from duologue.checkpoints.untrained import TINY_CODEC
    from duologue.engine import LoadedModel
    from duologue.mimi import Mimi, MimiConfig
    from duologue.moshi import MoshiLM
    from duologue.moshi.presets import PRESETS

    torch.manual_seed(0)
    with device:
        codec = Mimi(TINY_CODEC if tiny else MimiConfig(), 8).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
        try:
            lm = MoshiLM(PRESETS["tiny" if tiny else name]).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(torch.float32)
    return LoadedModel(codec, lm, name=name), None


def transformers_of(state: Any) -> list[Any]:
    """The states of all attention stacks in a tree."""
    from duologue.nn.state import State
    from duologue.nn.transformer import TransformerState

    found = [state] if isinstance(state, TransformerState) else []
    for value in vars(state).values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, State):
                found += transformers_of(child)
    return found


def fill(bank: SlotBank) -> None:
    """As if each conversation had gone on for longer than any window."""
    longest = 0
    for stack in transformers_of(bank.state):
        for layer in stack.layers:
            layer.cache.keys.normal_()
            layer.cache.values.normal_()
        longest = max(longest, stack.layers[0].cache.keys.shape[2])
        stack.offset.fill_(stack.layers[0].cache.keys.shape[2])
    bank.duplex.generator.state.offset.fill_(longest)


def needs(bank: SlotBank) -> dict[str, float]:
    """What a frame of all slots reads and computes: GB of weights and caches, billions of products.

    Matrices are read once for all slots, embedding tables hardly; caches are whole, as all windows
    are full. Products are those of the language models' matrices, without attention.
    """
    from duologue.cli.examination import weight_bytes_per_frame

    models = [bank.model.lm]
    if bank.recogniser is not None:
        models.append(bank.recogniser.lm)  # type: ignore[attr-defined]
    counts = [weight_bytes_per_frame(lm)[0] for lm in models]
    weights = sum(n * lm.dtype.itemsize for n, lm in zip(counts, models, strict=True))
    codec = bank.model.codec
    used = codec.config.quantizer.bins * codec.config.quantizer.dimension * codec.num_codebooks
    weights += sum(p.nbytes for p in codec.parameters()) + 4 * used
    caches = sum(
        tensor.nbytes
        for stack in transformers_of(bank.state)
        for layer in stack.layers
        for tensor in (layer.cache.keys, layer.cache.values)
    )
    return {
        "weights_gb": round(weights / 1e9, 6),
        "cache_gb": round(caches / 1e9, 6),
        "read_gb": (weights + caches) / 1e9,
        "g_products": round(sum(counts) * bank.slots / 1e9, 3),
    }


def measure_device(device: torch.device, megabytes: int, side: int) -> dict[str, Any]:
    """Name, GB/s of a plain copy (read and written), TFLOP/s of a bfloat16 matrix product."""
    import torch

    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    a = torch.ones(side, side, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(a)
    copy_s = _best_s(lambda: target.copy_(source), device)
    multiply_s = _best_s(lambda: torch.mm(a, a, out=out), device)
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "CPU",
        "memory_gb": round(torch.cuda.get_device_properties(device).total_memory / 1e9)
        if cuda else 0,
        "copy_gb_s": round(2 * source.nbytes / copy_s / 1e9, 1),
        "tflop_s": round(2 * side**3 / multiply_s / 1e12, 3),
    }  # fmt: skip


def _best_s(work: Callable[[], Any], device: torch.device, passes: int = 20) -> float:
    import torch

    best = float("inf")
    for _ in range(passes):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return best


def count_kernels(step: Callable[[], None], most: int = 8) -> dict[str, Any]:
    """What one step gives the device to do, by the profiler; empty where that does not work."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            step()
        events = list(seen.events())
    except RuntimeError as error:
        return {"profiler": f"does not work here: {error}"}
    calls = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")
    on_device = [event for event in events if event.device_type == DeviceType.CUDA]
    spent: dict[str, float] = {}
    for event in on_device:
        spent[event.name] = spent.get(event.name, 0.0) + event.time_range.elapsed_us() / 1e3
    longest = sorted(spent.items(), key=lambda item: -item[1])[:most]
    return {
        "kernels": len(on_device),
        "launches": sum(event.name.startswith(calls) for event in events),
        "kernel_ms": round(sum(spent.values()), 3),
        "longest_ms": {name[:90]: round(ms, 3) for name, ms in longest},
    }


def capacity(bench: Bench) -> dict[str, Any]:
    """Look for the most conversations that stay below 80 ms: up by quarters, then by halving."""
    runtime, tried = bench.runtimes[-1], {}
    best: dict[str, Any] = {"model": LARGE, "systems": {}, "machine": bench.machine}
    fits, too_many, batch = 0, None, 2 if bench.tiny else 64
    while batch > fits and len(tried) < (2 if bench.tiny else MAX_TRIES):
        row = bench.row(LARGE, batch, (runtime,))
        found = row["systems"].get(runtime)
        tried[batch] = f"p99 {found['p99_ms']:.1f} ms" if found else row["failure"]
        if found and found["p99_ms"] < FRAME_MS:
            best, fits = row, batch
        else:
            too_many = batch
        batch = max(fits + 1, fits * 5 // 4) if too_many is None else (fits + too_many) // 2
    return {**best, "case": "capacity", "conversations": fits, "tried": tried}


def run_case(bench: Bench, case: str) -> dict[str, Any]:
    """Measure one case; its row for the record."""
    if case == "capacity":
        return capacity(bench)
    name, batch = case.rsplit("-", 1)
    return bench.row(name, int(batch), bench.runtimes)


def report(record: harness.Record, page: Path) -> None:
    """Table and plot from the record."""
    rows = [row for row in record.rows if row["case"] != "capacity"]
    rows.sort(key=lambda row: (row["model"], row["conversations"]))
    lines, bars = [], {}
    for row in rows:
        bars[row["case"]] = {name: f["p50_ms"] for name, f in row["systems"].items()}
        eager = row["systems"].get("eager", {}).get("p50_ms", float("nan"))
        for name, f in row["systems"].items():
            lines.append([
                row["model"], row["conversations"], name, f["p50_ms"], f["p95_ms"], f["p99_ms"],
                f"{eager / f['p50_ms']:.1f}", f.get("launches", "?"), row["weights_gb"],
                row["cache_gb"], row["floor_ms"], f"{f['times_floor']:.2f}",
            ])  # fmt: skip
        if "failure" in row:
            lines.append([row["model"], row["conversations"], row["failure"], *("",) * 9])
    header = (
        "model", "conversations", "runtime", "ms a frame, p50", "p95", "p99", "times eager",
        "launches", "GB of weights", "GB of caches", "floor, ms", "times the floor",
    )  # fmt: skip
    machine = record.rows[0]["machine"]
    parts = [
        f"## A frame of all conversations on a GPU\n\n`{record.command}`. {machine['device']}, "
        f"which copies {machine['copy_gb_s']} GB/s and multiplies {machine['tflop_s']} TFLOP/s in "
        "bfloat16 (measured in the same run). Whole steps with full attention windows, host work "
        "and copies included; the floor is what must be read at the speed of the copy. "
        f"{LARGE} has random weights. {harness.machine_line(record.machine)}",
        harness.table(header, lines),
    ]
    for row in record.rows:
        if row["case"] == "capacity":
            tried = ", ".join(f"{n}: {what}" for n, what in row["tried"].items())
            parts.append(
                f"Most conversations of {row['model']} with a p99 below {FRAME_MS:.0f} ms: "
                f"**{row['conversations']}** (tried {tried})."
            )
    parts.append("![milliseconds per frame](benchmarks/gpu.png)")
    harness.publish("gpu", "\n\n".join(parts), page)
    if bars:
        title = "A frame of all conversations, full context"
        harness.plot_bars("gpu", title, bars, line=("real time", FRAME_MS))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A frame of all conversations on a GPU.")
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args(arguments)
    trial = given.tiny or given.device == "cpu"
    if given.out is None and trial and given.report is None:
        parser.error("a trial needs --out: its figures do not belong into the documentation")
    page = harness.PAGE
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        harness.RESULTS, page = given.out, given.out / "benchmarks.md"
    if given.report is not None:
        made = harness.Record(**json.loads(given.report.read_text()))
        report(harness.record(made, keys=("case",)), page)
        return
    end = time.monotonic() + 60 * given.minutes
    bench = Bench(given.device, given.frames, given.tiny)
    print(json.dumps(bench.machine), flush=True)
    for case in given.cases or CASES:
        if time.monotonic() > end:
            print(f"  {case}: no time left", flush=True)
            continue
        row = run_case(bench, case)
        print(f"  {case}: {json.dumps(row)}", flush=True)
        result = harness.Record("gpu", "python benchmarks/gpu.py", [row])
        report(harness.record(result, keys=("case",)), page)


if __name__ == "__main__":
    main()
