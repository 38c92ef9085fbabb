"""Mimi on CPU beside its peers: `python benchmarks/mimi.py CASE...`, cases below; all by default.

    stream-8-2    one 80 ms frame encoded and decoded: codebooks, threads (also 8-1, 32-2, 32-1)
    offline-10-2  a recording encoded and decoded at once: seconds, threads (also 10-1, 60-2)
    wren-2        the small codec: 1, 2, 4 and 8 conversations at once: threads (also wren-1)

Every system reads the same file of random weights at the published size. Ours have heard 10 s
before they are measured, so that attention windows are full; peers (and our eager way) 2.6 s, which
can only be to their advantage and keeps a case below two minutes. `rustymimi`, the slowest offline
by far, is measured there in `offline-10-2` alone. Peers: `moshi` (the reference,
PyTorch), `rustymimi` (Rust) and `transformers`, from `make peers`; without that environment only
our ways are compared. `transformers` decodes frame by frame wrongly (it forgets its convolutions),
so its time stands for work that its users do not get. Results go to docs/benchmarks/mimi.json, its
plot, and docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import harness
from harness import Figures, System, Worker

FOLDER = harness.ROOT / "out" / "benchmarks" / "mimi"
FILL_FRAMES, PEER_FILL_FRAMES, FRAME = 128, 32, 1920
WARM_UP_S = 4
"""Of a recording, before anything is measured."""
CASES = (
    "stream-8-2", "stream-8-1", "stream-32-2", "stream-32-1",
    "offline-10-2", "offline-10-1", "offline-60-2", "wren-1", "wren-2",
)  # fmt: skip
OURS, HALF, EAGER = "duologue", "duologue, float16 weights", "duologue, eager"
RUNTIMES = {OURS: "fast", HALF: "half", EAGER: "eager"}
WAYS = ("encode", "decode", "both")
PEERS = ("moshi", "rustymimi", "transformers")


# A system's side.


def setup(options: dict[str, Any]) -> Worker:
    """Open the codec of one system and hand over what measures it."""
    os.environ["RAYON_NUM_THREADS"] = str(options["threads"])
    os.environ.setdefault("NO_TORCH_COMPILE", "1")
    import torch

    torch.set_num_threads(options["threads"])
    torch.set_grad_enabled(False)
    begin = time.perf_counter()
    opened = OPEN[options["system"]](options)
    facts: dict[str, Any] = {"load_s": round(time.perf_counter() - begin, 2)}
    if options["kind"] == "offline":
        pcm = speech(options["seconds"] * 24_000)
        encode, decode = opened.offline()
        decode(encode(pcm[..., : WARM_UP_S * 24_000]))
        codes = encode(pcm)
        facts["codes"] = torch.as_tensor(codes)[0, :, :50].long().flatten().tolist()
        return Worker(lambda n: measure(n, lambda: encode(pcm), lambda: decode(codes)), facts)
    encode, decode = opened.streaming(options.get("batch", 1))
    # wren's codec looks back 25 frames.
    long = options["kind"] == "stream" and options["system"] in (OURS, HALF)
    filled = FILL_FRAMES if long else PEER_FILL_FRAMES
    whole = speech(FILL_FRAMES * FRAME, options.get("batch", 1))
    frames = whole.split(FRAME, dim=-1)[:filled]
    seen = []
    for frame in frames:
        codes = encode(frame)
        seen.append(torch.as_tensor(codes).long())
        decode(codes)
    facts["codes"] = torch.cat(seen[:PEER_FILL_FRAMES], dim=-1)[0].flatten().tolist()
    frame = frames[20]
    return Worker(lambda n: measure(n, lambda: encode(frame), lambda: decode(codes)), facts)


def measure(count: int, encode: Callable[[], Any], decode: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds of `count` repetitions, each way and together."""
    times: dict[str, list[float]] = {"encode": [], "decode": [], "both": []}
    for _ in range(count):
        begin = time.perf_counter()
        encode()
        between = time.perf_counter()
        decode()
        end = time.perf_counter()
        for name, spent in (
            ("encode", between - begin), ("decode", end - between), ("both", end - begin),
        ):  # fmt: skip
            times[name].append(1e3 * spent)
    return times


def speech(samples: int, batch: int = 1) -> Any:
    sys.path.insert(0, str(harness.ROOT / "tests"))
    from peers.peer_models import speech_like

    return speech_like(samples, seed=9, batch=batch)


class Ours:
    """A codec of ours in one of its runtimes."""

    def __init__(self, options: dict[str, Any]) -> None:
        import duologue

        model = "wren" if options["kind"] == "wren" else FOLDER
        runtime = RUNTIMES[options["system"]]
        books = options["books"]
        self.codec = duologue.load_codec(model, device="cpu", num_codebooks=books, runtime=runtime)

    def streaming(self, batch: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        codec, state = self.codec, self.codec.init_state(batch)
        return lambda x: codec.encode_step(x, state), lambda c: codec.decode_step(c, state)

    def offline(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        return self.codec.encode, self.codec.decode


class Moshi:
    """The published reference."""

    def __init__(self, options: dict[str, Any]) -> None:
        from moshi.models import loaders

        values = json.loads((FOLDER / "config.json").read_text())
        path = FOLDER / "model.safetensors"
        self.codec = loaders.get_mimi(path, values, num_codebooks=options["books"])

    def streaming(self, batch: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        self.codec.streaming_forever(batch)
        return self.codec.encode, self.codec.decode

    def offline(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        return self.codec.encode, self.codec.decode


class Rust:
    """The published Rust program."""

    def __init__(self, options: dict[str, Any]) -> None:
        import rustymimi

        self.codec = rustymimi.Tokenizer(
            str(FOLDER / "model.safetensors"), num_codebooks=options["books"]
        )

    def streaming(self, batch: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        codec = self.codec
        return lambda x: codec.encode_step(x.numpy()), codec.decode_step

    def offline(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        codec = self.codec
        return lambda x: codec.encode(x.numpy()), codec.decode


class Transformers:
    """The published package of that name."""

    def __init__(self, options: dict[str, Any]) -> None:
        from transformers import MimiModel

        self.codec = MimiModel.from_pretrained(FOLDER / "transformers").eval()
        self.books = options["books"]

    def streaming(self, batch: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        past: dict[str, Any] = {"encoder": None, "padding": None, "decoder": None}

        def encode(pcm: Any) -> Any:
            out = self.codec.encode(
                pcm, num_quantizers=self.books, encoder_past_key_values=past["encoder"],
                padding_cache=past["padding"], use_streaming=True,
            )  # fmt: skip
            past.update(encoder=out.encoder_past_key_values, padding=out.padding_cache)
            return out.audio_codes

        def decode(codes: Any) -> Any:
            out = self.codec.decode(codes, decoder_past_key_values=past["decoder"])
            past["decoder"] = out.decoder_past_key_values
            return out.audio_values

        return encode, decode

    def offline(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        return (
            lambda x: self.codec.encode(x, num_quantizers=self.books).audio_codes,
            lambda c: self.codec.decode(c).audio_values,
        )


OPEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    OURS: Ours, HALF: Ours, EAGER: Ours, "moshi": Moshi, "rustymimi": Rust,
    "transformers": Transformers,
}  # fmt: skip


def prepare() -> None:
    """Write the random codec, as published and as `transformers` wants it."""
    sys.path.insert(0, str(harness.ROOT / "tests"))
    from peers.peer_models import full_mimi_values, save_tensors, write_mimi

    import duologue
    from duologue.checkpoints.transformers_format import mimi_config_to_transformers
    from duologue.checkpoints.transformers_layout import mimi_layout

    write_mimi(FOLDER, full_mimi_values(), seed=3)
    codec = duologue.load_codec(FOLDER, device="cpu", runtime="eager")
    folder = FOLDER / "transformers"
    folder.mkdir(exist_ok=True)
    config = mimi_config_to_transformers(codec.config)
    (folder / "config.json").write_text(json.dumps(config))
    save_tensors(folder / "model.safetensors", mimi_layout(codec).write(codec.state_dict()))


# The harness's side.


def systems(options: dict[str, Any], repetitions: int, names: Sequence[str]) -> list[System]:
    out = []
    for name in names:
        python = harness.PEER_PYTHON if name in PEERS else harness.OUR_PYTHON
        if python.exists():
            command = [python, __file__, "--work"]
            out.append(System(name, command, {**options, "system": name}, repetitions))
    return out


def run_case(case: str) -> list[dict[str, Any]]:
    """Measure one case; its rows for the record."""
    kind, *numbers = case.split("-")
    threads = int(numbers[-1])
    machine = harness.measure_machine(threads)
    if kind == "wren":
        rows = []
        for batch in (1, 2, 4, 8):
            options = {"kind": kind, "books": None, "threads": threads, "batch": batch}
            figures = harness.compare(systems(options, 20, (OURS, EAGER)), rounds=3)
            rows.append(_row(f"{case}-{batch}", options, figures, machine))
        return rows
    if kind == "offline":
        seconds = int(numbers[0])
        options = {"kind": kind, "books": 8, "threads": threads, "seconds": seconds}
        names: tuple[str, ...] = (OURS, HALF, EAGER, "moshi", "transformers")
        if case == "offline-10-2":
            names += ("rustymimi",)
        asked = systems(options, 1, names)
        figures = harness.compare(asked, rounds=4, deadline_s=60)
    else:
        options = {"kind": kind, "books": int(numbers[0]), "threads": threads}
        asked = systems(options, 8, (OURS, HALF, EAGER, *PEERS))
        figures = harness.compare(asked, rounds=5)
    return [_row(case, options, figures, machine)]


def _row(
    case: str, options: dict[str, Any], figures: dict[str, Figures], machine: dict[str, float]
) -> dict[str, Any]:
    codes = {name: found.facts.pop("codes", None) for name, found in figures.items()}
    row = {"case": case, **options, "machine": machine}
    row["systems"] = {name: found.summary() for name, found in figures.items()}
    mine = codes[OURS]
    for name, theirs in codes.items():
        if mine and theirs and len(mine) == len(theirs):
            same = sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(mine)
            row["systems"][name]["codes_as_ours"] = round(same, 5)
    if options["kind"] == "stream":
        row["roofline"] = roofline(options["books"], machine, figures[OURS])
    return row


def roofline(books: int, machine: dict[str, float], figures: Figures) -> dict[str, float]:
    """What a frame needs at least (weights and caches read once, sums done), and our ratio."""
    need = {name: _count(direction, books) for name, direction in (("encode", 0), ("decode", 1))}
    out: dict[str, float] = {}
    for name, (bytes_read, macs) in need.items():
        floor = max(bytes_read / machine["read_gb_s"] / 1e6, 2 * macs / machine["gflop_s"] / 1e6)
        out |= {
            f"{name}_mb": round(bytes_read / 1e6, 1), f"{name}_mmac": round(macs / 1e6, 1),
            f"{name}_floor_ms": round(floor, 2),
        }  # fmt: skip
    floor = out["encode_floor_ms"] + out["decode_floor_ms"]
    return {**out, "floor_ms": round(floor, 2), "ratio": round(figures.median("both") / floor, 2)}


def _count(direction: int, books: int) -> tuple[float, float]:
    """Bytes read and products of one frame in one direction, counted from the model's shapes."""
    import torch

    from duologue.mimi import Mimi, MimiConfig
    from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d

    config = MimiConfig()
    with torch.device("meta"):
        codec = Mimi(config)
    seanet = (codec.encoder, codec.decoder)[direction]
    weights, macs, rate = 0, 0, config.frame_size if direction == 0 else config.positions_per_frame
    for module in seanet.modules():
        if isinstance(module, CausalConv1d):
            rate //= module.stride
        if isinstance(module, (CausalConv1d, CausalConvTranspose1d)):
            weights += module.weight.numel()
            macs += module.weight.numel() * rate
        if isinstance(module, CausalConvTranspose1d):
            rate *= module.stride
    stack = (codec.encoder_transformer, codec.decoder_transformer)[direction]
    layers = sum(p.numel() for p in stack.parameters() if p.dim() == 2)
    shape, positions = config.transformer, config.positions_per_frame
    cache = 2 * shape.num_layers * shape.context * shape.d_model
    resample = (codec.downsample, codec.upsample)[direction].weight.numel()
    projections = 2 * config.quantizer.dimension * config.dimension
    tables = books * config.quantizer.bins * config.quantizer.dimension if direction == 0 else 0
    read = weights + layers + cache + resample + projections + tables
    work = macs + positions * (layers + cache) + resample + projections + tables
    return 4.0 * read, float(work)


def report(record: harness.Record) -> None:
    """Tables and plot from the record."""
    parts, bars = [], {}
    for row in record.rows:
        if row["kind"] == "wren":
            continue
        found = row["systems"]
        good = {name: f for name, f in found.items() if "both" in f}
        peers = [f for name, f in good.items() if name in PEERS]
        best = {way: min((f[way]["p50_ms"] for f in peers), default=float("nan")) for way in WAYS}
        unit = "ms a frame" if row["kind"] == "stream" else f"ms for {row['seconds']} s"
        lines = [
            [
                name, *(f[way]["p50_ms"] for way in WAYS), f["both"]["p95_ms"],
                *(f"{best[way] / f[way]['p50_ms']:.2f}" for way in WAYS),
                _percent(f.get("codes_as_ours")), f["peak_mb"],
            ]
            for name, f in good.items()
        ]  # fmt: skip
        head = f"{row['books']} codebooks, {row['threads']} thread{'s' * (row['threads'] > 1)}"
        title = "Streaming" if row["kind"] == "stream" else f"{row['seconds']} s offline"
        header = (
            f"{unit}", "encode p50", "decode p50", "both p50", "both p95",
            "encode, times the best peer", "decode, times", "both, times",
            "same codes as duologue", "peak MB",
        )  # fmt: skip
        text = f"### {title}, {head} ({row['date']})\n\n{harness.table(header, lines)}"
        if roof := row.get("roofline"):
            text += (
                f"\n\nA frame needs {roof['encode_mb'] + roof['decode_mb']:.0f} MB read and "
                f"{roof['encode_mmac'] + roof['decode_mmac']:.0f} million products; at the "
                f"{row['machine']['read_gb_s']} GB/s and {row['machine']['gflop_s']} GFLOP/s "
                f"measured in the same run that is {roof['floor_ms']} ms, so we are at "
                f"{roof['ratio']} times the floor."
            )
        parts.append(text)
        if row["kind"] == "stream":
            bars[head] = {name: f["both"]["p50_ms"] for name, f in good.items()}
    small = [row for row in record.rows if row["kind"] == "wren"]
    if small:
        lines = [
            [
                row["batch"], row["threads"], quick["p50_ms"], quick["p95_ms"],
                slow["p50_ms"],
                f"{slow['p50_ms'] / quick['p50_ms']:.1f}",
                f"{80 * row['batch'] / quick['p50_ms']:.0f}",
            ]
            for row in sorted(small, key=lambda row: (row["threads"], row["batch"]))
            for quick, slow in [(row["systems"][OURS]["both"], row["systems"][EAGER]["both"])]
        ]  # fmt: skip
        header = (
            "conversations", "threads", "ms for all p50", "p95", "eager p50", "times eager",
            "seconds of audio a second",
        )  # fmt: skip
        parts.append(f"### wren's codec, both ways\n\n{harness.table(header, lines)}")
    parts.append("![milliseconds per frame](benchmarks/mimi.png)" if bars else "")
    intro = (
        f"## Mimi on CPU\n\n`{record.command}`. Same random weights for all at the published size; "
        "our attention windows full; systems take turns within one run (medians over all turns). "
        "`transformers` decodes single frames wrongly, so its streaming time is of work without "
        f"its result. {harness.machine_line(record.machine)}"
    )
    harness.publish("mimi", "\n\n".join([intro, *parts]))
    if bars:
        title = "Mimi, one 80 ms frame encoded and decoded"
        harness.plot_bars("mimi", title, bars, line=("real time", 80.0))


def _percent(share: float | None) -> str:
    return "not compared" if share is None else f"{100 * share:.2f} %"


QUESTION = harness.Question(
    "mimi", __doc__ or "", CASES, setup, run_case, report, prepare,
    FOLDER / "transformers" / "model.safetensors",
)  # fmt: skip

if __name__ == "__main__":
    harness.main(QUESTION, __file__)
