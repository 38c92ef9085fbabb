"""What `duologue doctor` measures."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import duologue
from duologue.checkpoints.folder import bundled_models
from duologue.checkpoints.load import load_codec, load_lm, pick_device
from duologue.mimi.codec import Mimi
from duologue.mimi.config import MimiConfig
from duologue.moshi.lm import MoshiLM
from duologue.moshi.presets import PRESETS

DEADLINE_MS = 80.0
PROBE_BYTES = 256 * 2**20
"""Read per bandwidth measurement: beyond any cache."""
CODEC_FRAMES = 12
BUNDLED, SWEEP_FRAMES = "wren", 20
GAIN = 1.1
"""More threads must be a tenth faster to be worth their while."""
PRECISIONS = {"bf16": 2.0, "int8": 1.0, "int4": 0.56}
"""Bytes per weight; 4-bit codes carry a scale and an offset per group of 32."""
EXTRAS = {"hub": "huggingface_hub", "tokenizers": "tokenizers"}


def examine(device: str, threads: int | None, *, quiet: bool) -> dict[str, Any]:
    """Measure this machine; about ten seconds."""
    from rich.console import Console

    where = pick_device(device)
    with Console(stderr=True, quiet=quiet).status("measuring memory bandwidth") as status:
        best, bandwidth = _best_threads(where, threads)
        torch.set_num_threads(best)
        machine = _machine(where)
        status.update("running the codec")
        codecs = _codec_rows(where, machine["free_gb"])
        status.update("trying numbers of threads")
        sweep = _thread_sweep(where, threads)
        torch.set_num_threads(best)
    return {
        "duologue": duologue.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": machine,
        "threads": best,
        "thread_sweep": sweep,
        "best_threads": best_of_sweep(sweep),
        "bandwidth_gbps": bandwidth / 1e9,
        "models": codecs + _language_model_rows(bandwidth, machine["free_gb"]),
        "extras": {
            name: "installed" if importlib.util.find_spec(module) else
            f"not installed (pip install 'duologue[{name}]')"
            for name, module in EXTRAS.items()
        },
    }  # fmt: skip


def best_of_sweep(sweep: list[dict[str, float]]) -> int | None:
    """The smallest number of threads that is within a tenth of the fastest."""
    if not sweep:
        return None
    limit = GAIN * min(row["frame_ms"] for row in sweep)
    return min(int(row["threads"]) for row in sweep if row["frame_ms"] <= limit)


def weight_bytes_per_frame(lm: MoshiLM) -> tuple[int, int]:
    """(weights read in one frame, weights in all) of a model; it may be on the meta device.

    A frame reads each matrix once, but of an embedding table only the rows that it looks up; a
    depth weight set that serves several steps is read once for each.
    """
    config = lm.config
    total = sum(p.numel() for p in lm.parameters())
    tables = sum(
        p.numel()
        for name, p in lm.named_parameters()
        if "emb" in name.split(".")[0] and p.shape[0] in (config.card + 1, config.text_card + 1)
    )
    read = total - tables
    if config.dep_q:
        sets = max(config.depth_schedule) + 1
        per_step = sum(p.numel() for p in lm.depformer.parameters()) // sets
        read += per_step * (config.dep_q - sets)
    return read, total


def _thread_counts(wanted: int | None) -> list[int]:
    """1, 2, 4, ... and all cores that this process may use; or the wanted number alone."""
    if wanted:
        return [wanted]
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = own or 1
    powers = {2**power for power in range(cores.bit_length())}
    return sorted({*powers, cores})


@torch.no_grad()
def _thread_sweep(device: torch.device, wanted: int | None) -> list[dict[str, float]]:
    """Milliseconds of a whole frame of the bundled model (both ways of its codec, and its language
    model) by the number of threads. Empty on other devices, or without that model."""
    if device.type != "cpu" or not (bundled_models() / BUNDLED).is_dir():
        return []
    codec = load_codec(BUNDLED, device=device)
    lm = load_lm(BUNDLED, device=device, quantization="stored")
    generator, state = lm.generator(1), codec.init_state(1)
    pcm = torch.rand(1, 1, codec.frame_size) - 0.5

    def frame() -> None:
        out = generator.step(codec.encode_step(pcm, state))
        codec.decode_step(out.audio.clamp(min=0)[..., None], state)

    rows = []
    for count in _thread_counts(wanted):
        torch.set_num_threads(count)
        milliseconds = 1000 * _seconds(frame, device, repeats=SWEEP_FRAMES)
        rows.append({"threads": count, "frame_ms": milliseconds})
    return rows


def _best_threads(device: torch.device, wanted: int | None) -> tuple[int, float]:
    """(threads, bytes per second) of the fastest read."""
    counts = _thread_counts(wanted)
    if device.type != "cpu":
        counts = counts[:1]
    block = torch.ones(PROBE_BYTES // 4, device=device)
    measured = []
    for count in counts:
        torch.set_num_threads(count)
        measured.append((PROBE_BYTES / _seconds(block.sum, device), count))
    rate, count = max(measured)
    return count, rate


def _machine(device: torch.device) -> dict[str, Any]:
    total, free = _memory(device)
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "name": name,
        "cores": os.cpu_count(),
        "memory_gb": total / 1e9,
        "free_gb": free / 1e9,
    }


def _memory(device: torch.device) -> tuple[float, float]:
    """Bytes in all and free, of the device or of the machine."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return float("nan"), float("nan")


@torch.no_grad()
def _codec_rows(device: torch.device, free_gb: float) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    codecs: list[tuple[str, Callable[[], Mimi]]] = [
        ("mimi (codec, both ways)", lambda: Mimi(MimiConfig(), num_codebooks=8).to(device).eval())
    ]
    if (bundled_models() / BUNDLED).is_dir():
        codecs.insert(0, ("wren (codec, both ways)", lambda: load_codec(BUNDLED, device=device)))
    rows = []
    for name, build in codecs:
        codec = build()
        state = codec.init_state(1)
        frame = torch.rand(1, 1, codec.frame_size, device=device) - 0.5

        def both(codec: Mimi = codec, state: Any = state, frame: torch.Tensor = frame) -> None:
            codec.decode_step(codec.encode_step(frame, state), state)

        milliseconds = _seconds(both, device, repeats=CODEC_FRAMES) * 1000
        gigabytes = sum(p.numel() * p.element_size() for p in codec.parameters()) / 1e9
        rows.append(_row(name, gigabytes, "f32", milliseconds, free_gb, measured=True))
    return rows


def _language_model_rows(bandwidth: float, free_gb: float) -> list[dict[str, Any]]:
    rows = []
    for name, config in PRESETS.items():
        if name == "tiny":
            continue
        with torch.device("meta"):
            lm = MoshiLM(config)
        read, total = weight_bytes_per_frame(lm)
        for precision, width in PRECISIONS.items():
            milliseconds = read * width / bandwidth * 1000
            rows.append(
                _row(name, total * width / 1e9, precision, milliseconds, free_gb, measured=False)
            )
    return rows


def _row(
    name: str, gigabytes: float, precision: str, frame_ms: float, free_gb: float, *, measured: bool
) -> dict[str, Any]:
    return {
        "model": name, "gigabytes": gigabytes, "precision": precision, "frame_ms": frame_ms,
        "measured": measured, "fits": not free_gb < gigabytes,
        "on_time": frame_ms <= DEADLINE_MS,
    }  # fmt: skip


def _seconds(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median wall time of a call, after two to warm up."""
    times = []
    for index in range(repeats + 2):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 2:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)
